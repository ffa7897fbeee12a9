"""One ledger as one file that can be checked anywhere: owner, key, every leaf, and the head that covers them.

The file is the canonical encoding of one value, so no byte of it is free. Beside the leaves stand their hashes: the
root alone would say that something is wrong, a hash says where.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from securefl import merkle, wire
from securefl.errors import Malformed, OperatorFault, Tampered
from securefl.terms import Hash, Leaf, MemberId, PublicKey, SignedHead

SUFFIX = ".ledger"
UNFINISHED = f"{SUFFIX}.new"  # how a ledger's file is called until it is whole


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A whole ledger, as its owner hands it out."""

    owner: MemberId
    key: PublicKey
    leaves: tuple[bytes, ...]  # canonical encodings of ``terms.Leaf``
    head: SignedHead


@dataclass(frozen=True, slots=True)
class Written:
    """A ledger's file, and the hash of each of its leaves."""

    file: LedgerFile
    hashes: tuple[Hash, ...]


def write(path: Path, file: LedgerFile) -> None:
    """The file is at ``path`` whole and on the disk, or what was there is untouched.

    Raises:
        OperatorFault: it cannot be written.
    """
    beside = path.with_name(path.name.removesuffix(SUFFIX) + UNFINISHED)
    data = wire.encode(Written(file, tuple(merkle.leaf_hash(leaf) for leaf in file.leaves)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(path)
        _sync(path.parent)
    except OSError as fault:
        remedy = "free some space, or choose a folder you may write"
        raise OperatorFault(f"cannot write the ledger: {fault.strerror}", remedy, str(path)) from fault


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> LedgerFile:
    """The ledger at ``path``, undamaged; whether it is signed and complete is not asked here.

    Raises:
        Tampered: it cannot be read, is not the canonical encoding of a ledger, or a leaf is not the one written.
    """
    try:
        written: Written = wire.decode(path.read_bytes(), Written)
    except OSError as fault:
        raise Tampered(path.name, f"cannot be read: {fault.strerror}") from fault
    except Malformed as fault:
        raise Tampered(path.name, str(fault)) from fault
    for index, (leaf, expected) in enumerate(zip_longest(written.file.leaves, written.hashes)):
        if leaf is None or merkle.leaf_hash(leaf) != expected:
            raise Tampered(path.name, "not the entry that was written here", index)
    return written.file


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


def steady(collect: Callable[[], tuple[LedgerFile, ...]], tries: int = 100) -> tuple[LedgerFile, ...]:
    """Copies of several ledgers as all of them stood at one moment, also while other runs write to them.

    Ledgers only grow, so if two collections in a row agree, nothing moved between them.

    Raises:
        OperatorFault: they never agreed.
    """
    before = collect()
    for _ in range(tries):
        after = collect()
        if after == before:
            return after
        before = after
    what = f"the ledgers moved during {tries} attempts to copy them"
    raise OperatorFault(what, "try again when the other runs are over")
