"""An adapter's state as numbers and as bytes: what is sent is float32, little endian; strategies compute in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from securefl.terms.layout import VALUE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def entries(state: bytes) -> int:
    """Return how many numbers a state is."""
    return len(state) // VALUE_BYTES


def reals(state: bytes) -> NDArray[np.float64]:
    """The numbers of a state: (entries,)."""
    import numpy as np  # noqa: PLC0415

    return np.frombuffer(state, "<f4").astype(np.float64)


def is_finite(state: bytes) -> bool:
    """Return whether no number of a state is NaN or infinity."""
    import numpy as np  # noqa: PLC0415

    return bool(np.isfinite(np.frombuffer(state, "<f4")).all())


def stored(values: NDArray[np.float64]) -> bytes:
    """Numbers as a state, each rounded once."""
    return values.astype("<f4").tobytes()


def moved(base: bytes, start: bytes, after: bytes) -> bytes:
    """``base``, moved by the change from ``start`` to ``after``: of the two, nothing but this change is in it."""
    return stored(reals(base) + (reals(after) - reals(start)))


def zeros(count: int) -> bytes:
    """A state of so many zeros."""
    return bytes(VALUE_BYTES * count)


def split(state: bytes, count: int) -> tuple[bytes, bytes]:
    """The first ``count`` numbers of a state, and what stands behind them."""
    return state[: VALUE_BYTES * count], state[VALUE_BYTES * count :]


def cut(state: bytes, places: Iterable[slice]) -> bytes:
    """The numbers at these places, one after the other."""
    return b"".join(state[VALUE_BYTES * place.start : VALUE_BYTES * place.stop] for place in places)


def put(state: bytes, places: Iterable[slice], numbers: bytes) -> bytes:
    """The state with these numbers at these places: what ``cut`` then finds there."""
    made, start = bytearray(state), 0
    for place in places:
        size = VALUE_BYTES * (place.stop - place.start)
        made[VALUE_BYTES * place.start : VALUE_BYTES * place.stop] = numbers[start : start + size]
        start += size
    return bytes(made)
