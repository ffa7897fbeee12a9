"""May this plan run, on this account, at this price, now? Pure, default deny, every reason named.

All rules are held against the plan, whatever the first ones say, so a refusal lists everything that has to change. An
error while deciding is a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Protocol

from securefl import wire
from securefl.policy.base_rule import base_check
from securefl.policy.checks import Check, all_of, at_least, listed, one_of
from securefl.policy.load import Policy, safe_threshold
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.policy.sharing_rules import grid_check, sharing_checks
from securefl.policy.training_rules import training_checks
from securefl.protection import honest
from securefl.terms import (
    Bound,
    Cap,
    DistributedDiscreteGaussian,
    Grant,
    Hash,
    Level,
    MicroEpsilon,
    Neighbours,
    Plan,
    Price,
    Reason,
    Refusal,
    Sharing,
)

_NAMES_ITS_OWN = ("budget.above.epsilon", "budget.others.epsilon")  # rules that say themselves whose limit it is


_FINE_BITS = 20  # of a grid on which no weight rounds to nothing


class Balance(Protocol):
    """What a decision needs to know of an account."""

    @property
    def digest(self) -> Hash:
        """The account's name: a price is good for one."""
        ...

    def knows(self, plan: Hash) -> bool:
        """Whether the plan was ever reserved."""
        ...


def decide(
    policy: Policy, plan: Plan, account: Balance, price: Price, now: int, base: bytes | None = None
) -> Grant | Refusal:
    """Leave to run the plan once at this price, or every reason why not; ``now`` in seconds since 1970.

    ``base`` is the state it starts from: a site always gives it. Who decides again from a ledger has not got it.
    """
    try:
        checks = explain(policy, plan, account, price, now, base)
        assert checks, "a decision holds some rules against the plan"
        failed = tuple(Reason(check.rule, check.value, check.limit, check.fix) for check in checks if not check.held)
        if failed:
            return Refusal(failed)
        # that the price is of this plan and this account is one of the rules that held
        return Grant(price.plan, price, wire.digest("grant", (price.plan, price.account))[:16])
    except Exception as fault:  # an error refuses, whatever it is: this is the one place where that is the right answer
        kind = type(fault).__name__
        return Refusal((Reason("policy.error", kind, "a decision without errors", "mend the plan or the policy"),))


def explain(
    policy: Policy, plan: Plan, account: Balance, price: Price, now: int, base: bytes | None = None
) -> tuple[Check, ...]:
    """Every rule, held or not. ``decide`` grants if and only if all of these hold; an error it turns into a refusal."""
    checks = (
        *_context(policy, plan, now),
        *training_checks(policy, plan),
        *(() if base is None else (base_check(policy.training.base, base),)),
        *sharing_checks(policy, plan),
        *_protection(policy, plan),
        *_release(policy, plan),
        *_budget(policy, plan, account, price),
    )
    if not policy.above:
        return checks
    return tuple(
        check
        if check.held or check.rule in _NAMES_ITS_OWN
        else replace(check, limit=f"{check.limit} (of {policy.whose(check.rule)})")
        for check in checks
    )


def _context(policy: Policy, plan: Plan, now: int) -> Iterator[Check]:
    day, valid = datetime.fromtimestamp(now, UTC).date(), policy.valid
    yield Check(
        "valid", valid.from_ <= day <= valid.until, str(day), f"{valid.from_} to {valid.until}",
        "use a policy that is valid today",
    )  # fmt: skip
    yield Check(
        "policy", plan.policy == policy.hash, plan.policy.hex()[:16], policy.hash.hex()[:16],
        f"plan under policy {policy.hash.hex()[:16]}, version {policy.version}",
    )  # fmt: skip
    yield Check(
        "federation", plan.federation == policy.federation, plan.federation, policy.federation,
        f"set the federation's name to {policy.federation}",
    )  # fmt: skip
    yield one_of("context.purposes", "purpose", plan.purpose, policy.context.purposes)
    yield all_of("context.regions", "region", [seat.region for seat in plan.cohort], policy.context.regions)


def _protection(policy: Policy, plan: Plan) -> Iterator[Check]:
    rules, cover, members = policy.protection, plan.cover, len(plan.cohort)
    yield one_of("protection.schemes", "protection", cover.scheme.value, tuple(s.value for s in rules.schemes))
    yield at_least("protection.min_cohort", "min_cohort", cover.min_cohort, rules.min_cohort)
    yield at_least("protection.cohort", "members", members, max(cover.min_cohort, rules.min_cohort))
    yield at_least("protection.colluding", "colluding", cover.colluding, rules.colluding)
    yield from _inputs(plan)
    if isinstance(plan.learning.event, DistributedDiscreteGaussian):
        counted, sure = plan.learning.event.honest, cover.honest
        yield Check(
            "protection.honest_shares", counted <= sure, f"priced for {counted} honest shares of noise",
            f"at most the {sure} that are sure",
            f"lower honest to {sure}" if sure > 0 else f"raise min_cohort to {cover.colluding + counted}",
        )  # fmt: skip
        whole = plan.sharing == Sharing()
        yield Check(
            "protection.shared_whole", whole, "the whole update, unweighted" if whole else "parts or weights of it",
            "the whole update, unweighted, whose norm is priced", "leave weights, home and pull out, or hide records",
        )  # fmt: skip
    distinct = len({seat.member for seat in plan.cohort}) == members == len({seat.key for seat in plan.cohort})
    yield Check(
        "protection.seats", distinct, "all different" if distinct else "a member or key twice",
        "each member and key once", "name each member once, with a key of its own",
    )  # fmt: skip
    if cover.scheme.has_masks:
        least = max(rules.threshold.at_least, safe_threshold(members, cover.colluding))
        yield at_least("protection.threshold", "threshold", cover.threshold, least)
        yield Check(
            "protection.threshold.reachable", cover.threshold <= members, str(cover.threshold),
            f"at most the {members} members", f"lower threshold to {members}, or have {cover.threshold} members",
        )  # fmt: skip
    if cover.scheme.has_custodian:
        apart = cover.custodian is not None and cover.custodian not in {seat.key for seat in plan.cohort}
        found = "no custodian" if cover.custodian is None else f"key {cover.custodian.hex()[:16]}"
        yield Check(
            "protection.custodian", apart, found, "a key that no member holds", "name a custodian who is no member"
        )
        trusted = "custodian" in rules.trust or not cover.scheme.trusts_custodian
        opens = "can open a single update" if cover.scheme.trusts_custodian else "opens noise and sums"
        yield Check(
            "protection.trust", trusted, f"{cover.scheme.value}, whose custodian {opens}",
            f"trust in {listed(rules.trust)}", f"set protection to {cover.scheme.masked.value}",
        )  # fmt: skip
    yield _fits(plan, members)
    yield grid_check(policy, plan)


def _inputs(plan: Plan) -> Iterator[Check]:
    """Enough honest inputs of like weight stand behind every sum, and each has noise of this round."""
    cover, sums, members, ratio = plan.cover, plan.sharing.sums, len(plan.cohort), honest.weight_ratio(plan)
    by, fix = "", f"raise min_cohort to {cover.colluding + math.ceil((sums + 1) * (ratio or 1))}"
    if ratio is None:
        by, fix = ", weights that the grid rounds to nothing", f"raise fraction_bits to {_FINE_BITS}"
    elif ratio > 1:
        by = f", weights up to {float(ratio):.4g} : 1"
    yield Check(
        "protection.honest", not honest.few(plan), f"min_cohort {cover.min_cohort} - colluding {cover.colluding}{by}",
        f"above the {sums} {'sum' if sums == 1 else 'sums'} of a round", fix,
    )  # fmt: skip
    stale, faint = honest.stale(plan), honest.faint(plan)
    yield Check(
        "protection.whole_cohort", not stale, stale or f"{members} members",
        "the whole cohort, or no weights that are kept", f"raise min_cohort to {members}",
    )  # fmt: skip
    yield Check(
        "protection.fresh", not faint, faint or f"learning rate {decimal(plan.learning.learning_rate)}",
        "noise of at least one grid step",
        f"raise learning_rate to {decimal(honest.least_rate(plan))}" if faint else "",
    )  # fmt: skip


def _fits(plan: Plan, members: int) -> Check:
    """The sum cannot wrap around, noise and all; a ring that nobody computes in holds nothing."""
    encoding, event = plan.cover.encoding, plan.learning.event
    ring = encoding.ring_bits if 1 <= encoding.ring_bits <= 64 else 64
    capacity = encoding.capacity() if 1 <= encoding.value_bits <= encoding.ring_bits <= 64 else 0
    bits = encoding.value_bits if members <= capacity else max(1, ring - max(0, members - 1).bit_length())
    value, limit = f"{members} members", f"at most {capacity} in this encoding"
    fix, held = f"set ring_bits to {ring} and value_bits to {bits}", members <= capacity
    if isinstance(event, DistributedDiscreteGaussian):
        fitting = _coarser(event, bits)
        held = held and event.longest >> max(0, encoding.value_bits - 1) == 0
        value, limit = f"{value}, {event.longest} grid units each", f"{limit}, in {encoding.value_bits} bits"
        fix += f" and fraction_bits to {fitting}"
    return Check("protection.capacity", held, value, limit, fix)


def _coarser(event: DistributedDiscreteGaussian, value_bits: int) -> int:
    """The finest grid, no finer than the event's own, on which an update with its noise has so many bits."""
    for fraction_bits in range(event.fraction_bits, 0, -1):
        try:
            longest = replace(event, fraction_bits=fraction_bits).longest
        except ValueError:  # a share of less than a grid unit
            break
        if longest >> max(0, value_bits - 1) == 0:
            return fraction_bits
    return 0


def _release(policy: Policy, plan: Plan) -> Iterator[Check]:
    outside = sorted(set(plan.release) - set(policy.release.fields))
    yield Check(
        "release.fields", not outside, listed(outside or plan.release), listed(policy.release.fields),
        f"do not release {listed(outside)}",
    )  # fmt: skip


def _budget(policy: Policy, plan: Plan, account: Balance, price: Price) -> Iterator[Check]:
    budget, name = policy.budget, wire.plan_hash(plan)
    yield Check(
        "budget.unit", plan.learning.event.unit is budget.unit, plan.learning.event.unit.value, budget.unit.value,
        f"train under unit {budget.unit.value}",
    )  # fmt: skip
    yield Check(
        "budget.neighbours", budget.neighbours is Neighbours.ADD_OR_REMOVE_ONE, "add-or-remove-one",
        budget.neighbours.value, "agree on a policy with budget.neighbours add-or-remove-one",
    )  # fmt: skip
    own = price.plan == name and price.account == account.digest and _is_own(policy, plan, price)
    yield Check(
        "budget.price", own, "its own price" if own else "a price of another plan or account, or of other limits",
        "a price of this plan on this account under this policy", "price the plan again",
    )  # fmt: skip
    known = account.knows(name)
    yield Check(
        "budget.once", not known, "reserved before" if known else "new", "each plan once", "propose it as another round"
    )
    after, above = price.after, {each.federation: each.budget for each in policy.above}
    yield _affordable(
        "budget.per_round.epsilon", "the round costs", price.round, budget.per_round.epsilon, budget.overlap
    )
    of_run = after[Level.RUN]
    if budget.per_run is not None:
        yield _affordable("budget.per_run.epsilon", "the run costs", of_run, budget.per_run.epsilon, budget.overlap)
    yield _affordable("budget.epsilon", "all rounds cost", after[Level.FEDERATION], budget.epsilon, budget.overlap)
    for upper, its in above.items():
        what = f"all rounds of {upper} and those below it cost"
        yield _affordable(
            "budget.above.epsilon", what, price.above[upper], its.epsilon, budget.overlap, f" for {upper}"
        )
    yield _affordable(
        "budget.per_dataset.epsilon",
        "all rounds on this data set cost",
        after[Level.DATASET],
        budget.per_dataset.epsilon,
        budget.overlap,
    )
    for cap in price.caps:
        if cap.by != policy.federation:
            is_above = cap.level is Level.FEDERATION and cap.name != policy.federation
            yield _promised(cap, price.above[cap.name] if is_above else after[cap.level])


def _promised(cap: Cap, total: MicroEpsilon) -> Check:
    """What another federation's policy was promised when it was charged here stands, whoever is charged next."""
    where = f"{cap.level.value} {cap.name}"
    return Check(
        "budget.others.epsilon", 0 <= total <= cap.epsilon, f"epsilon {_micro(total)} on {where}",
        f"at most {_micro(cap.epsilon)}, by the policy of {cap.by}",
        "lower steps or sampling_rate, or raise noise_multiplier, until all rounds on "
        f"{where} cost at most {_micro(cap.epsilon)}",
    )  # fmt: skip


def _is_own(policy: Policy, plan: Plan, price: Price) -> bool:
    """Whether a price says what this policy lets each account hold, by a bound that is not weaker than the policy's."""
    datasets = [cap.name for cap in price.caps if cap.level is Level.DATASET and cap.by == policy.federation]
    if len(datasets) != 1:
        return False
    due = policy.caps(datasets[0], plan.run)
    told = [cap for cap in price.caps if cap.by == policy.federation]
    return len(told) == len(due) and all(
        cap == mine or cap == replace(mine, bound=Bound.FILTER) for cap, mine in zip(told, due, strict=True)
    )


def _affordable(rule: str, what: str, cost: MicroEpsilon, limit: Fraction, overlap: int, whose: str = "") -> Check:
    allowed = math.floor(limit * 1_000_000)  # an allowance rounds down
    total = cost * overlap
    times = f" ({_micro(cost)} for each of {overlap} overlapping data sets)" if overlap > 1 else ""
    return Check(
        rule, 0 <= total <= allowed, f"epsilon {_micro(total)}{times}{whose}", f"at most {decimal(limit)}",
        f"lower steps or sampling_rate, or raise noise_multiplier, until {what} at most {_micro(allowed // overlap)}",
    )  # fmt: skip


def _micro(millionths: int) -> str:
    return f"{millionths // 1_000_000}.{millionths % 1_000_000:06d}"
