"""Several grid integers in one: digits wide enough for the sum of a whole cohort, so sums never carry.

A digit has ``value_bits + ceil(log2 members)`` bits with sign: every sum of that many values lies in
``[-2**(width - 1), 2**(width - 1))``, so digits of a sum of packed integers are the sums of the digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from securefl.errors import Forged
from securefl.terms import FixedPoint

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Packing:
    """``per`` signed digits of ``width`` bits in one integer."""

    width: int
    per: int

    @property
    def bits(self) -> int:
        """Of one packed integer, with sign."""
        return self.width * self.per

    @property
    def lowest(self) -> int:
        """The least sum: every digit at its lower end. It lies a little below ``-2**(bits - 1)``."""
        return -sum(1 << (self.width * (place + 1) - 1) for place in range(self.per))

    def centred(self, ring: NDArray[np.uint64], ring_bits: int) -> NDArray[np.int64]:
        """The sums that elements modulo ``2**ring_bits``, at least ``bits``, stand for."""
        mask = np.uint64((1 << ring_bits) - 1)
        return ((ring + np.uint64(-self.lowest)) & mask).astype(np.int64) + self.lowest

    def count(self, dimension: int) -> int:
        """Return how many integers a vector takes."""
        return -(-dimension // self.per)


def width(encoding: FixedPoint, members: int) -> int:
    """Bits, with sign, that hold the sum over ``members`` values."""
    return encoding.value_bits + max(0, members - 1).bit_length()


def pack(values: NDArray[np.int64], packing: Packing) -> NDArray[np.int64]:
    """Digits as packed integers, the first value lowest: (dimension,) -> (count(dimension),)."""
    digits = np.zeros(packing.count(len(values)) * packing.per, np.int64)
    digits[: len(values)] = values
    shifts = packing.width * np.arange(packing.per, dtype=np.int64)
    packed: NDArray[np.int64] = (digits.reshape(-1, packing.per) << shifts).sum(1)
    return packed


def unpack(
    packed: NDArray[np.int64], packing: Packing, dimension: int, encoding: FixedPoint, members: int
) -> NDArray[np.int64]:
    """The digits of a sum over ``members`` packed vectors: (count(dimension),) -> (dimension,).

    Raises:
        Forged: a digit no such sum can have, or one that is not zero behind the end.
    """
    rest, digits = packed.astype(np.int64), np.empty((len(packed), packing.per), np.int64)
    half = 1 << (packing.width - 1)
    for place in range(packing.per):
        digit = rest if place == packing.per - 1 else ((rest + half) & (2 * half - 1)) - half
        digits[:, place] = digit
        rest = (rest - digit) >> packing.width
    values = digits.reshape(-1)
    top = 1 << (encoding.value_bits - 1)
    if (values < -members * top).any() or (values > members * (top - 1)).any() or values[dimension:].any():
        raise Forged(f"a sum outside the range of {members} inputs")
    return values[:dimension].copy()
