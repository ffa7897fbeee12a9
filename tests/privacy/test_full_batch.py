"""Sums over every record are plain Gaussian mechanisms: held against their closed form, which shares no code with a price."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.errors import Malformed
from securefl.privacy.account import Account, AccountFault, bound_of, in_order
from securefl.privacy.accountant import epsilon_filter, epsilon_pld, epsilon_rdp
from securefl.privacy.calibration import calibrate
from securefl.terms import Accountant, Event, FullBatchGaussian, Level, PoissonGaussian, Unit, covering
from tests.privacy.test_privacy_account import a_charge, a_plan, reserved, settled

DELTA = 1e-5
noises = st.sampled_from([F(3), F(7, 2), F(5), F(40)])
fulls = st.builds(FullBatchGaussian, noises, st.integers(1, 9))
sampled = st.builds(PoissonGaussian, st.sampled_from([F(1, 100), F(1, 4), F(1)]), noises, st.integers(1, 40))
few = settings(max_examples=3, deadline=None)


def phi(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def closed_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang (2018), theorem 8: of one Gaussian whose sensitivity is ``mu`` deviations."""
    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


def mu_of(*events: FullBatchGaussian) -> float:
    """Dong, Roth and Su (2022), corollary 3.3: Gaussians compose to one Gaussian."""
    return math.sqrt(sum(event.steps / float(event.noise_multiplier) ** 2 for event in events))


@few
@given(st.lists(fulls, min_size=1, max_size=9))
def test_any_number_of_full_batches_costs_what_the_closed_form_says_and_never_less(events):
    epsilon, mu = epsilon_pld(events, DELTA), mu_of(*events)
    assert closed_delta(epsilon, mu) <= DELTA, "an upper bound"
    assert closed_delta(epsilon * (1 - 1e-4) - 1e-5, mu) > DELTA, "a tight one"
    assert epsilon <= epsilon_rdp(events, DELTA)
    assert epsilon <= epsilon_filter(events, DELTA)


@few
@given(st.lists(fulls, min_size=1, max_size=3), st.lists(sampled, max_size=1), st.randoms())
def test_the_order_of_full_batches_and_samples_changes_no_bit_and_more_never_costs_less(full, drawn, shuffled):
    mixed: list[Event] = [*full, *drawn]
    shuffled.shuffle(mixed)
    for cost in (epsilon_pld, epsilon_filter):
        assert cost(mixed, DELTA) == cost([*drawn, *full], DELTA)
        assert cost(mixed, DELTA) >= cost(full, DELTA)
        assert cost(mixed, DELTA) >= cost(drawn, DELTA)


def test_a_full_batch_costs_more_than_any_sample_and_no_more_than_one_at_rate_one():
    noise = F(8)
    full = epsilon_pld([FullBatchGaussian(noise, 8)], DELTA)
    assert full > 1.5 * epsilon_pld([PoissonGaussian(F(1, 2), noise, 8)], DELTA), "nothing is amplified"
    at_one = epsilon_pld([PoissonGaussian(F(1), noise, 8)], DELTA)
    assert full <= at_one + 1e-9
    assert full == pytest.approx(at_one, rel=2e-3)


def test_noise_for_full_batches_is_the_least_that_the_closed_form_allows():
    noise = calibrate(3.0, DELTA, None, 40)
    assert closed_delta(3.0, mu_of(FullBatchGaussian(noise, 40))) <= DELTA
    assert closed_delta(3.0, mu_of(FullBatchGaussian(noise - F(4, 10**4), 40))) > DELTA


def test_a_rate_is_no_field_of_a_full_batch_and_nobody_can_give_it_one():
    full = FullBatchGaussian(F(9, 10), 4)
    assert (full.sampling_rate, full.unit) == (F(1), Unit.RECORD)
    with pytest.raises(TypeError):
        FullBatchGaussian(F(9, 10), 4, sampling_rate=F(1, 8))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        replace(full, sampling_rate=F(1, 8))
    with pytest.raises((AttributeError, TypeError)):
        full.sampling_rate = F(1, 8)  # type: ignore[misc]
    assert wire.decode(wire.encode(full), Event) == full
    smuggled = wire.encode(PoissonGaussian(F(1, 8), F(9, 10), 4)).replace(b"PoissonGaussian", b"FullBatchGaussian")
    smuggled = smuggled.replace(b"\x6fFull", b"\x71Full")
    assert b"\x71FullBatchGaussian" in smuggled
    with pytest.raises(Malformed):
        wire.decode(smuggled, Event)


@pytest.mark.parametrize(("noise", "steps"), [(F(0), 1), (F(-1), 1), (F(1, 2**33), 1), (1.0, 1), (True, 1), (F(1), 0)])
def test_a_full_batch_without_noise_or_steps_cannot_be_made(noise, steps):
    with pytest.raises(ValueError, match=r"noise_multiplier|steps"):
        FullBatchGaussian(noise, steps)


@given(st.one_of(fulls, sampled), st.one_of(fulls, sampled))
def test_what_covers_two_events_is_at_least_each_in_sampling_noise_and_steps(priced, did):
    cover = covering(priced, did)
    for each in (priced, did):
        assert cover.sampling_rate >= each.sampling_rate
        assert cover.noise_multiplier <= each.noise_multiplier
        assert cover.steps >= each.steps
        assert isinstance(cover, FullBatchGaussian) or not isinstance(each, FullBatchGaussian)


def test_a_full_batch_is_not_settled_as_a_sample_and_a_sample_may_be_charged_as_a_full_batch():
    full, drawn = FullBatchGaussian(F(1), 4), PoissonGaussian(F(1, 8), F(1), 4)
    of_all, of_some = a_plan(1, full), a_plan(2, drawn)
    for cheaper in (drawn, replace(drawn, sampling_rate=F(1)), replace(full, noise_multiplier=F(2))):
        with pytest.raises(AccountFault):
            Account.of([reserved(of_all), replace(settled(of_all), did=cheaper)])
    (charge,) = Account.of([reserved(of_some), replace(settled(of_some), did=full)]).charges
    assert charge.event == full


def test_an_account_that_holds_both_is_held_by_the_filter():
    full, drawn = FullBatchGaussian(F(1), 4), PoissonGaussian(F(1), F(1), 4)
    alone = a_charge(1, event=full)
    assert bound_of((alone,), Level.RUN, "r", replace(full, steps=9)) is Accountant.PLD
    assert bound_of((alone,), Level.RUN, "r", drawn) is Accountant.FILTER
    assert bound_of((alone,), Level.RUN, "r", replace(full, noise_multiplier=F(2))) is Accountant.FILTER
    assert in_order([drawn, full]) == in_order([full, drawn])
