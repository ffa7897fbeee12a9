"""Packed grid integers in the coefficients of CKKS ciphertexts, and masks on what is encrypted, modulo the prime q.

An integer m is encoded as m * 2**14 in one coefficient, so encodings add up exactly: no embedding rounds, as it does in
slots. A sum of packed integers may have 45 bits. Masks are added to c0 modulo q after the encryption of zero, c1 is as
it was: to whoever has the secret key, or chose the public one, a single input is uniform noise. Bytes are as without
masks.

The custodian adds the inputs, takes out the masks that are left, and rounds to multiples of 2**14; nobody is shown what
lies between. The error is that of BFV: rounding after SEAL switches away from the 49-bit prime, one rounding for the
coefficient and one for each nonzero coefficient of the ternary secret. `failure_bits` bounds it by Hoeffding's
inequality; a sum that is further off is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl.errors import Forged, Unsafe
from securefl.protection import residues, slot_packing
from securefl.protection import tenseal_context as seals
from securefl.protection.mask_streams import Stream
from securefl.protection.slot_packing import Packing
from securefl.protection.tenseal_context import DEGREE, tenseal
from securefl.terms import FixedPoint, MemberId

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SCALE_BITS = 14
SUM_BITS = 60 - 1 - SCALE_BITS  # of a sum of packed integers, with sign
INTEGERS = DEGREE  # in one ciphertext


def new_context() -> bytes:
    """A fresh key pair with its parameters; the secret key is in it."""
    return seals.new_context("CKKS")


def check_public(context: bytes) -> None:
    """Check that this is a public key with these parameters, modulo this prime, and nothing else.

    Raises:
        Forged: it is no context.
        Unsafe: it holds more than a public key, or has other parameters.
    """
    seals.check_public(context, "CKKS")
    _parameters(seals.loaded(context).seal_context().data)


def failure_bits(members: int) -> float:
    """Minus log2 of the probability that one coefficient of a sum over ``members`` rounds to a wrong integer."""
    return seals.failure_bits(seals.hoeffding(float((1 << (SCALE_BITS - 1)) - 1), members * (DEGREE + 1)))


def error_bound(members: int) -> float:
    """What the error of a coefficient of a sum passes with a probability below 2**-128 for all values of a sum."""
    bits = seals.FAILURE_BITS + seals.MOST_VALUES_LOG2 + 1
    return math.sqrt(bits * math.log(2) * members * (DEGREE + 1) / 2) + 1


def packing(encoding: FixedPoint, members: int) -> Packing:
    """The densest packing whose sum over ``members`` is exact: the same for all who know the plan.

    Raises:
        Unsafe: none is.
    """
    width = slot_packing.width(encoding, members)
    if failure_bits(members) < seals.FAILURE_BITS or width > SUM_BITS:
        raise Unsafe(f"a CKKS sum of {encoding.value_bits}-bit values over {members} members is not exact")
    return Packing(width, SUM_BITS // width)


def encrypt(
    public_context: bytes, integers: NDArray[np.int64], packing: Packing, streams: Iterable[Stream]
) -> tuple[bytes, ...]:
    """Masked ciphertexts of packed integers: (k,) -> (ceil(k / 4096),). Every coefficient is masked, used or not."""
    del packing
    api, context = tenseal().sealapi, seals.loaded(public_context)
    seal = context.seal_context().data
    encryptor, evaluator = api.Encryptor(seal, context.public_key().data), api.Evaluator(seal)
    padded = np.zeros(-(-len(integers) // INTEGERS) * INTEGERS, np.int64)
    padded[: len(integers)] = integers
    ring = residues.scaled(padded, SCALE_BITS)
    residues.mask(ring, streams)
    chunks = []
    with seals.passage() as path:
        unit = _transformed(api, seal, path, np.zeros(DEGREE, np.uint64))
        for part in ring.reshape(-1, INTEGERS):
            cipher = api.Ciphertext()
            encryptor.encrypt_zero(cipher)
            evaluator.add_inplace(cipher, _transformed(api, seal, path, part))
            evaluator.sub_inplace(cipher, unit)
            chunks.append(seals.write(cipher, path))
    return tuple(chunks)


def open_sum(
    secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int, packing: Packing,
    streams: Iterable[Stream],
) -> NDArray[np.int64]:  # fmt: skip
    """The sum of the inputs, with the masks in ``streams`` taken out, as packed integers: (count,).

    Raises:
        Forged: bytes that are no ciphertext of this key's parameters, or a sum that is not of integers: another key's,
            or masks that do not fit.
    """
    del packing
    api, context = tenseal().sealapi, seals.loaded(secret_context)
    seal = context.seal_context().data
    evaluator, decryptor = api.Evaluator(seal), api.Decryptor(seal, context.secret_key().data)
    ring = np.zeros(-(-count // INTEGERS) * INTEGERS, np.uint64)
    with seals.passage() as path:
        unit = _transformed(api, seal, path, np.zeros(DEGREE, np.uint64))
        for index in range(len(ring) // INTEGERS):
            plain, readable = api.Plaintext(), api.Ciphertext()
            chunks = ((member, given[index]) for member, given in inputs.items())
            decryptor.decrypt(seals.total(api, seal, path, chunks), plain)
            evaluator.add_plain(unit, plain, readable)  # SEAL takes a ciphertext alone back from evaluations
            evaluator.transform_from_ntt_inplace(readable)
            first = map(readable.dyn_array().at, range(INTEGERS))
            ring[index * INTEGERS : (index + 1) * INTEGERS] = np.fromiter(first, np.uint64, INTEGERS)
    residues.mask(ring, streams)
    return _rounded(residues.centred(ring), count, len(inputs))


def _rounded(values: NDArray[np.int64], count: int, members: int) -> NDArray[np.int64]:
    """The integers, and zeros behind them; what a wrong key or a mask that is left makes is neither."""
    integers = (values + (1 << (SCALE_BITS - 1))) >> SCALE_BITS
    if np.abs(values - (integers << SCALE_BITS)).max() > error_bound(members) or integers[count:].any():
        raise Forged("a sum that is not on the grid: an input is not what its sender says, or for another key")
    return integers[:count]


def _transformed(api: Any, seal: Any, path: Path, first: NDArray[np.uint64]) -> Any:  # noqa: ANN401 - TenSEAL's types
    """The ciphertext (first, 1) in evaluations: SEAL neither loads nor makes one whose second polynomial is zero."""
    one = np.zeros(DEGREE, np.uint64)
    one[0] = 1
    cipher = api.Ciphertext()
    path.write_bytes(residues.as_ciphertext(_parameters(seal), first, one, 1.0))
    cipher.load(seal, str(path))
    api.Evaluator(seal).transform_to_ntt_inplace(cipher)
    return cipher


def _parameters(seal: Any) -> bytes:  # noqa: ANN401 - TenSEAL's own type
    """The name that SEAL gives to the parameters of a ciphertext, which are modulo the one prime known here."""
    data = seal.first_context_data()
    primes = [prime.value() for prime in data.parms().coeff_modulus()]
    if primes != [residues.Q] or data.parms().poly_modulus_degree() != DEGREE:
        raise Unsafe(f"ciphertexts modulo {primes}, not {residues.Q}")
    return struct.pack("<4Q", *data.parms_id())
