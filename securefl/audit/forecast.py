"""How long a budget lasts: rounds left at a noise level, and the noise that so many more rounds need.

The next rounds are taken to be like the last one that was reserved, but for their noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from securefl.audit.ledger_files import Ledger, read_all, read_one
from securefl.errors import OperatorFault
from securefl.policy import load as policies
from securefl.policy.load import Policy
from securefl.privacy import accountant
from securefl.privacy.account import Account, bound_of, caps_of, in_order
from securefl.terms import Accountant, Event, Level, Limit, Reserved, RunId, RunJoined, Unbounded

LIMIT_ROUNDS = 10_000
LIMIT_NOISE = 1000
TICKS = 1000  # noise that is looked for is a multiple of 1 / TICKS
FACTORS = (Fraction(3, 4), Fraction(1), Fraction(3, 2), Fraction(2), Fraction(3))


@dataclass(frozen=True, slots=True)
class Spent:
    """One total that is held by one limit."""

    rule: str
    events: tuple[Event, ...]  # in it so far
    limit: Fraction  # for one of the data sets that may hold the same record
    delta: float  # at which it is compared


@dataclass(frozen=True)
class Outlook:
    """One member's data set, as one federation may go on to use it."""

    member: str
    federation: str
    dataset: str
    last: Event
    spent: tuple[Spent, ...]  # every total that a decision looks at
    per_round: Fraction
    delta: float
    bound: Accountant = Accountant.PLD

    def cost(self, rounds: int, noise: Fraction, events: tuple[Event, ...], delta: float | None = None) -> float:
        """Epsilon of ``events`` and so many more rounds, by the bound that these would be held to."""
        delta = self.delta if delta is None else delta
        more = (replace(self.last, noise_multiplier=noise, steps=self.last.steps * rounds),) if rounds else ()
        together = (*events, *more)
        if self.bound is Accountant.FILTER or len({replace(event, steps=1) for event in together}) > 1:
            return accountant.epsilon_filter(together, delta)
        return accountant.epsilon_pld(together, delta)

    def fits(self, rounds: int, noise: Fraction) -> str:
        """The rule that forbids so many more rounds; empty if none does."""
        try:
            if rounds and Fraction(self.cost(1, noise, ())) > self.per_round:
                return "budget.per_round.epsilon"
            for each in self.spent:
                if Fraction(self.cost(rounds, noise, each.events, each.delta)) > each.limit:
                    return each.rule
        except Unbounded:
            return "budget.price"
        return ""

    def rounds_left(self, noise: Fraction) -> tuple[int, str]:
        """The most rounds that fit, up to LIMIT_ROUNDS, and the rule that forbids one more."""
        low, high = 0, 1
        while high <= LIMIT_ROUNDS and not self.fits(high, noise):
            low, high = high, high * 2
        if high > LIMIT_ROUNDS:
            return LIMIT_ROUNDS, ""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(middle, noise) else (middle, high)
        return low, self.fits(high, noise)

    def noise_for(self, rounds: int) -> Fraction | None:
        """The least noise multiplier above 0.1 with which so many rounds fit; None if none below LIMIT_NOISE does."""
        low, high = TICKS // 10, TICKS  # below 0.1 the accountant has nothing useful to say
        while self.fits(rounds, Fraction(high, TICKS)):
            low, high = high, high * 2
            if high > LIMIT_NOISE * TICKS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(rounds, Fraction(middle, TICKS)) else (low, middle)
        return Fraction(high, TICKS)

    @cached_property
    def levels(self) -> tuple[Fraction, ...]:
        """Noise around the last round's, to look at if nobody named any."""
        return tuple(factor * self.last.noise_multiplier for factor in FACTORS)


def outlooks(path: Path) -> tuple[Outlook, ...]:
    """Every member, data set and federation in a run, a folder of ledgers, or one ledger.

    Raises:
        OperatorFault: there is nothing here that was ever charged.
        Tampered: a ledger does not hold together.
    """
    if not path.exists():
        raise OperatorFault("nothing here", "give a run, its ledger folder, or one .ledger file", str(path))
    ledgers = [read_one(path)] if path.is_file() else list(read_all(path).values())
    found = tuple(outlook for ledger in ledgers for outlook in _of(ledger))
    if not found:
        raise OperatorFault("nothing was ever charged here", "give the ledgers of members", str(path))
    return found


def _of(ledger: Ledger) -> Iterable[Outlook]:
    account = Account.of(leaf.entry for leaf in ledger.leaves)
    policy_of = {
        opened.federation: policies.parse(opened.policy, ledger.name)
        for _, opened in ledger.each(RunJoined)
        if opened.role == "member"
    }
    last = {(entry.plan.federation, entry.dataset): entry.plan.learning.event for _, entry in ledger.each(Reserved)}
    for (federation, dataset), event in sorted(last.items(), key=lambda each: each[0]):
        policy = policy_of[federation]
        budget, charges = policy.budget, account.beside(Level.DATASET, dataset, dataset, event.unit)
        mine = sorted(policy.caps(dataset, NEW_RUN), key=lambda cap: ORDER.index(cap.level))
        theirs = tuple(each for cap in mine for each in caps_of(charges, cap.level, cap.name) if each.by != federation)
        delta = float(min(each.delta for each in (*mine, *theirs)))
        spent = tuple(
            Spent(
                _rule(each, policy),
                in_order(one.event for one in account.beside(each.level, each.name, dataset, event.unit)),
                _limit(each),
                delta,
            )
            for each in (*mine, *theirs)
        )
        yield Outlook(
            str(ledger.owner), federation, dataset, event, spent, budget.per_round.epsilon / budget.overlap,
            delta,
            Accountant.FILTER if budget.bound is Accountant.FILTER else bound_of(charges, Level.DATASET, dataset),
        )  # fmt: skip


ORDER = (Level.FEDERATION, Level.DATASET, Level.RUN)  # which limit is named, where several would refuse
NEW_RUN = RunId(b"forecast rounds.")  # what is still to come is a run of its own, with nothing charged to it


def _rule(cap: Limit, policy: Policy) -> str:
    """Return what a decision calls the rule that holds this cap."""
    if cap.by != policy.federation:
        return "budget.others.epsilon"
    match cap.level:
        case Level.DATASET:
            return "budget.per_dataset.epsilon"
        case Level.RUN:
            return "budget.per_run.epsilon" if policy.budget.per_run else "budget.epsilon"
    return "budget.epsilon" if cap.name == policy.federation else "budget.above.epsilon"


def _limit(cap: Limit) -> Fraction:
    return Fraction(cap.epsilon, 1_000_000)
