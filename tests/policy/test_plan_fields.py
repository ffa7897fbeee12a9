"""Every field of a plan is held by the site: by a rule of its policy, by what it knows itself, or by a fixed range.

A field that is new and held by nothing fails here.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import replace
from fractions import Fraction as F

import pytest

from audits.protection.hostile.fields import asked
from securefl.policy.rule_table import RULES
from securefl.terms import (
    AdapterKind,
    AdapterRule,
    Attention,
    Automatic,
    DistributedDiscreteGaussian,
    FixedPoint,
    FullBatchGaussian,
    Hash,
    Learning,
    MemberId,
    NotTrueDistillation,
    Patience,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    PseudoLabels,
    Quantile,
    Scheme,
    Scorer,
    Sharing,
    SoftLabels,
    Weighting,
    rules,
)

# The rule of the policy that holds a field, by which a plan is refused where it says something else.
BY_POLICY = {
    "Plan.federation": "federation", "Plan.policy": "policy", "Plan.purpose": "context.purposes", "Plan.model": "training.base_models",
    "Plan.adapter": "training.adapters", "Plan.learning": "training.mechanisms", "Plan.cover": "protection.schemes",
    "Plan.cohort": "protection.seats", "Plan.release": "release.fields", "Plan.sharing": "sharing.home", "Plan.base": "training.base",
    "Model.name": "training.base_models", "Model.digest": "training.base_models", "Adapter.targets": "training.modules",
    "Adapter.rank": "training.rank", "Adapter.kind": "training.adapters", "Adapter.rule": "training.rules", "Adapter.layers": "training.modules",
    "Learning.event": "training.mechanisms", "Learning.clip_l2": "training.clip", "Learning.divisor": "training.divisor",
    "Learning.learning_rate": "training.learning_rate", "Learning.optimizer": "training.optimizers", "Learning.max_tokens": "training.tokens",
    "Learning.micro_batch": "training.micro_batch", "Learning.clipping": "training.clipping", "Learning.micro_tokens": "training.tokens",
    "Learning.loss": "training.losses", "PoissonGaussian.sampling_rate": "budget.per_round.epsilon",
    "PoissonGaussian.noise_multiplier": "training.noise_multiplier", "PoissonGaussian.steps": "budget.per_round.epsilon",
    "FullBatchGaussian.noise_multiplier": "training.noise_multiplier", "FullBatchGaussian.steps": "budget.per_round.epsilon",
    "DistributedDiscreteGaussian.clip_l2": "training.event", "DistributedDiscreteGaussian.noise_multiplier": "training.noise_multiplier",
    "DistributedDiscreteGaussian.honest": "protection.honest_shares", "DistributedDiscreteGaussian.dimension": "training.event",
    "DistributedDiscreteGaussian.fraction_bits": "training.event",
    "ProtectionSpec.scheme": "protection.schemes", "ProtectionSpec.min_cohort": "protection.min_cohort", "ProtectionSpec.threshold": "protection.threshold",
    "ProtectionSpec.colluding": "protection.colluding", "ProtectionSpec.encoding": "protection.grid", "ProtectionSpec.custodian": "protection.custodian",
    "FixedPoint.value_bits": "protection.grid", "FixedPoint.fraction_bits": "protection.grid", "FixedPoint.ring_bits": "protection.capacity",
    "Participant.member": "protection.seats", "Participant.key": "protection.seats", "Participant.region": "context.regions",
    "Sharing.weightings": "sharing.weightings", "Sharing.home": "sharing.home", "Sharing.pull": "sharing.pull", "Sharing.attention": "sharing.attention",
    "Weighting.clip": "sharing.weight_ratio", "Weighting.sharpness": "sharing.weight_ratio", "Weighting.probe": "sharing.probes",
    "Attention.keys": "sharing.home", "Attention.sharpness": "sharing.weight_ratio", "Attention.clip": "sharing.weight_ratio",
    "Attention.residual": "protection.honest",
}  # fmt: skip
# What a member's own charter, session or model says: it compares, whatever the policy is.
BY_SITE = {
    "Plan.run": "protocol.another-run", "Plan.round": "protocol.replayed-round", "Plan.dimension": "training", "Plan.task": "training", "Plan.layout": "training", "Plan.start": "training",
    "Task.kind": "training", "Task.labels": "training", "Task.prompt": "training", "Prompt.pattern": "training", "Prompt.words": "training",
    "Adapter.alpha": "training", "Adapter.seed": "training", "Adapter.layer": "training", "Adapter.pooling": "training", "Adapter.features": "training",
    "Features.centered": "training", "Features.unit": "training", "Features.bias": "training", "Plan.patience": "site.patience",
}  # fmt: skip
# A value outside its range cannot be constructed, nor decoded.
_WEIGHTING, _SOFT = Weighting(F(1), F(1)), SoftLabels(F(1), F(1), F(0), F(1), 1)
_PSEUDO, _QUANTILE = PseudoLabels(F(1), Scorer.NONE, F(1), F(1), 1), Quantile(F(1, 2), F(1), F(1))
_CLIENT = DistributedDiscreteGaussian(F(1), F(1), 1, 1, 20, F(1), 1)
BY_RANGE = {
    "DistributedDiscreteGaussian.sampling_rate": (_CLIENT, F(2)), "DistributedDiscreteGaussian.steps": (_CLIENT, 0),
    "Automatic.gamma": (Automatic(F(1)), F(10**10)), "Quantile.target": (_QUANTILE, F(1)), "Quantile.rate": (_QUANTILE, F(2)),
    "Quantile.count_noise": (_QUANTILE, F(0)), "NotTrueDistillation.beta": (NotTrueDistillation(F(1), F(1), True), F(1001)),
    "NotTrueDistillation.temperature": (NotTrueDistillation(F(1), F(1), True), F(101)), "SoftLabels.weight": (_SOFT, F(1001)),
    "SoftLabels.temperature": (_SOFT, F(101)), "SoftLabels.first": (_SOFT, F(2)), "SoftLabels.last": (_SOFT, F(2)), "SoftLabels.rounds": (_SOFT, 0),
    "PseudoLabels.weight": (_PSEUDO, F(1001)), "PseudoLabels.temperature": (_PSEUDO, F(101)), "PseudoLabels.width": (_PSEUDO, F(1001)),
    **{f"Patience.{name}": (Patience(), -1) for name in ("quorum", "grace_s")},
    **{f"Patience.{name}": (Patience(), 0) for name in ("join_s", "enrol_s", "train_s", "ask_s", "close_s")},
    "PseudoLabels.first": (_PSEUDO, 0), "Weighting.share": (_WEIGHTING, F(11)), "Weighting.renewal": (_WEIGHTING, F(2)),
}  # fmt: skip
CLOSED = {"NotTrueDistillation.true_label", "PseudoLabels.scorer"}  # of so many values, each of which the loss allows


def fields_of(of: type, seen: set[type]) -> set[str]:
    """Every field of a type and of each dataclass that it is made of, as ``Type.field``."""
    seen.add(of)
    found = set()
    for name, hint in typing.get_type_hints(of).items():
        if name not in {field.name for field in dataclasses.fields(of)}:
            continue
        found.add(f"{of.__name__}.{name}")
        for part in parts_of(hint):
            if part not in seen:
                found |= fields_of(part, seen)
    return found


def parts_of(hint: object) -> set[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return {hint}
    return {part for each in typing.get_args(hint) for part in parts_of(each)}


def test_every_field_of_a_plan_has_one_holder():
    held = [*BY_POLICY, *BY_SITE, *BY_RANGE, *CLOSED]
    assert len(held) == len(set(held))
    assert set(held) == fields_of(Plan, set())
    assert set(BY_POLICY.values()) <= {rule.name for rule in RULES} and set(BY_SITE.values()) <= rules.KNOWN


@pytest.mark.parametrize("field", BY_RANGE)
def test_a_number_out_of_its_range_is_no_value(field):
    value, outside = BY_RANGE[field]
    with pytest.raises(ValueError, match=r"."):
        replace(value, **{field.partition(".")[2]: outside})


def turned(**changes) -> Plan:
    """The plan as agreed, with parts replaced."""
    from audits.protection.hostile.fields import agreed

    return replace(agreed()[1], **changes)


def learning(**changes) -> Learning:
    return replace(turned().learning, **changes)


def cover(**changes) -> ProtectionSpec:
    return replace(turned().cover, **changes)


def seats(**changes):
    first, *others = turned().cohort
    return (replace(first, **changes), *others)


def client(**changes) -> Plan:
    """A plan that hides clients: what else its policy refuses plays no part."""
    plan = turned()
    event = replace(
        DistributedDiscreteGaussian(
            plan.learning.clip_l2, F(4), max(1, plan.cover.honest), plan.dimension, 20, F(1, 8), 1
        ),
        **changes,
    )
    return replace(plan, learning=replace(plan.learning, event=event))


RECORD, OTHER = PoissonGaussian(F(1, 16), F(9), 1), Hash(b"x" * 32)
TURNS = {
    "Plan.federation": lambda: turned(federation="x"), "Plan.policy": lambda: turned(policy=OTHER), "Plan.purpose": lambda: turned(purpose="x"),
    "Plan.model": lambda: turned(model=replace(turned().model, name="x")), "Model.name": lambda: turned(model=replace(turned().model, name="x")),
    "Plan.adapter": lambda: turned(adapter=replace(turned().adapter, kind=AdapterKind.FULL)), "Plan.learning": lambda: client(), "Learning.event": lambda: client(),
    "Plan.cover": lambda: turned(cover=cover(scheme=Scheme.CLEAR)), "ProtectionSpec.scheme": lambda: turned(cover=cover(scheme=Scheme.BFV)),
    "Plan.cohort": lambda: turned(cohort=seats(member=turned().cohort[1].member)), "Plan.release": lambda: turned(release=("weights", "loss")),
    "Plan.sharing": lambda: turned(sharing=Sharing(home=("head",))), "Sharing.home": lambda: turned(sharing=Sharing(home=("head",))),
    "Adapter.targets": lambda: turned(adapter=replace(turned().adapter, targets=("pooler",))), "Adapter.rank": lambda: turned(adapter=replace(turned().adapter, rank=99)),
    "Adapter.kind": lambda: turned(adapter=replace(turned().adapter, kind=AdapterKind.PREFIX)), "Adapter.rule": lambda: turned(adapter=replace(turned().adapter, rule=AdapterRule.BOTH)),
    "Adapter.layers": lambda: turned(adapter=replace(turned().adapter, kind=AdapterKind.HEAD, targets=(), layers=2)),
    "Learning.clip_l2": lambda: turned(learning=learning(clip_l2=F(9))), "Learning.divisor": lambda: turned(learning=learning(divisor=10**6)),
    "Learning.learning_rate": lambda: turned(learning=learning(learning_rate=F(99))), "Learning.optimizer": lambda: turned(learning=learning(optimizer="x")),
    "Learning.max_tokens": lambda: turned(learning=learning(max_tokens=999)), "Learning.micro_batch": lambda: turned(learning=learning(micro_batch=999)),
    "Learning.clipping": lambda: turned(learning=learning(clipping=Quantile(F(1, 2), F(1), F(99)))), "Learning.micro_tokens": lambda: turned(learning=learning(micro_tokens=1)),
    "Learning.loss": lambda: turned(learning=learning(loss=_SOFT)),
    "PoissonGaussian.sampling_rate": lambda: turned(learning=learning(event=replace(RECORD, sampling_rate=F(1), steps=5000))),
    "PoissonGaussian.noise_multiplier": lambda: turned(learning=learning(event=replace(RECORD, noise_multiplier=F(1, 9)))),
    "PoissonGaussian.steps": lambda: turned(learning=learning(event=replace(RECORD, noise_multiplier=F(1), steps=10**5))),
    "FullBatchGaussian.noise_multiplier": lambda: turned(learning=learning(event=FullBatchGaussian(F(1, 9), 1))),
    "FullBatchGaussian.steps": lambda: turned(learning=learning(event=FullBatchGaussian(F(9), 5000))),
    "DistributedDiscreteGaussian.clip_l2": lambda: client(clip_l2=F(1, 9)), "DistributedDiscreteGaussian.noise_multiplier": lambda: client(noise_multiplier=F(2, 5)),
    "DistributedDiscreteGaussian.honest": lambda: client(honest=99), "DistributedDiscreteGaussian.dimension": lambda: client(dimension=1),
    "DistributedDiscreteGaussian.fraction_bits": lambda: client(fraction_bits=30),
    "ProtectionSpec.min_cohort": lambda: turned(cover=cover(min_cohort=2)), "ProtectionSpec.threshold": lambda: turned(cover=cover(threshold=2)), "ProtectionSpec.colluding": lambda: turned(cover=cover(colluding=0)),
    "ProtectionSpec.custodian": lambda: turned(cover=cover(scheme=Scheme.CKKS, custodian=turned().cohort[0].key)), "ProtectionSpec.encoding": lambda: turned(cover=cover(encoding=FixedPoint(24, 17, 64))),
    "FixedPoint.value_bits": lambda: turned(cover=cover(encoding=FixedPoint(30, 20, 64))), "FixedPoint.fraction_bits": lambda: turned(cover=cover(encoding=FixedPoint(24, 23, 64))),
    "FixedPoint.ring_bits": lambda: turned(cover=cover(encoding=FixedPoint(24, 20, 25))), "Participant.member": lambda: turned(cohort=seats(member=MemberId(turned().cohort[1].member))),
    "Participant.key": lambda: turned(cohort=seats(key=turned().cohort[1].key)), "Participant.region": lambda: turned(cohort=seats(region="x")),
    "Sharing.weightings": lambda: turned(sharing=Sharing((_WEIGHTING,))), "Sharing.pull": lambda: turned(sharing=Sharing(pull=F(0))),
    "Sharing.attention": lambda: turned(sharing=Sharing(attention=Attention(("x",), F(0), F(4)))), "Weighting.clip": lambda: turned(sharing=Sharing((replace(_WEIGHTING, clip=F(1, 100)),))),
    "Weighting.sharpness": lambda: turned(sharing=Sharing((replace(_WEIGHTING, sharpness=F(1, 100)),))), "Weighting.probe": lambda: turned(sharing=Sharing((replace(_WEIGHTING, probe=OTHER),))),
    "Attention.keys": lambda: turned(sharing=Sharing(attention=Attention(("x",), F(0), F(4)))), "Attention.sharpness": lambda: turned(sharing=Sharing(attention=Attention(("x",), F(1, 100), F(4)))),
    "Attention.clip": lambda: turned(sharing=Sharing(attention=Attention(("x",), F(1), F(1, 100)))),
    "Attention.residual": lambda: turned(cover=cover(min_cohort=3, colluding=1), sharing=Sharing(attention=Attention(("x",), F(0), F(4), residual=True))),
}  # fmt: skip
BY_BYTES = {"Plan.base", "Model.digest"}  # held by what is not in a plan: see test_base and test_policy_decide


@pytest.mark.parametrize("field", BY_POLICY)
def test_a_field_that_says_something_else_is_refused_by_its_rule(field):
    if field in BY_BYTES:
        assert field not in TURNS
        return
    assert asked(turned()) == set()
    assert BY_POLICY[field] in asked(TURNS[field]())


def test_base():
    assert "training.base" not in asked(turned(), bytes(4000))
    assert "training.base" in asked(turned(), b"\xff\xff\x7f\x7f" * 9)
