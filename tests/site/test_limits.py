"""A site's own limits: a plan is refused if and only if it is beyond one of them, by that one's name."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from securefl.documents.site_parts import LimitsPart
from securefl.site.limits import Limits, bytes_beside_the_model, sharing_of, tokens_at_once
from securefl.terms import (
    Adapter,
    Attention,
    CrossEntropy,
    FixedPoint,
    Hash,
    Learning,
    NotTrueDistillation,
    Patience,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    PseudoLabels,
    RunId,
    Scheme,
    Scorer,
    Sharing,
    SoftLabels,
    Task,
    Weighting,
    rules,
)
from tests.support.worlds import MODEL

LOSSES = {
    "own-label": CrossEntropy(),
    "fedntd": NotTrueDistillation(Fraction(1), Fraction(1), False),
    "fedlsd": NotTrueDistillation(Fraction(1), Fraction(1), True),
    "soft-labels": SoftLabels(Fraction(1), Fraction(1), Fraction(0), Fraction(1), 2),
    "pseudo-labels": PseudoLabels(Fraction(1), Scorer.ENERGY, Fraction(1), Fraction(1), 2),
}
SHARING = {
    (): Sharing(),
    ("weights",): Sharing(weightings=(Weighting(Fraction(1), Fraction(1)),)),
    ("home",): Sharing(home=("head",)),
    ("pull",): Sharing(pull=Fraction(1, 3)),
    ("home", "pull"): Sharing(home=("head",), pull=Fraction(0)),
    ("weights", "home"): Sharing(weightings=(Weighting(Fraction(1), Fraction(1)),), home=("head",)),
    ("attention",): Sharing(attention=Attention(("head",), Fraction(1), Fraction(1))),
}
SMALL = st.integers(1, 40)
EVENT = PoissonGaussian(Fraction(1, 10), Fraction(1), 4)


def a_plan() -> Plan:
    learning = Learning(EVENT, Fraction(1, 2), 100, Fraction(1), "sgd", 48, 32)
    cover = ProtectionSpec(Scheme.MASKING, 3, 2, 0, FixedPoint(24, 20, 32), None)
    return Plan(
        "f", Hash(bytes(32)), RunId(bytes(16)), 1, "test", MODEL, Task("classification", ("x", "y")),
        Adapter(("query",), 8, 16, 1), learning, cover, (), ("weights",), Hash(bytes(32)), 100,
    )  # fmt: skip


RATE = st.builds(Fraction, st.integers(1, 20), st.integers(1, 20))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    made = a_plan()
    most = draw(SMALL)
    learning = replace(
        made.learning, max_tokens=most, micro_batch=draw(SMALL), learning_rate=draw(RATE),
        micro_tokens=draw(st.none() | st.integers(most, 400)), loss=LOSSES[draw(st.sampled_from(sorted(LOSSES)))],
    )  # fmt: skip
    sharing = SHARING[draw(st.sampled_from(sorted(SHARING)))]
    patience = Patience(enrol_s=draw(SMALL), train_s=draw(SMALL), ask_s=draw(SMALL))
    return replace(made, learning=learning, sharing=sharing, dimension=draw(st.integers(1, 1000)), patience=patience)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    rates = sorted(draw(st.tuples(RATE, RATE)))
    chosen = {
        "losses": draw(st.lists(st.sampled_from(sorted(LOSSES)), unique=True)),
        "sharing": draw(st.lists(st.sampled_from(["weights", "home", "pull", "attention"]), unique=True)),
        "learning_rate": {"at_least": rates[0], "at_most": rates[1]},
        "micro_batch": {"at_most": draw(SMALL)},
        "tokens": {"at_most": draw(st.integers(1, 900))},
        "memory": {"at_most": draw(st.integers(1, 90_000))},
        "patience": {"at_most": draw(st.integers(1, 200))},
    }
    given_ = draw(st.sets(st.sampled_from(sorted(chosen))))
    return Limits(LimitsPart.model_validate({name: chosen[name] for name in given_}), draw(SMALL), draw(st.booleans()))


def beyond(held: Limits, plan: Plan) -> set[str]:
    """The limits a plan does not keep, said another way than the code says it."""
    part, learning = held.part, plan.learning
    loss = next(name for name, each in LOSSES.items() if each == learning.loss)
    shared = next(names for names, each in SHARING.items() if each == plan.sharing)
    at_once = min(x for x in (learning.micro_batch * learning.max_tokens, learning.micro_tokens) if x is not None)
    rate = part.learning_rate
    broken = {
        "site.tokens": learning.max_tokens != held.reads or (part.tokens is not None and at_once > part.tokens.at_most),
        "site.losses": part.losses is not None and loss not in part.losses,
        "site.labels": held.unlabelled and loss != "soft-labels",
        "site.sharing": part.sharing is not None and not set(shared) <= set(part.sharing),
        "site.learning_rate": rate is not None and not rate.at_least <= learning.learning_rate <= rate.at_most,
        "site.patience": part.patience is not None
        and plan.patience.enrol_s + plan.patience.train_s + 2 * plan.patience.ask_s > part.patience.at_most,
        "site.micro_batch": part.micro_batch is not None and learning.micro_batch > part.micro_batch.at_most,
        "site.memory": part.memory is not None
        and 4 * plan.dimension * (learning.micro_batch + 24) > part.memory.at_most,
    }
    return {name for name, is_broken in broken.items() if is_broken}


@given(limits(), plans())
def test_a_plan_is_refused_if_and_only_if_it_is_beyond_a_limit_and_by_each_such_name(held: Limits, plan: Plan) -> None:
    refusal = held.refusal(plan)
    assert {reason.rule for reason in (refusal.reasons if refusal else ())} == beyond(held, plan)
    assert all(reason.fix for reason in (refusal.reasons if refusal else ()))


@given(plans())
def test_without_limits_only_the_length_that_records_are_known_by_is_held(plan: Plan) -> None:
    part = LimitsPart.model_validate({})
    assert Limits(part, plan.learning.max_tokens).refusal(plan) is None
    assert Limits(part, plan.learning.max_tokens + 1).refusal(plan) is not None


@given(limits(), plans())
def test_a_batch_that_is_told_to_fit_in_memory_fits(held: Limits, plan: Plan) -> None:
    refusal = held.refusal(plan)
    for reason in refusal.reasons if refusal else ():
        if reason.rule == "site.memory" and reason.fix.startswith("lower micro_batch to "):
            batch = int(reason.fix.rpartition(" ")[2])
            smaller = replace(plan, learning=replace(plan.learning, micro_batch=batch))
            assert bytes_beside_the_model(smaller) <= held.part.memory.at_most
            assert batch < plan.learning.micro_batch


def test_names_of_limits_are_names_of_decisions() -> None:
    assert {f"site.{name}" for name in LimitsPart.model_fields if name != "kept"} <= rules.DECISIONS, (
        "which refuses nothing"
    )


def test_what_a_plan_asks_is_said_by_the_names_of_the_document() -> None:
    for names, sharing in SHARING.items():
        assert sharing_of(replace(a_plan(), sharing=sharing)) == names
    assert tokens_at_once(a_plan()) == a_plan().learning.micro_batch * a_plan().learning.max_tokens
