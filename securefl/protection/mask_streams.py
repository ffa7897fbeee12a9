"""Masks as streams of AES: made from keys, added to values, taken out of a sum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl import keys, wire
from securefl.keys import Secret
from securefl.terms import Hash, MemberId, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 64 * 1024  # stays in the cache while every stream is drawn and added
STREAMS = 64  # keystreams that are open at once


def sum_bits(plan: Plan) -> int:
    """Bits a sum over the plan's cohort needs: what leaves a member is taken modulo 2 to this power."""
    return plan.cover.encoding.value_bits + (len(plan.cohort) - 1).bit_length()


@dataclass(frozen=True, slots=True, repr=False)
class Stream:
    """A keystream to add, or to subtract."""

    key: Secret
    subtract: bool = False


def mask(into: NDArray[np.unsignedinteger], streams: Iterable[Stream]) -> None:
    """``into`` plus (or minus) the AES-256-CTR keystream of each key, in place, modulo the ring."""
    zeros = bytes(CHUNK_BYTES)
    drawn = bytearray(CHUNK_BYTES)
    width = CHUNK_BYTES // into.itemsize
    elements = np.frombuffer(drawn, into.dtype)
    left = iter(streams)
    while batch := tuple(islice(left, STREAMS)):
        opened = [
            (Cipher(algorithms.AES(each.key.raw), modes.CTR(bytes(16))).encryptor().update_into,
             np.subtract if each.subtract else np.add)
            for each in batch
        ]  # fmt: skip
        for start in range(0, len(into), width):
            part = into[start : start + width]
            begun = elements[: len(part)]
            wanted = memoryview(zeros)[: begun.nbytes]
            for draw, add in opened:
                draw(wanted, drawn)
                add(part, begun, out=part)


def pair_key(mine: Secret, theirs: bytes, context: Hash, a: MemberId, b: MemberId) -> Secret:
    """The key of the mask that two members share: the same for both of them."""
    low, high = sorted((a, b))
    place = wire.encode((low, high))
    return keys.derive(keys.agree(mine, theirs), "pair-mask", context + place)


def self_key(seed: Secret, context: Hash) -> Secret:
    """The key of the mask that a member adds alone."""
    return keys.derive(seed, "self-mask", context)
