"""A bottleneck after a layer: down, GELU, up, added to what the layer gives (Houlsby et al. 2019).

Up starts at zero, so the model starts as its base. Both halves are trained, and the members' mean is FedAvg's: of
the parameters, not of the functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from securefl.terms import Adapter
from securefl.training.init import orthonormal


class Bottleneck(nn.Module):
    """A frozen layer with a bottleneck behind it."""

    def __init__(self, base: nn.Module, width: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        for each in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(each)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        y = self.base(x)
        out: torch.Tensor = y + self.up(nn.functional.gelu(self.down(y)))
        return out


def attach(encoder: nn.Module, adapter: Adapter, names: Sequence[str]) -> nn.Module:
    """The encoder, with a bottleneck after each of the named layers.

    Raises:
        OperatorFault: the bottleneck is wider than a layer.
    """
    for name in names:
        parent, _, last = name.rpartition(".")
        layer: nn.Module = encoder.get_submodule(name)
        width = layer.out_features if isinstance(layer, nn.Linear) else layer.nf  # Conv1D counts its outputs so
        assert isinstance(width, int), "targets are linear layers"
        made = Bottleneck(layer, width, adapter.rank)
        with torch.no_grad():
            made.down.weight.copy_(orthonormal(adapter.seed, f"{name}.down", (adapter.rank, width)))
        setattr(encoder.get_submodule(parent), last, made)
    return encoder
