"""A round, a sum or a release that stands in one party's ledger alone: made up, or left out by whoever coordinates.

Members and custodian are honest, and their ledgers are as they wrote them; the auditor knows every key.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import KNOWN, check_of
from securefl.audit import cross_checks, releases
from securefl.audit.ledger_files import Ledger, read_all
from securefl.audit.verify import verify
from securefl.errors import Tampered
from securefl.home.export import copy_of
from securefl.ledger import export
from securefl.planning.plan import price_in
from securefl.protocol import messages as m
from securefl.terms import Closed, Entry, Leaf, MemberId, Released, Scheme, SumOpened
from tests.support import audited, nested

LAST = 2
FORMS: tuple[Callable[[audited.Story, Path], Path], ...] = (audited.Story.leave, audited.Story.leave_own)
UNTRAINED = "a made-up plan"


def _found(story: audited.Story, number: int, base: Path) -> Outcome:
    found = verify(FORMS[number % len(FORMS)](story, base / "run"), KNOWN)
    return Outcome(found.ok, check_of(found.why))


def a_round_that_nobody_trained(number: int, base: Path, *, summed: bool) -> Outcome:
    """All members end with round 2; the coordinator has one more, and its state is the adapter of the folder."""
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    other = drawn.randbytes(48)
    more: list[Entry] = [Released(audited.told().run, LAST + 1, m.state_digest(other))]
    if summed:
        whom = tuple(map(MemberId, sorted(drawn.sample(audited.MEMBERS, drawn.choice((3, 4))))))
        plan = audited.digest(UNTRAINED, number)
        more.insert(0, SumOpened(audited.told().run, LAST + 1, plan, whom, audited.digest("sum", number)))

    def lie(name: str, entry: Entry) -> Iterable[Entry]:
        return (*more, entry) if name == "coordinator" and isinstance(entry, Closed) else (entry,)

    story = audited.told(lie, rounds=LAST)  # type: ignore[arg-type]
    story.state = other
    return _found(story, number, base)


def the_last_round_left_out(number: int, base: Path) -> Outcome:
    """All members end with round 2; by the coordinator's ledger round 1 was the last, and its state is the adapter."""
    kinds = (Released,) if number % 4 < len(FORMS) else (Released, SumOpened)

    def lie(name: str, entry: Entry) -> Iterable[Entry]:
        out = name == "coordinator" and isinstance(entry, kinds) and entry.round == LAST  # type: ignore[attr-defined]
        return () if out else (entry,)

    story = audited.Story(lie)  # type: ignore[arg-type]
    story.begin()
    story.round(1)
    before = story.state
    story.round(LAST)
    story.close()
    story.state = before
    return _found(story, number, base)


def a_sum_over_one_more(number: int, base: Path) -> Outcome:
    """A sum stands over somebody who trained and paid, and whose result never came: the update of one is not in it."""
    drawn = random.Random(number)  # noqa: S311
    lost = drawn.choice(audited.MEMBERS)

    def lie(name: str, entry: Entry) -> Iterable[Entry]:
        if name == "coordinator" and isinstance(entry, SumOpened):
            return (replace(entry, survivors=tuple(sorted({*entry.survivors, MemberId(lost)}))),)
        return (entry,)

    story = audited.Story(lie)  # type: ignore[arg-type]
    story.begin()
    story.round(1, lost=(lost,))
    story.close()
    return _found(story, number, base)


@cache
def encrypted() -> Mapping[MemberId, Ledger]:
    """The ledgers of a run under encryption, of real machines: its custodian's is one of them."""
    base = Path(mkdtemp(prefix="releases-"))
    (base / "homes").mkdir(mode=0o700)
    names = dict.fromkeys(("a", "b", "c"))
    world = nested.World(base / "homes", names, (Scheme.CKKS,), rounds=LAST, prices=price_in)
    assert world.play(np.zeros(nested.LAYOUT.entries)).outcome == "finished"
    run = base / "run"
    (run / "ledger").mkdir(parents=True)
    for name in (*names, "coordinator", "custodian"):
        file = copy_of(world.home((name,)))
        assert file is not None, "everybody took part"
        export.write(run / "ledger" / f"{name}.ledger", file)
    found = verify(run)
    assert found.ok, found.why
    return read_all(run)


def _altered(name: str, change: Callable[[list[Leaf]], list[Leaf]]) -> Outcome:
    """This party's ledger says something else, with whatever heads fit that; and the checks of releases look at it."""
    ledgers = dict(encrypted())
    own = ledgers[MemberId(name)]
    ledgers[own.owner] = replace(own, leaves=tuple(change(list(own.leaves))))
    try:
        releases.check(ledgers, cross_checks.covered(ledgers))
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(str(fault)))
    return Outcome(succeeded=True, stopped_by="")


def a_sum_that_its_custodian_did_not_open(number: int, base: Path) -> Outcome:
    """A sum of the coordinator's own, over results that really came, and its custodian opened none."""
    del base
    round_ = number % LAST + 1

    def change(leaves: list[Leaf]) -> list[Leaf]:
        return [leaf for leaf in leaves if not (isinstance(leaf.entry, SumOpened) and leaf.entry.round == round_)]

    return _altered("custodian", change)


def a_sum_that_its_coordinator_hides(number: int, base: Path) -> Outcome:
    """The custodian opened a sum more than the coordinator of a finished run says: of one round more, or long ago."""
    del base

    def change(leaves: list[Leaf]) -> list[Leaf]:
        place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, SumOpened))
        last = leaves[place].entry
        assert isinstance(last, SumOpened)
        more = replace(last, round=LAST + 1 + number % 3, digest=audited.digest(number))
        return [*leaves[: place + 1], replace(leaves[place], entry=more), *leaves[place + 1 :]]

    return _altered("custodian", change)


ATTEMPTS = (
    Attempt(
        "a coordinator releases one round more than there were", partial(a_round_that_nobody_trained, summed=False)
    ),
    Attempt(
        "a coordinator sums and releases a round that nobody trained", partial(a_round_that_nobody_trained, summed=True)
    ),
    Attempt("a coordinator leaves the last round out and its adapter is the one before", the_last_round_left_out),
    Attempt("a coordinator names somebody among a sum whose result never came", a_sum_over_one_more),
    Attempt("a coordinator sums what its custodian did not open", a_sum_that_its_custodian_did_not_open),
    Attempt("a coordinator hides a sum that its custodian opened", a_sum_that_its_coordinator_hides),
)
