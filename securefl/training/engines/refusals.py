"""What no engine can keep apart by record is refused by name, before any data is touched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from securefl.errors import OperatorFault

COUPLED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
KNOWN = (nn.Linear, nn.LayerNorm)  # layers whose per-record gradients follow from a rule
ROUTED = re.compile(r"Experts$|Router$|Sparse\w*(Moe|MLP)", re.IGNORECASE)  # class names
ROUTED_NAMES = ("experts", "router")
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx", "packed_seq_params")

REMEDIES = (  # by what stands in the tensor's name or its layer's class; the first that fits
    ("ia3_", "IA3 scales activations by one shared vector: use LoRA on this layer"),
    ("lora_embedding_", "leave the embedding out of the targets: LoRA goes on linear layers"),
    ("lora_magnitude_vector", "turn use_dora and the like off: plain LoRA"),
    ("prompt_encoder", "use LoRA, or a prompt whose module expands it for each record"),
    ("", "freeze it, or use adapters whose tensors are linear layers (LoRA)"),
)


def refuse(model: nn.Module) -> None:
    """Check that every layer leaves records apart and every trainable tensor is in a layer that is known.

    Raises:
        OperatorFault: naming the tensor, its layer and the fix.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, COUPLED):
            raise OperatorFault(f"`{name}` is a {kind}: it mixes records", "use a model with LayerNorm")
        if ROUTED.search(kind) or name.rpartition(".")[2] in ROUTED_NAMES:
            what = f"`{name}` is a {kind}: what it does with one record can follow from another"
            raise OperatorFault(what, "use a dense model: one without experts")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            _known(model, name)
    for name, module in model.named_modules():
        variants = getattr(module, "lora_variant", None)
        if isinstance(variants, dict) and variants:
            kind = ", ".join(sorted(type(each).__name__ for each in variants.values()))
            what = f"`{name}` has LoRA of another kind ({kind}), which uses its tensors outside of linear layers"
            raise OperatorFault(what, "turn use_dora and the like off: plain LoRA")


def _known(model: nn.Module, name: str) -> None:
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    if last in getattr(owner, "expands", ()):
        return
    if isinstance(owner, KNOWN) and "prompt_encoder" not in name:
        return
    while isinstance(model.get_submodule(path), nn.ParameterDict | nn.ParameterList | nn.ModuleDict | nn.ModuleList):
        path = path.rpartition(".")[0]
    layer = (
        f" in `{path}` ({type(model.get_submodule(path)).__name__})" if model.get_submodule(path) is not owner else ""
    )
    remedy = next(remedy for mark, remedy in REMEDIES if mark in name)
    raise OperatorFault(f"the trainable tensor `{name}` belongs to a {type(owner).__name__}{layer}", remedy)


def refuse_packing(named: Mapping[str, Any]) -> None:
    """Check that what a model is called with holds one record a row.

    Raises:
        OperatorFault: it says where records begin inside a row, or positions restart there.
    """
    remedy = "let the collator pad, one record a row"
    for name in PACKED:
        if named.get(name) is not None:
            raise OperatorFault(f"`{name}` tells of several records packed into one row", remedy)
    positions, mask = named.get("position_ids"), named.get("attention_mask")
    if not isinstance(positions, torch.Tensor) or positions.dim() != 2:
        return
    falls = positions[:, 1:] <= positions[:, :-1]
    if isinstance(mask, torch.Tensor) and mask.shape == positions.shape:
        falls = falls & (mask[:, 1:] != 0) & (mask[:, :-1] != 0)  # padding may have any position
    if bool(falls.any()):
        row = int(falls.any(1).nonzero()[0])
        raise OperatorFault(f"`position_ids` restart in row {row}: several records packed into one", remedy)
