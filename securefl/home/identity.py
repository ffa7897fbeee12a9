"""Where a home keeps its owner's key, and whether one is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from securefl import files, key_files
from securefl.documents.finding import MISSING, OK, Finding
from securefl.errors import OperatorFault

if TYPE_CHECKING:
    from securefl.keys import Secret

NAME: Final = "identity.key"
NEXT: Final = ".next"  # the key that is to come, while it is exchanged
TURN: Final = ".turn"
TEXTS: Final = "texts.key"  # what charged records are fingerprinted with
SECRETS: Final = (NAME, TEXTS)  # 32 bytes each


def place(home: Path) -> Path:
    """Return the file of this home's key."""
    return home / NAME


def is_made(home: Path) -> bool:
    """Return whether this home has a key."""
    return place(home).exists()


def secret(home: Path, name: str) -> Secret:
    """The secret of this name in a home, beside its key; drawn if there is none, and encrypted where the key is.

    So of a passphrase that was typed it is asked no second time, and nothing that a home draws is left without it.

    Raises:
        OperatorFault: it is no secret, others may read it, or the passphrase of the home's key does not open it.
    """
    key = place(home)
    under = key_files.passphrase_of(key) if is_made(home) and key_files.is_encrypted(key) else None
    return key_files.secret(home / name, under)


def secrets(path: Path) -> tuple[Path, ...]:
    """Return the files of a home's secrets, or the one file that was given: the rest of a home is sealed under these.

    A home's key stands for its home: none of its secrets lies in the clear beside one that is encrypted.

    Raises:
        OperatorFault: there is no key.
    """
    every = (NAME, place(path).with_suffix(NEXT).name, *SECRETS[1:])
    home = path.parent if path.name == NAME else path
    names = [home / name for name in every if (home / name).is_file()] if home.is_dir() else [path]
    found = (*names, *key_files.former(names[0])) if names else ()
    if not found or not found[0].is_file():
        raise OperatorFault("no key here", "give the file of a key, or a home", str(path))
    return found


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Exchange the secrets of a home, or the key of one, while no other process does; another file's has no turn.

    What a process that was killed left of them is gone before the block runs.

    Raises:
        OperatorFault: there is no key, or others may read or write the file of the turn.
    """
    secrets(path)  # where there are none, no file of a turn is left
    home = path if path.is_dir() else path.parent
    whole = path == home or path.name == NAME
    with files.in_turn(place(home).with_suffix(TURN)) if whole else nullcontext():
        files.clear(home if whole else path)
        yield


def check(home: Path, whose: str, remedy: str) -> None:
    """Check that a party has a home and a key; raise OperatorFault otherwise. ``whose`` is such as ``this site``."""
    if not is_made(home):
        raise OperatorFault(f"{whose} has no key yet", remedy, str(place(home)))


def found(home: Path, remedy: str) -> Finding:
    """Return what a check of a party's document finds of its home; ``remedy`` is for one that is not made yet.

    Raises:
        OperatorFault: others may use the home, or what is there is no key.
    """
    files.check(home)
    if not is_made(home):
        return Finding("home", MISSING, str(home), remedy)
    return Finding("home", OK, f"{home}, key {key_files.load(place(home)).public.hex()}")
