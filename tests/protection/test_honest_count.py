"""How unequal inputs may be, and how faint their noise: bounds that are never below the truth, and hardly above it."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction as F

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.errors import Unsafe
from securefl.protection import honest_count
from securefl.terms import FixedPoint, Plan, PoissonGaussian, Scheme, Sharing, Weighting
from tests.support.worlds import World, seat

PLAN = World(scheme=Scheme.CLEAR).coordinator.state.course.plan
UNEQUAL = Sharing((Weighting(F(1), F(1)), Weighting(F(-1), F(1))))  # two sums; weights differ by a factor of e**2


def a_plan(
    sharing: Sharing = Sharing(), members: int = 40, min_cohort: int = 40, fraction_bits: int = 16, **learning: object
) -> Plan:
    cover = replace(PLAN.cover, min_cohort=min_cohort, colluding=1, encoding=FixedPoint(24, fraction_bits, 32))
    cohort = tuple(seat(f"m{n:02d}") for n in range(members))
    return replace(PLAN, sharing=sharing, cover=cover, cohort=cohort, learning=replace(PLAN.learning, **learning))


@given(st.fractions(0, 16, max_denominator=10**6))
def test_a_ratio_of_weights_is_rounded_up_and_by_no_more_than_two_millionths(exponent: F) -> None:
    found = honest_count.exponential(exponent)
    with localcontext(prec=60):
        true = (Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
        assert true <= Decimal(found.numerator) / Decimal(found.denominator) <= true + Decimal("2e-6")


def test_equal_weights_have_the_ratio_one_and_no_more() -> None:
    assert honest_count.exponential(F(0)) == 1
    assert honest_count.weight_ratio(a_plan()) == 1


@given(st.integers(3, 30))
def test_the_ratio_on_the_grid_is_that_of_the_largest_and_the_least_rounded_weight(fraction_bits: int) -> None:
    found = honest_count.weight_ratio(a_plan(UNEQUAL, fraction_bits=fraction_bits))
    one = 2.0**fraction_bits
    assert found is not None
    assert float(found) == pytest.approx((one + 0.5) / (one * math.exp(-2) - 0.5), rel=1e-4)
    for least in (math.exp(-2), math.exp(-1.5)):  # a site whose weight is that, beside one of 1
        assert one / max(1, round(one * least)) <= found


def test_weights_that_a_coarse_grid_rounds_to_nothing_are_refused_whatever_the_cohort() -> None:
    """exp(-2) is 0.135: on a grid of a quarter it is 0, and such a sum holds the other member's update alone."""
    for fraction_bits in (0, 1):
        coarse = a_plan(UNEQUAL, fraction_bits=fraction_bits)
        assert honest_count.weight_ratio(coarse) is None
        with pytest.raises(Unsafe, match="the grid can round to nothing") as fault:
            honest_count.check(coarse)
        assert fault.value.rule == "protocol.few-honest"
    honest_count.check(a_plan(UNEQUAL, fraction_bits=16))


@pytest.mark.parametrize(("min_cohort", "enough"), [(24, True), (23, False)])
def test_every_sum_needs_one_honest_input_more_each_divided_by_the_ratio(min_cohort: int, enough: bool) -> None:
    """e**2 is 7.39, so (24 - 1) // 7.39 is 3, above the two sums; (23 - 1) // 7.39 is 2."""
    wrong = honest_count.few(a_plan(UNEQUAL, min_cohort=min_cohort))
    assert (wrong == "") is enough
    assert enough or "23, 1 colluding: 2, weights up to 7.39 : 1, too many for its honest inputs" in wrong


def test_a_cohort_of_colluders_alone_holds_no_honest_input() -> None:
    assert "too many for its honest inputs" in honest_count.few(a_plan(min_cohort=1))
    assert "too many for its honest inputs" in honest_count.few(a_plan(min_cohort=0))


def test_weights_that_members_keep_are_added_over_the_whole_cohort_alone() -> None:
    """From two sums over cohorts that differ by one, an input that did not change is solved for."""
    kept = Sharing((Weighting(F(1), F(1), renewal=F(1, 2)),))
    honest_count.check(a_plan(kept, members=40, min_cohort=40))
    for plan, members in ((a_plan(kept, members=41, min_cohort=40), None), (a_plan(kept, 40, 40), 41)):
        with pytest.raises(Unsafe, match="over any 40 of 41 members") as fault:
            honest_count.check(plan, members)
        assert fault.value.rule == "protocol.stale-input"


@given(
    st.fractions(F(1, 4), 10, max_denominator=50), st.fractions(F(1, 50), 3, max_denominator=50), st.integers(1, 60),
    st.integers(1, 500), st.integers(4, 24), st.sampled_from([Sharing(), UNEQUAL]),
)  # fmt: skip
def test_at_the_least_learning_rate_noise_has_one_grid_step_and_below_it_a_plan_is_refused(
    noise: F, clip: F, steps: int, divisor: int, fraction_bits: int, sharing: Sharing
) -> None:
    event = PoissonGaussian(F(1, 10), noise, steps)
    plan = a_plan(sharing, fraction_bits=fraction_bits, event=event, clip_l2=clip, divisor=divisor, optimizer="sgd")
    least = honest_count.least_rate(plan)
    weight = math.exp(-2) if sharing.weightings else 1.0
    moved = float(least * noise * clip) * math.sqrt(steps) / divisor * weight * 2.0**fraction_bits
    assert 1 - 1e-9 <= moved <= 1 + 1e-5  # standard deviation of the least weighted input's noise, in grid steps
    enough = replace(plan, learning=replace(plan.learning, learning_rate=least))
    assert honest_count.faint(enough) == ""
    below = replace(plan, learning=replace(plan.learning, learning_rate=least * F(999, 1000)))
    assert "noise that may be below the grid's" in honest_count.faint(below)


def test_adam_moves_by_its_rate_whatever_the_noise_is() -> None:
    for optimizer in ("adamw", "adamw-bc"):
        assert honest_count.least_rate(a_plan(fraction_bits=10, optimizer=optimizer)) == F(1, 1024)
    faint = a_plan(fraction_bits=10, optimizer="adamw", learning_rate=F(1, 1025))
    with pytest.raises(Unsafe) as fault:
        honest_count.check(faint)
    assert fault.value.rule == "protocol.faint-noise"
