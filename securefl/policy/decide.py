"""May this plan run, on this account, at this price, now? Pure, default deny, every reason named.

All rules of ``rule_table`` are held against the plan, whatever the first ones say, so a refusal lists everything that
has to change. An error while deciding is a refusal.
"""

from __future__ import annotations

from securefl import wire
from securefl.policy.checks import Check
from securefl.policy.load import Policy
from securefl.policy.rule import Balance, Question
from securefl.policy.rule_table import RULES
from securefl.terms import Grant, Plan, Price, Reason, Refusal
from securefl.terms.names import Nonce


def decide(
    policy: Policy, plan: Plan, account: Balance, price: Price, now: int, base: bytes | None = None
) -> Grant | Refusal:
    """Leave to run the plan once at this price, or every reason why not; ``now`` in seconds since 1970.

    ``base`` is the state it starts from: a site always gives it. Who decides again from a ledger has not got it.
    """
    try:
        return decided(explain(policy, plan, account, price, now, base), price)
    except Exception as fault:  # an error refuses, whatever it is: this is the one place where that is the right answer
        kind = type(fault).__name__
        return Refusal((Reason("policy.error", kind, "a decision without errors", "mend the plan or the policy"),))


def explain(
    policy: Policy, plan: Plan, account: Balance, price: Price, now: int, base: bytes | None = None
) -> tuple[Check, ...]:
    """Every rule, held or not. ``decide`` grants if and only if all of these hold; an error it turns into a refusal."""
    question = Question(policy, plan, wire.plan_hash(plan), account, price, now, base)
    return tuple(check for rule in RULES for check in rule.held(question))


def decided(checks: tuple[Check, ...], price: Price) -> Grant | Refusal:
    """Return what all checks of one question come to: a grant if every one holds."""
    assert checks, "a decision holds some rules against the plan"
    failed = tuple(Reason(check.rule, check.value, check.limit, check.fix) for check in checks if not check.held)
    if failed:
        return Refusal(failed)
    # that the price is of this plan and this account is one of the rules that held
    return Grant(price.plan, price, Nonce(wire.digest("grant", (price.plan, price.account))[:16]))
