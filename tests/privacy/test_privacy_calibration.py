"""Noise is calibrated to the least multiple of 1/10000 that a target pays for, in few questions; and what units mix."""

from __future__ import annotations

import logging
import math
from fractions import Fraction

import dp_accounting
import pytest
from dp_accounting import rdp
from hypothesis import example, given
from hypothesis import strategies as st

from securefl import wire
from securefl.privacy import accountant, calibration
from securefl.privacy.account import Account
from securefl.privacy.accountant import unit_of
from securefl.terms import DistributedDiscreteGaussian, MixedUnits, PoissonGaussian, Unbounded, Unit

RECORD = PoissonGaussian(Fraction(1, 100), Fraction(1), 10)
CLIENT = DistributedDiscreteGaussian(Fraction(1), Fraction(4), 3, 8, 16, Fraction(1), 1)
TICK = Fraction(1, 10_000)


def found(needed: float, power: float, target: float) -> tuple[Fraction, int]:
    """The noise that is found where ``needed`` is enough, and how many prices were asked for."""
    asked: list[Fraction] = []

    def cost(noise: Fraction) -> float:
        asked.append(noise)
        return target * (needed / float(noise)) ** power

    return calibration._least_noise(cost, target, "here"), len(asked)


@given(needed=st.floats(0.05, 1000), power=st.floats(0.5, 4), target=st.floats(1e-3, 100))
@example(needed=1000.0, power=1.0, target=1.0)
@example(needed=600.0, power=1.0, target=1.0)
@example(needed=1.0, power=1.0, target=1.0)
def test_the_least_noise_on_the_grid_that_the_target_pays_for_is_found_in_few_questions(
    needed: float, power: float, target: float
) -> None:
    noise, questions = found(needed, power, target)
    assert (noise / TICK).denominator == 1
    assert target * (needed / float(noise)) ** power <= target
    assert noise == Fraction(1001, 10_000) or target * (needed / float(noise - TICK)) ** power > target
    assert questions <= 40


@pytest.mark.parametrize("needed", [1000.1, 5000.0, 1e9])
def test_a_target_that_takes_more_noise_than_a_thousand_is_refused(needed: float) -> None:
    with pytest.raises(Unbounded, match="epsilon 1 here needs noise above 1000"):
        found(needed, 1.0, 1)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_target_is_refused(target: float) -> None:
    with pytest.raises(Unbounded, match=f"epsilon={target}"):
        calibration._least_noise(lambda _: 1.0, target, "here")


def test_a_cost_without_end_and_a_cost_of_nothing_are_on_either_side_of_every_target() -> None:
    wanted = Fraction(7, 2)
    assert calibration._least_noise(lambda noise: math.inf if noise < wanted else 0.0, 1.0, "here") == wanted


def test_events_hide_one_unit_or_are_not_put_together() -> None:
    assert unit_of([]) is None
    assert unit_of([RECORD, RECORD]) is Unit.RECORD
    assert unit_of([CLIENT]) is Unit.CLIENT
    for events in ([RECORD, CLIENT], [CLIENT, RECORD, RECORD]):
        with pytest.raises(MixedUnits):
            unit_of(events)
    with pytest.raises(MixedUnits):
        accountant.epsilon_pld([CLIENT], 1e-5)


def test_the_librarys_warnings_are_kept_quiet_and_no_longer_than_it_works() -> None:
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(ZeroDivisionError), accountant._quiet():
            assert log.level == logging.ERROR
            1 / 0
        assert log.level == logging.INFO
    finally:
        log.setLevel(before)


def test_an_account_is_named_by_its_charges_under_a_label_of_its_own() -> None:
    assert Account().digest == wire.digest("account", ())


@pytest.mark.parametrize(
    "event", [CLIENT, DistributedDiscreteGaussian(Fraction(1), Fraction(2), 3, 900, 0, Fraction(1), 1)]
)
def test_a_sum_of_shares_costs_its_formula_with_what_it_lacks_of_one_gaussian(
    event: DistributedDiscreteGaussian,
) -> None:
    deviation = float(event.deviation)
    missing = 10 * sum(math.exp(-2 * math.pi**2 * deviation**2 * k / (k + 1)) for k in (1, 2))
    scale = event.sensitivity / math.sqrt(3 * deviation**2)
    assert accountant.rho(event) == pytest.approx((scale + missing * math.sqrt(event.dimension)) ** 2 / 2, rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 3, 40])
def test_clients_are_priced_at_nearly_all_of_delta(rounds: int) -> None:
    by_library = rdp.RdpAccountant(
        [1 + 2 ** (n / 16 - 8) for n in range(320)], dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    by_library.compose(dp_accounting.ZCDpEvent(rho=rounds * accountant.rho(CLIENT)))
    expected = by_library.get_epsilon(1e-5 * (1 - 1 / 1024))
    assert accountant.epsilon((CLIENT,) * rounds, 1e-5) == pytest.approx(expected, abs=2e-9)
