"""Randomness that privacy rests on: AES-256-CTR under a fresh full-entropy key; never a framework's generator.

Gaussian noise is Box-Muller in float64 over 53-bit uniforms. The noised sum is rounded to a public grid before anything
else sees it. A true Gaussian's price bounds that too, since what is done to a mechanism's result costs nothing
(post-processing: Dwork and Roth 2014, proposition 2.1), and the grid hides the low-order bits by which floats tell sum
from noise (Mironov 2012). Keys are stored nowhere.

Two things set this noise apart from a true Gaussian's. Its tail ends at sqrt(2 * 53 * ln 2) = 8.57 standard deviations,
beyond which a normal value lies with probability 1.1e-17: `privacy.accountant.delta_beyond` takes that off delta, for
every value of every step. And its radius has 2**53 levels, which beyond about 7 deviations (probability 2e-11 *
noise_multiplier for a pair of values) lie wider apart than the grid: not charged; decision 4 has the size.
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

from securefl.terms import Event

if TYPE_CHECKING:
    from numpy.typing import NDArray

Entropy = Callable[[int], bytes]  # so many bytes, fresh and uniform: os.urandom wherever records are
GRID_BITS = 20  # the grid is this many bits below the clip: far below the noise, far above float64's residues


def keystream(rand: Entropy, size: int) -> NDArray[np.uint64]:
    """``size`` uniform 64-bit integers under a key of its own (NIST SP 800-38A, 6.5)."""
    encryptor = Cipher(algorithms.AES(rand(32)), modes.CTR(bytes(16))).encryptor()
    drawn = bytearray(8 * size)
    encryptor.update_into(bytes(8 * size), drawn)
    return np.frombuffer(drawn, "<u8")


def repeatable(label: str) -> Entropy:
    """Bytes that anybody can repeat: for synthetic checks and open training, never for noise on records."""
    key = hashlib.sha256(b"repeatable\0" + label.encode()).digest()
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))


def gaussian(rand: Entropy, size: int) -> NDArray[np.float64]:
    """``size`` standard normal values (Box and Muller 1958), none beyond 8.58."""
    pairs = (size + 1) // 2
    words = keystream(rand, 2 * pairs) >> np.uint64(11)
    radius = np.sqrt(-2.0 * np.log((words[:pairs].astype(np.float64) + 1.0) * 2.0**-53))  # (u + 1): no logarithm of 0
    angle = words[pairs:].astype(np.float64) * (2.0 * math.pi * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def poisson_sample(rand: Entropy, records: int, rate: Fraction) -> NDArray[np.intp]:
    """The indices of a Poisson sample: each record by itself, with probability floor(rate * 2**64) / 2**64.

    That is never above ``rate``, and below it by less than 2**-64: the price is never understated.
    """
    threshold = rate.numerator * 2**64 // rate.denominator
    if threshold >= 2**64:
        return np.arange(records)
    return np.nonzero(keystream(rand, records) < np.uint64(threshold))[0]


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
    deviation = float(event.noise_multiplier * clipped.clip_l2)
    if not 0 < deviation < math.inf:  # an event cannot be made like this; one that was changed afterwards ends here
        raise ValueError(f"noise of deviation {deviation}: no sum is given without noise")
    step = grid(clipped.clip_l2)
    return NoisedSum(np.rint((clipped.values + deviation * gaussian(rand, len(clipped.values))) / step) * step)
