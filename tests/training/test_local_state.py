"""What a member kept is in no weight that leaves it: not its model, and of its weights before only what goes on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.strategy.member import MemberStrategy
from securefl.terms import Attention, FixedPoint, Plan, Sharing, Weighting
from securefl.training.local_state import own_weights
from tests.support.nested import LAYOUT
from tests.support.worlds import World

PLAN = World().coordinator.state.course.plan
ENTRIES = LAYOUT.entries
EIGHTHS = st.lists(st.integers(-64, 64), min_size=ENTRIES, max_size=ENTRIES)  # so that float32 adds them exactly
KEPT = Weighting(F(1, 3), F(1, 5), renewal=F(1, 2))


def state(eighths: list[int]) -> bytes:
    return (np.array(eighths) / 8).astype("<f4").tobytes()


def score(weighting: Weighting, base: bytes, moved: bytes) -> float:
    """Another number for any other states."""
    del weighting
    return int.from_bytes(hashlib.sha256(base + moved).digest()[:4]) / 2**32


def weights(
    plan: Plan, base: list[int], start: list[int], change: list[int], kept: bytes = b""
) -> tuple[object, bytes]:
    after = [a + b for a, b in zip(start, change, strict=True)]
    return own_weights(MemberStrategy(LAYOUT), plan, score, state(base), state(start), state(after), kept)


@given(EIGHTHS, EIGHTHS, EIGHTHS, EIGHTHS, st.sampled_from([F(1), F(1, 2)]), st.sampled_from([None, F(0), F(1, 3)]))
def test_a_weight_follows_from_the_broadcast_and_the_change_whatever_model_was_kept(
    base, one, other, change, renewal, pull
) -> None:
    plan = replace(PLAN, sharing=Sharing((Weighting(F(1), F(1, 5), renewal=renewal),), pull=pull))
    assert weights(plan, base, one, change) == weights(plan, base, other, change)


@given(EIGHTHS, EIGHTHS, EIGHTHS, EIGHTHS, st.booleans())
def test_attention_s_weights_and_all_else_that_leaves_do_so_too(base, one, other, change, residual) -> None:
    sharing = Sharing(attention=Attention(("l0",), F(5), F(1, 5), residual=residual))
    plan, half = replace(PLAN, sharing=sharing), MemberStrategy(LAYOUT, state([1] * ENTRIES))
    sent = [
        half.share(plan, state(base), state(begun), state([a + b for a, b in zip(begun, change, strict=True)]), ())
        for begun in (one, other)
    ]
    assert np.array_equal(*sent)


BEFORE = weights(replace(PLAN, sharing=Sharing((KEPT,))), [1] * ENTRIES, [2] * ENTRIES, [3] * ENTRIES)[1]


def of_round(sharing: Sharing, encoding: FixedPoint = PLAN.cover.encoding) -> Plan:
    return replace(PLAN, sharing=sharing, cover=replace(PLAN.cover, encoding=encoding))


def test_a_weight_goes_on_from_the_one_before() -> None:
    plan, states = of_round(Sharing((KEPT,))), ([0] * ENTRIES, [0] * ENTRIES, [1] * ENTRIES)
    assert BEFORE
    assert weights(plan, *states, BEFORE) != weights(plan, *states)


@pytest.mark.parametrize(
    "plan",
    [
        of_round(Sharing((replace(KEPT, sharpness=F(1, 4)),))),
        of_round(Sharing((replace(KEPT, clip=F(1, 6)),))),
        of_round(Sharing((replace(KEPT, renewal=F(1, 3)),))),
        of_round(Sharing((replace(KEPT, share=F(2)),))),
        of_round(Sharing((KEPT, KEPT))),
        of_round(Sharing((KEPT,)), replace(PLAN.cover.encoding, fraction_bits=PLAN.cover.encoding.fraction_bits - 1)),
    ],
)
def test_a_weight_that_was_kept_under_other_weightings_or_on_another_grid_counts_as_none(plan) -> None:
    """From sums under several clips, or on several grids, single weights could be solved for."""
    states = ([0] * ENTRIES, [0] * ENTRIES, [1] * ENTRIES)
    assert weights(plan, *states, BEFORE) == weights(plan, *states)


@given(st.binary(max_size=48))
def test_what_is_no_such_weight_counts_as_none(kept) -> None:
    plan, states = of_round(Sharing((KEPT,))), ([0] * ENTRIES, [0] * ENTRIES, [1] * ENTRIES)
    assert weights(plan, *states, kept) == weights(plan, *states)


def test_without_weights_nothing_is_scored_or_kept() -> None:
    assert weights(replace(PLAN, sharing=Sharing(pull=F(0))), [0], [0], [1], BEFORE) == ((), b"")
