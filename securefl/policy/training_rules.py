"""Rules about how members train: how it is made private, of what, how far, on which model and adapter."""

from __future__ import annotations

from collections.abc import Iterator

from securefl.documents.strategy import named
from securefl.policy.checks import NOTHING, Check, all_of, between, both, listed, one_of
from securefl.policy.limits import ANY_MODEL, DIGEST
from securefl.policy.load import Policy
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.terms import (
    Adapter,
    AdapterKind,
    AdapterRule,
    Automatic,
    DistributedDiscreteGaussian,
    Flat,
    Learning,
    Model,
    Plan,
    PoissonGaussian,
    Quantile,
    Unit,
)

MECHANISMS = {PoissonGaussian: "poisson-gaussian", DistributedDiscreteGaussian: "distributed-discrete-gaussian"}
CLIPPINGS = {Flat: "flat", Automatic: "automatic", Quantile: "quantile"}
LEAST_TOKENS = 4


def training_checks(policy: Policy, plan: Plan) -> Iterator[Check]:
    """Every rule on how members train."""
    rules, learning = policy.training, plan.learning
    yield one_of(
        "training.mechanisms", "mechanism", MECHANISMS.get(type(learning.event), "unknown"), tuple(rules.mechanisms)
    )
    most = decimal(rules.clip.at_most)
    yield Check(
        "training.clip", 0 < learning.clip_l2 <= rules.clip.at_most, decimal(learning.clip_l2),
        f"above 0, at most {most} (l2)", f"{'lower' if learning.clip_l2 > 0 else 'raise'} clip to {most}",
    )  # fmt: skip
    if learning.event.unit is Unit.RECORD:  # a member's update is clipped in one way
        named = CLIPPINGS.get(type(learning.clipping), "unknown")
        yield one_of("training.clipping", "clipping", named, tuple(rules.clipping))
    noise, least = learning.event.noise_multiplier, rules.noise_multiplier.at_least
    yield Check(
        "training.noise_multiplier", noise >= least, decimal(noise), f"at least {decimal(least)}",
        f"raise noise_multiplier to {decimal(least)}",
    )  # fmt: skip
    if isinstance(learning.event, DistributedDiscreteGaussian):
        event, encoding = learning.event, plan.cover.encoding
        said = (event.clip_l2, event.dimension, event.fraction_bits)
        yield Check(
            "training.event", said == (learning.clip_l2, plan.dimension, encoding.fraction_bits),
            f"clip {decimal(event.clip_l2)}, dimension {event.dimension}, fraction_bits {event.fraction_bits}",
            f"the plan's own {decimal(learning.clip_l2)}, {plan.dimension}, {encoding.fraction_bits}",
            "price what the plan says",
        )  # fmt: skip
    yield from _steps(policy, plan)
    yield from _adapter(policy, plan.adapter)
    yield Check(
        "training.base_models", _is_allowed(plan.model, rules.base_models),
        f"{plan.model.name} ({DIGEST}{plan.model.digest.hex()[:16]}...)", listed(rules.base_models),
        f"use the model {' or '.join(rules.base_models)}" if rules.base_models else NOTHING,
    )  # fmt: skip


def _steps(policy: Policy, plan: Plan) -> Iterator[Check]:
    """What a step is of, and how far it goes: too short a step leaves nothing but what a member kept."""
    rules, learning = policy.training, plan.learning
    yield one_of("training.losses", "loss", named(learning.loss), tuple(rules.losses))
    yield one_of("training.optimizers", "optimizer", learning.optimizer, tuple(rules.optimizers))
    rate = rules.learning_rate
    yield between("training.learning_rate", "learning_rate", learning.learning_rate, rate.at_least, rate.at_most)
    yield between("training.divisor", "divisor", learning.divisor, 1, rules.divisor.at_most)
    yield between("training.micro_batch", "micro_batch", learning.micro_batch, 1, rules.micro_batch.at_most)
    yield _tokens(policy, learning)


def _tokens(policy: Policy, learning: Learning) -> Check:
    """Of one record, and of all that are in memory at once."""
    read, at_once, most = learning.max_tokens, learning.micro_tokens, policy.training.tokens.at_most
    one = between("training.tokens", "max_tokens", read, LEAST_TOKENS, most)
    if at_once is None:
        return one
    longest, largest = min(max(read, LEAST_TOKENS), most), most * policy.training.micro_batch.at_most
    together = between("training.tokens", "micro_tokens", at_once, longest, largest)
    return both(one, together, f"{read}, {at_once} at once", f"{one.limit}, {together.limit} at once")


def _adapter(policy: Policy, adapter: Adapter) -> Iterator[Check]:
    """Layers are asked about where the kind has layers, the rule where it has factors, the rank where it has one."""
    rules, kind, rule = policy.training, AdapterKind(adapter.kind), AdapterRule(adapter.rule)
    yield one_of("training.adapters", "kind", kind.value, tuple(each.value for each in rules.adapters))
    allowed = tuple(each.value for each in rules.rules) if kind.has_factors else (AdapterRule.B_ONLY.value,)
    yield one_of("training.rules", "rule", rule.value, allowed)
    if kind.has_targets:
        yield all_of("training.modules", "target", adapter.targets, rules.modules)
    else:
        named = listed(sorted(set(adapter.targets)))
        fix = f"leave out every target of {named}"
        yield Check("training.modules", not adapter.targets, named, f"no layer for kind {kind.value}", fix)
    rank, highest = adapter.rank, rules.rank.at_most
    if kind is not AdapterKind.HEAD:
        yield Check(
            "training.rank", 1 <= rank <= highest, str(rank), f"1 to {highest}",
            f"{'lower' if rank > highest else 'raise'} rank to {highest if rank > highest else 1}",
        )  # fmt: skip


def _is_allowed(model: Model, allowed: tuple[str, ...]) -> bool:
    """By content or by name; a model that is only *named* like a digest is not the one the policy pins."""
    by_name = model.name in allowed and not model.name.startswith(DIGEST)
    return ANY_MODEL in allowed or by_name or f"{DIGEST}{model.digest.hex()}" in allowed
