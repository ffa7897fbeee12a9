"""Which texts were charged to which account of a home: under a second name they would be paid for as if they were new.

A text is remembered as a keyed hash of what is trained on, so one that is written otherwise is another text.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from securefl import keys
from securefl.errors import PeerFault
from securefl.runtime.home import Home

FOLDER, KEY, SUFFIX, SIZE = "texts", "texts.key", ".texts", 16  # bytes of a hash


def claim(home: Home, account: str, texts: Iterable[str]) -> None:
    """From now on, in this home, the texts are this account's.

    Raises:
        PeerFault: some were charged to another one; nothing is changed.
    """
    key = keys.kept(home.path / KEY, lambda: os.urandom(32))
    mine = frozenset(hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")[:SIZE] for text in texts)
    folder = home.path / FOLDER
    own = folder / f"{quote(account, safe='')}{SUFFIX}"
    with home.transaction():  # of two runs that begin at once, one waits
        for path in sorted(set(folder.glob(f"*{SUFFIX}")) - {own}):
            if shared := len(mine & _read(path)):
                name = unquote(path.name.removesuffix(SUFFIX))
                raise PeerFault(
                    f"{shared} of {len(mine)} texts for the account {account!r} were charged to {name!r} at this site:"
                    f" say `dataset: {name}` of this member, so that what they cost adds up"
                )
        known = _read(own) if own.exists() else frozenset()
        if not mine <= known:
            _write(own, known | mine)


def _read(path: Path) -> frozenset[bytes]:
    data = path.read_bytes()
    return frozenset(data[place : place + SIZE] for place in range(0, len(data), SIZE))


def _write(path: Path, hashes: frozenset[bytes]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(b"".join(sorted(hashes)))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
