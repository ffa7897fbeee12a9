"""Prices stand in ledgers and are computed again by auditors: what they are made of is fixed, number by number."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.privacy import accountant
from securefl.privacy.account import Standing
from securefl.privacy.accountant import epsilon_filter, epsilon_pld, epsilon_rdp, interval_of
from securefl.terms import PoissonGaussian, Unbounded

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

    assert accountant._bounded(events(50_001), DELTA) == epsilon_rdp(events(50_001), DELTA)
    assert accountant._bounded(events(50_000), DELTA) == epsilon_pld(events(50_000), DELTA)
    assert epsilon_pld(events(50_000), DELTA) < epsilon_rdp(events(50_000), DELTA)
    one = (PoissonGaussian(Fraction(1), Fraction(1, 50), 1),)
    assert accountant._bounded(one, DELTA) == epsilon_rdp(one, DELTA) > 1000


def test_what_became_of_a_charge_has_the_names_that_accounts_are_known_by() -> None:
    assert {each.name: each.value for each in Standing} == {
        "RESERVED": "reserved", "SETTLED": "settled", "FREED": "freed",
    }  # fmt: skip
