"""Which texts were charged to which account of a home: under a second name they would be paid for as if they were new.

A text is remembered as a keyed hash of what is trained on, so one that is written otherwise is another text. Whether a
site has a text is nobody else's to know: the site's operator is told before anything begins, and no message tells it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from securefl import keys
from securefl.errors import OperatorFault
from securefl.runtime.home import Home

FOLDER, KEY, SUFFIX, SIZE = "texts", "texts.key", ".texts", 16  # bytes of a hash


def check(home: Path, account: str, texts: Iterable[str]) -> None:
    """Nothing happens if none of the texts was charged to another account of the home.

    Raises:
        OperatorFault: one was.
    """
    if not (home / FOLDER).is_dir():
        return
    mine = _hashes(home, texts)
    for path in sorted(set((home / FOLDER).glob(f"*{SUFFIX}")) - {_place(home, account)}):
        if mine & _read(path):
            name = unquote(path.name.removesuffix(SUFFIX))
            what = f"the account {account!r} has texts that were charged to {name!r}"
            remedy = f"say `dataset: {name}` of this member, so that what they cost adds up"
            raise OperatorFault(what, remedy, str(home))


def remember(home: Home, account: str, texts: Iterable[str]) -> None:
    """From now on, in this home, the texts are this account's."""
    mine, place = _hashes(home.path, texts), _place(home.path, account)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    with home.transaction():  # of two runs that begin at once, one waits
        known = _read(place) if place.exists() else frozenset()
        if not mine <= known:
            keys.put(place, b"".join(sorted(known | mine)))


def _place(home: Path, account: str) -> Path:
    return home / FOLDER / f"{quote(account, safe='')}{SUFFIX}"


def _hashes(home: Path, texts: Iterable[str]) -> frozenset[bytes]:
    key = keys.kept(home / KEY, lambda: os.urandom(32))
    return frozenset(hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")[:SIZE] for text in texts)


def _read(path: Path) -> frozenset[bytes]:
    data = path.read_bytes()
    return frozenset(data[place : place + SIZE] for place in range(0, len(data), SIZE))
