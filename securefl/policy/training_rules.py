"""Rules about how members train: how it is made private, of what, how far, on which model and adapter."""

from __future__ import annotations

from securefl.documents.strategy import named
from securefl.policy.checks import NOTHING, Check, all_of, between, both, listed, one_of
from securefl.policy.limits import ANY_MODEL, DIGEST
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.policy.rule import Question, Rule
from securefl.terms import (
    AdapterKind,
    AdapterRule,
    Automatic,
    DistributedDiscreteGaussian,
    Flat,
    FullBatchGaussian,
    Model,
    PoissonGaussian,
    Quantile,
    Unit,
)

MECHANISMS = {
    PoissonGaussian: "poisson-gaussian",
    FullBatchGaussian: "full-batch-gaussian",
    DistributedDiscreteGaussian: "distributed-discrete-gaussian",
}
CLIPPINGS = {Flat: "flat", Automatic: "automatic", Quantile: "quantile"}
LEAST_TOKENS = 4


def _mechanism(rule: str, asked: Question) -> Check:
    mechanism = MECHANISMS.get(type(asked.plan.learning.event), "unknown")
    return one_of(rule, "mechanism", mechanism, asked.policy.training.mechanisms)


def _clip(rule: str, asked: Question) -> Check:
    clip, limit = asked.plan.learning.clip_l2, asked.policy.training.clip.at_most
    most, way = decimal(limit), "lower" if clip > 0 else "raise"
    return Check(rule, 0 < clip <= limit, decimal(clip), f"above 0, at most {most} (l2)", f"{way} clip to {most}")


def _clipping(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """Return how a record's gradient is clipped; a member's update is clipped in one way."""
    learning = asked.plan.learning
    if learning.event.unit is not Unit.RECORD:
        return ()
    clipping = CLIPPINGS.get(type(learning.clipping), "unknown")
    return one_of(rule, "clipping", clipping, asked.policy.training.clipping)


def _noise(rule: str, asked: Question) -> Check:
    noise, limit = asked.plan.learning.event.noise_multiplier, asked.policy.training.noise_multiplier.at_least
    least = decimal(limit)
    return Check(rule, noise >= limit, decimal(noise), f"at least {least}", f"raise noise_multiplier to {least}")


def _event(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """Check that a member's update is priced as what the plan says of it."""
    plan, event, bits = asked.plan, asked.plan.learning.event, asked.plan.cover.encoding.fraction_bits
    if not isinstance(event, DistributedDiscreteGaussian):
        return ()
    clip = plan.learning.clip_l2
    return Check(
        rule, (event.clip_l2, event.dimension, event.fraction_bits) == (clip, plan.dimension, bits),
        f"clip {decimal(event.clip_l2)}, dimension {event.dimension}, fraction_bits {event.fraction_bits}",
        f"the plan's own {decimal(clip)}, {plan.dimension}, {bits}", "price what the plan says",
    )  # fmt: skip


def _loss(rule: str, asked: Question) -> Check:
    return one_of(rule, "loss", named(asked.plan.learning.loss), asked.policy.training.losses)


def _optimizer(rule: str, asked: Question) -> Check:
    return one_of(rule, "optimizer", asked.plan.learning.optimizer, asked.policy.training.optimizers)


def _learning_rate(rule: str, asked: Question) -> Check:
    """Too short a step leaves nothing but what a member kept."""
    rate = asked.policy.training.learning_rate
    return between(rule, "learning_rate", asked.plan.learning.learning_rate, rate.at_least, rate.at_most)


def _divisor(rule: str, asked: Question) -> Check:
    return between(rule, "divisor", asked.plan.learning.divisor, 1, asked.policy.training.divisor.at_most)


def _micro_batch(rule: str, asked: Question) -> Check:
    return between(rule, "micro_batch", asked.plan.learning.micro_batch, 1, asked.policy.training.micro_batch.at_most)


def _tokens(rule: str, asked: Question) -> Check:
    """Of one record, and of all that are in memory at once."""
    rules, learning = asked.policy.training, asked.plan.learning
    read, at_once, most = learning.max_tokens, learning.micro_tokens, rules.tokens.at_most
    one = between(rule, "max_tokens", read, LEAST_TOKENS, most)
    if at_once is None:
        return one
    longest, largest = min(max(read, LEAST_TOKENS), most), most * rules.micro_batch.at_most
    together = between(rule, "micro_tokens", at_once, longest, largest)
    return both(one, together, f"{read}, {at_once} at once", f"{one.limit}, {together.limit} at once")


def _kind(rule: str, asked: Question) -> Check:
    kind = AdapterKind(asked.plan.adapter.kind)
    return one_of(rule, "kind", kind.value, tuple(each.value for each in asked.policy.training.adapters))


def _factors(rule: str, asked: Question) -> Check:
    """Return which factors move, where the kind has factors."""
    kind, moves = AdapterKind(asked.plan.adapter.kind), AdapterRule(asked.plan.adapter.rule)
    allowed = asked.policy.training.rules if kind.has_factors else (AdapterRule.B_ONLY,)
    return one_of(rule, "rule", moves.value, tuple(each.value for each in allowed))


def _modules(rule: str, asked: Question) -> Check:
    """Return which layers, where the kind has layers. In the last blocks alone it sits on some of them."""
    adapter, kind = asked.plan.adapter, AdapterKind(asked.plan.adapter.kind)
    if kind.has_targets:
        return all_of(rule, "target", adapter.targets, asked.policy.training.modules)
    if adapter.layers is not None and not kind.has_layers:
        limit = f"no choice of blocks for kind {kind.value}"
        return Check(rule, False, f"layers: last {adapter.layers}", limit, "leave layers out")
    targets = listed(sorted(set(adapter.targets)))
    fix = f"leave out every target of {targets}"
    return Check(rule, not adapter.targets, targets, f"no layer for kind {kind.value}", fix)


def _rank(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """Return how large, where the kind has a rank."""
    adapter, highest = asked.plan.adapter, asked.policy.training.rank.at_most
    if AdapterKind(adapter.kind) is AdapterKind.HEAD:
        return ()
    fix = f"lower rank to {highest}" if adapter.rank > highest else "raise rank to 1"
    return Check(rule, 1 <= adapter.rank <= highest, str(adapter.rank), f"1 to {highest}", fix)


def _base_models(rule: str, asked: Question) -> Check:
    model, allowed = asked.plan.model, asked.policy.training.base_models
    return Check(
        rule, _is_allowed(model, allowed), f"{model.name} ({DIGEST}{model.digest.hex()[:16]}...)", listed(allowed),
        f"use the model {' or '.join(allowed)}" if allowed else NOTHING,
    )  # fmt: skip


def _is_allowed(model: Model, allowed: tuple[str, ...]) -> bool:
    """By content or by name; a model that is only *named* like a digest is not the one the policy pins."""
    by_name = model.name in allowed and not model.name.startswith(DIGEST)
    return ANY_MODEL in allowed or by_name or f"{DIGEST}{model.digest.hex()}" in allowed


_LEARNING, _ADAPTER = "plan.learning", "plan.adapter"
TRAINING = (
    Rule("training.mechanisms", (f"{_LEARNING}.event",), ("training.mechanisms",), _mechanism),
    Rule("training.clip", (f"{_LEARNING}.clip_l2",), ("training.clip.at_most",), _clip),
    Rule("training.clipping", (f"{_LEARNING}.clipping", f"{_LEARNING}.event"), ("training.clipping",), _clipping),
    Rule("training.noise_multiplier", (f"{_LEARNING}.event",), ("training.noise_multiplier.at_least",), _noise),
    Rule(
        "training.event", (f"{_LEARNING}.event", f"{_LEARNING}.clip_l2", "plan.dimension", "plan.cover.encoding"), (),
        _event,
    ),
    Rule("training.losses", (f"{_LEARNING}.loss",), ("training.losses",), _loss),
    Rule("training.optimizers", (f"{_LEARNING}.optimizer",), ("training.optimizers",), _optimizer),
    Rule(
        "training.learning_rate", (f"{_LEARNING}.learning_rate",),
        ("training.learning_rate.at_least", "training.learning_rate.at_most"), _learning_rate,
    ),
    Rule("training.divisor", (f"{_LEARNING}.divisor",), ("training.divisor.at_most",), _divisor),
    Rule("training.micro_batch", (f"{_LEARNING}.micro_batch",), ("training.micro_batch.at_most",), _micro_batch),
    Rule(
        "training.tokens", (f"{_LEARNING}.max_tokens", f"{_LEARNING}.micro_tokens"),
        ("training.tokens.at_most", "training.micro_batch.at_most"), _tokens,
    ),
    Rule("training.adapters", (f"{_ADAPTER}.kind",), ("training.adapters",), _kind),
    Rule("training.rules", (f"{_ADAPTER}.rule", f"{_ADAPTER}.kind"), ("training.rules",), _factors),
    Rule(
        "training.modules", (f"{_ADAPTER}.targets", f"{_ADAPTER}.kind", f"{_ADAPTER}.layers"), ("training.modules",),
        _modules,
    ),
    Rule("training.rank", (f"{_ADAPTER}.rank", f"{_ADAPTER}.kind"), ("training.rank.at_most",), _rank),
    Rule("training.base_models", ("plan.model.name", "plan.model.digest"), ("training.base_models",), _base_models),
)  # fmt: skip
