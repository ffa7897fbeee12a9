"""Client-level privacy: shares that are what they are priced as, sums that carry enough of them, and one unit an account."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction as F

import cbor2
import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securefl import wire
from securefl.errors import Malformed, Unsafe
from securefl.keys import Secret
from securefl.privacy import accountant
from securefl.privacy.account import Account, AccountFault
from securefl.protection import fixed_point, noise_share, schemes
from securefl.protocol import coordinator_state
from securefl.terms import (
    DistributedDiscreteGaussian,
    Event,
    FixedPoint,
    Hash,
    Level,
    MixedUnits,
    PoissonGaussian,
    Reserved,
    Scheme,
    Settled,
    SumOpened,
    Unbounded,
    Update,
)
from tests.support.worlds import World, an_update, identity, seat

DELTA = 1e-5
GOOD = DistributedDiscreteGaussian(F(1, 2), F(1), 2, 6, 12, F(1, 4), 3)
RECORD = PoissonGaussian(F(1, 10), F(1), 3)
events = st.builds(
    DistributedDiscreteGaussian, st.fractions(F(1, 8), 4, max_denominator=64), st.fractions(F(1, 2), 20, max_denominator=64),
    st.integers(1, 12), st.integers(1, 10**6), st.integers(10, 16), st.just(F(1, 4)), st.integers(1, 5),
)  # fmt: skip


def fresh() -> Secret:
    return Secret(os.urandom(32))


def share_cost(deviation: F, shares: int, sensitivity: int, dimension: int) -> float:
    """Proposition 14 once more, from numbers alone: half the square is the concentrated DP of a sum of such shares."""
    missing = sum(10 * math.exp(-2 * math.pi**2 * float(deviation) ** 2 * k / (k + 1)) for k in range(1, shares))
    return (sensitivity / math.sqrt(shares * float(deviation) ** 2) + math.sqrt(dimension) * missing) ** 2 / 2


# The event.


@pytest.mark.parametrize("noise", [F(0), F(-1), float("nan"), float("inf"), -math.inf, None, "1", F(1, 10**9)])
def test_an_event_without_noise_cannot_be_made(noise):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        replace(GOOD, noise_multiplier=noise)


@pytest.mark.parametrize("noise", [F(0), F(-1), F(1, 10**9), None, "1"])
def test_no_bytes_stand_for_an_event_without_noise(noise):
    name, clip, *rest = cbor2.loads(wire.encode(GOOD))
    spoiled = [name, clip, [noise.numerator, noise.denominator] if isinstance(noise, F) else noise, *rest[1:]]
    with pytest.raises(Malformed):
        wire.decode(cbor2.dumps(spoiled, canonical=True), Event)


@pytest.mark.parametrize("change", [{"clip_l2": F(0)}, {"honest": 0}, {"dimension": 0}, {"steps": 0}, {"fraction_bits": -1}, {"sampling_rate": F(2)}])  # fmt: skip
def test_an_event_that_means_nothing_cannot_be_made(change):
    with pytest.raises(ValueError):
        replace(GOOD, **change)


@given(st.one_of(events, st.just(RECORD)))
def test_an_event_of_either_unit_comes_back_from_its_bytes(event):
    assert wire.decode(wire.encode(event), Event) == event


@given(events, st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_clipped_and_rounded_update_is_never_longer_than_its_sensitivity(event, entries, seed):
    drawn = np.random.default_rng(seed).standard_normal(entries)
    clipped = drawn * (float(event.clip_l2) / np.linalg.norm(drawn))
    integers = np.rint(clipped * 2.0**event.fraction_bits)
    assert np.linalg.norm(integers) <= replace(event, dimension=entries).sensitivity


# The price.


@given(events)
def test_the_price_is_that_of_the_formula_and_no_less_than_a_gaussians(event):
    assert accountant.rho(event) == pytest.approx(
        share_cost(event.deviation, event.honest, event.sensitivity, event.dimension), rel=1e-9
    )
    try:
        found = accountant.epsilon([event], DELTA)
    except Unbounded:
        return
    rho = accountant.rho(event)
    assert found <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) + 1e-3  # Bun and Steinke (2016), which is looser
    if found < 30:
        noise = math.sqrt(event.honest) * float(event.deviation) / event.sensitivity
        assert found >= 0.999 * exact_gaussian(noise, DELTA)


def exact_gaussian(noise: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism (Balle and Wang 2018), which the discrete one is never better than."""

    def open_(epsilon: float) -> float:
        lower, upper = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        return stats.norm.cdf(lower) - math.exp(epsilon + stats.norm.logcdf(upper))

    low, high = 0.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if open_(middle) > delta else (low, middle)
    return high


@given(events, st.integers(1, 4), st.integers(0, 6), st.integers(0, 6), st.data())
def test_whoever_survives_and_colludes_the_realised_cost_is_at_most_the_claimed_one(
    event, honest, colluding, spare, data
):
    min_cohort = honest + colluding
    event = replace(event, honest=honest)
    survivors = data.draw(st.integers(min_cohort, min_cohort + spare))
    bad = data.draw(st.integers(0, colluding))  # of the survivors
    realised = share_cost(event.deviation, survivors - bad, event.sensitivity, event.dimension)
    assert realised <= accountant.rho(event) * (1 + 1e-12)


@given(events.filter(lambda event: event.honest > 1))
def test_a_share_too_few_would_cost_more(event):
    assert share_cost(event.deviation, event.honest - 1, event.sensitivity, event.dimension) > accountant.rho(event)


@pytest.mark.parametrize("deviation", [1.0, 1.3, 2.0, 5.0])
@pytest.mark.parametrize("shares", [1, 2, 3, 5, 8])
def test_a_real_sum_of_shares_diverges_no_more_than_the_price_says(deviation, shares):
    reach = math.ceil(30 * deviation)  # further than any sum is looked at
    one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    total = np.array([1.0])
    for _ in range(shares):
        total = np.convolve(total, one / one.sum())
    for moved in (1, 2, 5):
        rho = share_cost(F(deviation), shares, moved, 1)
        here, there = total[moved:], total[:-moved]
        kept = (here > 1e-250) & (there > 1e-250)
        for order in (1.1, 2, 3, 8):
            divergence = math.log(
                float(np.sum(np.exp(order * np.log(here[kept]) + (1 - order) * np.log(there[kept]))))
            ) / (order - 1)
            assert divergence <= order * rho + 1e-9


@given(st.lists(events, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_rounds_does_not_matter_and_one_more_never_costs_less(several, drawn):
    mixed = list(several)
    drawn.shuffle(mixed)
    try:
        found = accountant.epsilon(several, DELTA)
    except Unbounded:
        with pytest.raises(Unbounded):
            accountant.epsilon(mixed, DELTA)
        return
    assert accountant.epsilon(mixed, DELTA) == found == accountant.epsilon_rdp(several, DELTA)
    assert accountant.epsilon(several[:-1], DELTA) <= found


def test_the_library_asked_directly_agrees():
    several = [replace(GOOD, noise_multiplier=F(3)), replace(GOOD, noise_multiplier=F(5, 2))]
    neighbours = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    asked = dp_accounting.rdp.RdpAccountant(neighboring_relation=neighbours)
    for event in several:
        asked.compose(dp_accounting.GaussianDpEvent(math.sqrt(2) * float(event.deviation) / event.sensitivity))
    found = accountant.epsilon(several, DELTA)
    assert found == pytest.approx(asked.get_epsilon(DELTA), rel=5e-3)
    assert accountant.epsilon([], DELTA) == 0.0


@given(st.floats(0.5, 20), st.integers(1, 20), st.integers(1, 5))
@settings(max_examples=20)
def test_calibrated_noise_costs_at_most_the_target_and_wastes_nothing(target, rounds, honest):
    def event(noise: F) -> DistributedDiscreteGaussian:
        return DistributedDiscreteGaussian(F(1, 2), noise, honest, 1000, 14, F(1, 4), 1)

    noise = accountant.calibrate_shares(target, DELTA, event, rounds)
    assert 0.97 * target <= accountant.epsilon((event(noise),) * rounds, DELTA) <= target


def test_what_no_table_can_be_priced_at_is_refused():
    with pytest.raises(Unbounded, match="128-bit tables"):
        accountant.epsilon((replace(GOOD, noise_multiplier=F(1, 2)),) * 40, DELTA)


# Units stand side by side.


def a_plan(event: Event, round_: int = 1):
    plan = World().coordinator.state.course.plan
    return replace(
        plan, round=round_, learning=replace(plan.learning, event=event), cohort=tuple(seat(n) for n in "abcd")
    )


def charged(*plans) -> Account:
    price = accountant.price(plans[0], Account.of(()), "d", DELTA)
    return Account.of(Reserved(plan, "d", replace(price, plan=wire.plan_hash(plan)), bytes(16)) for plan in plans)


@pytest.mark.parametrize(("first", "then"), [(RECORD, GOOD), (GOOD, RECORD)])
def test_one_account_never_holds_both_units(first, then):
    with pytest.raises(MixedUnits, match="cannot stand on one account"):
        accountant.price(a_plan(then, 2), charged(a_plan(first)), "d", DELTA)
    elsewhere = replace(a_plan(then, 2), federation="another")
    assert accountant.price(elsewhere, charged(a_plan(first)), "another data set", DELTA).round > 0
    with pytest.raises(MixedUnits):
        accountant.epsilon([first, then], DELTA)


def test_a_round_more_is_priced_on_top():
    account = charged(a_plan(GOOD))
    told = accountant.price(a_plan(GOOD, 2), account, "d", DELTA)
    assert told.after[Level.DATASET] / 1e6 == pytest.approx(accountant.epsilon([GOOD, GOOD], DELTA), abs=2e-6)
    assert told.after[Level.DATASET] > told.round


@pytest.mark.parametrize("did", [RECORD, replace(GOOD, honest=3), replace(GOOD, clip_l2=F(1, 4)), replace(GOOD, noise_multiplier=F(2)), replace(GOOD, dimension=5)])  # fmt: skip
def test_another_mechanism_than_was_reserved_cannot_be_settled(did):
    plan = a_plan(GOOD)
    with pytest.raises(AccountFault, match="may cost less than"):
        charged(plan).apply(Settled(wire.plan_hash(plan), did))


@given(events, events)
def test_what_is_settled_is_charged_and_costs_at_least_what_was_reserved_of_the_same_sum(reserved, other):
    did = replace(reserved, noise_multiplier=other.noise_multiplier)
    plan = replace(a_plan(reserved), dimension=reserved.dimension)
    settled = Settled(wire.plan_hash(plan), did)
    if did.noise_multiplier > reserved.noise_multiplier:
        with pytest.raises(AccountFault, match="may cost less than"):
            charged(plan).apply(settled)
        return
    (charge,) = charged(plan).apply(settled).charges
    assert charge.event == did
    assert accountant.epsilon([did], DELTA) >= accountant.epsilon([reserved], DELTA)


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
        schemes.coordinator_half(scheme).open(spoiled, {}, {"custodian": b""}, {"custodian": b""})
    if scheme.has_custodian:
        with pytest.raises(Unsafe):
            schemes.key_holder(scheme, identity("custodian")).prepare(spoiled, fresh(), {}, {}, {})


# Whole rounds, with members that fall silent.


class Clients(World):
    """A federation whose members clip what they send; the encoding is the event's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        course = self.coordinator.state.course
        cover = replace(course.plan.cover, encoding=FixedPoint(24, self.event.fraction_bits, 32))
        course = replace(course, plan=replace(course.plan, cover=cover))
        self.coordinator.saved = wire.encode(coordinator_state.Planned(course))

    def update_of(self, name, round_):
        del round_
        return short(name, self.dimension)


@pytest.mark.parametrize("scheme", [scheme for scheme in Scheme if scheme is not Scheme.CLEAR])
@pytest.mark.parametrize("silent", ["", "d"])
def test_a_round_of_clients_ends_near_the_mean_of_clipped_updates_and_never_on_it(scheme, silent):
    world = Clients(scheme=scheme, rounds=1, event=replace(GOOD, noise_multiplier=F(1, 50)))
    world.lost = {(silent, "Propose")}
    ended = world.play()
    assert ended.outcome == "finished", ended.why
    (opening,) = [entry for entry in world.coordinator.entries if isinstance(entry, SumOpened)]
    survivors = [name for name in world.names if name != silent]
    assert opening.survivors == tuple(survivors)
    mean = sum(np.rint(short(name, 6) * 2**12) for name in survivors) / (len(survivors) * 2**12)
    away = world.reached(ended) - mean
    spread = math.sqrt(len(survivors)) * float(world.event.deviation) / (len(survivors) * 2**12)
    assert 0 < abs(away).max() < 6 * spread


def test_a_round_with_fewer_survivors_than_were_priced_opens_nothing():
    world = Clients(rounds=1, event=GOOD)
    world.lost = {("c", "Propose"), ("d", "Propose")}
    ended = world.play()
    assert (ended.outcome, ended.last_round) == ("aborted", 0)


def test_a_member_refuses_a_plan_that_counts_on_more_honest_shares_than_are_sure():
    world = Clients(rounds=1, event=replace(GOOD, honest=3))  # of 3 survivors, 1 may collude
    ended = world.play()
    assert ended.last_round == 0
    assert any("3 honest shares" in str(fault) for _, fault in world.faults)
    assert all(party.trained == 0 for party in world.parties.values())


def test_a_hash_of_nothing_is_no_event():
    with pytest.raises(Malformed):
        wire.decode(wire.encode(Hash(bytes(32))), Event)
