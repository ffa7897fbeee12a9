"""A member's share of noise: drawn as its price says, and in every integer that leaves the member."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction as F

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securefl import keys
from securefl.errors import Unsafe
from securefl.keys import Secret
from securefl.protection import fixed_point, noise_share, schemes
from securefl.terms import DistributedDiscreteGaussian, FixedPoint, Scheme, Update
from tests.support.worlds import World, an_update, identity, seat

GOOD = DistributedDiscreteGaussian(F(1, 2), F(1), 2, 6, 12, F(1, 4), 3)
events = st.builds(
    DistributedDiscreteGaussian, st.fractions(F(1, 8), 4, max_denominator=64), st.fractions(F(1, 2), 20, max_denominator=64),
    st.integers(1, 12), st.integers(1, 10**6), st.integers(10, 16), st.just(F(1, 4)), st.integers(1, 5),
)  # fmt: skip


def fresh() -> Secret:
    return Secret(os.urandom(32))


# The sampler.


@pytest.mark.parametrize("deviation", [F(1), F(7, 2), F(300, 7)])
def test_drawn_shares_follow_their_distribution(deviation):
    drawn = noise_share.draw(fresh(), 200_000, deviation)
    bins = np.arange(-math.ceil(3 * deviation), math.ceil(3 * deviation) + 1)
    weights = np.exp(
        -(np.arange(-math.ceil(14 * deviation), math.ceil(14 * deviation) + 1) ** 2) / (2 * float(deviation) ** 2)
    )
    chance = {k: w / weights.sum() for k, w in zip(range(-len(weights) // 2 + 1, len(weights)), weights, strict=False)}
    counted = Counter(drawn.tolist())
    observed = [counted[int(k)] for k in bins]
    expected = [200_000 * chance[int(k)] for k in bins]
    observed.append(200_000 - sum(observed))
    expected.append(200_000 - sum(expected))
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    assert abs(drawn).max() <= math.ceil(14 * deviation) + 1


@pytest.mark.parametrize("deviation", [F(1), F(7, 2), F(40)])
def test_a_table_is_as_close_to_the_ideal_as_the_price_counts(deviation):
    made = noise_share.table(deviation)
    event = replace(GOOD, honest=1, dimension=1)
    reach = math.ceil(14 * deviation) + 1
    assert len(made.high) == reach
    with localcontext(prec=80):
        weights = [
            (-(Decimal(k) ** 2) * deviation.denominator**2 / (2 * Decimal(deviation.numerator) ** 2)).exp()
            for k in range(2 * reach)
        ]
        total = weights[0] + 2 * sum(weights[1:])
        ideal = [weights[0] / total, *(2 * weight / total for weight in weights[1:])]
        ends = [0, *((int(h) << 64) + int(low) for h, low in zip(made.high, made.low, strict=True)), 1 << 128]
        drawn = [Decimal(b - a) / (1 << 128) for a, b in zip(ends, ends[1:], strict=False)] + [Decimal(0)] * (reach - 1)
        distance = sum(abs(a - b) for a, b in zip(ideal, drawn, strict=True)) / 2
        assert distance <= Decimal(reach + 1) / (1 << 128)
    assert event.defect == F(event.reach + 1, 1 << 128)


def test_a_share_has_a_key_of_its_own_and_two_numbers_for_each_value() -> None:
    """``rand`` also makes the box's key, so it draws no noise itself; signs and absolute values share no bit of it."""
    rand, deviation = Secret(bytes(range(32))), F(9, 2)
    key = keys.derive(rand, "noise-share").raw
    drawn = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 20 + 3))
    made = noise_share.table(deviation)
    thresholds = [(int(h) << 64) + int(x) for h, x in zip(made.high, made.low, strict=True)]
    words = [int.from_bytes(drawn[8 * n : 8 * n + 8], "little") for n in range(20)]
    signs = "".join(f"{byte:08b}" for byte in drawn[160:])
    expected = [
        bisect_right(thresholds, word << 64) * (-1 if s == "1" else 1) for word, s in zip(words, signs, strict=False)
    ]
    assert noise_share.draw(rand, 20, deviation).tolist() == expected


@given(st.integers(0, 60), st.integers(-2, 2), st.integers(0, 2**64 - 1))
def test_the_lower_bits_decide_where_the_upper_ones_do_not(index, beside, low):
    made = noise_share.table(F(9, 2))
    thresholds = [(int(h) << 64) + int(x) for h, x in zip(made.high, made.low, strict=True)]
    word = min(max(int(made.high[index % len(made.high)]) + beside, 0), 2**64 - 1)
    found = noise_share.absolute(made, np.array([word], np.uint64), lambda: np.uint64(low))
    assert found[0] == bisect_right(thresholds, (word << 64) + low)


def test_shares_are_repeated_by_their_key_alone():
    key = fresh()
    assert np.array_equal(noise_share.draw(key, 1000, F(50)), noise_share.draw(key, 1000, F(50)))
    assert not np.array_equal(noise_share.draw(key, 1000, F(50)), noise_share.draw(fresh(), 1000, F(50)))
    both = [noise_share.draw(fresh(), 20_000, F(50)) for _ in range(2)]
    assert abs(np.corrcoef(both)[0, 1]) < 0.05


@pytest.mark.parametrize("deviation", [F(0), F(1, 2), F(2**16 + 1)])
def test_no_share_is_drawn_without_a_table_for_it(deviation):
    with pytest.raises(ValueError, match="no table"):
        noise_share.draw(fresh(), 3, deviation)


# What leaves a member.


def client_plan(scheme: Scheme = Scheme.MASKING, *, dimension: int = 6, members: str = "abcd", **changes):
    honest = 1 if scheme is Scheme.CLEAR else 2
    event = replace(GOOD, honest=honest, dimension=dimension, **changes)
    plan = World(scheme=scheme).coordinator.state.course.plan
    cover = replace(plan.cover, encoding=FixedPoint(24, event.fraction_bits, 32))
    learning = replace(plan.learning, event=event, clip_l2=event.clip_l2)
    return replace(plan, learning=learning, cover=cover, dimension=dimension, cohort=tuple(seat(n) for n in members))


def short(name: str, dimension: int) -> np.ndarray:
    drawn = an_update(name, 1, dimension)
    return drawn / np.linalg.norm(drawn) * 0.49


def test_a_sum_carries_a_share_of_everybody_in_it():
    plan = client_plan(dimension=30_000)
    sealed = {name: (fixed_point.encode_update(Update(short(name, 30_000), GOOD), plan, fresh())) for name in "abc"}
    noise = sum(sealed.values()) - sum(np.rint(short(name, 30_000) * 2**12) for name in sealed)
    expected = math.sqrt(3) * float(plan.learning.event.deviation)
    assert noise.std() == pytest.approx(expected, rel=0.03)
    assert expected >= float(plan.learning.event.noise_multiplier) * 0.5 * 2**12


@given(events, st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_an_update_with_its_share_always_fits_what_was_admitted(event, seed):
    event = replace(event, dimension=20, honest=2)
    plan = client_plan(dimension=20)
    learning = replace(plan.learning, event=event, clip_l2=event.clip_l2)
    plan = replace(plan, learning=learning, cover=replace(plan.cover, encoding=FixedPoint(24, event.fraction_bits, 32)))
    try:
        fixed_point.check_plan(plan)
    except Unsafe:
        assert event.longest >= 2**23 or event.deviation > noise_share.LARGEST
        return
    values = np.zeros(20)
    values[seed % 20] = float(event.clip_l2) * (1 - 2**-40)
    key = Secret(seed.to_bytes(32, "big"))
    assert abs(fixed_point.encode_update(Update(values, event), plan, key)).max() < 2**23


@pytest.mark.parametrize("value", [0.25, 1e300, math.nan, math.inf])
def test_an_update_longer_than_it_is_priced_at_is_brought_to_that_norm_and_never_refused(value):
    plan, rand = client_plan(), Secret(bytes(range(32)))
    noise = fixed_point.encode_update(Update(np.zeros(6), GOOD), plan, rand)
    sent = fixed_point.encode_update(Update(np.full(6, value), GOOD), plan, rand)
    norm = float(np.linalg.norm(sent - noise))
    assert norm <= GOOD.sensitivity
    assert norm == 0 if not math.isfinite(value) or value > 1e200 else norm > 0.9 * GOOD.clip_l2 * 2**GOOD.fraction_bits


@pytest.mark.parametrize("bits", range(10, 20))
def test_a_grid_holds_an_update_with_its_noise_or_is_refused(bits: int) -> None:
    plan = client_plan()
    plan = replace(plan, cover=replace(plan.cover, encoding=FixedPoint(bits, 12, 32)))
    longest = plan.learning.event.longest  # either way
    if -(2 ** (bits - 1)) <= -longest and longest <= 2 ** (bits - 1) - 1:
        fixed_point.check_plan(plan)
    else:
        with pytest.raises(Unsafe, match=f"more than {bits} bits hold"):
            fixed_point.check_plan(plan)


WRONG = {
    "more shares than are sure": lambda plan: changed_event(plan, honest=plan.cover.honest + 1),
    "another dimension": lambda plan: changed_event(plan, dimension=7),
    "another clip": lambda plan: changed_event(plan, clip_l2=F(1, 4)),
    "another grid": lambda plan: changed_event(plan, fraction_bits=11),
    "noise no table holds": lambda plan: changed_event(plan, noise_multiplier=F(1000)),
    "noise that wraps around": lambda plan: replace(plan, cover=replace(plan.cover, encoding=FixedPoint(14, 12, 32))),
}  # fmt: skip


def changed_event(plan, **changes):
    return replace(plan, learning=replace(plan.learning, event=replace(plan.learning.event, **changes)))


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_a_sum_with_less_noise_than_its_price_says_is_refused_at_both_ends(scheme, wrong):
    plan = client_plan(scheme)
    if scheme is not Scheme.CLEAR:  # each vector in the clear has one share
        assert plan.cover.honest == 2
    fixed_point.check_plan(plan)
    spoiled = WRONG[wrong](plan)
    with pytest.raises(Unsafe):
        schemes.member_half(scheme).admit("a", spoiled, fresh(), b"", b"", b"material")
    with pytest.raises(Unsafe):
        schemes.coordinator_half(scheme).open(spoiled, {}, ("custodian",), b"", {"custodian": b""})
    if scheme.has_custodian:
        with pytest.raises(Unsafe):
            schemes.key_holder(scheme, identity("custodian")).prepare(spoiled, fresh(), {}, {}, {})
