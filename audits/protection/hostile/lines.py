"""A party says that another key speaks for it now, and means to be another party: one with a ledger of its own."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from securefl.home.rotation import rotate
from securefl.terms import Refused, Scheme, SumOpened
from tests.support.rotating import COORDINATOR, HOUR, ROTATIONS, Living, Rotating

SET_BACK = "protocol.ledger-set-back"


def put_back(number: int, folder: Path) -> Outcome:
    """Put a whole home back to a copy from before a run, and hand its key over; all others take that in."""
    drawn = random.Random(number)  # noqa: S311 - a trial must repeat
    scheme = (Scheme.MASKING, Scheme.CKKS)[number % 2]
    federation = Rotating(folder, scheme, priced=True, forgets=drawn.random() < 0.5).made()
    victim = drawn.choice(federation.everybody())
    living = Living(federation)
    first, second = drawn.randint(0, 1), drawn.randint(1, 2)
    if first:
        living.play(1)
    federation.copied(victim)
    living.play(2, second)
    federation.put_back(victim)
    ROTATIONS[drawn.choice(sorted(ROTATIONS))](federation, victim)
    return _again(federation, victim)


def by_its_other_key(number: int, folder: Path) -> Outcome:
    """Put a home back while two keys of it count, and have it invited by the key under which less was seen."""
    drawn = random.Random(number)  # noqa: S311 - a trial must repeat
    federation = Rotating(folder, priced=True, forgets=True).made()
    victim = drawn.choice(federation.names)
    seats = [federation.seat(victim)]
    ROTATIONS["rotated"](federation, victim)
    seats.append(federation.seat(victim))
    first = seats.pop(number % 2)
    federation.copied(victim)
    Living(federation.inviting(first)).play(1, drawn.randint(1, 2))
    federation.put_back(victim)
    return _again(federation.inviting(seats[0]), victim)


def in_another_federation(number: int, folder: Path) -> Outcome:
    """Put a home back whose later ledger was seen under its next key, in a federation that heard of that key alone."""
    drawn = random.Random(number)  # noqa: S311 - a trial must repeat
    first = Rotating(folder, priced=True, forgets=drawn.random() < 0.5).made()
    other = replace(first, name="g", centre=drawn.choice([COORDINATOR, "other"])).made()
    victim = drawn.choice(first.names)
    heard, unheard = drawn.sample([first, other], 2)
    heard.copied(victim)
    home = heard.home(victim)
    said = {str(each.notice.federation): each for each in rotate(home, HOUR)}
    home.engine.dispose()
    heard.taken(said[heard.name])
    Living(heard).play(1, drawn.randint(1, 2))
    heard.put_back(victim)
    return _again(unheard, victim)


def _again(federation: Rotating, victim: str) -> Outcome:
    """Whether a later run has a sum with the victim in it, or by it."""
    before = len(_sums(federation, victim))
    Living(federation).play(9)
    rules = {
        reason.rule
        for name in federation.everybody()
        for each in federation.entries(name)
        if isinstance(each, Refused)
        for reason in each.reasons
    }
    took_part = len(_sums(federation, victim)) > before
    return Outcome(took_part, SET_BACK if SET_BACK in rules else ", ".join(sorted(rules)))


def _sums(federation: Rotating, victim: str) -> list[SumOpened]:
    sums = [each for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)]
    return [each for each in sums if victim in each.survivors] if victim in federation.names else sums


ATTEMPTS = (
    Attempt("A ledger that was put back is shown under a key that its owner handed over to", put_back),
    Attempt("A ledger that was put back is shown under the one of two keys that showed less", by_its_other_key),
    Attempt(
        "A ledger that was put back is shown in a federation that heard of none of its keys", in_another_federation
    ),
)
