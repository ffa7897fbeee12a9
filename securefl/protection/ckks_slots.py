"""Grid integers in the slots of CKKS ciphertexts, and their sum back, through SEAL as TenSEAL carries it.

Parameters are add-only: ring dimension 4096 and primes of 60 + 49 bits, the 109 bits that the homomorphic encryption
standard allows at 128-bit security (Albrecht et al. 2018, table 1). There is no relinearisation or rotation key. Each
of the 2048 complex slots carries two values, in its real and in its imaginary part: 16 bytes for a value.

A value is its grid integer / 2**fraction_bits, at scale 2**40. The error of one fresh ciphertext has a standard
deviation of about 1e-9 in each part, and that of a sum grows with the root of their number. Where `check_exact` finds
it under half a grid step, rounding a decrypted sum to the grid gives the very sum of the integers, and no low-order
residue of a decryption is ever shown (Li and Micciancio 2021).

SEAL draws its own randomness (BLAKE2, seeded by the operating system). Its binding reads and writes ciphertexts as
files alone, so each passes through a temporary folder; nothing but ciphertexts does.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl.errors import Forged, Missing, Unsafe
from securefl.terms import FixedPoint, MemberId

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEGREE = 4096
PRIMES = (60, 49)
SCALE_BITS = 40
SLOTS = DEGREE // 2
VALUES = 2 * SLOTS  # in one ciphertext
ERROR_PER_INPUT = 2.0**-24  # over fifty standard deviations of one fresh ciphertext's error


def tenseal() -> Any:  # noqa: ANN401 - a module without types
    """TenSEAL, with the Python names of SEAL's own types loaded.

    Raises:
        Missing: it is not installed.
    """
    try:
        import tenseal  # noqa: PLC0415
        import tenseal.sealapi  # noqa: PLC0415
    except ImportError as fault:
        raise Missing("CKKS needs TenSEAL, which is not installed", "pip install 'securefl[he]'") from fault
    return tenseal


def new_context() -> bytes:
    """A fresh key pair with its parameters; the secret key is in it."""
    ts = tenseal()
    context = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIMES))
    context.global_scale = 2.0**SCALE_BITS
    secret: bytes = context.serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return secret


def public_half(secret_context: bytes) -> bytes:
    """The same context without its secret key: what may be handed out."""
    public: bytes = _loaded(secret_context).serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return public


def check_public(context: bytes) -> None:
    """Nothing happens if this is a public key with the parameters of this module and nothing else.

    Raises:
        Forged: it is no context.
        Unsafe: it holds more than a public key, or has other parameters.
    """
    loaded = _loaded(context)
    if loaded.has_secret_key() or loaded.has_galois_keys() or loaded.has_relin_keys() or not loaded.has_public_key():
        raise Unsafe("a context with more or less than a public key")
    parameters = loaded.seal_context().data.key_context_data().parms()
    bits = tuple(prime.bit_count() for prime in parameters.coeff_modulus())
    if parameters.poly_modulus_degree() != DEGREE or bits != PRIMES:
        raise Unsafe(f"a context of degree {parameters.poly_modulus_degree()} and primes of {bits} bits")


def check_exact(encoding: FixedPoint, members: int) -> None:
    """Nothing happens if a sum over ``members`` comes back as the very integers.

    Raises:
        Unsafe: the grid is too fine for the scheme's error, or the range too wide for its modulus.
    """
    if error_bound(members) >= 2.0 ** -(encoding.fraction_bits + 1):
        raise Unsafe(f"{encoding.fraction_bits} fraction bits are finer than a CKKS sum over {members} is exact")
    largest = members * 2.0 ** (encoding.value_bits - 1 - encoding.fraction_bits)
    if largest * 2.0**SCALE_BITS >= 2.0 ** (PRIMES[0] - 2):
        raise Unsafe(f"a sum of up to {largest:g} overflows the ciphertext's {PRIMES[0]}-bit prime")


def error_bound(members: int) -> float:
    """How far a decrypted sum over ``members`` may be off, as a real."""
    return ERROR_PER_INPUT * math.sqrt(members)


def count(dimension: int) -> int:
    """How many ciphertexts a vector takes."""
    return -(-dimension // VALUES)


def encrypt(public_context: bytes, values: NDArray[np.int64], encoding: FixedPoint) -> tuple[bytes, ...]:
    """Ciphertexts of grid integers: (dimension,) -> (count(dimension),)."""
    api, context = tenseal().sealapi, _loaded(public_context)
    seal = context.seal_context().data
    encoder, encryptor = api.CKKSEncoder(seal), api.Encryptor(seal, context.public_key().data)
    reals = np.zeros(count(len(values)) * VALUES)
    reals[: len(values)] = values / float(1 << encoding.fraction_bits)
    chunks = []
    with _passage() as path:
        for real, imaginary in reals.reshape(-1, 2, SLOTS):
            plain, cipher = api.Plaintext(), api.Ciphertext()
            encoder.encode((real + 1j * imaginary).tolist(), 2.0**SCALE_BITS, plain)
            encryptor.encrypt(plain, cipher)
            cipher.save(str(path))
            chunks.append(path.read_bytes())
    return tuple(chunks)


def open_sum(
    secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], dimension: int, encoding: FixedPoint
) -> NDArray[np.int64]:
    """The sum of the inputs as grid integers: (dimension,). No single input is decrypted.

    Raises:
        Forged: bytes that are no ciphertext of this key's parameters, or a sum that is not of grid integers in range.
    """
    api, context = tenseal().sealapi, _loaded(secret_context)
    seal = context.seal_context().data
    evaluator, encoder = api.Evaluator(seal), api.CKKSEncoder(seal)
    decryptor = api.Decryptor(seal, context.secret_key().data)
    parts: list[NDArray[np.float64]] = []
    with _passage() as path:
        for index in range(count(dimension)):
            total, plain = None, api.Plaintext()
            for cipher in _read(api, seal, path, ((member, chunks[index]) for member, chunks in inputs.items())):
                if total is None:
                    total = cipher
                else:
                    evaluator.add_inplace(total, cipher)
            decryptor.decrypt(total, plain)
            slots = np.array(encoder.decode_complex(plain))
            parts += [slots.real, slots.imag]
    return _on_grid(np.concatenate(parts), len(inputs), dimension, encoding)


def _read(api: Any, seal: Any, path: Path, chunks: Iterable[tuple[MemberId, bytes]]) -> Iterator[Any]:  # noqa: ANN401
    for member, chunk in chunks:
        cipher = api.Ciphertext()
        path.write_bytes(chunk)
        try:
            cipher.load(seal, str(path))
        except (ValueError, RuntimeError) as fault:
            raise Forged(f"{member} sent bytes that are no ciphertext: {fault}") from fault
        if (cipher.size(), cipher.coeff_modulus_size(), cipher.scale) != (2, 1, 2.0**SCALE_BITS):
            raise Forged(f"{member} sent a ciphertext of another size, level or scale")
        yield cipher


def _on_grid(reals: NDArray[np.float64], members: int, dimension: int, encoding: FixedPoint) -> NDArray[np.int64]:
    """The grid integers, and zeros behind them; what a wrong key or an input off the grid leaves is neither."""
    step = float(1 << encoding.fraction_bits)
    scaled = reals * step
    nearest = np.rint(scaled)
    if np.abs(scaled - nearest).max() > error_bound(members) * step or nearest[dimension:].any():
        raise Forged("a sum that is not on the grid: an input is not what its sender says, or for another key")
    if np.abs(nearest).max() > members * 2.0 ** (encoding.value_bits - 1):
        raise Forged(f"a sum outside the range of {members} inputs")
    return nearest[:dimension].astype(np.int64)


def _loaded(context: bytes) -> Any:  # noqa: ANN401 - TenSEAL's own type
    try:
        return tenseal().context_from(context)
    except (ValueError, RuntimeError) as fault:
        raise Forged(f"bytes that are no CKKS context: {fault}") from fault


@contextmanager
def _passage() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="securefl-") as folder:
        yield Path(folder) / "ciphertext"
