"""A home is brought to sign two ledgers of one size: a peer that is shown both would take an honest site for a liar."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

from audits.budget import site
from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.uncommitted import WAYS, Refusing, refused, refused_and_done
from securefl import wire
from securefl.errors import Fault, Forged
from securefl.ledger import anchor
from securefl.ledger import heads as signing
from securefl.terms import Head, Refused, RunId, SignedHead


def two_heads(number: int, folder: Path) -> Outcome:
    """Have a home sign two ledgers of one size, by refusing or taking back what the first one is of."""
    drawn = random.Random(number)  # noqa: S311 - a trial must repeat
    home = site.home(folder / "home")
    admin, shown, stopped = Refusing(home, folder / "copy.db"), list[SignedHead](), set[str]()

    def write(entry: int) -> None:
        with home.transaction() as conn:
            home.record(conn, [Refused(RunId(bytes(16)), entry, "plan", ())])
        shown.append(home.head())  # type: ignore[arg-type]

    for entry in range(1, 7):
        way = drawn.choice((refused, refused, refused_and_done, *WAYS, lambda _, ask: ask()))
        try:
            way(admin, lambda entry=entry: write(entry))  # type: ignore[misc]
        except Fault as fault:
            stopped.add(type(fault).__name__)
    home.engine.dispose()
    for data in admin.sent:
        for kind in (SignedHead, signing.StoredHead):
            with suppress(Fault):
                found = wire.decode(data, kind)
                shown.append(SignedHead(found.head, found.signature))
    promised: dict[int, set[Head]] = {}
    for each in shown:
        with suppress(Forged):
            signing.verify(home.identity.public, each)
            promised.setdefault(each.head.size, set()).add(each.head)
    assert promised or stopped
    return Outcome(
        any(len(each) > 1 for each in promised.values()), ", ".join(sorted(stopped)) or "one head of each size"
    )


def before_it_is_kept(number: int, folder: Path) -> Outcome:
    """End the process between the commit and the head that the home keeps; take the commit back; let it go on."""
    del number
    home = site.home(folder / "home")
    admin, shown = Refusing(home, folder / "copy.db"), list[SignedHead | None]()

    def write(entry: int) -> None:
        with home.transaction() as conn:
            home.record(conn, [Refused(RunId(bytes(16)), entry, "plan", ())])

    write(1)
    admin.copy()
    kept, anchor.write = anchor.write, _dies
    try:
        with suppress(KeyboardInterrupt):
            write(2)
    finally:
        anchor.write = kept
    shown.append(home.head())
    home.engine.dispose()
    admin.put_back()
    home = site.home(folder / "home")
    write(3)
    shown.append(home.head())
    home.engine.dispose()
    sizes = [each.head.size for each in shown if each is not None]
    return Outcome(len(set(sizes)) < len(sizes), "it is signed once it is kept")


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


ATTEMPTS = (
    Attempt("A database that refuses commits has two ledgers of one size signed", two_heads),
    Attempt("A process ends before a head is kept, and the commit is taken back", before_it_is_kept),
)
