"""Packed grid integers in the slots of CKKS ciphertexts, and their sum back.

Each of the 2048 complex slots carries two packed integers, in its real and in its imaginary part, at a scale that uses
what the 60-bit prime leaves above them: 8 bytes for a value where two fit an integer, 16 where one does.

The error of a fresh ciphertext is rounding: in one part of one slot it has a standard deviation of
``sqrt((1 + |s(z)|**2) / 12 * 2048)`` units of the scale, where ``|s(z)|**2`` of the secret at that slot is
exponentially distributed with mean 4096 * 2/3: 683 units over all slots, and the root of the inputs more for a sum.
`failure_bits` integrates over both. Rounding a decrypted sum to integers then gives the very sum, and no low-order
residue of a decryption is ever shown (Li and Micciancio 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from securefl.errors import Forged, Unsafe
from securefl.protection import slot_packing
from securefl.protection import tenseal_context as seals
from securefl.protection.slot_packing import Packing
from securefl.protection.tenseal_context import DEGREE, PRIMES, tenseal
from securefl.terms import FixedPoint, MemberId

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOTS = DEGREE // 2
INTEGERS = 2 * SLOTS  # in one ciphertext
DEVIATION = math.sqrt((1 + DEGREE * 2 / 3) / 12 * DEGREE / 2)  # 683 units of the scale: one part of one fresh slot
FLOAT_BITS = 46  # what encoding and decoding in binary64 keep of an integer's bits
MOST_PER = 4


def new_context() -> bytes:
    """A fresh key pair with its parameters; the secret key is in it."""
    return seals.new_context("CKKS")


def check_public(context: bytes) -> None:
    """Check that this is a public key with these parameters and nothing else.

    Raises:
        Forged: it is no context.
        Unsafe: it holds more than a public key, or has other parameters.
    """
    seals.check_public(context, "CKKS")


def scale_bits(packing: Packing) -> int:
    """log2 of the scale: what the prime leaves above a sum of packed integers, in either part of a slot."""
    return PRIMES[0] - 1 - packing.bits


def error_bound(packing: Packing) -> float:
    """Return how far from an integer a decrypted sum may be: half, less what binary64 may be off."""
    return 0.5 - 2.0 ** (packing.bits - FLOAT_BITS)


def failure_bits(packing: Packing, members: int) -> float:
    """Minus log2 of the probability that one value of a sum over ``members`` rounds to a wrong integer.

    An error of deviation sigma * sqrt(X), X exponential, passes d * sigma with probability below
    2 * sqrt(pi * d / sqrt(2)) * exp(-sqrt(2) * d).
    """
    distance = error_bound(packing) * 2.0 ** scale_bits(packing)
    if distance <= 0:
        return 0.0
    deviations = distance / (DEVIATION * math.sqrt(members))
    prefactor = 1 + math.log2(math.pi * deviations / math.sqrt(2)) / 2
    return seals.failure_bits(prefactor - math.sqrt(2) * deviations / math.log(2))


def packing(encoding: FixedPoint, members: int) -> Packing:
    """The densest packing that is exact for a sum over ``members``: the same for all who know the plan.

    Raises:
        Unsafe: none is.
    """
    width = slot_packing.width(encoding, members)
    for per in range(MOST_PER, 0, -1):
        made = Packing(width, per)
        if failure_bits(made, members) >= seals.FAILURE_BITS:
            return made
    raise Unsafe(f"a CKKS sum of {encoding.value_bits}-bit values over {members} members is not exact")


def encrypt(public_context: bytes, integers: NDArray[np.int64], packing: Packing) -> tuple[bytes, ...]:
    """Ciphertexts of packed integers: (k,) -> (ceil(k / 4096),)."""
    api, context = tenseal().sealapi, seals.loaded(public_context)
    seal = context.seal_context().data
    encoder, encryptor = api.CKKSEncoder(seal), api.Encryptor(seal, context.public_key().data)
    reals = np.zeros(-(-len(integers) // INTEGERS) * INTEGERS)
    reals[: len(integers)] = integers
    chunks = []
    with seals.passage() as path:
        for real, imaginary in reals.reshape(-1, 2, SLOTS):
            plain, cipher = api.Plaintext(), api.Ciphertext()
            encoder.encode((real + 1j * imaginary).tolist(), 2.0 ** scale_bits(packing), plain)
            encryptor.encrypt(plain, cipher)
            chunks.append(seals.write(cipher, path))
    return tuple(chunks)


def open_sum(
    secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int, packing: Packing
) -> NDArray[np.int64]:
    """The sum of the inputs as packed integers: (count,). No single input is decrypted.

    Raises:
        Forged: bytes that are no ciphertext of this key's parameters, or a sum that is not of integers.
    """
    api, context = tenseal().sealapi, seals.loaded(secret_context)
    seal = context.seal_context().data
    encoder, decryptor = api.CKKSEncoder(seal), api.Decryptor(seal, context.secret_key().data)
    parts: list[NDArray[np.float64]] = []
    with seals.passage() as path:
        for index in range(-(-count // INTEGERS)):
            plain = api.Plaintext()
            chunks = ((member, given[index]) for member, given in inputs.items())
            total = seals.total(api, seal, path, chunks, 2.0 ** scale_bits(packing))
            decryptor.decrypt(total, plain)
            slots = np.array(encoder.decode_complex(plain))
            parts += [slots.real, slots.imag]
    return _integers(np.concatenate(parts), count, packing)


def _integers(reals: NDArray[np.float64], count: int, packing: Packing) -> NDArray[np.int64]:
    """The integers, and zeros behind them; what a wrong key or an input off the grid leaves is neither."""
    nearest = np.rint(reals)
    if np.abs(reals - nearest).max() > error_bound(packing) or nearest[count:].any():
        raise Forged("a sum that is not on the grid: an input is not what its sender says, or for another key")
    return nearest[:count].astype(np.int64)
