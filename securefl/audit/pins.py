"""Whose keys these are: what an auditor knows from elsewhere, held against what ledgers are signed with.

Without that, one person can make up a whole run, every key in it, and every signature will hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from securefl.audit import json_files
from securefl.documents.strict import text_of
from securefl.errors import OperatorFault, Tampered
from securefl.keys import fingerprint
from securefl.shown import plain
from securefl.terms import PublicKey

SHAPE = 'write {"NAME": "KEY OR FINGERPRINT IN HEX"}, as `audit verify` prints them or `keys show` does'
Pins = Mapping[str, str]  # a party, in a tree with the way to it such as west/north: its key or fingerprint, in hex


def read(paths: Iterable[Path]) -> Pins:
    """All that these files pin, together.

    Raises:
        OperatorFault: one is no such file, or two pin one party to two keys.
    """
    found: dict[str, str] = {}
    for path in paths:
        try:
            given = json_files.loads(text_of(path))
        except ValueError as fault:
            raise OperatorFault(f"not JSON: {fault}", SHAPE, str(path)) from fault
        if not isinstance(given, dict) or not given:
            raise OperatorFault("no keys", SHAPE, str(path))
        for name, value in given.items():
            key = str(value).lower()
            if len(key) not in (32, 64) or set(key) - set("0123456789abcdef"):
                what = f"{plain(name)}: {plain(str(value))[:80]} is no key and no fingerprint"
                raise OperatorFault(what, SHAPE, str(path))
            if found.setdefault(name, key) != key:
                raise OperatorFault(f"{plain(name)} is given two keys", "keep the one you know to be theirs", str(path))
    return found


def check(name: str, keys: tuple[PublicKey, ...], pins: Pins) -> None:
    """Check that this party is pinned, to its key: the first of these, or one that was handed over to it.

    Raises:
        Tampered: it is not.
    """
    where, due, key = f"{name}.ledger", pins.get(name), keys[0]
    if due is None:
        raise Tampered(where, f"no key is pinned for {name}: this one is {fingerprint(key)}")
    if not any(due in (each.hex(), fingerprint(each)) for each in keys):
        raise Tampered(where, f"signed with another key than the pinned one: {fingerprint(key)}, not {due[:32]}")


def of(pins: Pins | None, here: Collection[str]) -> Pins | None:
    """The pins of the parties here and of all below them: of one task of many, that others take no part in."""
    return None if pins is None else {name: key for name, key in pins.items() if name.partition("/")[0] in here}


def unused(names: Iterable[str], here: Collection[str]) -> tuple[str, ...]:
    """Name whom an auditor knows and got no ledger of: they took no part, or their ledgers were left out."""
    absent = sorted(name for name in names if "/" not in name and name not in here)
    return tuple(f"no ledger of {name}, whose key is pinned" for name in absent)
