"""Rules about what members keep to themselves, and how unequally they count."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from securefl.policy.checks import Check, among
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.policy.rule import Question, Rule
from securefl.protection.honest_count import exponential, largest_ratio

_FINE = 10**6


def _home(rule: str, asked: Question) -> Check:
    sharing = asked.plan.sharing
    mixed = sharing.attention.keys if sharing.attention else ()
    return among(rule, "tensors", (*sharing.home, *mixed), asked.policy.sharing.home)


def _pull(rule: str, asked: Question) -> Check:
    return _switch(rule, "pull", asked.policy.sharing.pull, asked.plan.sharing.pull is not None)


def _attention(rule: str, asked: Question) -> Check:
    return _switch(rule, "attention", asked.policy.sharing.attention, asked.plan.sharing.attention is not None)


def _weightings(rule: str, asked: Question) -> Check:
    weights, most = len(asked.plan.sharing.weightings), asked.policy.sharing.weightings
    return Check(rule, weights <= most, str(weights), f"at most {most}", f"keep {most} of the weights")


def _probes(rule: str, asked: Question) -> Check:
    probes = (each.probe.hex() for each in asked.plan.sharing.weightings if each.probe is not None)
    return among(rule, "the weights by probe", probes, asked.policy.sharing.probes)


def _weight_ratio(rule: str, asked: Question) -> Check:
    ratio, most = largest_ratio(asked.plan.sharing), asked.policy.sharing.weight_ratio.at_most
    held, fix = ratio <= most, "leave weights and attention out"
    if not held and (clip := largest_clip(most)):
        fix = f"lower clip of weights and attention to {decimal(clip)}"
    return Check(rule, held, f"1 : {decimal(ratio)}", f"1 : {decimal(most)}", fix)


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


SHARING = (
    Rule("sharing.home", ("plan.sharing.home", "plan.sharing.attention"), ("sharing.home",), _home),
    Rule("sharing.pull", ("plan.sharing.pull",), ("sharing.pull",), _pull),
    Rule("sharing.attention", ("plan.sharing.attention",), ("sharing.attention",), _attention),
    Rule("sharing.weightings", ("plan.sharing.weightings",), ("sharing.weightings",), _weightings),
    Rule("sharing.probes", ("plan.sharing.weightings",), ("sharing.probes",), _probes),
    Rule(
        "sharing.weight_ratio", ("plan.sharing.weightings", "plan.sharing.attention"),
        ("sharing.weight_ratio.at_most",), _weight_ratio,
    ),
)  # fmt: skip
