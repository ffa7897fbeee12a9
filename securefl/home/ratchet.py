"""The key of a run's newest saved state, random, in a file of the home; written over once a newer state is committed.

A database keeps old pages, its administrator old rows, and both outlive what was deleted from them. An older state is
gone because its key is: a later copy of the home has the key of the newest state alone, and none of a run that is over.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from securefl import files
from securefl.keys import Secret
from securefl.terms import RunId

PREFIX, SUFFIX = "run-", ".state"
KEY = 32  # bytes; the file has room for two keys
NONE = bytes(KEY)


@dataclass(frozen=True, slots=True)
class Ratchet:
    """One run's file. Between a commit and ``settle`` it holds two keys, so that a crash leaves a state that opens."""

    path: Path

    @classmethod
    def of(cls, home: Path, run: RunId) -> Ratchet:
        """The file of this run in this home."""
        return cls(home / f"{PREFIX}{run.hex()}{SUFFIX}")

    def held(self) -> tuple[Secret, ...]:
        """At most two: of the newest committed state, and of one that was being written.

        Raises:
            OperatorFault: others may read or write the file.
        """
        return tuple(Secret(each) for each in self._places() if each != NONE)

    def fresh(self, newest: Secret | None) -> Secret:
        """A new key, on the disk beside that of the newest committed state."""
        made = os.urandom(KEY)
        first = newest is not None and self._places()[0] == newest.raw
        new = not self.path.exists()
        files.file(self.path)
        self._write(KEY if first else 0, made)
        if new:
            files.names_on_disk(self.path.parent)
        return Secret(made)

    def settle(self, newest: Secret | None) -> None:
        """Write over every key but that of the newest committed state; remove the file if it has none here."""
        if not self.path.exists():
            return
        self._write(0, b"".join(each if newest is not None and each == newest.raw else NONE for each in self._places()))
        if newest is None:
            self.path.unlink()

    def _places(self) -> tuple[bytes, bytes]:
        data = (files.read(self.path) or b"").ljust(2 * KEY, b"\0")
        return data[:KEY], data[KEY : 2 * KEY]

    def _write(self, at: int, data: bytes) -> None:
        """In place: the bytes that were here are the ones that are written over, as far as the file system does so."""
        with self.path.open("r+b", buffering=0) as file:
            file.seek(at)
            file.write(data)
            os.fsync(file.fileno())
