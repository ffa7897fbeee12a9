"""Client-level privacy: shares that are what they are priced as, sums that carry enough of them, and one unit an account."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import cbor2
import dp_accounting
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from securefl import wire
from securefl.errors import Malformed
from securefl.privacy import accountant, calibration
from securefl.privacy.account import Account, AccountFault
from securefl.protocol import coordinator_state
from securefl.terms import (
    Accountant,
    DistributedDiscreteGaussian,
    Event,
    FixedPoint,
    Hash,
    Level,
    Limit,
    MicroEpsilon,
    MixedUnits,
    PoissonGaussian,
    Reserved,
    RunId,
    Scheme,
    Settled,
    SumOpened,
    Unbounded,
    micro_epsilon,
)
from tests.protection.test_noise_share import GOOD, events, short
from tests.support.worlds import World, seat

DELTA = 1e-5
RECORD = PoissonGaussian(F(1, 10), F(1), 3)


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

    noise = calibration.calibrate_shares(target, DELTA, event, rounds)
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


CHARGES = st.lists(st.tuples(st.sampled_from("def"), st.sampled_from("pq"), st.integers(1, 3)), min_size=1, max_size=5)


def promised(federation: str, dataset: str, run: RunId) -> tuple[Limit, ...]:
    """What a federation says of each level; each has limits and a delta of its own."""
    most, delta = MicroEpsilon(10**9 + ord(federation)), F(1, 10**5 + ord(federation))
    named = (Level.DATASET, dataset), (Level.FEDERATION, federation), (Level.RUN, run.hex())
    return tuple(Limit(level, name, most, delta, Accountant.FILTER, federation) for level, name in named)


@given(CHARGES)
@settings(max_examples=30)
def test_over_how_many_data_sets_a_member_is_hidden_changes_no_price(several):
    """The neighbour of unit client is all of a member: its releases add up, whatever its accounts are called."""
    spread, together = Account(), Account()
    for number, (dataset, federation, run) in enumerate(several, 1):
        plan = replace(a_plan(GOOD, number), federation=federation, run=RunId(bytes([run]) * 16))
        told = accountant.price(plan, spread, dataset, DELTA, promised(federation, dataset, plan.run))
        on_one = accountant.price(plan, together, "d", DELTA, promised(federation, "d", plan.run))
        assert (told.round, told.after, told.above) == (on_one.round, on_one.after, on_one.above)
        assert [replace(cap, name="") for cap in told.caps] == [replace(cap, name="") for cap in on_one.caps]
        least = min(float(cap.delta) for cap in told.caps if cap.level is Level.DATASET)
        assert told.after[Level.DATASET] == micro_epsilon(accountant.epsilon([GOOD] * number, least))
        spread = spread.apply(Reserved(plan, dataset, told, bytes(16)))
        together = together.apply(Reserved(plan, "d", on_one, bytes(16)))


def test_what_hides_records_on_another_data_set_adds_nothing_to_what_hides_the_member():
    alone = accountant.price(a_plan(GOOD, 2), Account(), "another data set", DELTA)
    beside_records = accountant.price(a_plan(GOOD, 2), charged(a_plan(RECORD)), "another data set", DELTA)
    assert beside_records.after == alone.after
    records = accountant.price(a_plan(RECORD, 2), charged(a_plan(GOOD)), "another data set", DELTA)
    assert records.after == accountant.price(a_plan(RECORD, 2), Account(), "another data set", DELTA).after


@pytest.mark.parametrize("did", [RECORD, replace(GOOD, honest=3), replace(GOOD, clip_l2=F(1, 4)), replace(GOOD, noise_multiplier=F(2)), replace(GOOD, dimension=5)])  # fmt: skip
def test_another_mechanism_than_was_reserved_cannot_be_settled(did):
    plan = a_plan(GOOD)
    with pytest.raises(AccountFault, match="may cost less than"):
        charged(plan).apply(Settled(wire.plan_hash(plan), did))


def has_a_price(event) -> bool:
    try:
        accountant.epsilon([event], DELTA)
    except Unbounded:
        return False
    return True


@given(events, events)
def test_what_is_settled_is_charged_and_costs_at_least_what_was_reserved_of_the_same_sum(reserved, other):
    did = replace(reserved, noise_multiplier=other.noise_multiplier)
    assume(has_a_price(reserved) and has_a_price(did))
    plan = replace(a_plan(reserved), dimension=reserved.dimension)
    settled = Settled(wire.plan_hash(plan), did)
    if did.noise_multiplier > reserved.noise_multiplier:
        with pytest.raises(AccountFault, match="may cost less than"):
            charged(plan).apply(settled)
        return
    (charge,) = charged(plan).apply(settled).charges
    assert charge.event == did
    assert accountant.epsilon([did], DELTA) >= accountant.epsilon([reserved], DELTA)


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
