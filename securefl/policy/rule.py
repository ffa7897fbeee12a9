"""A rule as a row: its name, what it reads, whose limits it holds, and the check itself.

Deciding, explaining, narrowing and drawing all read the same row, so none of them can say otherwise than another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from securefl.policy.checks import Check
from securefl.policy.load import Policy
from securefl.terms import Hash, Plan, Price


class Balance(Protocol):
    """What a decision needs to know of an account."""

    @property
    def digest(self) -> Hash:
        """The account's name: a price is good for one."""
        ...

    def knows(self, plan: Hash) -> bool:
        """Return whether the plan was ever reserved."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """May this plan run, on this account, at this price, now? All that any rule may read."""

    policy: Policy
    plan: Plan
    name: Hash  # of the plan
    account: Balance
    price: Price
    now: int  # seconds since 1970
    base: bytes | None  # the state the plan starts from, where it is at hand


# Given its own name and the question: the check; several, of a rule with several limits; none, where it does not apply.
Held = Callable[[str, Question], Check | tuple[Check, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a decision."""

    name: str  # as ledgers and messages have it; its meaning never changes
    inputs: tuple[str, ...]  # what it reads besides the policy: fields of the plan, price, account, the day
    limits: tuple[str, ...]  # fields of the policy that it holds them against
    check: Held
    says_whose: bool = False  # whether its limit names the federation that set it

    def held(self, question: Question) -> tuple[Check, ...]:
        """Hold the rule against the question: no check where it does not apply.

        A check that fails under a policy with others above it says which of them set the limit.
        """
        found = self.check(self.name, question)
        checks = (found,) if isinstance(found, Check) else found
        if not question.policy.above or self.says_whose:
            return checks
        return tuple(each if each.held else each.of(question.policy.whose(self.limits)) for each in checks)
