"""The adapter as bytes: all tensors that can ever change, in the order of their names, float32, little endian."""

from __future__ import annotations

import numpy as np
import torch

from securefl.errors import Malformed
from securefl.terms.layout import VALUE_BYTES
from securefl.training.built import Built


def dump(built: Built) -> bytes:
    """The tensors as they stand: (entries,) float32."""
    flat = torch.cat([parameter.detach().reshape(-1) for _, parameter in built.stateful])
    return flat.cpu().numpy().astype("<f4").tobytes()


def load(built: Built, state: bytes) -> None:
    """The tensors are exactly this state.

    Raises:
        Malformed: it has another length, or holds what is no finite number.
    """
    entries = built.layout.entries
    if len(state) != VALUE_BYTES * entries:
        raise Malformed(f"an adapter state of {len(state)} bytes for a model with {VALUE_BYTES * entries}")
    values = np.frombuffer(state, "<f4")
    if not np.isfinite(values).all():
        raise Malformed("an adapter state with NaN or infinity")
    parts = torch.split(torch.from_numpy(values.astype(np.float32)), [each.numel() for _, each in built.stateful])
    with torch.no_grad():
        for (_, parameter), part in zip(built.stateful, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
    assert dump(built) == state, "a tensor did not take its value"


def finite(after: bytes, start: bytes) -> bytes:
    """The state ``after``, with ``start``'s value where it is no finite number: no later step may fail for a value."""
    values = np.frombuffer(after, "<f4")
    return np.where(np.isfinite(values), values, np.frombuffer(start, "<f4")).astype("<f4").tobytes()
