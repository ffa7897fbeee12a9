"""Where an adapter's factors start, as tensors: the same at every member."""

from __future__ import annotations

import torch

from securefl.errors import OperatorFault
from securefl.terms import adapter_start


def orthonormal(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Orthonormal rows: (rank, in).

    Raises:
        OperatorFault: there are more rows than a layer is wide.
    """
    rank, width = shape
    try:
        return torch.from_numpy(adapter_start.orthonormal(seed, name, (rank, width)))
    except ValueError as fault:
        raise OperatorFault(str(fault), f"lower rank to {width}", name) from fault
