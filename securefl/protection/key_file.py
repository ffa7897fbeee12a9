"""A decryption key on disk, and how many sums it has opened: counted before each, so a crash only ever counts too many.

Beside the key lies a file that is named after it and holds the count. Where it is missing or unreadable nothing is
opened. The limit bounds what many sums of well-formed inputs could show of a key. It bounds nothing against an input
that was made up: one sum can have the whole key in it. That a key which leaked opens no input is kept by boxes and
masks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from securefl import key_files, keys
from securefl.errors import Forged, OperatorFault, Unsafe
from securefl.keys import Identity

MOST_SUMS = 4096
DIGITS = 8
CONTEXT = b"decryption-key"


class Exhausted(Unsafe):
    """A key that opened as many sums as one key may."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The place of one key, and whose identity it is sealed under: without that it is no key."""

    path: Path
    identity: Identity

    def kept(self, make: Callable[[], bytes]) -> bytes:
        """The key kept here; made if there is none, with a count of zero.

        Raises:
            OperatorFault: others may read it, it was altered, or it has no count.
        """

        def counted() -> bytes:
            secret = make()
            key_files.kept(self.count_of(secret), lambda: b"0" * DIGITS)
            return keys.seal_at_rest(self.identity.at_rest(CONTEXT), CONTEXT, secret, os.urandom(12))

        sealed = key_files.kept(self.path, counted)
        try:
            secret = self.identity.opened_at_rest(CONTEXT, sealed)
        except Forged as fault:
            what, remedy = "this decryption key was altered, or is another party's", "restore it from its backup"
            raise OperatorFault(what, remedy, str(self.path)) from fault
        self.spent(secret)
        return secret

    def count_of(self, secret: bytes) -> Path:
        """Return where the count of a key lies."""
        name = hashlib.sha256(b"he-key-count\0" + secret).hexdigest()[:16]
        return self.path.with_name(f"{self.path.name}.{name}.sums")

    def spent(self, secret: bytes) -> int:
        """Return how many sums the key has opened, or begun to.

        Raises:
            OperatorFault: nothing says so.
        """
        path = self.count_of(secret)
        try:
            return _number(path.read_bytes(), path)
        except FileNotFoundError as fault:
            raise _uncounted(path) from fault

    def spend(self, secret: bytes) -> None:
        """One sum more, on disk before it is opened.

        Raises:
            Exhausted: the key has opened as many as it may.
            OperatorFault: nothing says how many it has.
        """
        path = self.count_of(secret)
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError as fault:
            raise _uncounted(path) from fault
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = _number(file.read(), path)
            if before >= MOST_SUMS:
                raise Exhausted(f"this key opened {before} sums, as many as one may: the custodian needs a new one")
            file.seek(0)
            file.write(b"%0*d" % (DIGITS, before + 1))
            os.fsync(file.fileno())


def _number(written: bytes, path: Path) -> int:
    if len(written) != DIGITS or not written.isdigit():
        raise _uncounted(path)
    return int(written)


def _uncounted(path: Path) -> OperatorFault:
    what = "nothing here says how many sums the decryption key opened"
    return OperatorFault(what, "restore this file with the key, or move the key away to make a new one", str(path))
