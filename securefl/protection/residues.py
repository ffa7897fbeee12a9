"""Polynomials modulo the ciphertext prime q = 2**60 - 2**14 + 1, in bytes that SEAL reads, and masks of them.

A mask on a ciphertext is a vector of residues, uniform and exactly so: the low 60 bits of each word of an AES-256-CTR
keystream, and the next word where they are q or more, which happens once in 2**46 words. Residues are never reduced
from more bits: that would not be uniform.

SEAL has no call that takes a vector of residues. `as_ciphertext` writes one in its uncompressed format, of the one
version that `seal` accepts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl.protection.mask_streams import Stream
from securefl.protection.tenseal_context import DEGREE, saved

if TYPE_CHECKING:
    from numpy.typing import NDArray

Q: Final = (1 << 60) - (1 << 14) + 1
LOW: Final = np.uint64((1 << 60) - 1)
BLOCK = 8192  # residues at a time: a keystream's block and the sum stay in the cache
LAZY = 14  # residues below 2**60 that 64 bits hold beside one more, so how many are added before a reduction


class Uniform:
    """Residues modulo ``below``, uniform, from one key."""

    def __init__(self, key: bytes, below: int = Q) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._out = bytearray(8 * BLOCK + 15)
        self._words = np.frombuffer(self._out, "<u8", BLOCK)
        self._zeros = memoryview(bytes(8 * BLOCK))
        self._below = np.uint64(below)

    def draw(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` residues, at most 8192; valid until the next call."""
        self._cipher.update_into(self._zeros[: 8 * count], self._out)
        words = self._words[:count]
        np.bitwise_and(words, LOW, out=words)
        if words.max(initial=0) < self._below:
            return words
        kept = words[words < self._below].copy()
        while len(kept) < count:
            more = np.frombuffer(self._cipher.update(bytes(8 * (count - len(kept)))), "<u8") & LOW
            kept = np.concatenate([kept, more[more < self._below]])
        return kept


def mask(into: NDArray[np.uint64], streams: Iterable[Stream]) -> None:
    """Add (or subtract) each keystream's residues to ``into`` modulo q, in place: (k,), each below q."""
    opened = [(Uniform(each.key.raw), each.subtract) for each in streams]
    for start in range(0, len(into), BLOCK):
        part, lazy = into[start : start + BLOCK], 0
        for uniform, subtract in opened:
            drawn = uniform.draw(len(part))
            if subtract:
                part += np.uint64(Q)
                part -= drawn
            else:
                part += drawn
            lazy += 1
            if lazy == LAZY:
                np.remainder(part, np.uint64(Q), out=part)
                lazy = 0
        np.remainder(part, np.uint64(Q), out=part)


def scaled(integers: NDArray[np.int64], scale_bits: int) -> NDArray[np.uint64]:
    """Integers times ``2**scale_bits``, as residues modulo q: encodings add up exactly."""
    shifted = integers.astype(np.int64) << np.int64(scale_bits)
    shifted += (shifted >> np.int64(63)) & np.int64(Q)
    return shifted.view(np.uint64)


def centred(residues: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The integers nearest to zero that these residues stand for."""
    signed = residues.astype(np.int64)
    return np.where(signed > Q // 2, signed - Q, signed)


def as_ciphertext(parms_id: bytes, first: NDArray[np.uint64], second: NDArray[np.uint64], scale: float) -> bytes:
    """Two polynomials in coefficient form as SEAL saves a ciphertext without compression: (4096,), (4096,)."""
    data = struct.pack("<Q", 2 * DEGREE) + first.astype("<u8").tobytes() + second.astype("<u8").tobytes()
    body = parms_id + b"\0" + struct.pack("<QQQdQ", 2, DEGREE, 1, scale, 1) + saved(data)
    return saved(body)
