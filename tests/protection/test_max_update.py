"""No honest member's vector is longer than the plan's bound, and no sum that is longer than all of theirs is believed."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.errors import Forged
from securefl.protection import max_update
from securefl.terms import Aggregate, FixedPoint, MemberId, Plan, PoissonGaussian, Quantile, Scheme, Sharing, Weighting
from tests.protection.test_noise_share import GOOD
from tests.support.worlds import World

PLAN = World(scheme=Scheme.CLEAR).coordinator.state.course.plan
WIDE = FixedPoint(52, 30, 64)  # no bound below reaches the end of the grid
ROOM = (2.0**-21, 2.0**-19)  # for rounding: at least, at most
FAR = math.sqrt(2 * 89)  # a normal value is further off with a probability below 2**-128


def a_plan(event: PoissonGaussian, dimension: int, encoding: FixedPoint = WIDE, **learning: object) -> Plan:
    changed = replace(PLAN.learning, event=event, **learning)
    return replace(PLAN, learning=changed, dimension=dimension, cover=replace(PLAN.cover, encoding=encoding))


def is_just_above(found: float, exact: float, more: float = 0.0) -> bool:
    """Return whether there is room for rounding, and for no more than that and ``more``."""
    return exact * (1 + ROOM[0]) <= found <= exact * (1 + ROOM[1]) + more


@given(
    st.integers(1, 50), st.fractions(F(1, 10), 20, max_denominator=100), st.fractions(F(1, 100), 4, max_denominator=100),
    st.fractions(F(1, 1000), 1, max_denominator=1000), st.integers(1, 500), st.integers(1, 10**6),
    st.sampled_from([None, F(5, 4), F(10)]),
)  # fmt: skip
def test_sgd_moves_no_value_further_than_all_its_steps_samples_and_their_noise(
    steps: int, noise: F, clip: F, rate: F, divisor: int, dimension: int, counted: F | None
) -> None:
    quantile = {} if counted is None else {"clipping": Quantile(F(1, 2), F(1, 5), counted * noise)}
    plan = a_plan(
        PoissonGaussian(F(1, 10), noise, steps), dimension,
        clip_l2=clip, learning_rate=rate, divisor=divisor, optimizer="sgd", **quantile,
    )  # fmt: skip
    found = max_update.longest(plan)
    left = (
        1.0 if counted is None else math.sqrt(1 - float(1 / (2 * counted)) ** 2)
    )  # what the count leaves the gradient
    spread = float(noise) / left * math.sqrt(steps) / divisor
    grid = float(rate * clip * 2**30)  # a sample is at most eight divisors of records whose gradients all point one way
    assert is_just_above(found.entry, grid * (8 * steps + spread * FAR), more=1)
    l2 = grid * (8 * steps + spread * (math.sqrt(dimension) + FAR))
    assert is_just_above(found.l2, l2, more=math.sqrt(dimension)) or found.l2 == found.entry * math.sqrt(dimension)


@pytest.mark.parametrize(("optimizer", "rates"), [("adamw", 8), ("adamw-bc", 80)])
def test_adam_moves_a_value_by_so_many_learning_rates_a_step(optimizer: str, rates: int) -> None:
    plan = a_plan(PoissonGaussian(F(1, 10), F(1), 7), 400, learning_rate=F(1, 8), optimizer=optimizer)
    moved = rates * 7 * 2**27
    assert is_just_above(max_update.longest(plan).entry, moved, more=1)
    assert is_just_above(max_update.longest(plan).l2, moved * 20, more=20)


def test_a_weight_is_at_most_one_and_every_sum_of_a_round_is_counted() -> None:
    event = PoissonGaussian(F(1, 10), F(1), 1)
    plain = a_plan(event, 100, learning_rate=F(1, 2**40), optimizer="adamw", divisor=1)  # moves below a grid step
    assert max_update.longest(plain).entry < 2
    two = replace(plain, sharing=Sharing((Weighting(F(1), F(1)), Weighting(F(-1), F(1)))))
    assert max_update.longest(two).entry == 2**30 + 1
    assert math.sqrt(2) * 2**30 <= max_update.longest(two).l2 <= math.sqrt(2) * 2**30 + 11
    once = a_plan(event, 100, learning_rate=F(1), optimizer="sgd", divisor=500)
    twice = replace(once, sharing=two.sharing)
    assert max_update.longest(twice).l2 == pytest.approx(
        math.sqrt(2 * max_update.longest(once).l2 ** 2 + 2 * 2.0**60), rel=1e-6
    )


def test_a_bound_beyond_the_grid_is_that_of_the_grid() -> None:
    plan = a_plan(PoissonGaussian(F(1, 10), F(1), 9), 9, FixedPoint(24, 16, 32), learning_rate=F(10**6))
    assert max_update.longest(plan) == max_update.Longest(2.0**23, 3 * 2.0**23)


def test_under_unit_client_the_bound_is_the_clip_and_the_reach_of_the_noise() -> None:
    event = replace(GOOD, dimension=10**6, fraction_bits=20)
    found = max_update.longest(a_plan(event, 10**6, clip_l2=event.clip_l2))
    assert found.entry == event.longest
    # chi-square (Laurent and Massart 2000): beyond d + 2 sqrt(d x) + 2 x with a probability below exp(-x)
    spread = float(event.deviation) * math.sqrt(10**6 + 2 * math.sqrt(89 * 10**6) + 2 * 89)
    assert is_just_above(found.l2, event.sensitivity + spread)


def a_sum(plan: Plan, values: np.ndarray, members: int = 3) -> Aggregate:
    return Aggregate(values.astype(np.int64), tuple(MemberId(f"m{n}") for n in range(members)), plan.cover.encoding)


@pytest.mark.parametrize("client", [False, True])
def test_a_sum_of_the_longest_updates_is_believed_and_a_longer_one_is_poisoned(client: bool) -> None:
    event = replace(GOOD, dimension=400) if client else PoissonGaussian(F(1, 10), F(1), 3)
    changes = {"clip_l2": event.clip_l2} if client else {"learning_rate": F(1, 100)}
    plan = a_plan(event, 400, FixedPoint(24, 12, 32), optimizer="sgd", **changes)
    most = max_update.longest(plan)
    one, even = np.zeros(400), np.full(400, math.floor(3 * most.l2 / 20))
    one[7] = -math.floor(3 * most.entry)
    assert even[0] < most.entry * 3, "the norm alone bounds this one"
    for values in (np.zeros(400), one, even):
        max_update.check_sum(plan, a_sum(plan, values))
    for values, what in ((one - (np.arange(400) == 7) * 5, "a value of"), (even + 1, "a norm of")):
        with pytest.raises(Forged, match=what) as fault:
            max_update.check_sum(plan, a_sum(plan, values))
        assert fault.value.rule == "protocol.poisoned-sum"
    with pytest.raises(Forged, match="beyond 2 times"):  # of fewer members, the same is too long
        max_update.check_sum(plan, a_sum(plan, one, members=2))
