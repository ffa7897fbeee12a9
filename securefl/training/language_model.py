"""Load a causal language model with an adapter, and save what was trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Adapter, AdapterKind, Hash
from securefl.terms.layout import can_change
from securefl.training import blocks, token_rows
from securefl.training.adapters import attached, check_targets, without_dropout, write_factors
from securefl.training.built import Built
from securefl.training.init import orthonormal
from securefl.training.language import Language
from securefl.training.model import REFERENCE, loaded
from securefl.training.model_files import pinned
from securefl.training.modules import byte_gpt

KINDS = (AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.FULL)
LARGEST = 4_000_000  # entries that `full` trains


def load(name: str, folder: Path, adapter: Adapter) -> tuple[Built, Hash]:
    """The model a federation's file names, with its adapter, and the digest that pins it.

    Raises:
        Missing: the model is not on this machine.
        OperatorFault: it is no causal decoder, or cannot carry this adapter.
    """
    if adapter.kind not in KINDS:
        kinds = ", ".join(each.value for each in KINDS)
        raise OperatorFault(f"adapter {adapter.kind.value} for a language model", f"use one of {kinds}", name)
    if name.startswith(byte_gpt.PREFIX):
        shape = byte_gpt.shape_of(name)
        return assemble(byte_gpt.ByteGPT(shape), byte_gpt.Bytes(), adapter, name), shape.digest
    found, digest = pinned(name, folder)
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    decoder, tokenizer = loaded(AutoModelForCausalLM, found, digest)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return assemble(decoder, tokenizer, adapter, name), digest


def assemble(decoder: nn.Module, tokenizer: Any, adapter: Adapter, name: str) -> Built:  # noqa: ANN401
    """The decoder with its adapter; nothing else can move."""
    token_rows.check(tokenizer, decoder, REFERENCE, name)
    decoder.config.use_cache = False  # type: ignore[union-attr]
    blocks.check(decoder, adapter, name)
    blocks.cut(decoder, adapter.layer)
    check_targets(decoder, adapter, name)
    decoder.requires_grad_(False)
    model = Language(attached(decoder, adapter, name))
    entries = sum(each.numel() for each in model.parameters() if each.requires_grad)
    if adapter.kind is AdapterKind.FULL and entries > LARGEST:
        what = f"adapter full trains {entries:,} entries, and each record has a gradient of that size"
        raise OperatorFault(what, f"use LoRA, or parts of at most {LARGEST:,} entries", name)
    without_dropout(model)
    for path, parameter in model.named_parameters():
        if "lora_A" in path:
            parameter.data.copy_(orthonormal(adapter.seed, path, tuple(parameter.shape)))
        parameter.requires_grad_(parameter.requires_grad and can_change(adapter.rule, path))
    stateful = tuple(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad))
    return Built(model.train(), tokenizer, stateful, stateful, adapter)


README = """Trained by securefl on {model}: a causal language model.

{what}. `adapter.json` says how it was made; texts were cut at {tokens} tokens.
"""


def save(built: Built, model: str, tokens: int, out: Path) -> None:
    """``out`` holds the tensors that were trained: as PEFT reads them for LoRA, or all of a small model's."""
    import json  # noqa: PLC0415

    from safetensors.torch import save_file  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").unlink(missing_ok=True)  # PEFT would read an older one as its own
    what = "`model.safetensors` holds all of its tensors"
    if built.adapter.kind is AdapterKind.FULL:
        tensors = {name: each.detach().cpu().contiguous() for name, each in built.model.encoder.named_parameters()}
        save_file(tensors, str(out / "model.safetensors"), {"securefl": model})
    else:
        what = "`adapter_model.safetensors` holds LoRA as PEFT loads it"
        write_factors(built.model.encoder, model, out)
    if built.adapter.layer is not None:
        what += f", for the model's first {built.adapter.layer} blocks: cut it behind them before you load"
    (out / "adapter.json").write_text(json.dumps({"base": model, **asdict(built.adapter)}, indent=1), encoding="utf-8")
    (out / "README.md").write_text(README.format(model=model, what=what, tokens=tokens), encoding="utf-8")
