"""One story of what was opened and released: an entry that only one ledger has is found, and a lost answer is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from audits.protection.hostile import releases as hostile
from securefl.audit import cross_checks, releases
from securefl.audit.ledger_files import Ledger, read_all
from securefl.audit.verify import verify
from securefl.errors import Tampered
from securefl.terms import Closed, Entry, MemberId, MessageReceived, Released, SumOpened
from tests.support.audited import MEMBERS, Lie, Story, digest, told

COORDINATOR = MemberId("coordinator")


def where(name: str, kind: type, round_: int, change: object) -> Lie:
    def lie(who: str, entry: Entry) -> Sequence[Entry]:
        if who == name and isinstance(entry, kind) and getattr(entry, "round", 0) in (0, round_):
            return change(entry)  # type: ignore[operator, no-any-return]
        return (entry,)

    return lie


LIES: dict[str, tuple[Lie, str, str]] = {
    "a release left out": (where("coordinator", Released, 2, lambda e: ()), "nothing was released of it", "coordinator"),
    "a sum left out": (where("coordinator", SumOpened, 2, lambda e: ()), "a release of round 2, out of turn", "coordinator"),
    "a first sum left out": (where("coordinator", SumOpened, 1, lambda e: ()), "a release of round 1, out of turn", "coordinator"),
    "a release twice": (where("coordinator", Released, 2, lambda e: (e, e)), "a release of round 2, out of turn", "coordinator"),
    "a release behind the end": (where("coordinator", Closed, 0, lambda e: (e, Released(e.run, 3, digest("x")))), "a release of round 3, out of turn", "coordinator"),
    "a round skipped": (where("coordinator", Released, 2, lambda e: (replace(e, round=3),)), "a release of round 3, out of turn", "coordinator"),
    "no release told to a member": (where("north", Released, 2, lambda e: ()), "none was released last here, and round 2", "north"),
    "an earlier release told to a member": (where("north", Released, 2, lambda e: (replace(e, round=1), e)[:1]), "another release of round 1", "coordinator"),
    "two releases told to a member": (where("north", Released, 2, lambda e: (e, e)), "round 2, round 2 was released last here", "north"),
    "a release before the end": (where("north", Closed, 0, lambda e: ()), "said goodbye", "north"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_release_or_a_sum_that_one_ledger_alone_has_or_lacks_is_found(name: str, tmp_path: Path) -> None:
    lie, why, ledger = LIES[name]
    found = verify(told(lie).export(tmp_path))
    assert not found.ok
    assert why in found.why
    assert found.first_bad is not None
    assert found.first_bad["ledger"] in {f"{ledger}.ledger", "north.ledger"}


def test_a_sum_over_results_that_never_came_is_found_without_any_members_ledger(tmp_path: Path) -> None:
    ledgers = {
        each: ledger for each, ledger in read_all(told(rounds=1).export(tmp_path)).items() if each == COORDINATOR
    }
    runs = cross_checks.covered(ledgers)
    assert "its coordinator's word: nobody else here was told" in releases.check(ledgers, runs)[0]
    own = ledgers[COORDINATOR]
    for member in MEMBERS:
        cut = tuple(leaf for leaf in own.leaves if not _result_of(leaf.entry, member))
        with pytest.raises(Tampered, match=f"a sum over {member}, of whom no result of this plan came"):
            releases.check(less := {own.owner: replace(own, leaves=cut)}, cross_checks.covered(less))


def _result_of(entry: Entry, member: str) -> bool:
    return isinstance(entry, MessageReceived) and (entry.receipt.kind, entry.receipt.sender) == ("Submitted", member)


HONEST = {
    "every round ran": ((2, (), "finished"),),
    "one was lost in each": ((3, ("west",), "finished"),),
    "refused before any sum": ((0, (), "refused"),),
    "aborted behind a round": ((1, (), "aborted"),),
    "one run after another": ((1, (), "aborted"), (0, (), "refused"), (2, ("north",), "finished")),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("away", [(), ("west",), MEMBERS])
def test_no_honest_run_is_called_bad_and_a_release_nobody_was_told_of_is_listed(
    name: str, away: tuple[str, ...], tmp_path: Path
) -> None:
    story = Story()
    for rounds, lost, outcome in HONEST[name]:
        story.begin()
        for number in range(1, rounds + 1):
            story.round(number, lost=lost)
        _close(story, rounds, outcome, away)
    found = verify(story.export(tmp_path))
    assert found.ok, found.why
    alone = [each for each in found.unverified if "nobody else here was told" in each]
    assert len(alone) == (sum(rounds > 0 for rounds, _, _ in HONEST[name]) if away == MEMBERS else 0)


def _close(story: Story, rounds: int, outcome: str, away: tuple[str, ...]) -> None:
    if rounds:
        story.close(outcome, away)
        return
    for member in story.cohort:
        if member not in away:
            story.say("coordinator", member, "Close", 0)
            story.note(member, Closed(story.run, outcome, ""))
    story.note("coordinator", Closed(story.run, outcome, ""))


def test_a_custodians_answer_that_was_lost_is_told_and_no_offence() -> None:
    """The coordinator got no answer about round 2 and ended the run with round 1: the custodian had opened that sum."""
    first = next(entry for _, entry in hostile.encrypted()[COORDINATOR].each(Released))

    def told_of(owner: str, entry: Entry) -> Entry | None:
        if owner == COORDINATOR and isinstance(entry, SumOpened | Released) and entry.round == hostile.LAST:
            return None
        if isinstance(entry, Released):
            return first
        return replace(entry, outcome="aborted") if isinstance(entry, Closed) else entry

    ledgers = {owner: _retold(ledger, told_of) for owner, ledger in hostile.encrypted().items()}
    (note,) = releases.check(ledgers, cross_checks.covered(ledgers))
    assert note.startswith("custodian.ledger: it opened a sum of round 2")


def _retold(ledger: Ledger, told_of: Callable[[str, Entry], Entry | None]) -> Ledger:
    kept = [(leaf, told_of(ledger.owner, leaf.entry)) for leaf in ledger.leaves]
    return replace(ledger, leaves=tuple(replace(leaf, entry=entry) for leaf, entry in kept if entry is not None))
