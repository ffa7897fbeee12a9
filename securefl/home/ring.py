"""The files in which a home exchanges its key: the next one, what is said of the exchange, and those before.

    identity.turn       whoever exchanges it has this lock
    identity.next       the key that is to come
    identity.notices    what is said of it: signed, and not in the ledger yet
    identity.former/    keys that it took the place of: they open what they sealed, and end the runs they began

An exchange goes on from wherever a process ended: the notices stand first, and are removed last. While they stand, the
store's head may be under either key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from securefl import files, key_files, keys, wire
from securefl.home import identity
from securefl.terms import SignedNotice

NOTICES: Final = ".notices"


def pending(home: Path) -> tuple[SignedNotice, ...]:
    """Return what is said of an exchange that is not over; empty where there is none."""
    data = files.read(identity.place(home).with_suffix(NOTICES))
    found: tuple[SignedNotice, ...] = () if data is None else wire.decode(data, tuple[SignedNotice, ...])
    return found


def drawn(home: Path) -> keys.Identity:
    """A new key, on the disk, and of no use yet; one that an exchange left which never began is thrown away."""
    place = identity.place(home)
    after = place.with_suffix(identity.NEXT)
    if after.exists():
        files.erase(after)
    made = keys.Secret(os.urandom(key_files.SECRET))
    data = made.raw
    if key_files.is_encrypted(place):
        data = key_files.encrypted(made, key_files.passphrase_of(place))
    files.write(after, data)
    return keys.Identity(made)


def begin(home: Path, notices: tuple[SignedNotice, ...]) -> None:
    """From here on the exchange is ended, whatever happens."""
    files.write(identity.place(home).with_suffix(NOTICES), wire.encode(notices))


def exchange(home: Path) -> None:
    """Put the next key in the place of the present one, which is kept among the former; nothing if that was done."""
    place = identity.place(home)
    after, folder = place.with_suffix(identity.NEXT), place.with_suffix(key_files.FORMER)
    if not after.exists():
        return
    files.folder(folder)
    present = place.read_bytes()
    if not any(each.read_bytes() == present for each in folder.glob("*.key")):
        files.write(folder / f"{len(list(folder.glob('*.key'))):06d}.key", present)
    with files.written_over(place):
        after.replace(place)
        files.names_on_disk(home)


def end(home: Path) -> None:
    """The notices stand in the ledger: the exchange is over."""
    identity.place(home).with_suffix(NOTICES).unlink(missing_ok=True)


def looks(home: Path) -> tuple[int, int]:
    """Return what changes when the key does."""
    found = identity.place(home).stat()
    return found.st_ino, found.st_mtime_ns
