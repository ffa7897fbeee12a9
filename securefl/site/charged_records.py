"""Which records were charged to which account of a home: under a second name they would be paid for as if new.

A record is remembered as keyed hashes of everything it is recognised by (`training.sameness`): one that is known by any
of its forms is known. Whether a site has a record is nobody else's to know: the site's operator is told before anything
begins, and no message tells it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from securefl import files
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.home.home import Home

if TYPE_CHECKING:
    from securefl.keys import Secret
    from securefl.seams import Own, Trainer
    from securefl.terms import Plan, Update
    from securefl.training.data import Records
    from securefl.training.shared_model import SharedModel

FOLDER, KEY, SUFFIX, SIZE = "texts", identity.TEXTS, ".texts", 16  # bytes of a hash
_RESTORE = "restore `texts.key` and the folder `texts` from one backup of this home"
OF_KEY = b"what the forms of charged records are hashed under"


def forms_of(shared: SharedModel, records: Records, max_tokens: int) -> frozenset[bytes]:
    """All that a site's records are recognised by: as they are written, and as this model reads them."""
    return frozenset(records.forms | shared.forms(records.train, max_tokens))


def check(home: Path, account: str, forms: Iterable[bytes]) -> None:
    """Check that none of the records, given by their forms, was charged to another account of the home.

    Raises:
        OperatorFault: one was; or what was charged before was written down under another key than the home has now.
    """
    if (home / FOLDER).is_dir():
        _check(home, account, _hashes(_key(home), forms))


def remember(home: Home, account: str, forms: Iterable[bytes]) -> None:
    """Write down that, in this home, the records are this account's.

    Raises:
        OperatorFault: as for ``check``, such as a run that began at the same time.
    """
    place = _place(home.path, account)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    with home.transaction():  # of two runs that begin at once, one waits
        key = _key(home.path)
        mine = _hashes(key, forms)
        _check(home.path, account, mine)
        known = _read(place) if place.exists() else frozenset()
        if not mine <= known:
            files.write(place, b"".join((_mark(key), *sorted(known | mine))))


@dataclass(frozen=True, slots=True)
class OnAccount:
    """What one task of a site trains on, by the forms of its records, and the account that it is charged to."""

    task: str
    account: str
    forms: Iterable[bytes]


def check_apart(parts: Iterable[OnAccount], place: str, member: str = "this site") -> None:
    """Check that accounts of one member, which compose in parallel, hold no record twice, however it is written.

    Raises:
        OperatorFault: a record is on two.
    """
    seen: dict[bytes, OnAccount] = {}
    for part in parts:
        for form in part.forms:
            other = seen.setdefault(form, part)
            if other.account != part.account:
                what = f"{member} has a record of the task {other.task} in the task {part.task} too, on another account"
                remedy = "give both one account (in a suite's file, one name under `records`): what they cost adds up"
                raise OperatorFault(what, remedy, place)


class ChargedTrainer:
    """A trainer whose records are written down as its account's before its first training looks at them."""

    def __init__(self, inner: Trainer, home: Home, account: str, forms: frozenset[bytes]) -> None:
        self._inner, self._home, self.account, self.forms = inner, home, account, forms
        self._is_written = False

    def admit(self, plan: Plan, base: bytes) -> None:
        """Check the plan as the trainer inside does; nothing is written down."""
        self._inner.admit(plan, base)

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """Write down that the records are this account's, then train.

        Raises:
            OperatorFault: a record is another account's.
            Exception: as the trainer inside does.
        """
        if not self._is_written:
            remember(self._home, self.account, self.forms)
            self._is_written = True
        return self._inner.train(plan, base, own)


def _check(home: Path, account: str, mine: frozenset[bytes]) -> None:
    for path in sorted(set((home / FOLDER).glob(f"*{SUFFIX}")) - {_place(home, account)}):
        if not mine.isdisjoint(_read(path)):
            name = unquote(path.name.removesuffix(SUFFIX))
            what = (
                f"the account {account!r} has records that were charged to {name!r}, as they are or written otherwise"
            )
            remedy = f"say `dataset: {name}` of this member, so that what they cost adds up"
            raise OperatorFault(what, remedy, str(home))


def _place(home: Path, account: str) -> Path:
    return home / FOLDER / f"{quote(account, safe='')}{SUFFIX}"


def _key(home: Path) -> Secret:
    """What this home's records are hashed under: all that was written down was hashed under it, or nothing was yet.

    Raises:
        OperatorFault: it is lost, or another one lies in its place: no record would be known again.
    """
    written = sorted((home / FOLDER).glob(f"*{SUFFIX}"))
    if written and not (home / KEY).exists():
        raise OperatorFault("the key is lost that charged records are known by", _RESTORE, str(home / KEY))
    key = identity.secret(home, KEY)
    for path in written:
        if path.read_bytes()[:SIZE] != _mark(key):
            raise OperatorFault("charged records that were written down under another key", _RESTORE, str(path))
    return key


def _mark(key: Secret) -> bytes:
    """What each file of charged records begins with: only who has the key could have written it."""
    return hmac.digest(key.raw, OF_KEY, "sha256")[:SIZE]


def _hashes(key: Secret, forms: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(hmac.digest(key.raw, each, "sha256")[:SIZE] for each in forms)


def _read(path: Path) -> frozenset[bytes]:
    data = path.read_bytes()
    return frozenset(data[place : place + SIZE] for place in range(SIZE, len(data), SIZE))
