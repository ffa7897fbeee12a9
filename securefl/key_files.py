"""Where keys are kept: each in a file that its owner alone may read, written whole or not at all.

A secret of 32 bytes lies there as it is, or encrypted under a passphrase: scrypt (RFC 7914) with a salt of the file's
own, then AES-256-GCM. Where this process has a source of passphrases, what it makes is encrypted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from securefl import files, passphrases
from securefl.errors import Forged, OperatorFault
from securefl.keys import Identity, Secret, open_at_rest, seal_at_rest

ENCRYPTED: Final = b"securefl encrypted key 1\n"  # then the salt, and what is sealed
SECRET, SALT, NONCE = 32, 16, 12  # bytes
COST: Final = 17  # each guess takes 128 MiB and half a second: OWASP's first choice for scrypt (2^17, 8, 1)
FORMER: Final = ".former"  # a folder beside the key


def load_or_create(path: Path, passphrase: bytes | None = None) -> Identity:
    """The identity kept at ``path``; made there, readable by its owner alone, if there is none.

    Args:
        path: its file.
        passphrase: what one that is made is encrypted under; without it the process's, if that has one.

    Raises:
        OperatorFault: the file is not a key, others may read it, or its passphrase is not the one given.
    """
    present, before = secret(path, passphrase), former(path)
    under = passphrase_of(path) if passphrase is None and before and is_encrypted(path) else passphrase
    return Identity(present, tuple(Identity(secret(each, under)) for each in before))


def load(path: Path) -> Identity:
    """The identity kept at ``path``.

    Raises:
        OperatorFault: there is none, it is not a key, others may read it, or its passphrase is not the one given.
    """
    if not path.is_file():
        raise OperatorFault("no key here", "make one: `securefl keys init`", str(path))
    return load_or_create(path)


def secret(path: Path, passphrase: bytes | None = None) -> Secret:
    """The secret of 32 bytes that is kept at ``path``; drawn if there is none.

    Raises:
        OperatorFault: as for ``load_or_create``.
    """

    def fresh() -> bytes:
        made, under = Secret(os.urandom(SECRET)), passphrase
        if under is None and passphrases.is_set():
            under = passphrases.of_process(path)
        return made.raw if under is None else encrypted(made, under)

    return _opened(kept(path, fresh), path, passphrase)


def passphrase_of(path: Path) -> bytes:
    """The passphrase of the key at ``path``, which is encrypted.

    Raises:
        OperatorFault, Missing: no source of this process has it.
    """
    return passphrases.of_process(path)


def former(path: Path) -> tuple[Path, ...]:
    """Return the files of the keys that the one at ``path`` took the place of, newest first."""
    folder = path.with_suffix(FORMER)
    return tuple(sorted(folder.glob("*.key"), reverse=True)) if folder.is_dir() else ()


def is_encrypted(path: Path) -> bool:
    """Return whether the key at ``path`` needs a passphrase."""
    files.check(path)
    return path.read_bytes().startswith(ENCRYPTED)


def encrypted(held: Secret, passphrase: bytes) -> bytes:
    """What lies on the disk of a secret under a passphrase; of an altered one nothing opens."""
    salt = os.urandom(SALT)
    return ENCRYPTED + salt + seal_at_rest(_stretched(passphrase, salt), ENCRYPTED, held.raw, os.urandom(NONCE))


@lru_cache(maxsize=64)  # a process opens one key many times
def _stretched(passphrase: bytes, salt: bytes) -> Secret:
    return Secret(Scrypt(salt=salt, length=SECRET, n=1 << COST, r=8, p=1).derive(passphrase))


def exchange(path: Path, data: bytes) -> None:
    """Put these bytes in the place of the key at ``path``. However often it fails or is killed, one is there, whole.

    The old bytes never have a second name, and are written over once the new ones are on the disk: as far as the file
    system does so, and unless the process is killed just then. A backup may still have them.
    """
    with files.written_over(path):
        files.write(path, data)


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return what is kept at ``path``, readable by its owner alone; made once, whole or not at all.

    Raises:
        OperatorFault: it is a link, or not its owner's alone.
    """
    if not os.path.lexists(path):
        with files.beside(path, make()) as whole, suppress(FileExistsError):
            os.link(whole, path)  # fails if somebody else was first: theirs is then the one
    files.check(path)
    return path.read_bytes()


def _opened(data: bytes, path: Path, passphrase: bytes | None) -> Secret:
    if not data.startswith(ENCRYPTED):
        if len(data) != SECRET:
            remedy = "restore it from its backup, or move it away to become a new identity"
            raise OperatorFault(f"{len(data)} bytes where a key has {SECRET}", remedy, str(path))
        return Secret(data)
    salt, sealed = data[len(ENCRYPTED) :][:SALT], data[len(ENCRYPTED) + SALT :]
    try:
        return Secret(open_at_rest(_stretched(passphrase or passphrases.of_process(path), salt), ENCRYPTED, sealed))
    except (Forged, ValueError) as fault:
        what = "this passphrase does not open the key, or the file was altered"
        remedy = (
            "give the passphrase it was encrypted with; run `keys encrypt` again if it was cut off; or restore the file"
        )
        raise OperatorFault(what, remedy, str(path)) from fault
