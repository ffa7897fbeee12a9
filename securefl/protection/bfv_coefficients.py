"""Packed grid integers in the coefficients of BFV ciphertexts, and their sum back, modulo 2**44.

Each of the 4096 coefficients of a plaintext carries one packed integer: 44 bits are two 16-bit values and the sum of
64 members, 8 bytes for a value. Nothing multiplies, so coefficients need no batching and the plaintext modulus may be
a power of two: the plaintext ring is the ring that masks are drawn in.

The error of a fresh ciphertext is rounding after SEAL switches away from the 49-bit prime: for a coefficient, one
rounding plus one for each nonzero coefficient of the ternary secret. By Hoeffding's inequality a sum over ``members``
passes half of q / t with the probability in `failure_bits`. Decryption is exact, so the sum of well-formed inputs shows
nothing but their sum. Whether an input is well formed nobody can see: one that was made up, (0, q/t * step), adds a
multiple of the secret key to the sum. So what is published must not be worth more with the key than without: members
seal their ciphertexts to the custodian, and `bfv_masked` masks what is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl.errors import Forged, Unsafe
from securefl.protection import slot_packing
from securefl.protection import tenseal_context as seals
from securefl.protection.slot_packing import Packing
from securefl.protection.tenseal_context import DEGREE, PRIMES, tenseal
from securefl.terms import FixedPoint, MemberId

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN_BITS = 44
INTEGERS = DEGREE  # in one ciphertext
HEXADECIMAL = " + ".join(f"%Xx^{power}" for power in range(DEGREE - 1, -1, -1))


def new_context() -> bytes:
    """A fresh key pair with its parameters; the secret key is in it."""
    return seals.new_context("BFV", PLAIN_BITS)


def check_public(context: bytes) -> None:
    """Check that this is a public key with these parameters and nothing else.

    Raises:
        Forged: it is no context.
        Unsafe: it holds more than a public key, or has other parameters.
    """
    seals.check_public(context, "BFV", PLAIN_BITS)


def failure_bits(members: int) -> float:
    """Minus log2 of the probability that one coefficient of a sum over ``members`` decrypts wrongly."""
    gap = 2.0 ** (PRIMES[0] - 1 - PLAIN_BITS)
    distance = 0.99 * gap - (members + 1) / 2 - 1  # of a prime near 2**60; encoding rounds once for each member
    return seals.failure_bits(seals.hoeffding(distance, members * (DEGREE + 1)))


def packing(encoding: FixedPoint, members: int) -> Packing:
    """The densest packing whose sum over ``members`` does not wrap: the same for all who know the plan.

    Raises:
        Unsafe: there is none, or the sum would not be exact.
    """
    width = slot_packing.width(encoding, members)
    if failure_bits(members) < seals.FAILURE_BITS or width > PLAIN_BITS:
        raise Unsafe(f"a BFV sum of {encoding.value_bits}-bit values over {members} members is not exact")
    return Packing(width, PLAIN_BITS // width)


def encrypt(public_context: bytes, integers: NDArray[np.int64], packing: Packing) -> tuple[bytes, ...]:
    """Ciphertexts of packed integers modulo 2**44: (k,) -> (ceil(k / 4096),)."""
    del packing
    api, context = tenseal().sealapi, seals.loaded(public_context)
    seal = context.seal_context().data
    encryptor = api.Encryptor(seal, context.public_key().data)
    ring = np.zeros(-(-len(integers) // INTEGERS) * INTEGERS, "<u8")
    ring[: len(integers)] = integers.astype("<u8") & np.uint64((1 << PLAIN_BITS) - 1)
    chunks = []
    with seals.passage() as path:
        for part in ring.reshape(-1, INTEGERS):
            cipher = api.Ciphertext()
            encryptor.encrypt(_plain(api, seal, part, path), cipher)
            chunks.append(seals.write(cipher, path))
    return tuple(chunks)


def open_sum(
    secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int, packing: Packing
) -> NDArray[np.int64]:
    """The sum of the inputs modulo 2**44, as packed integers: (count,). No single input is decrypted.

    Raises:
        Forged: bytes that are no ciphertext of this key's parameters, or a sum that is longer than it should be.
    """
    return packing.centred(open_ring(secret_context, inputs, count), PLAIN_BITS)


def open_ring(secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int) -> NDArray[np.uint64]:
    """The same, as elements modulo 2**44: (count,)."""
    api, context = tenseal().sealapi, seals.loaded(secret_context)
    seal = context.seal_context().data
    decryptor = api.Decryptor(seal, context.secret_key().data)
    sums = np.zeros(-(-count // INTEGERS) * INTEGERS, np.uint64)
    with seals.passage() as path:
        for index in range(len(sums) // INTEGERS):
            plain = api.Plaintext()
            chunks = ((member, given[index]) for member, given in inputs.items())
            decryptor.decrypt(seals.total(api, seal, path, chunks), plain)
            start = index * INTEGERS
            opened = list(map(plain.__getitem__, range(plain.coeff_count())))
            sums[start : start + len(opened)] = opened
    if sums[count:].any():
        raise Forged("a sum that is longer than it should be: an input is not what its sender says, or for another key")
    return sums[:count]


def _plain(api: Any, seal: Any, part: NDArray[np.unsignedinteger], path: Path) -> Any:  # noqa: ANN401 - TenSEAL's types
    """A plaintext of these coefficients, which touch no disk."""
    if not seals.IN_MEMORY:
        return api.Plaintext(HEXADECIMAL % tuple(part[::-1].tolist()))
    path.write_bytes(_saved(part))
    plain = api.Plaintext()
    plain.load(seal, str(path))
    return plain


def _saved(part: NDArray[np.unsignedinteger]) -> bytes:
    """A plaintext as SEAL saves one: no parameters' hash, how many, a scale of one, and the coefficients."""
    data = struct.pack("<Q", len(part)) + part.tobytes()
    return seals.saved(bytes(32) + struct.pack("<Qd", len(part), 1.0) + seals.saved(data))
