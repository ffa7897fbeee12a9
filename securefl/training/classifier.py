"""A frozen encoder with an adapter, and a linear head on its pooled features."""

from __future__ import annotations

import torch
from torch import nn

from securefl.terms import Pooling
from securefl.training.shapes import copied


class Classifier(nn.Module):
    """Encoder, pooling over the unmasked positions, linear head: (batch, tokens) -> (batch, labels).

    ``center`` (hidden,) is taken off the pooled features; it is a constant of the base model.
    """

    center: torch.Tensor

    def __init__(self, encoder: nn.Module, hidden: int, labels: int, pooling: Pooling = Pooling.MEAN) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.register_buffer("center", torch.zeros(hidden), persistent=False)
        self.head = nn.Linear(hidden, labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, labels). No operation reaches from one record to another."""
        logits: torch.Tensor = self.head(copied(self.pooled(ids, mask) - self.center))[:, 0]
        return logits

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Each record's features: (batch, hidden)."""
        hidden: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.to(
            self.center.dtype
        )  # (batch, tokens, hidden)
        if self.pooling is Pooling.FIRST:
            return hidden[:, 0]
        if self.pooling is Pooling.LAST:
            return hidden[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
