"""A decision as a tree: its parts, the rules in each, and what each rule looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from securefl.policy.checks import Check
from securefl.policy.rule_table import inputs_of


@dataclass(frozen=True, slots=True)
class Branch:
    """One part of a decision."""

    part: str  # "context", "training", "sharing", "protection", "release" or "budget"
    held: bool
    checks: tuple[Check, ...]


def tree(checks: Iterable[Check]) -> tuple[Branch, ...]:
    """The parts, in the order they were asked; each holds if all of its rules do."""
    parts: dict[str, list[Check]] = {}
    for check in checks:
        part, _, rest = check.rule.partition(".")
        parts.setdefault(part if rest else "context", []).append(check)
    return tuple(Branch(part, all(each.held for each in found), tuple(found)) for part, found in parts.items())


def lines(branches: tuple[Branch, ...], missing: tuple[str, ...]) -> list[str]:
    """The tree as a person reads it; a rule that looked at something missing says so."""
    told = []
    for branch in branches:
        told.append(f"{_mark(branch.held)} {branch.part}")
        for index, check in enumerate(branch.checks):
            edge = "└─" if index == len(branch.checks) - 1 else "├─"
            assumed = [each for each in inputs_of(check.rule) if each in missing]
            told.append(
                f"  {edge} {_mark(check.held)} {check.rule}: {check.value} (allowed: {check.limit})"
                + (f"  [assumed: {', '.join(assumed)}]" if assumed else "")
            )
            if not check.held:
                told.append(f"  {'  ' if edge == '└─' else '│ '}         to be allowed: {check.fix}")
    return told


def _mark(held: bool) -> str:  # noqa: FBT001 - what it marks
    return "held  " if held else "FAILED"
