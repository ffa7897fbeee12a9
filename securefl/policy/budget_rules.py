"""Rules about what a plan costs: each limit in one form, the millionths of epsilon that one data set may use of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from securefl.policy.checks import Check
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.policy.rule import Question, Rule
from securefl.terms import Accountant, FullBatchGaussian, Level, Limit, MicroEpsilon, Neighbours, Unit

_EVERY_LIMIT = (
    "budget.epsilon", "budget.delta", "budget.per_dataset.epsilon", "budget.overlap", "budget.per_run", "budget.bound",
)  # fmt: skip


def _unit(rule: str, asked: Question) -> Check:
    unit, hidden = asked.plan.learning.event.unit, asked.policy.budget.unit
    return Check(rule, unit is hidden, unit.value, hidden.value, f"train under unit {hidden.value}")


def _neighbours(rule: str, asked: Question) -> Check:
    compared = asked.policy.budget.neighbours
    return Check(
        rule, compared is Neighbours.ADD_OR_REMOVE_ONE, "add-or-remove-one", compared.value,
        "agree on a policy with budget.neighbours add-or-remove-one",
    )  # fmt: skip


def _price(rule: str, asked: Question) -> Check:
    """The price is of this plan, on this account, and says what this policy lets each account hold."""
    price = asked.price
    own = price.plan == asked.name and price.account == asked.account.digest and _says_the_limits(asked)
    return Check(
        rule, own, "its own price" if own else "a price of another plan or account, or of other limits",
        "a price of this plan on this account under this policy", "price the plan again",
    )  # fmt: skip


def _says_the_limits(asked: Question) -> bool:
    """Whether a price says what this policy lets each account hold, by a bound that is not weaker than the policy's."""
    policy, caps = asked.policy, asked.price.caps
    datasets = [cap.name for cap in caps if cap.level is Level.DATASET and cap.by == policy.federation]
    if len(datasets) != 1:
        return False
    due = policy.caps(datasets[0], asked.plan.run)
    told = [cap for cap in caps if cap.by == policy.federation]
    return len(told) == len(due) and all(
        cap == mine or cap == replace(mine, bound=Accountant.FILTER) for cap, mine in zip(told, due, strict=True)
    )


def _once(rule: str, asked: Question) -> Check:
    known = asked.account.knows(asked.name)
    return Check(
        rule, not known, "reserved before" if known else "new", "each plan once", "propose it as another round"
    )


def _round(rule: str, asked: Question) -> Check:
    budget = asked.policy.budget
    return _own(rule, asked, budget.per_round.epsilon, asked.price.round, "the round costs")


def _run(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    budget, cost = asked.policy.budget, asked.price.after[Level.RUN]
    return () if budget.per_run is None else _own(rule, asked, budget.per_run.epsilon, cost, "the run costs")


def _federation(rule: str, asked: Question) -> Check:
    budget = asked.policy.budget
    return _own(rule, asked, budget.epsilon, asked.price.after[Level.FEDERATION], "all rounds cost")


def _above(rule: str, asked: Question) -> tuple[Check, ...]:
    policy, costs = asked.policy, asked.price.above
    return tuple(
        _own(
            rule, asked, upper.budget.epsilon, costs[upper.federation],
            f"all rounds of {upper.federation} and those below it cost", f" for {upper.federation}",
        )
        for upper in policy.above
    )  # fmt: skip


def _dataset(rule: str, asked: Question) -> Check:
    budget, cost = asked.policy.budget, asked.price.after[Level.DATASET]
    hides_member = asked.plan.learning.event.unit is Unit.CLIENT
    what = "all rounds of this member, on any data set, cost" if hides_member else "all rounds on this data set cost"
    return _own(rule, asked, budget.per_dataset.epsilon, cost, what)


def _others(rule: str, asked: Question) -> tuple[Check, ...]:
    """Hold what another federation's policy was promised when it was charged here, whoever is charged next."""
    own = asked.policy.federation
    return tuple(_promised(rule, asked, cap) for cap in asked.price.caps if cap.by != own)


def _promised(rule: str, asked: Question, cap: Limit) -> Check:
    is_above = cap.level is Level.FEDERATION and cap.name != asked.policy.federation
    cost = asked.price.above[cap.name] if is_above else asked.price.after[cap.level]
    where, limit = f"{cap.level.value} {cap.name}", f"at most {_micro(cap.epsilon)}, by the policy of {cap.by}"
    return _within(
        rule, asked, cost, cap.epsilon, f"epsilon {_micro(cost)} on {where}", limit, f"all rounds on {where} cost"
    )  # fmt: skip


def _own(rule: str, asked: Question, limit: Fraction, cost: MicroEpsilon, what: str, whose: str = "") -> Check:
    """Hold a cost against a limit of the policy or of one above it; shown is what overlapping data sets cost."""
    budget = asked.policy.budget
    overlap = budget.overlap
    times = f" ({_micro(cost)} for each of {overlap} overlapping data sets)" if overlap > 1 else ""
    value = f"epsilon {_micro(cost * overlap)}{times}{whose}"
    return _within(rule, asked, cost, budget.share(limit), value, f"at most {decimal(limit)}", what)


def _within(
    rule: str, asked: Question, cost: MicroEpsilon, share: MicroEpsilon, value: str, limit: str, what: str
) -> Check:  # fmt: skip
    """Hold what one data set is charged against its share of a limit: the one place where epsilons are compared."""
    lower = "steps" if isinstance(asked.plan.learning.event, FullBatchGaussian) else "steps or sampling_rate"
    ways = f"lower {lower}, or raise noise_multiplier,"
    if _plans_differ(asked):
        ways = (
            f"lower {lower}, raise noise_multiplier, or keep to the plan that was charged before, which costs less (of "
            "plans that differ, a filter takes the sum, which is higher than theirs)"
        )
    return Check(rule, 0 <= cost <= share, value, limit, f"{ways} until {what} at most {_micro(share)}")


def _plans_differ(asked: Question) -> bool:
    """Return whether an account is held by a filter that its policy did not ask for: what was charged there differs."""
    by_itself = asked.policy.budget.bound is not Accountant.FILTER
    return by_itself and any(cap.bound is Accountant.FILTER for cap in asked.price.caps)


def _micro(millionths: int) -> str:
    return f"{millionths // 1_000_000}.{millionths % 1_000_000:06d}"


_COST = ("price", "account", "plan.learning.event")
_HOW = ("budget.overlap", "budget.bound")  # what is shared out; and what a remedy is chosen by
BUDGET = (
    Rule("budget.unit", ("plan.learning.event",), ("budget.unit",), _unit),
    Rule("budget.neighbours", (), ("budget.neighbours",), _neighbours),
    Rule("budget.price", ("price", "account", "plan"), _EVERY_LIMIT, _price, says_whose=True),
    Rule("budget.once", ("account", "plan"), (), _once),
    Rule(
        "budget.per_round.epsilon", ("price", "plan.learning.event"), ("budget.per_round.epsilon", *_HOW), _round
    ),
    Rule("budget.per_run.epsilon", _COST, ("budget.per_run", *_HOW), _run),
    Rule("budget.epsilon", _COST, ("budget.epsilon", *_HOW), _federation),
    Rule("budget.above.epsilon", _COST, _HOW, _above, says_whose=True),
    Rule("budget.per_dataset.epsilon", _COST, ("budget.per_dataset.epsilon", *_HOW), _dataset),
    Rule("budget.others.epsilon", _COST, ("budget.bound",), _others, says_whose=True),
)  # fmt: skip
