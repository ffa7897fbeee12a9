"""Microsoft SEAL as TenSEAL carries it: parameters that only add, and files as the only way in and out.

Ring dimension 4096 and primes of 60 + 49 bits: the 109 bits that the homomorphic encryption standard allows at 128-bit
security with ternary secrets (Albrecht et al. 2018, table 1). There is no relinearisation or rotation key. A ciphertext
is two polynomials modulo the 60-bit prime, 64 KiB.

SEAL draws its own randomness (BLAKE2, seeded by the operating system). Its binding reads and writes ciphertexts as
files alone: each passes through an anonymous file in memory, or, on a system without, through a temporary folder.
Keys never do.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from securefl.errors import Forged, Missing, Unsafe
from securefl.terms import MemberId

IN_MEMORY: Final = hasattr(os, "memfd_create")  # whether what passes through a file touches no disk
DEGREE = 4096
PRIMES = (60, 49)
HEADER: Final = struct.Struct("<HBBBBHQ")  # of all that SEAL saves: magic, its size, version, compression, zero, bytes
MAGIC, VERSION = 0xA15E, (4, 3)  # the one format that is read and written here
FAILURE_BITS = 128  # a sum is wrong with a probability below 2**-128, or refused
MOST_VALUES_LOG2 = 31  # of one sum, which the probability is of
MOST_MODULUS_BITS: Final = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}  # the standard, 128 bits


def tenseal() -> Any:  # noqa: ANN401 - a module without types
    """TenSEAL, with the Python names of SEAL's own types loaded.

    Raises:
        Missing: it is not installed.
    """
    try:
        import tenseal  # noqa: PLC0415
        import tenseal.sealapi  # noqa: PLC0415
    except ImportError as fault:
        what = "ckks, bfv and their masked forms need TenSEAL, which is not installed"
        raise Missing(what, "pip install 'securefl-core[he]'") from fault
    return tenseal


def saved(data: bytes) -> bytes:
    """``data`` under SEAL's header, not compressed."""
    return HEADER.pack(MAGIC, HEADER.size, *VERSION, 0, 0, HEADER.size + len(data)) + data


def check_format(written: bytes) -> None:
    """Check that bytes were saved by the one version of SEAL that this code knows.

    Raises:
        Forged: they have no header, or another version's.
    """
    if len(written) < HEADER.size:
        raise Forged(f"{len(written)} bytes, which are less than SEAL's header")
    magic, size, major, minor, *_ = HEADER.unpack_from(written)
    if (magic, size, (major, minor)) != (MAGIC, HEADER.size, VERSION):
        raise Forged(f"bytes that are no ciphertext of SEAL {VERSION[0]}.{VERSION[1]}")


def new_context(scheme: str, plain_bits: int | None = None) -> bytes:
    """A fresh key pair of ``"CKKS"`` or ``"BFV"`` with its parameters; the secret key is in it."""
    ts = tenseal()
    plain = {} if plain_bits is None else {"plain_modulus": 1 << plain_bits}
    context = ts.context(getattr(ts.SCHEME_TYPE, scheme), DEGREE, coeff_mod_bit_sizes=list(PRIMES), **plain)
    secret: bytes = context.serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return secret


def public_half(secret_context: bytes) -> bytes:
    """The same context without its secret key: what may be handed out."""
    public: bytes = loaded(secret_context).serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return public


def check_public(context: bytes, scheme: str, plain_bits: int | None = None) -> None:
    """Check that this is a public key with the parameters of this module and nothing else.

    Raises:
        Forged: it is no context.
        Unsafe: it holds more than a public key, or has other parameters.
    """
    held = loaded(context)
    if held.has_secret_key() or held.has_galois_keys() or held.has_relin_keys() or not held.has_public_key():
        raise Unsafe("a context with more or less than a public key")
    parameters = held.seal_context().data.key_context_data().parms()
    primes = tuple(prime.bit_count() for prime in parameters.coeff_modulus())
    check_security(parameters.poly_modulus_degree(), primes)
    plain = None if plain_bits is None else 1 << plain_bits
    if parameters.scheme().name != scheme or (plain is not None and parameters.plain_modulus().value() != plain):
        raise Unsafe(f"a context that is not of {scheme} with this module's plaintexts")


def loaded(context: bytes) -> Any:  # noqa: ANN401 - TenSEAL's own type
    """A context from its bytes; they never lie in a file.

    Raises:
        Forged: they are none.
    """
    try:
        return tenseal().context_from(context)
    except (ValueError, RuntimeError) as fault:
        raise Forged(f"bytes that are no context: {fault}") from fault


def check_security(degree: int, primes: tuple[int, ...]) -> None:
    """Check that these parameters have 128-bit security by the standard's table, and are this module's.

    Raises:
        Unsafe: they have not, or are others.
    """
    most = MOST_MODULUS_BITS.get(degree, 0)
    if sum(primes) > most:
        raise Unsafe(
            f"degree {degree} with {sum(primes)} bits of primes: the standard allows {most} at 128-bit security"
        )
    if (degree, primes) != (DEGREE, PRIMES):
        raise Unsafe(f"a context of degree {degree} and primes of {primes} bits")


def failure_bits(log2_probability: float) -> float:
    """Minus log2 of the probability that one of all values of a sum is wrong."""
    return -log2_probability - MOST_VALUES_LOG2


def hoeffding(distance: float, terms: int) -> float:
    """log2 of a bound on the probability that ``terms`` independent errors in [-1/2, 1/2] sum to over ``distance``."""
    return 1 - 2 * distance**2 / terms / math.log(2) if distance > 0 else 1


def write(cipher: Any, path: Path) -> bytes:  # noqa: ANN401 - TenSEAL's own type
    """A ciphertext's bytes.

    Raises:
        Missing: the SEAL that is installed writes another format.
    """
    cipher.save(str(path))
    written = path.read_bytes()
    try:
        check_format(written)
    except Forged as fault:
        raise Missing(f"TenSEAL writes {fault}", "pip install 'tenseal>=0.3.18,<0.4'") from fault
    return written


def read(api: Any, seal: Any, path: Path, chunks: Iterable[tuple[MemberId, bytes]]) -> Iterator[tuple[MemberId, Any]]:  # noqa: ANN401
    """Fresh ciphertexts.

    Raises:
        Forged: bytes that are none of these parameters.
    """
    for member, chunk in chunks:
        cipher = api.Ciphertext()
        path.write_bytes(chunk)
        try:
            check_format(chunk)
            cipher.load(seal, str(path))
        except (ValueError, RuntimeError, Forged) as fault:
            raise Forged(f"{member} sent bytes that are no ciphertext: {fault}") from fault
        if (cipher.size(), cipher.coeff_modulus_size()) != (2, 1):
            raise Forged(f"{member} sent a ciphertext of another size or level")
        yield member, cipher


def total(
    api: Any,  # noqa: ANN401 - TenSEAL's own types
    seal: Any,  # noqa: ANN401
    path: Path,
    chunks: Iterable[tuple[MemberId, bytes]],
    scale: float = 1.0,
) -> Any:  # noqa: ANN401
    """The sum of ciphertexts of one scale.

    Raises:
        Forged: bytes that are none of these parameters, one of another scale, or a sum that is no ciphertext.
    """
    evaluator, added = api.Evaluator(seal), None
    for member, cipher in read(api, seal, path, chunks):
        if cipher.scale != scale:
            raise Forged(f"{member} sent a ciphertext of another scale")
        if added is None:
            added = cipher
            continue
        try:
            evaluator.add_inplace(added, cipher)
        except (ValueError, RuntimeError) as fault:  # nothing is left of the second polynomial
            raise Forged(f"inputs whose sum is no ciphertext: {fault}") from fault
    return added


@contextmanager
def passage() -> Iterator[Path]:
    """A file name that is gone afterwards, with whatever was written there."""
    if IN_MEMORY:
        descriptor = os.memfd_create("securefl")
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="securefl-") as folder:
        yield Path(folder) / "passage"
