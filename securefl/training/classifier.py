"""A frozen encoder with an adapter, and a linear head on its pooled features."""

from __future__ import annotations

import torch
from torch import nn

from securefl.terms import Features, Pooling
from securefl.training.shapes import copied

LEAST_NORM = 1e-6  # of features that are scaled: shorter ones stay as they are, times 1 / LEAST_NORM


class Classifier(nn.Module):
    """Encoder, pooling over the unmasked positions, linear head: (batch, tokens) -> (batch, labels).

    ``center`` (hidden,) is taken off the pooled features; it is a constant of the base model. With ``features`` they
    are scaled and have a constant behind them, as these say; the head has no bias then.
    """

    center: torch.Tensor

    def __init__(
        self, encoder: nn.Module, hidden: int, labels: int, pooling: Pooling = Pooling.MEAN,
        features: Features | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder, self.pooling, self.features = encoder, pooling, features
        self.register_buffer("center", torch.zeros(hidden), persistent=False)
        self.head = nn.Linear(hidden + (features is not None), labels, bias=features is None)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, labels). No operation reaches from one record to another."""
        logits: torch.Tensor = self.head(copied(self.shown(self.pooled(ids, mask))))[:, 0]
        return logits

    def shown(self, pooled: torch.Tensor) -> torch.Tensor:
        """What the head is shown of pooled features: (batch, hidden), or one entry more with ``features``."""
        found = pooled - self.center
        if self.features is None:
            return found
        if self.features.unit:
            found = nn.functional.normalize(found, dim=1, eps=LEAST_NORM)
        return nn.functional.pad(found, (0, 1), value=float(self.features.bias))

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
