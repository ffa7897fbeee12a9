"""A decision as a tree: its parts, the rules in each, and what each rule looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from securefl.policy.checks import Check

INPUTS = {
    "valid": ("the day",),
    "policy": ("plan.policy",),
    "federation": ("plan.federation",),
    "context.purposes": ("plan.purpose",),
    "context.regions": ("plan.cohort",),
    "training.mechanisms": ("plan.learning.event",),
    "training.clip": ("plan.learning.clip_l2",),
    "training.noise_multiplier": ("plan.learning.event",),
    "training.clipping": ("plan.learning.clipping",),
    "training.losses": ("plan.learning.loss",),
    "training.optimizers": ("plan.learning.optimizer",),
    "training.learning_rate": ("plan.learning.learning_rate",),
    "training.divisor": ("plan.learning.divisor",),
    "training.micro_batch": ("plan.learning.micro_batch",),
    "training.tokens": ("plan.learning.max_tokens", "plan.learning.micro_tokens"),
    "training.base": ("plan.base",),
    "training.event": ("plan.learning.event", "plan.dimension", "plan.cover.encoding"),
    "training.adapters": ("plan.adapter.kind",),
    "training.rules": ("plan.adapter.rule",),
    "training.modules": ("plan.adapter.targets",),
    "training.rank": ("plan.adapter.rank",),
    "training.base_models": ("plan.model.name", "plan.model.digest"),
    "sharing.home": ("plan.sharing.home", "plan.sharing.attention"),
    "sharing.pull": ("plan.sharing.pull",),
    "sharing.attention": ("plan.sharing.attention",),
    "sharing.weightings": ("plan.sharing.weightings",),
    "sharing.probes": ("plan.sharing.weightings",),
    "sharing.weight_ratio": ("plan.sharing.weightings", "plan.sharing.attention"),
    "protection.schemes": ("plan.cover.scheme",),
    "protection.min_cohort": ("plan.cover.min_cohort",),
    "protection.cohort": ("plan.cohort", "plan.cover.min_cohort"),
    "protection.colluding": ("plan.cover.colluding",),
    "protection.honest": ("plan.cover.min_cohort", "plan.cover.colluding", "plan.sharing", "plan.cover.encoding"),
    "protection.whole_cohort": ("plan.cover.min_cohort", "plan.cohort", "plan.sharing"),
    "protection.fresh": ("plan.learning", "plan.sharing", "plan.cover.encoding"),
    "protection.seats": ("plan.cohort",),
    "protection.threshold": ("plan.cover.threshold", "plan.cover.colluding", "plan.cohort"),
    "protection.threshold.reachable": ("plan.cover.threshold", "plan.cohort"),
    "protection.custodian": ("plan.cover.custodian", "plan.cohort"),
    "protection.honest_shares": ("plan.learning.event", "plan.cover.min_cohort", "plan.cover.colluding"),
    "protection.shared_whole": ("plan.sharing",),
    "protection.grid": ("plan.cover.encoding",),
    "protection.trust": ("plan.cover.scheme",),
    "protection.capacity": ("plan.cover.encoding", "plan.cohort"),
    "release.fields": ("plan.release",),
    "budget.unit": (),
    "budget.neighbours": (),
    "budget.price": ("price", "account", "plan"),
    "budget.once": ("account", "plan"),
    "budget.per_round.epsilon": ("price", "plan.learning.event"),
    "budget.per_run.epsilon": ("price", "account"),
    "budget.epsilon": ("price", "account"),
    "budget.above.epsilon": ("price", "account"),
    "budget.others.epsilon": ("price", "account"),
    "budget.per_dataset.epsilon": ("price", "account"),
}


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
            assumed = [each for each in INPUTS.get(check.rule, ()) if each in missing]
            told.append(
                f"  {edge} {_mark(check.held)} {check.rule}: {check.value} (allowed: {check.limit})"
                + (f"  [assumed: {', '.join(assumed)}]" if assumed else "")
            )
            if not check.held:
                told.append(f"  {'  ' if edge == '└─' else '│ '}         to be allowed: {check.fix}")
    return told


def _mark(held: bool) -> str:  # noqa: FBT001 - what it marks
    return "held  " if held else "FAILED"
