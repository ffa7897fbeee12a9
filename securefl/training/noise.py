"""Randomness that privacy rests on: AES-256-CTR under a fresh full-entropy key; never a framework's generator.

Gaussian noise is Box-Muller in float64 over 53-bit uniforms. Its tail ends at sqrt(2 * 53 * ln 2) = 8.57 standard
deviations, beyond which a true Gaussian has mass 1e-17. The noised sum is rounded to a public grid before anything else
sees it. Only a ``ClippedSum`` can be noised: its clip is the sensitivity. Keys are stored nowhere.
"""

from __future__ import annotations

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

Entropy = Callable[[int], bytes]
GRID_BITS = 30  # the noised sum is a multiple of clip * 2**-30: far below any noise, far above float64's residues


def keystream(rand: Entropy, size: int) -> NDArray[np.uint64]:
    """``size`` uniform 64-bit integers under a key of its own."""
    encryptor = Cipher(algorithms.AES(rand(32)), modes.CTR(bytes(16))).encryptor()
    drawn = bytearray(8 * size)
    encryptor.update_into(bytes(8 * size), drawn)
    return np.frombuffer(drawn, "<u8")


def gaussian(rand: Entropy, size: int) -> NDArray[np.float64]:
    """``size`` standard normal values (Box and Muller 1958)."""
    pairs = (size + 1) // 2
    words = keystream(rand, 2 * pairs) >> np.uint64(11)
    radius = np.sqrt(-2.0 * np.log((words[:pairs].astype(np.float64) + 1.0) * 2.0**-53))
    angle = words[pairs:].astype(np.float64) * (2.0 * math.pi * 2.0**-53)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def poisson_sample(rand: Entropy, records: int, rate: Fraction) -> NDArray[np.intp]:
    """The indices of a Poisson sample: each record by itself, with probability ``rate`` to within 2**-64, never above."""
    threshold = rate.numerator * 2**64 // rate.denominator
    if threshold >= 2**64:
        return np.arange(records)
    return np.nonzero(keystream(rand, records) < np.uint64(threshold))[0]


@dataclass(frozen=True, slots=True, eq=False)
class ClippedSum:
    """A sum to which each record contributed a vector of L2 norm at most ``clip``. Made by the clipper."""

    values: NDArray[np.float64]  # (dimension,)
    clip: Fraction


def noised(clipped: ClippedSum, event: Event, rand: Entropy) -> NDArray[np.float64]:
    """The sum with Gaussian noise of deviation ``noise_multiplier * clip``, on the public grid: (dimension,)."""
    if not isinstance(clipped, ClippedSum):
        raise TypeError("only a clipped sum can be noised")  # an array has a method called clip
    clip = float(clipped.clip)
    noise = gaussian(rand, len(clipped.values)) * (float(event.noise_multiplier) * clip)
    grid = clip * 2.0**-GRID_BITS
    return np.rint((clipped.values + noise) / grid) * grid
