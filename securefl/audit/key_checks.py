"""Did each key count? Check 4 of ``verify``: whom a party heard, trained with and summed, by its own ledger.

A key counts at an entry if the notices that were taken in before it neither revoke it, nor hand it over longer ago than
the overlap, nor say that its owner has left, and if it is no older than the run's policy lets it be. A party is held to
what it knew: a notice that it took in later, or never, judges nothing. Of an input that it heard before, only whether
its key was revoked is asked again, as the sum is asked for and opened.

A ledger knows one time: its owner's clock, as it stands at each entry. A key's age is counted from the first entry that
names it, as its owner counts it live; nothing is compared across ledgers. So whoever sets its own clock back hides the
age of a key from its own ledger, and the others' ledgers tell of it; a key that was old before anybody's first entry
looks young to everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from securefl.audit.counted_notices import Holders
from securefl.audit.ledger_files import Ledger
from securefl.errors import Forged
from securefl.policy import key_age
from securefl.protocol.key_ages import KeyAges
from securefl.protocol.key_standing import Standings, revocation
from securefl.terms import (
    Hash,
    Leaf,
    MemberId,
    MessageReceived,
    MessageSent,
    Noticed,
    Participant,
    Reserved,
    RunId,
    RunJoined,
    SumOpened,
)

SLACK_S: Final = 3600  # what may be computed between the check of a message and the time of its entry
ROUND: Final = ("Propose", "Ask")  # what whoever trains and whoever decrypts are asked for: keys are judged as it comes


def check(ledger: Ledger, summed: Mapping[Hash, tuple[MemberId, ...]]) -> tuple[str, ...]:
    """Check that this party heard nobody, trained with nobody and summed nobody's input by a key that did not count.

    Args:
        ledger: the party's own.
        summed: as ``cross_checks.summed`` has it.

    Returns:
        what is left out: notices that judge nobody, as nothing here says whose they are.

    Raises:
        Tampered: it did; or it opened a sum that nobody asked for; or it tells of a notice that its home never took in.
    """
    known = _Known(holders := Holders.of(ledger), summed)
    for index, leaf in enumerate(ledger.leaves):
        try:
            known.judge(leaf)
        except Forged as fault:
            raise ledger.wrong(str(fault), index) from fault
    return tuple(holders.strange(ledger))


@dataclass(frozen=True, slots=True)
class _Run:
    """One run that a ledger tells of: who is in it, for whom the ledger speaks, and how old a key may be."""

    opened: RunJoined
    most_s: int | None

    @property
    def seats(self) -> dict[MemberId, Participant]:
        """Everybody in the run, by name."""
        return {seat.member: seat for seat in self.opened.peers}

    def named(self, *names: MemberId) -> list[Participant]:
        """The seats of these parties; of one without a seat there is none."""
        return [self.seats[name] for name in names if name in self.seats]


@dataclass(frozen=True, slots=True)
class _Moment:
    """What counted, and the ledger's time, when something was asked."""

    standings: Standings
    at: int


@dataclass(slots=True)
class _Known:
    """What one ledger has told so far: of keys, and of the runs in which they spoke."""

    holders: Holders
    summed: Mapping[Hash, tuple[MemberId, ...]]
    ages: KeyAges = KeyAges()  # noqa: RUF009 - frozen
    standings: Standings = Standings()  # noqa: RUF009 - frozen
    _runs: dict[RunId, _Run] = field(default_factory=dict)
    _asked: dict[tuple[RunId, int], _Moment] = field(default_factory=dict)  # of each round

    def judge(self, leaf: Leaf) -> None:
        """Take in an entry, and check every key by which it was written.

        Raises:
            Forged: one did not count.
        """
        self.ages, entry = self.ages.after(leaf), leaf.entry
        now = _Moment(self.standings, leaf.at)
        if isinstance(entry, Noticed):
            self.standings = self.holders.after(self.standings, entry.notice, leaf.at)
        elif isinstance(entry, RunJoined):
            limit = key_age.most_age_in(entry.policy)
            run = self._runs[entry.run] = _Run(entry, None if limit is None else limit + SLACK_S)
            self._check(run, run.named(self.holders.owner), now)
        elif isinstance(entry, MessageReceived) and entry.receipt.run in self._runs:
            run = self._runs[entry.receipt.run]
            self._check(run, run.named(entry.receipt.sender), now)
            self._check_inputs(run, self.summed.get(entry.receipt.digest, ()), now)
            if entry.receipt.kind in ROUND:
                self._asked[entry.receipt.run, entry.receipt.round] = now
        elif isinstance(entry, MessageSent) and entry.receipt.kind == "Propose" and entry.receipt.run in self._runs:
            run = self._runs[entry.receipt.run]
            self._check(run, run.named(self.holders.owner, entry.receipt.to), now)
        elif isinstance(entry, Reserved) and entry.plan.run in self._runs:
            run = self._runs[entry.plan.run]
            custodian = [seat for seat in run.opened.peers if seat.key == entry.plan.cover.custodian]
            self._check(run, [*entry.plan.cohort, *custodian], self._asked.get((entry.plan.run, entry.plan.round), now))
        elif isinstance(entry, SumOpened) and entry.run in self._runs:
            self._judge_sum(self._runs[entry.run], entry, now)

    def _judge_sum(self, run: _Run, opened: SumOpened, now: _Moment) -> None:
        """A custodian's keys were asked about with the sum; a coordinator's with each input, and revocations now."""
        if run.opened.role == "custodian":
            asked = self._asked.get((opened.run, opened.round))
            self._check(run, run.named(*opened.survivors, self.holders.owner), asked or now)
            if asked is None:
                raise Forged(f"a sum of round {opened.round} that nobody asked for")
        elif run.opened.role == "coordinator":
            self._check_inputs(run, (*opened.survivors, self.holders.owner), now)

    def _check_inputs(self, run: _Run, names: tuple[MemberId, ...], moment: _Moment) -> None:
        for seat in run.named(*names):
            fault = revocation(
                seat, lambda who: moment.standings.check(run.opened.federation, who, moment.at - SLACK_S)
            )
            if fault is not None:
                raise fault

    def _check(self, run: _Run, seats: list[Participant], moment: _Moment) -> None:
        for seat in seats:
            moment.standings.check(run.opened.federation, seat, moment.at - SLACK_S)
            self.ages.check(seat, moment.at, run.most_s)
