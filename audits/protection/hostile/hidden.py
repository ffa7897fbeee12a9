"""What the coordinator's ledger leaves out: a member that trained and paid, or the reason why the run ended."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import KNOWN, check_of
from securefl import wire
from securefl.audit.verify import verify
from securefl.terms import Closed, Entry, MessageReceived, MessageSent, Settled, Witnessed
from tests.support import audited

LISTED = "listed as not verified"
REASONS = ("the coordinator's machine lost power", "every round ran", "")


def a_member_that_is_not_spoken_of(number: int, base: Path, *, pinned: bool) -> Outcome:
    """One of the roster alone was shown a plan, trained and paid; neither its ledger nor a word of it is in the folder.

    What others saw of its ledger is left out too: the coordinator never passed it on.
    """
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    hidden = drawn.choice(audited.MEMBERS)

    def lie(name: str, entry: Entry) -> Iterable[Entry]:
        if isinstance(entry, Witnessed) and entry.head.head.owner == hidden:
            return ()
        message = isinstance(entry, MessageSent | MessageReceived)
        out = message and hidden in (entry.receipt.to, entry.receipt.sender)  # type: ignore[union-attr]
        return () if out and name == "coordinator" else (entry,)

    story = audited.Story(lie)  # type: ignore[arg-type]
    story.begin()
    whole, story.cohort = story.cohort, tuple(name for name in story.cohort if name != hidden)
    for number_ in range(1, drawn.choice((1, 2)) + 1):
        story.round(number_)
    story.cohort = whole
    plan = replace(story.plan(1), base=audited.digest("start"))
    name = wire.plan_hash(plan)
    story.say("coordinator", hidden, "Propose", 1, name)
    reserved = story.reserve(hidden, plan)
    story.note(hidden, reserved, Settled(name, audited.EVENT))
    story.say(hidden, "coordinator", "Submitted", 1, name, reserved.price.round)
    story.cohort = tuple(each for each in whole if each != hidden)
    story.close()
    del story.parties[hidden]
    found = verify(story.leave(base / "run"), KNOWN if pinned else None)
    named = any(f"no ledger of {hidden}" in each for each in found.unverified)
    return Outcome(found.ok and not named, check_of(found.why) or LISTED)


def another_reason(number: int, base: Path) -> Outcome:
    """Every member was told why the run ended; the coordinator's ledger and the report say another reason."""
    outcome, other = ("aborted", "refused")[number % 2], REASONS[number % len(REASONS)]

    def lie(name: str, entry: Entry) -> Iterable[Entry]:
        if isinstance(entry, Closed):
            return (replace(entry, why=other if name == "coordinator" else "protocol.poisoned-sum"),)
        return (entry,)

    story = audited.Story(lie)  # type: ignore[arg-type]
    story.begin()
    story.round(1)
    story.close(outcome)
    found = verify(story.leave(base / "run"), KNOWN)
    return Outcome(found.ok, check_of(found.why))


ATTEMPTS = (
    Attempt(
        "a coordinator speaks of a member nowhere and its ledger is left out",
        partial(a_member_that_is_not_spoken_of, pinned=False),
    ),
    Attempt(
        "a coordinator speaks of a member nowhere and the auditor knows its key",
        partial(a_member_that_is_not_spoken_of, pinned=True),
    ),
    Attempt("a coordinator gives another reason for the end than every member was told", another_reason),
)
