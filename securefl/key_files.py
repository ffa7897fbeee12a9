"""Where keys are kept: each in a file that its owner alone may read, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from securefl import files
from securefl.errors import OperatorFault
from securefl.keys import Identity, Secret


def load_or_create(path: Path) -> Identity:
    """The identity kept at ``path``; made there, readable by its owner alone, if there is none.

    Raises:
        OperatorFault: the file is not a key, or others may read it.
    """
    raw = kept(path, lambda: os.urandom(32))
    if len(raw) != 32:
        remedy = "restore it from its backup, or move it away to become a new identity"
        raise OperatorFault(f"{len(raw)} bytes where a key has 32", remedy, str(path))
    return Identity(Secret(raw))


def load(path: Path) -> Identity:
    """The identity kept at ``path``.

    Raises:
        OperatorFault: there is none, it is not a key, or others may read it.
    """
    if not path.is_file():
        raise OperatorFault("no key here", "make one: `securefl keys init`", str(path))
    return load_or_create(path)


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return what is kept at ``path``, readable by its owner alone; made once, whole or not at all.

    Raises:
        OperatorFault: it is a link, or not its owner's alone.
    """
    if not os.path.lexists(path):
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)  # fails if somebody else was first: theirs is then the one
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    files.check(path)
    return path.read_bytes()
