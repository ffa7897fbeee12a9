"""May this plan run, on this account, at this price, now? Pure, default deny, every reason named.

All rules are held against the plan, whatever the first ones say, so a refusal lists everything that has to change. An
error while deciding is a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Protocol

from securefl import wire
from securefl.policy.load import Policy
from securefl.terms import Grant, Hash, Level, MicroEpsilon, Neighbours, Plan, PoissonGaussian, Price, Reason, Refusal, Scheme, Unit

MECHANISMS = {PoissonGaussian: "poisson-gaussian"}


class Balance(Protocol):
    """What a decision needs to know of an account."""

    @property
    def digest(self) -> Hash:
        """The account's name: a price is good for one."""
        ...

    def knows(self, plan: Hash) -> bool:
        """Whether the plan was ever reserved."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, held against one plan."""

    rule: str
    held: bool
    value: str
    limit: str
    fix: str


def decide(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> Grant | Refusal:
    """Leave to run the plan once at this price, or every reason why not."""
    try:
        failed = tuple(
            Reason(check.rule, check.value, check.limit, check.fix)
            for check in explain(policy, plan, account, price, now)
            if not check.held
        )
        if failed:
            return Refusal(failed)
        nonce = wire.digest("grant", (wire.plan_hash(plan), account.digest))[:16]
        return Grant(wire.plan_hash(plan), price, nonce)
    except Exception as fault:  # an error refuses, whatever it is: this is the one place where that is the right answer
        kind = type(fault).__name__
        return Refusal((Reason("policy.error", kind, "a decision without errors", "mend the plan or the policy"),))


def explain(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> tuple[Check, ...]:
    """Every rule, held or not. ``decide`` grants if and only if all of these hold, and there are some."""
    return tuple(
        check
        for part in (_context, _training, _protection, _release, _budget)
        for check in part(policy, plan, account, price, now)
    )


def _context(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> Iterator[Check]:
    del account, price
    day = datetime.fromtimestamp(now, UTC).date()
    valid = policy.valid
    span = f"{valid.from_} to {valid.until}"
    yield Check("valid", valid.from_ <= day <= valid.until, str(day), span, "use a policy that is valid today")
    yield Check(
        "policy", plan.policy == policy.hash, plan.policy.hex()[:16], policy.hash.hex()[:16],
        f"plan under policy {policy.hash.hex()[:16]}, version {policy.version}",
    )  # fmt: skip
    yield Check(
        "federation", plan.federation == policy.federation, plan.federation, policy.federation,
        f"set the federation's name to {policy.federation}",
    )  # fmt: skip
    yield _one_of("context.purposes", "purpose", plan.purpose, policy.context.purposes)
    elsewhere = sorted({seat.region for seat in plan.cohort} - set(policy.context.regions))
    yield Check(
        "context.regions", not elsewhere and bool(policy.context.regions), _listed(elsewhere) if elsewhere else "all inside",
        _listed(policy.context.regions), "leave out the members in " + _listed(elsewhere),
    )  # fmt: skip


def _training(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> Iterator[Check]:
    del account, price, now
    rules, learning = policy.training, plan.learning
    mechanism = MECHANISMS.get(type(learning.event), "unknown")
    yield _one_of("training.mechanisms", "mechanism", mechanism, rules.mechanisms)
    yield Check(
        "training.clip", 0 < learning.clip_l2 <= rules.clip.at_most, _number(learning.clip_l2),
        f"at most {_number(rules.clip.at_most)} (l2)", f"lower clip to {_number(rules.clip.at_most)}",
    )  # fmt: skip
    noise, least = learning.event.noise_multiplier, rules.noise_multiplier.at_least
    yield Check(
        "training.noise_multiplier", noise >= least, _number(noise), f"at least {_number(least)}",
        f"raise noise_multiplier to {_number(least)}",
    )  # fmt: skip
    outside = sorted(set(plan.adapter.targets) - set(rules.modules))
    yield Check(
        "training.modules", bool(plan.adapter.targets) and not outside, _listed(outside or plan.adapter.targets),
        _listed(rules.modules), "leave out " + _listed(outside) if outside else "name a target",
    )  # fmt: skip
    yield Check(
        "training.rank", 1 <= plan.adapter.rank <= rules.rank.at_most, str(plan.adapter.rank),
        f"at most {rules.rank.at_most}", f"lower rank to {rules.rank.at_most}",
    )  # fmt: skip
    names = {plan.model.name, f"sha256:{plan.model.digest.hex()}"}
    yield Check(
        "training.base_models", bool(names & set(rules.base_models)), plan.model.name, _listed(rules.base_models),
        "use the model " + " or ".join(rules.base_models),
    )  # fmt: skip


def _protection(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> Iterator[Check]:
    del account, price, now
    rules, cover, members = policy.protection, plan.cover, len(plan.cohort)
    yield _one_of("protection.schemes", "protection", cover.scheme.value, tuple(s.value for s in rules.schemes))
    yield _at_least("protection.min_cohort", "min_cohort", cover.min_cohort, rules.min_cohort)
    least = max(cover.min_cohort, rules.min_cohort)
    yield _at_least("protection.cohort", "members", members, least)
    yield _at_least("protection.colluding", "colluding", cover.colluding, rules.colluding)
    sums = 1
    yield Check(
        "protection.honest", cover.min_cohort - cover.colluding > sums,
        f"min_cohort {cover.min_cohort} - colluding {cover.colluding}", f"above the {sums} sum released a round",
        f"raise min_cohort to {cover.colluding + sums + 1}",
    )  # fmt: skip
    distinct = len({seat.member for seat in plan.cohort}) == members == len({seat.key for seat in plan.cohort})
    yield Check("protection.seats", distinct, "a member or key twice" if not distinct else "all different",
                "each member and key once", "name each member once")  # fmt: skip
    if cover.scheme is Scheme.MASKING:
        safe = (members + cover.colluding) // 2 + 1
        yield _at_least("protection.threshold", "threshold", cover.threshold, max(rules.threshold.at_least, safe))
        yield Check("protection.threshold.reachable", cover.threshold <= members, str(cover.threshold),
                    f"at most the {members} members", f"lower threshold to {members}, or have more members")  # fmt: skip
    if cover.scheme is Scheme.CKKS:
        apart = cover.custodian is not None and cover.custodian not in {seat.key for seat in plan.cohort}
        yield Check("protection.custodian", apart, "none" if cover.custodian is None else "a member's own key",
                    "a key that no member holds", "name a custodian of its own")  # fmt: skip
    capacity = cover.encoding.capacity()
    yield Check("protection.capacity", members <= capacity, f"{members} members", f"at most {capacity} in this encoding",
                f"lower value_bits to {cover.encoding.ring_bits - (members - 1).bit_length()}, or use a wider ring")  # fmt: skip


def _release(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> Iterator[Check]:
    del account, price, now
    outside = sorted(set(plan.release) - set(policy.release.fields))
    yield Check("release.fields", not outside, _listed(outside) if outside else _listed(plan.release) or "nothing",
                _listed(policy.release.fields), "do not release " + _listed(outside))  # fmt: skip


def _budget(policy: Policy, plan: Plan, account: Balance, price: Price, now: int) -> Iterator[Check]:
    del now
    budget, name = policy.budget, wire.plan_hash(plan)
    yield Check("budget.unit", budget.unit is Unit.RECORD, "record", budget.unit.value,
                "plans hide records so far: set budget.unit to record")  # fmt: skip
    yield Check("budget.neighbours", budget.neighbours is Neighbours.ADD_OR_REMOVE_ONE, "add-or-remove-one",
                budget.neighbours.value, "set budget.neighbours to add-or-remove-one")  # fmt: skip
    yield Check("budget.price", price.plan == name and price.account == account.digest,
                "a price of another plan or account", "a price of this plan on this account", "price the plan again")  # fmt: skip
    yield Check("budget.once", not account.knows(name), "reserved before", "each plan once", "propose a new plan")
    fewer = "lower steps or sampling_rate, or raise noise_multiplier, until"
    yield _affordable("budget.per_round.epsilon", price.round, budget.per_round.epsilon, budget.overlap, f"{fewer} the round costs")
    yield _affordable(
        "budget.epsilon", price.after[Level.FEDERATION], budget.epsilon, budget.overlap, f"{fewer} all rounds cost"
    )
    yield _affordable(
        "budget.per_dataset.epsilon", price.after[Level.DATASET], budget.per_dataset.epsilon, budget.overlap,
        f"{fewer} all rounds on this data set cost",
    )  # fmt: skip


def _affordable(rule: str, cost: MicroEpsilon, limit: Fraction, overlap: int, fix: str) -> Check:
    allowed = math.floor(limit * 1_000_000)  # an allowance rounds down
    times = f" x {overlap} overlapping members" if overlap > 1 else ""
    shown = f"epsilon {cost * overlap / 1e6:.6f}" + (f" ({cost / 1e6:.6f}{times})" if times else "")
    return Check(rule, cost >= 0 and cost * overlap <= allowed, shown, f"at most {_number(limit)}", f"{fix} at most {_number(limit / overlap)}")


def _one_of(rule: str, knob: str, value: str, allowed: tuple[str, ...]) -> Check:
    fix = f"set {knob} to {' or '.join(allowed)}" if allowed else "nothing is allowed: change the policy"
    return Check(rule, value in allowed, value, _listed(allowed), fix)


def _at_least(rule: str, knob: str, value: int, least: int) -> Check:
    return Check(rule, value >= least, str(value), f"at least {least}", f"raise {knob} to {least}")


def _listed(values: object) -> str:
    items = [str(value) for value in values]  # type: ignore[attr-defined]
    return ", ".join(items) if items else "nothing"


def _number(value: Fraction) -> str:
    return f"{float(value):.6g}"
