"""Packed grid integers in BFV ciphertexts, masked before they are encrypted.

The ring of the masks is BFV's plaintext ring, integers modulo 2**44, so nothing carries from one into the other. The
custodian decrypts a sum that is still masked, and takes out the masks that are left before anybody sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from securefl.protection import bfv_coefficients as bfv
from securefl.protection import mask_streams
from securefl.protection.bfv_coefficients import INTEGERS, check_public, new_context, packing
from securefl.protection.mask_streams import Stream
from securefl.protection.slot_packing import Packing
from securefl.terms import MemberId

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["INTEGERS", "check_public", "encrypt", "new_context", "open_sum", "packing"]

RING = np.uint64((1 << bfv.PLAIN_BITS) - 1)


def encrypt(
    public_context: bytes, integers: NDArray[np.int64], packing: Packing, streams: Iterable[Stream]
) -> tuple[bytes, ...]:
    """Ciphertexts of packed integers under masks: (k,) -> (ceil(k / 4096),)."""
    elements = integers.astype("<u8")
    mask_streams.mask(elements, streams)
    return bfv.encrypt(public_context, (elements & RING).astype(np.int64), packing)


def open_sum(
    secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int, packing: Packing,
    streams: Iterable[Stream],
) -> NDArray[np.int64]:  # fmt: skip
    """The sum of the inputs, with the masks in ``streams`` taken out, as packed integers: (count,).

    Raises:
        Forged: bytes that are no ciphertext of this key's parameters, or a sum that is longer than it should be.
    """
    total = bfv.open_ring(secret_context, inputs, count)
    mask_streams.mask(total, streams)
    return packing.centred(total, bfv.PLAIN_BITS)
