"""One rule held against one plan, and the kinds of rule that come again and again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does

NOTHING = "nothing is allowed: agree on another policy"


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, held against one plan."""

    rule: str  # the policy's field, dotted
    held: bool
    value: str  # what the plan says
    limit: str  # what the policy says
    fix: str  # the smallest change that would pass; means something only where the rule does not hold

    def of(self, federation: str) -> Check:
        """The same, with the federation that set the limit."""
        return replace(self, limit=f"{self.limit} (of {federation})")


def one_of(rule: str, knob: str, value: str, allowed: tuple[str, ...]) -> Check:
    """A value that is allowed."""
    fix = f"set {knob} to {' or '.join(allowed)}" if allowed else NOTHING
    return Check(rule, value in allowed, value, listed(allowed), fix)


def all_of(rule: str, knob: str, values: Iterable[str], allowed: tuple[str, ...]) -> Check:
    """Some values, and each of them allowed."""
    named = sorted(set(values))
    outside = [value for value in named if value not in allowed]
    some_left = len(outside) < len(named)
    fix = f"leave out every {knob} of {listed(outside)}" if some_left else f"set {knob} to {' or '.join(allowed)}"
    held, limit = bool(named) and not outside, listed(allowed)
    return Check(rule, held, listed(outside or named), limit, fix if allowed else NOTHING)


def at_least(rule: str, knob: str, value: int, least: int) -> Check:
    """A number that is large enough."""
    return Check(rule, value >= least, str(value), f"at least {least}", f"raise {knob} to {least}")


def listed(values: Iterable[str]) -> str:
    """Values as a person reads them."""
    return ", ".join(values) or "nothing"


def among(rule: str, knob: str, values: Iterable[str], allowed: tuple[str, ...]) -> Check:
    """Nothing but what is allowed; nothing at all is fine."""
    named = sorted(set(values))
    outside = [value for value in named if value not in allowed]
    return Check(rule, not outside, listed(outside or named), listed(allowed), f"leave {knob} {listed(outside)} out")


def between(
    rule: str, knob: str, value: Fraction | int, least: Fraction | int, most: Fraction | int
) -> Check:  # fmt: skip
    """Between two numbers, both included."""
    low, high = decimal(least), decimal(most)
    fix = f"raise {knob} to {low}" if value < least else f"lower {knob} to {high}"
    return Check(rule, least <= value <= most, decimal(value), f"{low} to {high}", fix)


def both(one: Check, other: Check, value: str, limit: str) -> Check:
    """Two checks of one rule as one."""
    fix = " and ".join(each.fix for each in (one, other) if not each.held)
    return Check(one.rule, one.held and other.held, value, limit, fix or one.fix)
