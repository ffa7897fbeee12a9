"""A trained tensor that is no linear layer, with a gradient for each record."""

from __future__ import annotations

import torch
from torch import nn


class PerRecord(nn.Module):
    """Every record of a batch gets a copy of its own: what flows back into a copy is that record's gradient."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.detach().clone())

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """(batch, ...) -> (batch, *shape)."""
        return self.weight.unsqueeze(0).expand(len(batch), *self.weight.shape)


def known_to_opacus() -> None:
    """From now on Opacus keeps what flows back into each copy."""
    from opacus.grad_sample import GradSampleModule  # noqa: PLC0415

    GradSampleModule.GRAD_SAMPLERS[PerRecord] = _sampled


def _sampled(
    layer: PerRecord, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[nn.Parameter, torch.Tensor]:
    del activations
    return {layer.weight: backprops} if layer.weight.requires_grad else {}
