"""Was each key young enough? Check 4 of ``verify``: whom a party heard, and whom it trained with, by its own ledger.

A ledger knows one time: its owner's clock, as it stands at each entry. A key's age is counted from the first entry that
names it, as its owner counts it live; nothing is compared across ledgers. So whoever sets its own clock back hides the
age of a key from its own ledger, and the others' ledgers tell of it; a key that was old before anybody's first entry
looks young to everybody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from securefl.audit.ledger_files import Ledger
from securefl.errors import Forged
from securefl.policy import key_age
from securefl.protocol.key_ages import KeyAges
from securefl.terms import Leaf, MemberId, MessageReceived, Participant, Reserved, RunId, RunJoined

SLACK_S: Final = 3600  # what may be computed between the check of a message and the time of its entry


def check(ledger: Ledger) -> None:
    """Check that this party heard nobody, and trained with nobody, by a key older than its policy lets one be.

    Raises:
        Tampered: it did.
    """
    runs = _Runs(ledger.owner)
    for index, leaf in enumerate(ledger.leaves):
        seats, at, most_s = runs.heard(leaf)
        for seat in seats:
            try:
                runs.ages.check(seat, at, most_s)
            except Forged as fault:
                raise ledger.wrong(str(fault), index) from fault


@dataclass(slots=True)
class _Runs:
    """The runs that one ledger has told of so far: who is in each, and how old a key may be."""

    owner: MemberId
    ages: KeyAges = KeyAges()  # noqa: RUF009 - frozen
    _seats: dict[RunId, dict[MemberId, Participant]] = field(default_factory=dict)
    _most_s: dict[RunId, int | None] = field(default_factory=dict)
    _proposed: dict[RunId, int] = field(default_factory=dict)  # when each run's latest plan came

    def heard(self, leaf: Leaf) -> tuple[tuple[Participant, ...], int, int | None]:
        """Who speaks or is trained with by this entry, when that was checked, and the age that is allowed."""
        self.ages, entry = self.ages.after(leaf), leaf.entry
        if isinstance(entry, RunJoined):
            self._seats[entry.run] = {seat.member: seat for seat in entry.peers}
            limit = key_age.most_age_in(entry.policy)
            self._most_s[entry.run] = None if limit is None else limit + SLACK_S
            return self._of(entry.run, self.owner, leaf.at)
        if isinstance(entry, MessageReceived):
            if entry.receipt.kind == "Propose":
                self._proposed[entry.receipt.run] = leaf.at
            return self._of(entry.receipt.run, entry.receipt.sender, leaf.at)
        if isinstance(entry, Reserved):
            run = entry.plan.run
            return entry.plan.cohort, self._proposed.get(run, leaf.at), self._most_s.get(run)
        return (), leaf.at, None

    def _of(self, run: RunId, party: MemberId, at: int) -> tuple[tuple[Participant, ...], int, int | None]:
        seat = self._seats.get(run, {}).get(party)
        return (() if seat is None else (seat,)), at, self._most_s.get(run)
