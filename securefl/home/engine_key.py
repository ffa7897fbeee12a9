"""The key by which an engine knows this home's owner: what it signs of itself names it, from then on."""

from __future__ import annotations

from pathlib import Path

from securefl import files
from securefl.errors import OperatorFault
from securefl.terms import Hash

FILE = "engine-key"  # of a home


def say(home: Path, key: Hash) -> None:
    """Have every card of this home's owner name this key.

    Args:
        home: the folder.
        key: SHA-256 of the public key in the engine's certificate, in its DER form (SubjectPublicKeyInfo).
    """
    files.keep(home / FILE, f"{key.hex()}\n".encode())


def said(home: Path) -> Hash | None:
    """The key that cards name; None without an engine.

    Raises:
        OperatorFault: the file was altered.
    """
    held = files.read(home / FILE)
    if held is None:
        return None
    try:
        key = bytes.fromhex(held.decode())
    except ValueError:
        key = b""
    if len(key) != 32:
        remedy = "remove it, and say the key again: `securefl provision request --party`"
        raise OperatorFault("no SHA-256 in hexadecimal", remedy, str(home / FILE))
    return Hash(key)
