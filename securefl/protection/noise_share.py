"""A member's share of discrete Gaussian noise: integers, from AES-256-CTR and a table of cumulative probabilities.

The table has 128-bit thresholds, made with 256-bit integers, so no floating point stands between key and noise. An
absolute value is found by 64 bits; the other 64 are drawn only where the first do not decide, once in 2**40 draws or
less. Values end at ``reach``, beyond which an ideal share has mass 2**-145; so each entry differs from the ideal by at
most (reach + 1) * 2**-128 in total variation, which the price counts (`terms`: ``defect``). It does not run in constant
time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl import keys
from securefl.keys import Secret

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1 << 16  # deviation whose table still fits a cache and is made in a second or two
_BITS = 256  # of fractions while a table is made
_WORD = 1 << 64


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Thresholds on a 128-bit uniform number: |x| is how many of them do not exceed it."""

    high: NDArray[np.uint64]  # (reach,), not decreasing
    low: NDArray[np.uint64]  # (reach,)


@lru_cache(maxsize=8)
def table(deviation: Fraction) -> Table:
    """The thresholds of ``|x|`` for a discrete Gaussian ``x`` with this parameter, up to 14 deviations."""
    reach = math.ceil(14 * deviation) + 1
    one = 1 << _BITS
    step = _exp_minus(1 / (2 * deviation * deviation))  # exp(-1 / 2 s**2)
    ratio, growth, weight, total = step, step * step >> _BITS, one, one
    sums = [total]  # of exp(-k**2 / 2 s**2), twice for every k but 0
    for _ in range(1, reach):
        weight = weight * ratio >> _BITS  # exp(-k**2 / 2 s**2): each k takes it down by exp(-(2 k - 1) / 2 s**2)
        ratio = ratio * growth >> _BITS
        total += 2 * weight
        sums.append(total)
    total += 2 * (weight * ratio >> _BITS)
    thresholds = [(part << 128) // total for part in sums]
    high = np.array([threshold >> 64 for threshold in thresholds], np.uint64)
    low = np.array([threshold % _WORD for threshold in thresholds], np.uint64)
    return Table(high, low)


def _exp_minus(x: Fraction) -> int:
    """exp(-x) as a multiple of 2**-256, for 0 < x <= 1/2, by its series."""
    term = total = 1 << _BITS
    n = 0
    while term:
        n += 1
        term = term * x.numerator // (x.denominator * n)
        total += -term if n % 2 else term
    return total


def draw(rand: Secret, size: int, deviation: Fraction) -> NDArray[np.int64]:
    """``size`` independent discrete Gaussians, none beyond ``ceil(14 * deviation) + 1``.

    ``rand`` is used for no other draw. A deviation outside 1 to ``LARGEST`` is a ValueError.
    """
    if not 1 <= deviation <= LARGEST:
        raise ValueError(f"no table for a deviation of {float(deviation):.3g}")
    made = table(deviation)
    stream = Cipher(algorithms.AES(keys.derive(rand, "noise-share").raw), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(stream.update(bytes(8 * size)), "<u8")
    signs = np.unpackbits(np.frombuffer(stream.update(bytes((size + 7) // 8)), np.uint8), count=size)
    found = absolute(made, words, lambda: np.uint64(int.from_bytes(stream.update(bytes(8)), "little")))
    return np.where(signs == 1, -found, found)


def absolute(made: Table, words: NDArray[np.uint64], more: Callable[[], np.uint64]) -> NDArray[np.int64]:
    """How many thresholds each 128-bit number does not exceed; ``more`` gives its lower 64 bits if they are needed."""
    found = np.searchsorted(made.high, words, side="right").astype(np.int64)
    undecided = np.nonzero((found > 0) & (made.high[np.maximum(found, 1) - 1] == words))[0]
    for place in undecided:
        first = int(np.searchsorted(made.high, words[place], side="left"))
        found[place] = first + int(np.searchsorted(made.low[first : found[place]], more(), side="right"))
    return found
