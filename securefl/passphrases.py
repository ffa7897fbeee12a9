"""Where the passphrase of an encrypted key comes from: a file, a file descriptor, the OS keyring, or whoever types it.

At most one source is set, for the whole process. A service that nobody can ask has a file of mode 0600, a descriptor,
or what systemd puts into ``$CREDENTIALS_DIRECTORY``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from getpass import getpass
from importlib import import_module
from pathlib import Path
from typing import Final

from securefl import files
from securefl.errors import Missing, OperatorFault

FILE, DESCRIPTOR, KEYRING, PLAIN = (
    "SECUREFL_PASSPHRASE_FILE", "SECUREFL_PASSPHRASE_FD", "SECUREFL_PASSPHRASE_KEYRING", "SECUREFL_PASSPHRASE",
)  # fmt: skip
CREDENTIALS, CREDENTIAL = "CREDENTIALS_DIRECTORY", "securefl-passphrase"  # systemd's, and the file's name in it
SERVICE: Final = "securefl"  # under which the OS keyring has it; the variable's value is the account's name
LEAST, MOST = 12, 1023  # bytes; OpenSSL takes no longer one
SOURCES: Final = f"{FILE}, {DESCRIPTOR}, {KEYRING}, {PLAIN}, or systemd's {CREDENTIAL}"

_read_once: dict[str, bytes] = {}  # what cannot be asked for again: by descriptor, or by the key it was typed for


def is_set(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process has a source, so that keys that are made now are encrypted."""
    return bool(_sources(environment))


def of_process(path: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """The passphrase, for the key at ``path``; whoever sits at the terminal is asked where no source is set.

    Raises:
        OperatorFault: no source has it, two are set, or it is too short or too long.
        Missing: the keyring's library is not installed.
    """
    sources = _sources(environment)
    if len(sources) > 1:
        raise OperatorFault("more than one source of a passphrase is set", "keep one", ", ".join(sources))
    if sources:
        ((name, read),) = sources.items()
        return checked(read(), name)
    if str(path) not in _read_once:
        _read_once[str(path)] = _typed(path)
    return _read_once[str(path)]


def chosen(path: Path, file: Path | None = None, environment: Mapping[str, str] = os.environ) -> bytes:
    """A passphrase for a key that is being encrypted: in ``file``, of the process's source, or typed twice.

    Raises:
        OperatorFault, Missing: as for ``of_process``; or what was typed differs.
    """
    if file is not None:
        return checked(_of_file(str(file)), str(file))
    if _sources(environment):
        return of_process(path, environment)
    found = _typed(path)
    if getpass("The same again: ").encode() != found:
        raise OperatorFault("two passphrases that differ", "type the same one twice", str(path))
    return found


def _typed(path: Path) -> bytes:
    if not sys.stdin.isatty():
        raise OperatorFault("a passphrase is needed, and nobody is here to type it", f"set one of {SOURCES}", str(path))
    return checked(getpass(f"Passphrase of {path}: ").encode(), str(path))


def checked(passphrase: bytes, place: str) -> bytes:
    """The passphrase, if it can be one.

    Raises:
        OperatorFault: it is too short to withstand guessing, or longer than is read.
    """
    if not LEAST <= len(passphrase) <= MOST:
        what = f"a passphrase of {len(passphrase)} bytes"
        raise OperatorFault(what, f"use {LEAST} to {MOST} bytes, such as 6 random words", place)
    return passphrase


def _sources(environment: Mapping[str, str]) -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {}
    for name, read in ((FILE, _of_file), (DESCRIPTOR, _of_descriptor), (KEYRING, _of_keyring), (PLAIN, str.encode)):
        if name in environment:
            value = environment[name]
            found[name] = lambda read=read, value=value: read(value)  # type: ignore[misc]
    if not found and CREDENTIALS in environment:
        path = Path(environment[CREDENTIALS]) / CREDENTIAL
        if path.is_file():
            found[str(path)] = lambda: _line(path.read_bytes())  # systemd made it: its own, and readable by us alone
    return found


def _of_file(value: str) -> bytes:
    data = files.read(Path(value))
    if data is None:
        raise OperatorFault("no such file", f"write the passphrase into it, and run: chmod 600 {value}", value)
    return _line(data)


def _of_descriptor(value: str) -> bytes:
    if value not in _read_once:
        try:
            with os.fdopen(os.dup(int(value)), "rb") as opened:
                _read_once[value] = _line(opened.read(MOST + 2))
        except (ValueError, OSError) as fault:
            remedy = "open it for this process, as in `3< FILE`, and say its number; child processes need a file"
            raise OperatorFault(f"cannot be read: {fault}", remedy, f"{DESCRIPTOR}={value}") from fault
    return _read_once[value]


def _of_keyring(value: str) -> bytes:
    place = f"{KEYRING}={value}"
    try:
        keyring = import_module("keyring")
    except ModuleNotFoundError as fault:
        what = "the keyring's library is not installed"
        raise Missing(what, "pip install 'securefl-core[keyring]'", place) from fault
    try:
        found = keyring.get_password(SERVICE, value)
    except import_module("keyring.errors").KeyringError as fault:
        raise OperatorFault(f"no keyring answers: {fault}", "log in, or use a file", place) from fault
    if found is None:
        raise OperatorFault("the keyring has no such entry", f"run: keyring set {SERVICE} {value}", place)
    return str(found).encode()


def _line(data: bytes) -> bytes:
    return data.removesuffix(b"\n").removesuffix(b"\r")
