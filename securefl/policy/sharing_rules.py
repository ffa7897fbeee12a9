"""Rules about what members keep to themselves, how they count, and the grid that all of it is added on."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from securefl.policy.checks import Check, among, between, both
from securefl.policy.load import Policy
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.protection.honest import exponential, largest_ratio
from securefl.terms import Plan

_FINE = 10**6


def sharing_checks(policy: Policy, plan: Plan) -> Iterator[Check]:
    """What stays with members, what is mixed, and how unequally members count."""
    rules, sharing = policy.sharing, plan.sharing
    mixed = sharing.attention.keys if sharing.attention else ()
    yield among("sharing.home", "tensors", (*sharing.home, *mixed), tuple(rules.home))
    yield _switch("sharing.pull", "pull", rules.pull, sharing.pull is not None)
    yield _switch("sharing.attention", "attention", rules.attention, sharing.attention is not None)
    weights = len(sharing.weightings)
    yield Check(
        "sharing.weightings", weights <= rules.weightings, str(weights), f"at most {rules.weightings}",
        f"keep {rules.weightings} of the weights",
    )  # fmt: skip
    probes = (each.probe.hex() for each in sharing.weightings if each.probe is not None)
    yield among("sharing.probes", "the weights by probe", probes, tuple(rules.probes))
    ratio, most = largest_ratio(sharing), rules.weight_ratio.at_most
    held, fix = ratio <= most, "leave weights and attention out"
    if not held and (clip := largest_clip(most)):
        fix = f"lower clip of weights and attention to {decimal(clip)}"
    yield Check("sharing.weight_ratio", held, f"1 : {decimal(ratio)}", f"1 : {decimal(most)}", fix)


def grid_check(policy: Policy, plan: Plan) -> Check:
    """Fine enough for what is learned, and no wider than what one member may add."""
    rules, encoding = policy.protection.grid, plan.cover.encoding
    fine, wide = rules.fraction_bits, rules.value_bits.at_most
    fraction = between("protection.grid", "fraction_bits", encoding.fraction_bits, fine.at_least, fine.at_most)
    bits = between("protection.grid", "value_bits", encoding.value_bits, 1, wide)
    return both(
        fraction, bits, f"fraction_bits {fraction.value}, value_bits {bits.value}",
        f"fraction_bits {fraction.limit}, value_bits {bits.limit}",
    )  # fmt: skip


@lru_cache(maxsize=256)
def largest_clip(ratio: Fraction) -> Fraction:
    """The largest clip, in millionths, under which two weights differ by ``ratio`` at most; 0 where none does."""
    low, high = 0, 4 * _FINE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if exponential(Fraction(2 * middle, _FINE)) <= ratio else (low, middle - 1)
    return Fraction(low, _FINE)


def _switch(rule: str, knob: str, allowed: bool, used: bool) -> Check:  # noqa: FBT001 - both are what is asked
    limit = "used or not" if allowed else "not used"
    return Check(rule, allowed or not used, "used" if used else "not used", limit, f"leave {knob} out")
