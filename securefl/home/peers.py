"""The keys a home was first shown, pinned: a peer that shows another one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from securefl import files
from securefl.errors import OperatorFault
from securefl.terms import MemberId, Participant, PublicKey
from securefl.terms.names import file_name


def pinned(home: Path, federation: str) -> Path:
    """Return who a home knows in one federation: in another one, the same name may be another party's."""
    return home / "peers" / file_name(federation, ".json")


def known(home: Path, federation: str) -> dict[str, str]:
    """Whose keys a home has pinned in one federation: names to keys in hex."""
    path = pinned(home, federation)
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def pin(home: Path, federation: str, seats: tuple[Participant, ...]) -> None:
    """Pin these parties' keys, or check them against those that are pinned.

    Raises:
        OperatorFault: a party shows another key than it did before.
    """
    check(home, federation, seats)
    path = pinned(home, federation)
    here = known(home, federation) | {seat.member: seat.key.hex() for seat in seats}
    files.folder(path.parent)
    files.keep(path, json.dumps(here, indent=1, sort_keys=True).encode())


def check(home: Path, federation: str, seats: tuple[Participant, ...]) -> None:
    """Check these parties' keys against those that are pinned; nothing is written.

    Raises:
        OperatorFault: a party shows another key than it did before.
    """
    here = known(home, federation)
    for seat in seats:
        if here.get(seat.member, seat.key.hex()) != seat.key.hex():
            what = f"{seat.member} shows another key than it did before"
            remedy = (
                "if its key was replaced on purpose, remove its line here; if not, find out who answers in its name"
            )
            raise OperatorFault(what, remedy, str(pinned(home, federation)))


def replaced(home: Path, federation: str, seat: Participant) -> None:
    """Pin another key of a party: the one that it handed its own over to, as a notice that was taken in says."""
    here = known(home, federation) | {seat.member: seat.key.hex()}
    files.write(pinned(home, federation), json.dumps(here, indent=1, sort_keys=True).encode())


def follow(home: Path, current: Callable[[str, Participant], Participant]) -> None:
    """Pin every party under the newest key of its line: a process may have ended between a hand-over and this.

    Args:
        home: the folder; its own party is pinned there too.
        current: a party in a federation, under that key, as the home's ledger has it.
    """
    for federation in federations(home):
        for name, key in known(home, federation).items():
            pinned_so = Participant(MemberId(name), PublicKey(bytes.fromhex(key)), "")
            newest = current(federation, pinned_so)
            if newest != pinned_so:
                replaced(home, federation, newest)


def federations(home: Path) -> tuple[str, ...]:
    """Return the federations in which a home knows somebody."""
    return tuple(sorted(path.stem for path in (home / "peers").glob("*.json")))
