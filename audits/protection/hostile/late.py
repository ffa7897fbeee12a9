"""A coordinator asks about a round long after the site's own limit for one: does the site still answer?"""

from __future__ import annotations

import random
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.terms import MemberId, MessageSent, Refused, RunId
from tests.support.late import Timed
from tests.support.parties import Federation

MONTH_S = 30 * 24 * 3600


class _AskedLate:
    """A member whose coordinator lets time pass before its question; some have begun again meanwhile."""

    def __init__(self, timed: Timed, drawn: random.Random) -> None:
        self.timed, self.drawn = timed, drawn

    def handle(self, data: bytes) -> bytes | m.InProgress:
        frame: m.Frame = wire.decode(data, m.Frame)
        if frame.envelope.receipt.kind == "Ask":
            self.timed.now += self.timed.most + self.drawn.randint(1, MONTH_S)
            if self.drawn.random() < 0.5:
                self.timed.begins_again()
        return self.timed.agent.handle(data)


def asked_late(number: int, folder: Path) -> Outcome:
    """Ask for the shares of a round whose time at the site is over, of a site that may have begun again meanwhile."""
    drawn = random.Random(f"late {number}")  # noqa: S311 - trials that can be repeated
    federation = Federation(folder, run=RunId(drawn.randbytes(16)))
    name = drawn.choice(federation.names)
    victim = _AskedLate(Timed(federation, name, most=drawn.randint(5_000, 20_000)), drawn)
    parties = {MemberId(each): federation.agent(each) for each in federation.names}
    federation.drive(InProcess({**parties, MemberId(name): victim}))
    entries = federation.entries(name)
    answered = any(isinstance(each, MessageSent) and each.receipt.kind == "Answered" for each in entries)
    rules = sorted({reason.rule for each in entries if isinstance(each, Refused) for reason in each.reasons})
    return Outcome(answered, ", ".join(rules))


ATTEMPTS = (Attempt("a coordinator asks about a round long after the site's own limit for one", asked_late),)
