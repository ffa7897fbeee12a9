"""Every round of a federation held against a policy and a site's account, before the first of them is asked.

Each round is priced and decided as a site does it when it is asked: by ``price_in`` and ``decide``, on the account that
the rounds before it leave. Nothing is reserved: the account is a value in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from securefl.documents.federation import Loaded
from securefl.home.clock import clock
from securefl.planning.explain import first_plan
from securefl.planning.plan import FirstState, price_in
from securefl.policy.decide import decide
from securefl.privacy.account import Account, bound_of
from securefl.terms import (
    Accountant,
    Event,
    Grant,
    Level,
    MicroEpsilon,
    Plan,
    Reason,
    Reserved,
    RunId,
    Unbounded,
    Unit,
    micro_epsilon,
)
from securefl.wire import digest

if TYPE_CHECKING:
    from securefl.policy.load import Policy

MICRO: Final = 1_000_000
MOST_NOISE: Final = 100  # above it, nobody trains: a remedy that asks for more is none
CLOSER: Final = Fraction(1, 100)  # how near to the least noise a remedy comes


@dataclass(frozen=True, slots=True)
class Course:
    """What would become of a run's rounds on one account."""

    rounds: int  # that are asked for
    before: MicroEpsilon  # what the account holds by now
    each: tuple[MicroEpsilon, ...]  # what the granted rounds cost alone, in order
    after: tuple[MicroEpsilon, ...]  # and what the account holds behind each
    limit: MicroEpsilon  # what the account may hold, by this policy
    reasons: tuple[Reason, ...]  # why the next round would be refused; none if all are granted
    account: Account  # as the granted rounds leave it

    @property
    def granted(self) -> int:
        """How many rounds would be granted, from the first on."""
        return len(self.each)

    @property
    def spent(self) -> MicroEpsilon:
        """What the account holds once they have run."""
        return self.after[-1] if self.after else self.before


def plans_of(loaded: Loaded, policy: Policy, first: FirstState) -> tuple[Plan, ...]:
    """The plan of each round, as far as it is known before the first: keys and states to come are made up."""
    plan = first_plan(loaded, policy, first)
    if loaded.of_task is not None:  # each task is a run of its own
        plan = replace(plan, run=RunId(digest("task", loaded.of_task)[:16]))
    return tuple(
        replace(plan, round=number, learning=replace(plan.learning, learning_rate=rate))
        for number, rate in enumerate(loaded.file.training.rates(), 1)
    )


def course(policy: Policy, plans: Sequence[Plan], account: Account, dataset: str, base: bytes | None = None) -> Course:
    """Ask for each round in turn, until one is refused.

    Args:
        policy: the federation's.
        plans: of the rounds, in order.
        account: the site's, as it stands.
        dataset: whose root it is charged to.
        base: the state that the first round starts from, where it is known.
    """
    price_of, now = price_in(policy, dataset), clock()
    before, limit = _standing(policy, account, dataset, plans[0])
    each, after = list[MicroEpsilon](), list[MicroEpsilon]()
    for plan in plans:
        try:
            price = price_of(plan, account)
        except (ValueError, ArithmeticError) as fault:  # as a site does: no price, no round
            reasons: tuple[Reason, ...] = (Reason("budget.price", str(fault), "a finite price", "add noise"),)
            return Course(len(plans), before, tuple(each), tuple(after), limit, reasons, account)
        decision = decide(policy, plan, account, price, now, base if plan is plans[0] else None)
        if not isinstance(decision, Grant):
            return Course(len(plans), before, tuple(each), tuple(after), limit, decision.reasons, account)
        account = account.apply(Reserved(plan, dataset, price, decision.nonce))
        each.append(price.round)
        after.append(price.after[Level.DATASET])
    return Course(len(plans), before, tuple(each), tuple(after), limit, (), account)


def remedy(policy: Policy, plans: Sequence[Plan], account: Account, dataset: str, found: Course) -> str:
    """Words for what would have all rounds granted, or some: each was tried on this account, by the same decision."""
    if not found.reasons:
        return ""
    tried = [f"write rounds: {found.granted}; these are granted"] if found.granted else []
    if all(reason.rule.startswith("budget.") for reason in found.reasons):
        noise = _noise(policy, plans, account, dataset)
        if noise is not None:
            tried.append(f"noise_multiplier: {float(noise):g} has all {len(plans)} rounds granted")
        elif not found.granted:
            tried.append("no noise has a round granted on this account: a policy with a larger budget is needed")
    return "; or ".join(tried) or next(reason.fix for reason in found.reasons)


def _standing(policy: Policy, account: Account, dataset: str, plan: Plan) -> tuple[MicroEpsilon, MicroEpsilon]:
    """What the account holds, and what this policy lets it hold: at the policy's delta, by the bound it is held to."""
    from securefl.privacy.accountant import epsilon_charged  # noqa: PLC0415

    charges = account.beside(Level.DATASET, dataset, dataset, plan.learning.event.unit)
    budget = policy.budget
    limit = MicroEpsilon(budget.share(budget.per_dataset.epsilon))
    if not charges:
        return MicroEpsilon(0), limit
    bound = Accountant.FILTER if budget.bound is Accountant.FILTER else bound_of(charges, Level.DATASET, dataset)
    try:
        return micro_epsilon(epsilon_charged(charges, float(budget.delta_share), bound)), limit
    except Unbounded:
        return limit, limit


def _noise(policy: Policy, plans: Sequence[Plan], account: Account, dataset: str) -> Fraction | None:
    """A noise multiplier with which every round is granted, near the least one; None if there is none that helps."""
    event = plans[0].learning.event
    if event.unit is Unit.CLIENT:
        return None
    low = event.noise_multiplier
    for high in _louder(low):
        if _may_fit(policy, plans, account, dataset, _with(event, high)):
            break
        low = high
    else:
        return None
    while (high - low) / high > CLOSER:
        middle = (low + high) / 2
        if _may_fit(policy, plans, account, dataset, _with(event, middle)):
            high = middle
        else:
            low = middle
    rounded = Fraction(-int(-high * 1000 // 1), 1000)
    noisier = [replace(plan, learning=replace(plan.learning, event=_with(event, rounded))) for plan in plans]
    return None if course(policy, noisier, account, dataset).reasons else rounded


def _louder(noise: Fraction) -> Iterator[Fraction]:
    while noise < MOST_NOISE:
        noise = noise * Fraction(5, 4)
        yield noise


def _with(event: Event, noise: Fraction) -> Event:
    return replace(event, noise_multiplier=noise)


def _may_fit(policy: Policy, plans: Sequence[Plan], account: Account, dataset: str, event: Event) -> bool:
    """Whether all rounds together would fit, by a bound that is quick and never below the price that decides."""
    from securefl.privacy import accountant  # noqa: PLC0415

    budget, run = policy.budget, plans[0].run
    delta = float(budget.delta_share)
    try:
        for cap in policy.caps(dataset, run):
            charges = account.beside(cap.level, cap.name, dataset, event.unit)
            together = [*(each.event for each in charges), *(event for _ in plans)]
            bound = bound_of(charges, cap.level, cap.name, event)
            by_filter = Accountant.FILTER in (cap.bound, bound)
            cost = accountant.epsilon_filter(together, delta) if by_filter else accountant.epsilon_rdp(together, delta)
            if cost * MICRO > cap.epsilon:
                return False
        return accountant.epsilon_rdp([event], delta) * MICRO <= budget.share(budget.per_round.epsilon)
    except Unbounded:
        return False
