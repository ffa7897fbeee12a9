"""The last head this home signed, in a file of the home's own: outside the database, whoever administers that.

It is written after a transaction is committed and before anything is sent. So it is never ahead of the database, and a
database that is behind it was set back.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from securefl import keys, private, wire
from securefl.errors import Malformed, Tampered
from securefl.terms import Head, SignedHead

NAME = "ledger.head"


def read(home: Path) -> Head | None:
    """The head; None before the first entry.

    Raises:
        OperatorFault: others may read or write the file.
        Tampered: it holds no head.
    """
    data = private.read(home / NAME)
    if data is None:
        return None
    try:
        signed: SignedHead = wire.decode(data, SignedHead)
    except Malformed as fault:
        raise Tampered(str(home / NAME), str(fault)) from fault
    return signed.head


def write(home: Path, signed: SignedHead) -> None:
    """Keep this head, on the disk, unless a later one is kept.

    Raises:
        OperatorFault: others may read or write the file.
        Tampered: it holds no head.
    """
    lock = home / f"{NAME}-turn"
    private.file(lock)
    with lock.open("ab") as turn:  # of two processes the one with the later head wins
        fcntl.flock(turn, fcntl.LOCK_EX)
        known = read(home)
        if known is None or known.size < signed.head.size:
            keys.put(home / NAME, wire.encode(signed))
