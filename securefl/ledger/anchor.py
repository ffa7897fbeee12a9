"""The last head this home signed, in a file of the home's own: outside the database, whoever administers that.

It is signed and written after a transaction is committed, and before it is shown to anybody and anything is sent or
done that follows from it. So it is never ahead of the database, and a database that is behind it was set back. And of
each size one head is ever signed: a store that refuses a commit has none of it. One transaction at a time has the home,
from before the head is read until the next is written. Whoever administers a database may show two processes two copies
of it, each with a lock of its own; so the lock that counts is a file of the home.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from securefl import files, wire
from securefl.errors import Malformed, OperatorFault, Tampered
from securefl.terms import Head, SignedHead

NAME = "ledger.head"
WAIT_S = 60  # for other transactions of the same home


@contextmanager
def alone(home: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be the one transaction of this home, of all threads and processes; the others wait in the order they came.

    Raises:
        OperatorFault: others may read or write the lock's file, or another transaction has the home for too long.
    """
    lock = home / f"{NAME}-turn"
    files.file(lock)
    with lock.open("ab") as turn:  # each its own: two threads exclude each other as two processes do
        if not _had(turn.fileno(), wait_s):
            remedy = "another process holds this site for too long; wait for it"
            raise OperatorFault(f"no turn in {wait_s:g} seconds", remedy, str(lock))
        try:
            yield
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)  # also for a process that was forked meanwhile and has the file, too


def _had(file: int, wait_s: float) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting = threading.Thread(target=fcntl.flock, args=(file, fcntl.LOCK_EX), daemon=True)
        waiting.start()
        waiting.join(wait_s)
        return not waiting.is_alive()
    return True


def read(home: Path) -> Head | None:
    """The head; None before the first entry.

    Raises:
        OperatorFault: others may read or write the file.
        Tampered: it holds no head.
    """
    data = files.read(home / NAME)
    if data is None:
        return None
    try:
        signed: SignedHead = wire.decode(data, SignedHead)
    except Malformed as fault:
        raise Tampered(str(home / NAME), str(fault)) from fault
    return signed.head


def looks(home: Path) -> tuple[int, int] | None:
    """Return what changes whenever a head is kept; None before the first."""
    try:
        found = (home / NAME).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def write(home: Path, signed: SignedHead, holds: Callable[[Head], bool]) -> None:
    """Keep this head, on the disk. The caller is ``alone`` since it read the head that is kept.

    Args:
        holds: whether the ledger of this head, as it was verified, begins with a given one.

    Raises:
        OperatorFault: others may read or write the file.
        Tampered: it holds no head, or one of another ledger: nothing that was decided on this one may be sent.
    """
    known = read(home)
    if known is not None and (known.size > signed.head.size or not holds(known)):
        what = f"{signed.head.size} entries that do not begin with the {known.size} this home has signed"
        raise Tampered(str(home / NAME), what)
    files.write(home / NAME, wire.encode(signed))
