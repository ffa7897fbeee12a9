"""Prices stand in ledgers and are computed again by auditors: what they are made of is fixed, number by number."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.privacy import accountant
from securefl.privacy.account import Account, Standing
from securefl.privacy.accountant import (
    epsilon_charged,
    epsilon_filter,
    epsilon_pld,
    epsilon_rdp,
    epsilon_together,
    interval_of,
    price,
)
from securefl.terms import (
    Accountant,
    Level,
    Limit,
    MicroEpsilon,
    PoissonGaussian,
    Price,
    Reserved,
    RunId,
    Unbounded,
    micro_epsilon,
)
from tests.privacy.test_privacy_account import ZERO, a_plan, reserved

DELTA = 1e-5
ORDERS = (1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)  # of the filter, as ledgers were priced with them


def best(noise: float) -> tuple[float, int | float]:
    """The filter's epsilon of one Gaussian by its closed form, and the order that gives it."""
    part = DELTA / (len(ORDERS) + 1)
    return min((a / (2 * noise**2) + math.log1p(-1 / a) - math.log(part * a) / (a - 1), a) for a in ORDERS)


def test_each_order_of_the_filter_is_the_best_somewhere_and_is_priced_there() -> None:
    used = set()
    for tick in range(-9, 18):
        noise = Fraction(round(1.25**tick * 1000), 1000)
        expected, order = best(float(noise))
        used.add(order)
        assert epsilon_filter((PoissonGaussian(Fraction(1), noise, 1),), DELTA) == pytest.approx(expected, abs=1e-8)
    assert used == set(ORDERS)


@pytest.mark.parametrize("noise", ["1", "2", "5/2", "3", "5", "10", "15", "40"])
def test_the_smaller_a_price_the_finer_it_is_counted(noise: str) -> None:
    events = (PoissonGaussian(Fraction(1, 2), Fraction(noise), 5),)
    rough = epsilon_rdp(events, DELTA)
    assert interval_of(events, DELTA) == (1e-5 if rough <= 0.3 else 1e-4 if rough <= 2 else 1e-3)


def test_the_settings_above_have_prices_on_both_sides_of_each_bound() -> None:
    rough = [epsilon_rdp((PoissonGaussian(Fraction(1, 2), Fraction(n), 5),), DELTA) for n in ("5/2", 3, 10, 15)]
    assert 3 > rough[0] > 2 > rough[1] > 1.3 > rough[2] > 0.3 > rough[3]


@given(st.floats(0, 1e6))
def test_an_epsilon_is_rounded_outward_to_one_grid_by_less_than_a_billionth(found: float) -> None:
    priced = accountant._epsilon(SimpleNamespace(get_epsilon=lambda _: found), DELTA)
    assert round(priced * 2e9) / 2e9 == priced
    assert Fraction(2, 10**10) - Fraction(1, 10**9) <= Fraction(priced) - Fraction(found) - Fraction(found) / 2**50
    assert priced - found <= 7e-10 + found * 2**-50


@pytest.mark.parametrize("found", [-1e-9, math.inf, math.nan])
def test_what_is_no_epsilon_is_no_price(found: float) -> None:
    with pytest.raises(Unbounded):
        accountant._epsilon(SimpleNamespace(get_epsilon=lambda _: found), DELTA)


def test_nothing_costs_the_rounding_and_no_more() -> None:
    assert accountant._epsilon(SimpleNamespace(get_epsilon=lambda _: 0.0), DELTA) == 1 / 2e9


def test_beyond_so_many_steps_or_so_large_a_price_the_rougher_bound_holds() -> None:
    def events(steps: int, noise: int = 40) -> tuple[PoissonGaussian, ...]:
        return (PoissonGaussian(Fraction(1, 1000), Fraction(noise), steps),)

    assert accountant.bounded(events(50_001), DELTA) == epsilon_rdp(events(50_001), DELTA)
    assert accountant.bounded(events(50_000), DELTA) == epsilon_pld(events(50_000), DELTA)
    assert epsilon_pld(events(50_000), DELTA) < epsilon_rdp(events(50_000), DELTA)
    one = (PoissonGaussian(Fraction(1), Fraction(1, 50), 1),)
    assert accountant.bounded(one, DELTA) == epsilon_rdp(one, DELTA) > 1000


def test_what_became_of_a_charge_has_the_names_that_accounts_are_known_by() -> None:
    assert {each.name: each.value for each in Standing} == {
        "RESERVED": "reserved", "SETTLED": "settled", "FREED": "freed",
    }  # fmt: skip


EVENT = PoissonGaussian(Fraction(1, 100), Fraction(1), 10)


def a_limit(level: Level, name: str, by: str, delta: int = 5, bound: Accountant = Accountant.PLD) -> Limit:
    return Limit(level, name, MicroEpsilon(9), Fraction(1, 10**delta), bound, by)


def test_a_price_holds_each_level_at_the_least_delta_asked_there_and_hands_its_limits_on() -> None:
    plan, run = a_plan(2, EVENT), RunId(bytes(16)).hex()
    others = a_limit(Level.DATASET, "d", "g", delta=7)
    first = Reserved(
        a_plan(1, EVENT, "g"), "d", Price(wire.plan_hash(plan), ZERO, MicroEpsilon(5), {}, caps=(others,)), b""
    )
    account = Account.of([first, reserved(a_plan(3, EVENT), "e")])
    own = (
        a_limit(Level.DATASET, "d", "f"), a_limit(Level.FEDERATION, "f", "f", bound=Accountant.FILTER),
        a_limit(Level.RUN, run, "f", delta=6), a_limit(Level.FEDERATION, "above", "f", delta=4),
    )  # fmt: skip
    told = price(plan, account, "d", 1e-3, own)
    assert (told.plan, told.account) == (wire.plan_hash(plan), account.digest)
    assert told.round == micro_epsilon(epsilon_pld([EVENT], 1e-3))
    assert told.after == {
        Level.DATASET: micro_epsilon(epsilon_pld([EVENT, EVENT], 1e-7)),
        Level.FEDERATION: micro_epsilon(epsilon_filter([EVENT], 1e-5)),
        Level.RUN: micro_epsilon(epsilon_pld([EVENT, EVENT], 1e-6)),
    }
    assert told.above == {"above": micro_epsilon(epsilon_pld([EVENT], 1e-4))}
    assert told.caps == (own[0], others, *own[1:])


def test_what_nobody_limits_is_priced_at_the_delta_that_was_asked_for() -> None:
    told = price(a_plan(2, EVENT), Account(), "d", 1e-3)
    assert set(told.after.values()) == {told.round}
    assert (told.above, told.caps) == ({}, ())


def test_a_level_that_saw_another_mechanism_says_that_the_filter_held_it() -> None:
    louder = PoissonGaussian(Fraction(1, 100), Fraction(2), 10)
    account = Account.of([reserved(a_plan(1, louder), "d")])
    own = a_limit(Level.DATASET, "d", "f")
    told = price(a_plan(2, EVENT), account, "d", 1e-5, (own,))
    assert told.after[Level.DATASET] == micro_epsilon(epsilon_filter([EVENT, louder], 1e-5))
    assert told.caps == (a_limit(Level.DATASET, "d", "f", bound=Accountant.FILTER),)


@pytest.mark.parametrize("bound", list(Accountant))
def test_charges_together_cost_their_events_by_the_bound_that_holds_them(bound: Accountant) -> None:
    charges = Account.of([reserved(a_plan(number, EVENT), "d") for number in (1, 2)]).charges
    expected = (epsilon_pld if bound is Accountant.PLD else epsilon_filter)([EVENT, EVENT], DELTA)
    assert epsilon_charged(charges, DELTA, bound) == expected
    assert epsilon_charged(charges, DELTA) == epsilon_pld([EVENT, EVENT], DELTA)
    twice = PoissonGaussian(Fraction(1, 100), Fraction(1), 20)
    assert epsilon_together(charges, DELTA) == epsilon_pld([twice], DELTA)
    assert epsilon_together((), DELTA) == 0


@settings(max_examples=8)
@given(
    st.sampled_from([Fraction(1, 1000), Fraction(1, 100), Fraction(1, 10), Fraction(1)]),
    st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(4)]), st.integers(1, 20_000), st.integers(3, 14),
)  # fmt: skip
def test_no_price_is_above_either_of_its_two_bounds(rate: Fraction, noise: Fraction, steps: int, delta: int) -> None:
    """So no price that a site grants contradicts the second accountant of an audit, however small delta is."""
    events = (PoissonGaussian(rate, noise, steps),)
    found = accountant.bounded(events, 10.0**-delta)
    assert found <= epsilon_rdp(events, 10.0**-delta)
    assert found in (epsilon_pld(events, 10.0**-delta), epsilon_rdp(events, 10.0**-delta))


def test_at_a_tiny_delta_the_price_is_the_second_bound() -> None:
    events = (PoissonGaussian(Fraction(1, 1000), Fraction(1), 20_000),)
    assert epsilon_pld(events, 1e-13) > epsilon_rdp(events, 1e-13) == accountant.bounded(events, 1e-13)
    assert accountant.bounded(events, 1e-5) == epsilon_pld(events, 1e-5) < epsilon_rdp(events, 1e-5)
