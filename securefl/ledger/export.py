"""One ledger as one file that can be checked anywhere: owner, key, every leaf, and the head that covers them.

The file is the canonical encoding of one value, so no byte of it is free.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from securefl import wire
from securefl.errors import Malformed, Tampered
from securefl.terms import Leaf, MemberId, PublicKey, SignedHead

SUFFIX = ".ledger"


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A whole ledger, as its owner hands it out."""

    owner: MemberId
    key: PublicKey
    leaves: tuple[bytes, ...]  # canonical encodings of ``terms.Leaf``
    head: SignedHead


def write(path: Path, file: LedgerFile) -> None:
    """The file is at ``path`` whole, or was not touched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as opened:
        opened.write(wire.encode(file))
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(path)


def read(path: Path) -> LedgerFile:
    """The ledger at ``path``; nothing in it is checked yet but its form.

    Raises:
        Tampered: it cannot be read, or is not the canonical encoding of a ledger.
    """
    try:
        file: LedgerFile = wire.decode(path.read_bytes(), LedgerFile)
    except OSError as fault:
        raise Tampered(str(path), f"cannot be read: {fault.strerror}") from fault
    except Malformed as fault:
        raise Tampered(str(path), str(fault)) from fault
    return file


def leaves_of(file: LedgerFile, where: str) -> tuple[Leaf, ...]:
    """Every leaf, decoded.

    Raises:
        Tampered: one is not canonical.
    """
    decoded = []
    for index, data in enumerate(file.leaves):
        try:
            decoded.append(wire.decode(data, Leaf))
        except Malformed as fault:
            raise Tampered(where, str(fault), index) from fault
    return tuple(decoded)
