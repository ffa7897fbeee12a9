"""Noise on the grid is a true Gaussian's, exactly: no end, no levels, and no part that the price leaves out."""

import math
import os
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securefl.terms import PoissonGaussian
from securefl.training import noise, rounded_gaussian
from securefl.training.noise import ClippedSum, grid, noised, repeatable
from securefl.training.rounded_gaussian import EDGE, TOLERANCE, approximate, exactly, normal, rounded

WORD = 1 << 64
WORDS = st.one_of(
    st.integers(0, WORD - 1),
    st.sampled_from([0, 1, 2, EDGE - 1, EDGE, EDGE + 1, WORD - EDGE, WORD - 2, WORD - 1, WORD // 2, WORD // 4]),
    st.integers(EDGE, 4 * EDGE),
    st.integers(WORD - 4 * EDGE, WORD - 1),
)


def behind(radius, angle, tail=1):
    """The same words with 192 bits of ``tail`` behind each, and then zeros."""
    assert 0 < tail < 1 << 192, "a radius of nothing but zeros is infinite"

    def more(pair, words):
        shift = 64 * (words - 4)
        return ((int(radius[pair]) << 192) | tail) << shift, ((int(angle[pair]) << 192) | tail) << shift

    return more


@given(WORDS, WORDS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_more_bits_only_ever_narrow_what_a_value_can_be(radius, angle, sine):
    words = 1
    low, high = normal(radius, angle, words, sine)
    for words in (2, 4, 8):
        shift = 64 * (words - 1)
        inner, outer = normal(radius << shift, angle << shift, words, sine)
        slack = F(1, 1 << 60)
        assert low - slack <= inner <= outer <= high + slack
    if radius:
        assert outer - inner < F(1, 1 << 400)


@given(WORDS, WORDS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_whole_numbers_give_what_64_bit_floats_give_nearly(radius, angle, sine):
    low, high = normal(radius << 192 | 1 << 191, angle << 192, 4, sine)
    u, turn = (radius + 0.5) / 2.0**64, 2 * math.pi * (angle / WORD)
    longest = math.sqrt(-2 * math.log(u)) if u < 0.9 else math.sqrt(-2 * math.log1p(-((WORD - radius - 0.5) / WORD)))
    assert float(low) == pytest.approx(longest * (math.sin(turn) if sine else math.cos(turn)), abs=1e-7)
    assert low <= high


@given(st.integers(EDGE, WORD - EDGE), WORDS, st.integers(0, 1 << 192))
@settings(max_examples=500, deadline=None)
def test_the_error_of_float64_is_an_eighth_of_what_is_allowed_for_it(radius, angle, tail):
    """Whatever bits come behind: the words decide only where even this error could not change the rounding."""
    found = approximate(np.array([radius], np.uint64), np.array([angle], np.uint64))
    for value, sine in zip(found, (False, True), strict=True):
        for end in normal((radius << 192) + min(tail, (1 << 192) - 1), (angle << 192) + tail % (1 << 192), 4, sine):
            assert abs(end - F(float(value))) < F(TOLERANCE) / 8


@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6), st.floats(-1e9, 1e9), st.integers(1, (1 << 192) - 1),
    st.sampled_from([F(1, 3), F(2**19), F(2**20 * 7, 5), F(2**40)]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_block_rounds_as_whole_numbers_do(pairs, centre, tail, deviation):
    radius, angle = (np.array(column, np.uint64) for column in zip(*pairs, strict=True))
    more = behind(radius, angle, tail)
    found = rounded(np.full(2 * len(pairs), centre), deviation, radius, angle, more)
    one_by_one = [
        exactly(F(centre), deviation, sine, pair, more) for sine in (False, True) for pair in range(len(pairs))
    ]
    assert found.tolist() == one_by_one


def test_a_value_next_to_where_rounding_changes_is_decided_by_bits_that_64_do_not_have():
    radius, angle = np.array([WORD // 3], np.uint64), np.array([WORD // 7], np.uint64)
    value, _ = normal(int(radius[0]) << 192 | 1 << 191, int(angle[0]) << 192 | 1 << 191, 4, sine=False)
    deviation = F(2**20)
    centre = F(float(F(1, 2) - value * deviation))  # so that the sum is next to 1/2
    outcomes = {
        exactly(centre, deviation, False, 0, behind(radius, angle, tail))  # noqa: FBT003
        for tail in (1, 1 << 191, (1 << 192) - 1)
    } | {float(rounded(np.array([float(centre)]), deviation, radius, angle, behind(radius, angle))[0])}
    assert outcomes <= {0, 1, -1}
    assert rounded(np.array([float(centre)]), deviation, radius, angle, behind(radius, angle))[0] == exactly(
        centre,
        deviation,
        False,
        0,
        behind(radius, angle),  # noqa: FBT003
    )


def test_the_tail_does_not_end_where_64_bits_do(monkeypatch):
    """Where every bit that is asked for is 0, the value is as far out as the bits that were drawn, not 8.57 or 9.42."""
    monkeypatch.setattr(noise, "_words", lambda key, stream, size: np.full(size, 1 if stream else 0, np.uint64))
    step = grid(F(1))
    furthest = float(noised(ClippedSum(np.zeros(2), F(1)), PoissonGaussian(F(1), F(1), 1), os.urandom).values.max())
    assert furthest == pytest.approx(math.sqrt(2 * 128 * math.log(2)), abs=step)


def test_radii_far_out_lie_no_further_apart_than_the_grid(monkeypatch):
    """At 8.5 deviations 64 bits are 30 grid steps apart, and 53 bits thousands; now each step is reached."""
    event, clip, size = PoissonGaussian(F(1), F(1), 1), F(1), 64
    lead = 1 << 12

    def words(key, stream, count):
        if stream:
            return np.frombuffer(os.urandom(8 * count), "<u8")
        return np.concatenate([np.full(count // 2, lead, np.uint64), np.zeros(count - count // 2, np.uint64)])

    monkeypatch.setattr(noise, "_words", words)
    found = {
        float(value)
        for _ in range(4)
        for value in noised(ClippedSum(np.zeros(2 * size), clip), event, os.urandom).values[:size]
    }
    assert len(found) > 20, "one leading word spans 30 grid steps"


def test_on_a_coarse_grid_every_whole_number_has_the_mass_of_its_cell():
    words = np.frombuffer(repeatable("cells")(16 * 200_000), "<u8").astype(np.uint64)
    radius, angle = words[:200_000], words[200_000:]
    found = rounded(np.full(400_000, 0.3), F(3, 2), radius, angle, behind(radius, angle, 12345))
    edges = np.arange(-5, 7) - 0.5
    expected = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]), 0.3, 1.5)) * 400_000
    counted = np.bincount(np.clip(found, -6, 6).astype(int) + 6, minlength=13)
    assert stats.chisquare(counted, expected).pvalue > 1e-4


def test_fresh_entropy_is_asked_for_once_for_each_sum():
    asked = []

    def rand(size):
        asked.append(size)
        return os.urandom(size)

    noised(ClippedSum(np.zeros(100_000), F(1)), PoissonGaussian(F(1), F(1), 1), rand)
    assert asked == [32]
    assert rounded_gaussian.BLOCK < 50_000, "more than one block was drawn"
