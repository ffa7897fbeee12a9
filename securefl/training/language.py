"""A causal language model to train: a record is one text, and its loss is what its next tokens cost, in nats.

The mean over the record's own tokens: a function of this record alone, whose gradient does not grow with the text, so
that a clip cuts long and short texts alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.layout import can_change
from securefl.terms import Adapter, AdapterKind, Hash
from securefl.training import model as models
from securefl.training.model_files import model_digest
from securefl.training.modules import byte_gpt
from securefl.training.sources import resolve
from securefl.training.start import orthonormal
from securefl.training.step import Encoded, micro_batches

if TYPE_CHECKING:
    from securefl.training.model import Built

KIND = "language"
KINDS = (AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.FULL)
LARGEST = 4_000_000  # entries that `full` trains


class Language(nn.Module):
    """A decoder and its own output layer: (batch, tokens) -> what each record costs, (batch, 1)."""

    center: torch.Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("center", torch.zeros(1), persistent=False)  # where the model computes

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean nats per token of each record; 0 where nothing comes next."""
        nats, tokens = self.costs(ids, mask)
        return (nats / tokens.clamp(min=1)).unsqueeze(1)

    def costs(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each record's nats, and how many tokens they are for: (batch,) each."""
        logits: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask).logits
        shown = mask[:, 1:].to(self.center.dtype)
        flat = logits[:, :-1].flatten(0, 1).to(self.center.dtype)  # (batch * (tokens - 1), vocabulary)
        each = nn.functional.cross_entropy(flat, ids[:, 1:].flatten(), reduction="none").view_as(shown)
        return (each * shown).sum(1), shown.sum(1)


def own_cost(costs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One loss per record, from what the model gives: (batch, 1) -> (batch,). A text has no label."""
    del labels
    return costs[:, 0]


@dataclass(frozen=True, slots=True)
class Surprise:
    """What held-out texts cost."""

    n: int  # records
    tokens: int
    nats: float

    @property
    def per_token(self) -> float:
        """Nats per token; 0 for no tokens."""
        return self.nats / max(self.tokens, 1)

    @property
    def accuracy(self) -> float:
        """What a report shows in accuracy's place: nats per token, where less is better."""
        return self.per_token

    majority: ClassVar[None] = None
    macro_f1: ClassVar[None] = None

    @property
    def perplexity(self) -> float:
        """What a token is worth on average, e to the nats; of bytes, where tokens are bytes."""
        return math.exp(min(self.per_token, 700.0))


def surprise(model: Language, encoded: Encoded) -> Surprise:
    """All records' nats and tokens."""
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for part in micro_batches(encoded, range(len(encoded.ids)), 64):
            ids, mask, _ = (each.to(model.center.device) for each in encoded.batch(part))
            found, counted = model.costs(ids, mask)
            nats, tokens = nats + float(found.to(torch.float64).sum()), tokens + int(counted.sum())
    return Surprise(len(encoded.ids), tokens, nats)


def together(parts: Iterable[Surprise]) -> Surprise:
    """All records of all parts."""
    found = tuple(parts)
    return Surprise(sum(p.n for p in found), sum(p.tokens for p in found), math.fsum(p.nats for p in found))


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
    found = resolve(name, folder)
    digest = model_digest(found)
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    decoder, tokenizer = models.loaded(AutoModelForCausalLM, found, digest)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return assemble(decoder, tokenizer, adapter, name), digest


def assemble(decoder: nn.Module, tokenizer: Any, adapter: Adapter, name: str) -> Built:  # noqa: ANN401
    """The decoder with its adapter; nothing else can move."""
    decoder.config.use_cache = False  # type: ignore[union-attr]
    models._check_targets(decoder, adapter, name)  # noqa: SLF001 - the same adapters
    decoder.requires_grad_(False)
    model = Language(models.attached(decoder, adapter, name))
    entries = sum(each.numel() for each in model.parameters() if each.requires_grad)
    if adapter.kind is AdapterKind.FULL and entries > LARGEST:
        what = f"adapter full trains {entries:,} entries, and each record has a gradient of that size"
        raise OperatorFault(what, f"use LoRA, or parts of at most {LARGEST:,} entries", name)
    models._without_dropout(model)  # noqa: SLF001
    for path, parameter in model.named_parameters():
        if "lora_A" in path:
            parameter.data.copy_(orthonormal(adapter.seed, path, tuple(parameter.shape)))
        parameter.requires_grad_(parameter.requires_grad and can_change(adapter.rule, path))
    stateful = tuple(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad))
    return models.Built(model.train(), tokenizer, stateful, stateful, adapter)


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
        built.model.encoder.peft_config["default"].base_model_name_or_path = model  # type: ignore[index, union-attr]
        built.model.encoder.save_pretrained(str(out), save_embedding_layers=False)  # type: ignore[operator]
    (out / "adapter.json").write_text(json.dumps({"base": model, **asdict(built.adapter)}, indent=1))
    (out / "README.md").write_text(README.format(model=model, what=what, tokens=tokens))
