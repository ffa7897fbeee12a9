"""What a federation below makes of its parent's plan, which an auditor derives again: a run, and how its rounds train."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.errors import PeerFault
from securefl.protocol.subfederation import learning_below, run_below
from securefl.terms import (
    Adapter,
    AdapterRule,
    DistributedDiscreteGaussian,
    MemberId,
    Plan,
    PseudoLabels,
    Scorer,
    SoftLabels,
)
from tests.support.worlds import World

PLAN: Plan = World().coordinator.state.course.plan  # type: ignore[attr-defined]
COUNT = st.integers(1, 50)


def plan(*, rule: AdapterRule = AdapterRule.B_ONLY, round_: int = 1, **learning: object) -> Plan:
    adapter: Adapter = replace(PLAN.adapter, rule=rule)
    return replace(PLAN, adapter=adapter, round=round_, learning=replace(PLAN.learning, **learning))


def test_a_run_below_has_one_name_for_each_plan_and_member() -> None:
    names = {run_below(plan(round_=round_), MemberId(name)) for round_ in (1, 2) for name in ("a", "b")}
    assert len(names) == 4
    assert {len(name) for name in names} == {16}
    assert run_below(plan(), MemberId("a")) == run_below(plan(), MemberId("a"))


@given(rounds=COUNT, each=COUNT, rule=st.sampled_from([AdapterRule.B_ONLY, AdapterRule.BOTH]))
def test_the_rounds_inside_share_out_the_steps_that_are_paid_for_and_change_nothing_else(
    rounds: int, each: int, rule: AdapterRule
) -> None:
    parent = plan(rule=rule, event=replace(PLAN.learning.event, steps=rounds * each))
    inside = learning_below(parent, rounds)
    assert inside == replace(parent.learning, event=replace(parent.learning.event, steps=each))


@given(rounds=COUNT, steps=st.integers(1, 200))
def test_no_step_is_trained_that_the_parent_did_not_pay_for(rounds: int, steps: int) -> None:
    parent = plan(event=replace(PLAN.learning.event, steps=steps))
    if steps % rounds == 0:
        assert learning_below(parent, rounds).event.steps * rounds == steps
    else:
        with pytest.raises(PeerFault, match=f"{steps} steps do not make {rounds} equal rounds"):
            learning_below(parent, rounds)


@pytest.mark.parametrize("rule", [AdapterRule.ALTERNATING, AdapterRule.SVD])
def test_rules_that_count_rounds_do_not_go_down(rule: AdapterRule) -> None:
    with pytest.raises(PeerFault, match=f"rule {rule.value} counts rounds"):
        learning_below(plan(rule=rule), 1)


def test_the_price_of_one_members_update_does_not_go_down() -> None:
    event = DistributedDiscreteGaussian(Fraction(1), Fraction(4), 3, PLAN.dimension, 16, Fraction(1), 1)
    with pytest.raises(PeerFault, match="unit client prices one member's update"):
        learning_below(plan(event=event), 1)


@given(round_=COUNT, rounds=st.integers(1, 20), first=st.integers(0, 100), last=st.integers(0, 100))
def test_every_round_inside_has_the_threshold_of_the_parents_round(
    round_: int, rounds: int, first: int, last: int
) -> None:
    loss = SoftLabels(Fraction(1), Fraction(2), Fraction(first, 100), Fraction(last, 100), rounds)
    inside = learning_below(plan(round_=round_, loss=loss), 1).loss
    assert isinstance(inside, SoftLabels)
    assert (inside.weight, inside.temperature, inside.rounds) == (loss.weight, loss.temperature, 1)
    assert {inside.threshold(number) for number in range(1, 5)} == {loss.threshold(round_)}


@given(round_=COUNT, first=COUNT, inside=st.integers(1, 10))
def test_the_broadcast_is_asked_in_all_rounds_inside_or_in_none_as_in_the_parents_round(
    round_: int, first: int, inside: int
) -> None:
    loss = PseudoLabels(Fraction(1), Scorer.ENERGY, Fraction(1), Fraction(1), first)
    event = replace(PLAN.learning.event, steps=inside)
    below = learning_below(plan(round_=round_, loss=loss, event=event), inside).loss
    assert isinstance(below, PseudoLabels)
    assert replace(below, first=first) == loss
    asked = {number >= below.first for number in range(1, inside + 1)}
    assert asked == {round_ >= first}
