"""Shamir's secret sharing over GF(2**521 - 1): a 32-byte secret in one piece (Shamir 1979).

Every share has a commitment that its dealer published, so a wrong share is found and its sender named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl.errors import Forged
from securefl.keys import Secret
from securefl.terms.names import SIZES, ShareBytes

PRIME = (1 << 521) - 1
SHARE_BYTES = SIZES[ShareBytes]


def split(secret: Secret, threshold: int, points: tuple[int, ...], rand: Secret) -> dict[int, ShareBytes]:
    """One share for each point; any ``threshold`` of them give the secret, fewer say nothing about it.

    ``points`` are distinct, from 1. ``rand`` is fresh for every secret: the polynomial's coefficients come from it.
    """
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise ValueError(f"no sharing of {threshold} of {len(points)}")
    stream = Cipher(algorithms.AES(rand.raw), modes.CTR(bytes(16))).encryptor()
    drawn = (int.from_bytes(stream.update(bytes(SHARE_BYTES)), "big") >> 7 for _ in range(threshold - 1))
    coefficients = [int.from_bytes(secret.raw, "big"), *(each % PRIME for each in drawn)]  # uniform but for 2**-521
    return {point: ShareBytes(_at(coefficients, point).to_bytes(SHARE_BYTES, "big")) for point in points}


def _at(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def combine(shares: Mapping[int, bytes], threshold: int) -> Secret:
    """The secret, from the first ``threshold`` shares by point (Lagrange at 0).

    Raises:
        Forged: too few shares, or shares that belong to no 32-byte secret.
    """
    if len(shares) < threshold:
        raise Forged(f"{len(shares)} shares where {threshold} are needed")
    used = sorted(shares)[:threshold]
    weighed = zip(_weights(tuple(used)), used, strict=True)
    total = sum(weight * int.from_bytes(shares[point], "big") for weight, point in weighed) % PRIME
    if total >> 256:
        raise Forged("shares that belong to no secret")
    return Secret(total.to_bytes(32, "big"))


@lru_cache(maxsize=16)  # a round has many secrets, and the same members answer for all
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return what each point's share counts in the value at 0."""
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


def commitment(dealer: bytes, kind: str, point: int, share: bytes) -> bytes:
    """SHA-256 of a share in its place. A share has 521 bits of entropy below the threshold, so this hides it."""
    place = b"share\0" + kind.encode() + b"\0" + dealer + b"\0" + point.to_bytes(2, "big")
    return hashlib.sha256(place + share).digest()
