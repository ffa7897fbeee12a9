"""The same policy in Cedar, and plans as requests to it: what an engine for authorization decides of a plan.

One `permit`, and one `forbid ... unless` for each rule, so that a refusal names its rule as ours does. Cedar compares
what it is given: sums, ratios, honest counts and capacities of a plan are worked out beforehand and stand in the
request, thousandths and millionths as whole numbers. Budgets, the plan's hash, the values, limits and remedies of a
refusal have no counterpart.
"""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from typing import Any

from securefl.documents.strategy import named
from securefl.policy.load import Policy, safe_threshold
from securefl.policy.training_rules import CLIPPINGS, MECHANISMS
from securefl.protection import honest_count
from securefl.terms import Plan


def text(policy: Policy) -> str:
    """The policy, as far as Cedar can say it."""
    training, sharing, protection, grid = policy.training, policy.sharing, policy.protection, policy.protection.grid
    models = [name.removeprefix("sha256:") for name in training.base_models]
    unless = {
        "valid": f"context.day >= {_day(policy.valid.from_)} && context.day <= {_day(policy.valid.until)}",
        "policy": f'context.policy == "{policy.hash.hex()}"',
        "federation": f'context.federation == "{policy.federation}"',
        "context.purposes": f"{_set(policy.context.purposes)}.contains(context.purpose)",
        "context.regions": f"{_set(policy.context.regions)}.containsAll(context.regions)",
        "training.mechanisms": f"{_set(training.mechanisms)}.contains(context.mechanism)",
        "training.clip": f"context.clip > 0 && context.clip <= {_micro(training.clip.at_most)}",
        "training.clipping": f"{_set(training.clipping)}.contains(context.clipping)",
        "training.noise_multiplier": f"context.noise_multiplier >= {_micro(training.noise_multiplier.at_least)}",
        "training.losses": f"{_set(training.losses)}.contains(context.loss)",
        "training.optimizers": f"{_set(training.optimizers)}.contains(context.optimizer)",
        "training.learning_rate": f"context.learning_rate >= {_micro(training.learning_rate.at_least)} && "
        f"context.learning_rate <= {_micro(training.learning_rate.at_most)}",
        "training.divisor": f"context.divisor >= 1 && context.divisor <= {training.divisor.at_most}",
        "training.micro_batch": f"context.micro_batch >= 1 && context.micro_batch <= {training.micro_batch.at_most}",
        "training.tokens": f"context.tokens >= 4 && context.tokens <= {training.tokens.at_most}",
        "training.adapters": f"{_set(training.adapters)}.contains(context.kind)",
        "training.rules": f"{_set(training.rules)}.contains(context.rule)",
        "training.modules": f"!context.targets.isEmpty() && {_set(training.modules)}.containsAll(context.targets)",
        "training.rank": f"context.rank >= 1 && context.rank <= {training.rank.at_most}",
        "training.base_models": f"{_set(models)}.contains(context.model) || {_set(models)}.contains(context.digest)",
        "sharing.home": f"{_set(sharing.home)}.containsAll(context.home)",
        "sharing.pull": f"{_flag(allowed=sharing.pull)} || !context.pull",
        "sharing.attention": f"{_flag(allowed=sharing.attention)} || !context.attention",
        "sharing.weightings": f"context.weightings <= {sharing.weightings}",
        "sharing.weight_ratio": f"context.weight_ratio <= {_micro(sharing.weight_ratio.at_most)}",
        "protection.schemes": f"{_set(protection.schemes)}.contains(context.scheme)",
        "protection.min_cohort": f"context.min_cohort >= {protection.min_cohort}",
        "protection.cohort": f"context.members >= context.min_cohort && context.members >= {protection.min_cohort}",
        "protection.colluding": f"context.colluding >= {protection.colluding}",
        "protection.honest": "context.honest > context.sums",
        "protection.seats": "context.seats == context.members && context.keys == context.members",
        "protection.threshold": f"!context.masks || context.threshold >= {protection.threshold.at_least} && "
        "context.threshold >= context.safe_threshold",
        "protection.threshold.reachable": "!context.masks || context.threshold <= context.members",
        "protection.trust": f"{_flag(allowed='custodian' in protection.trust)} || !context.trusts_custodian",
        "protection.capacity": "context.members <= context.capacity",
        "protection.grid": f"context.fraction_bits >= {grid.fraction_bits.at_least} && "
        f"context.fraction_bits <= {grid.fraction_bits.at_most} && context.value_bits <= {grid.value_bits.at_most}",
        "release.fields": f"{_set(policy.release.fields)}.containsAll(context.release)",
    }
    forbids = [
        f'@id("{rule}") forbid (principal, action, resource) unless {{ {held} }};' for rule, held in unless.items()
    ]
    return "\n".join(["permit (principal, action, resource);", *forbids])


def request(plan: Plan, today: date) -> dict[str, Any]:
    """The plan as a request: every number that Cedar would have to work out is given."""
    learning, cover, adapter, sharing = plan.learning, plan.cover, plan.adapter, plan.sharing
    ratio = honest_count.weight_ratio(plan) or 10**6
    context = {
        "day": _day(today), "policy": plan.policy.hex(), "federation": plan.federation, "purpose": plan.purpose,
        "regions": [seat.region for seat in plan.cohort], "mechanism": MECHANISMS[type(learning.event)],
        "clip": _micro(learning.clip_l2), "clipping": CLIPPINGS[type(learning.clipping)],
        "noise_multiplier": _micro(learning.event.noise_multiplier), "loss": named(learning.loss),
        "optimizer": learning.optimizer, "learning_rate": _micro(learning.learning_rate), "divisor": learning.divisor,
        "micro_batch": learning.micro_batch, "tokens": learning.max_tokens, "kind": adapter.kind.value,
        "rule": adapter.rule.value, "targets": list(adapter.targets), "rank": adapter.rank, "model": plan.model.name,
        "digest": plan.model.digest.hex(), "home": list(sharing.home), "pull": sharing.pull is not None,
        "attention": sharing.attention is not None, "weightings": len(sharing.weightings), "sums": sharing.sums,
        "weight_ratio": _micro(honest_count.largest_ratio(sharing)), "scheme": cover.scheme.value,
        "min_cohort": cover.min_cohort, "members": len(plan.cohort), "colluding": cover.colluding,
        "honest": int(max(0, cover.min_cohort - cover.colluding) // ratio),
        "seats": len({seat.member for seat in plan.cohort}), "keys": len({seat.key for seat in plan.cohort}),
        "masks": cover.scheme.has_masks, "threshold": cover.threshold,
        "safe_threshold": safe_threshold(len(plan.cohort), cover.colluding),
        "trusts_custodian": cover.scheme.trusts_custodian, "capacity": cover.encoding.capacity(),
        "fraction_bits": cover.encoding.fraction_bits, "value_bits": cover.encoding.value_bits,
        "release": list(plan.release),
    }  # fmt: skip
    return {
        "principal": 'Coordinator::"coordinator"', "action": 'Action::"train"', "resource": 'DataSet::"records"',
        "context": context,
    }  # fmt: skip


def _day(day: date) -> int:
    return day.toordinal()


def _micro(value: Fraction) -> int:
    return int(value * 1_000_000)


def _set(values: object) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"  # type: ignore[attr-defined]


def _flag(*, allowed: bool) -> str:
    return "true" if allowed else "false"
