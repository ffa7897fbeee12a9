"""What a text costs a causal language model, record by record: its loss, and its score on held-out texts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from securefl.training.step import Encoded, micro_batches

KIND = "language"


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
