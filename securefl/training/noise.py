"""Randomness that privacy rests on: AES-256-CTR under a fresh full-entropy key; never a framework's generator.

A noised sum is a true Gaussian around the clipped sum, rounded to a public grid, exactly: `rounded_gaussian` draws as
many bits as the rounding needs. A true Gaussian's price bounds it, as what is done to a mechanism's result is free
(post-processing: Dwork and Roth 2014, proposition 2.1). Keys are stored nowhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl.terms import Event, FullBatchGaussian
from securefl.training import rounded_gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

Entropy = Callable[[int], bytes]  # so many bytes, fresh and uniform: os.urandom wherever records are
GRID_BITS = 20  # the grid is this many bits below the clip: far below the noise, far above float64's residues


def keystream(rand: Entropy, size: int) -> NDArray[np.uint64]:
    """``size`` uniform 64-bit integers under a key of its own (NIST SP 800-38A, 6.5)."""
    return _words(rand(32), 0, size)


def _words(key: bytes, stream: int, size: int) -> NDArray[np.uint64]:
    """The first integers of one stream of a key: 2**64 blocks belong to each."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(stream.to_bytes(8, "big") + bytes(8))).encryptor()
    drawn = bytearray(8 * size)
    encryptor.update_into(bytes(8 * size), drawn)
    return np.frombuffer(drawn, "<u8")


def repeatable(label: str) -> Entropy:
    """Bytes that anybody can repeat: for synthetic checks and open training, never for noise on records."""
    key = hashlib.sha256(b"repeatable\0" + label.encode()).digest()
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))


def gaussian(rand: Entropy, size: int) -> NDArray[np.float64]:
    """``size`` standard normal values in float64: for synthetic checks, never for noise on records."""
    pairs = (size + 1) // 2
    words = keystream(rand, 2 * pairs)
    return rounded_gaussian.approximate(words[:pairs], words[pairs:])[:size]


def poisson_sample(rand: Entropy, records: int, rate: Fraction) -> NDArray[np.intp]:
    """The indices of a Poisson sample: each record by itself, with probability floor(rate * 2**64) / 2**64.

    That is never above ``rate``, and below it by less than 2**-64: the price is never understated.
    """
    threshold = rate.numerator * 2**64 // rate.denominator
    if threshold >= 2**64:
        return np.arange(records)
    return np.nonzero(keystream(rand, records) < np.uint64(threshold))[0]


def step_records(rand: Entropy, records: int, event: Event) -> NDArray[np.intp]:
    """The indices of one step's records, as the event that is priced says: all of them, or a Poisson sample.

    Of a full batch nothing is drawn: no generator can leave a record out.
    """
    if isinstance(event, FullBatchGaussian):
        return np.arange(records)
    return poisson_sample(rand, records, event.sampling_rate)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClippedSum:
    """A sum to which each record contributed a vector of L2 norm at most ``clip_l2``. Made by the clipper alone."""

    values: NDArray[np.float64]  # (dimension,)
    clip_l2: Fraction


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NoisedSum:
    """A clipped sum with its noise, on the public grid. Made by ``noised`` alone; all an optimizer is given."""

    values: NDArray[np.float64]  # (dimension,)


def grid(clip_l2: Fraction) -> float:
    """The public grid: the power of two that lies ``GRID_BITS`` bits below the clip's own, so rounding is exact."""
    return math.ldexp(1.0, math.frexp(float(clip_l2))[1] - 1 - GRID_BITS)


def noised(clipped: ClippedSum, event: Event, rand: Entropy) -> NoisedSum:
    """The sum plus Gaussian noise of deviation ``noise_multiplier * clip_l2``, rounded to the grid.

    The sensitivity is not an argument: it is the clip that the sum was made with.
    """
    if not isinstance(clipped, ClippedSum):
        raise TypeError(f"only a ClippedSum can be noised, not a {type(clipped).__name__}")
    deviation = event.noise_multiplier * clipped.clip_l2
    if (
        not 0 < float(deviation) < math.inf
    ):  # an event cannot be made like this; one that was changed afterwards ends here
        raise ValueError(f"noise of deviation {deviation}: no sum is given without noise")
    step, key, size = grid(clipped.clip_l2), rand(32), len(clipped.values)
    pairs = (size + 1) // 2
    words = _words(key, 0, 2 * pairs)

    def more(pair: int, count: int) -> tuple[int, int]:
        behind = _words(key, 1 + pair, 2 * (count - 1)).reshape(-1, 2)
        found = [int(words[pair]), int(words[pairs + pair])]
        for row in behind:
            found = [part << 64 | int(word) for part, word in zip(found, row, strict=True)]
        return found[0], found[1]

    exact = Fraction(deviation) / Fraction(step)
    return NoisedSum(rounded_gaussian.rounded(clipped.values / step, exact, words[:pairs], words[pairs:], more) * step)
