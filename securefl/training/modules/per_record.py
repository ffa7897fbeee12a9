"""A trained tensor that is no linear layer, with a gradient for each record."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from securefl.training.engines.engine import expanded


class PerRecord(nn.Module):
    """Every record of a batch gets a copy of its own: what flows back into a copy is that record's gradient."""

    expands: ClassVar = ("weight",)

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.detach().clone())

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """(batch, ...) -> (batch, *shape)."""
        return expanded(self.weight, len(batch))
