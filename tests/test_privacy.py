"""What training costs, and what an account may never do."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.privacy import accountant
from securefl.privacy.account import Account, AccountFault, Standing, compose
from securefl.terms import (
    Closed,
    Freed,
    Hash,
    Level,
    MicroEpsilon,
    PoissonGaussian,
    Price,
    Reserved,
    RunId,
    Settled,
    Unbounded,
    micro_epsilon,
)
from tests.worlds import World

EVENT = PoissonGaussian(Fraction(1, 100), Fraction(1), 1000)

# (rate, noise, steps, RDP, PLD) at delta 1e-5: figures of dp-accounting 0.6, to the digits shown.
KNOWN = [
    (Fraction(1, 100), Fraction(1), 1000, 2.101, 1.829),
    (Fraction(1, 100), Fraction(1), 2000, 2.8665, 2.5850),
    (Fraction(1, 50), Fraction(7, 10), 500, 7.664, 6.654),
    (Fraction(1, 10), Fraction(2), 200, 3.680, 3.360),
    (Fraction(1, 50), Fraction(1, 2), 100, 11.59, 9.69),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "rdp", "pld"), KNOWN)
def test_costs_are_the_known_ones(rate: Fraction, noise: Fraction, steps: int, rdp: float, pld: float) -> None:
    events = (PoissonGaussian(rate, noise, steps),)
    assert accountant.epsilon_rdp(events, 1e-5) == pytest.approx(rdp, rel=2e-3)
    assert accountant.epsilon_pld(events, 1e-5) == pytest.approx(pld, rel=2e-3)


def test_a_second_accountant_by_other_authors_agrees() -> None:
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(1.0, 0.01, 1000)]
    assert abs(other.get_epsilon(delta=1e-5) - accountant.epsilon_pld((EVENT,), 1e-5)) < 0.02


events = st.builds(
    PoissonGaussian,
    st.fractions(Fraction(1, 200), Fraction(1, 5), max_denominator=200),
    st.fractions(Fraction(3, 5), Fraction(4), max_denominator=20),
    st.integers(1, 200),
)


@given(st.lists(events, min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_order_does_not_matter_more_never_costs_less_and_pld_is_below_rdp(history: list[PoissonGaussian], drawn) -> None:
    whole = accountant.epsilon_pld(history, 1e-5)
    shuffled = list(history)
    drawn.shuffle(shuffled)
    assert accountant.epsilon_pld(shuffled, 1e-5) == whole
    assert accountant.epsilon_pld(history[1:], 1e-5) <= whole
    assert whole <= accountant.epsilon_rdp(history, 1e-5) + 1e-3


@given(st.lists(events, max_size=6))
def test_composing_keeps_every_step(history: list[PoissonGaussian]) -> None:
    assert sum(event.steps for event in compose(history)) == sum(event.steps for event in history)
    assert compose(reversed(history)) == compose(history)


@pytest.mark.parametrize(("target", "rate", "steps"), [(1, Fraction(1, 50), 200), (8, Fraction(1, 16), 160), (3, Fraction(1), 4)])
def test_calibrated_noise_reaches_its_target_and_not_more(target: float, rate: Fraction, steps: int) -> None:
    noise = accountant.calibrate(target, 1e-5, rate, steps)
    reached = accountant.epsilon_pld((PoissonGaussian(rate, noise, steps),), 1e-5)
    assert 0.97 * target <= reached <= target


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
def test_a_target_that_is_no_budget_is_refused(target: float) -> None:
    with pytest.raises(Unbounded):
        accountant.calibrate(target, 1e-5, Fraction(1, 10), 10)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(Unbounded):
        accountant.epsilon_pld((EVENT,), delta)


@pytest.mark.parametrize("noise", [Fraction(0), Fraction(-1)])
def test_an_event_without_noise_cannot_be_made(noise: Fraction) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        PoissonGaussian(Fraction(1, 10), noise, 1)


@pytest.mark.parametrize("noise", [None, "1", math.nan])
def test_an_event_with_noise_that_is_no_number_cannot_be_made(noise: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        PoissonGaussian(Fraction(1, 10), noise, 1)  # type: ignore[arg-type]


@given(st.floats(min_value=0, max_value=1e6))
def test_a_cost_is_never_understated(epsilon: float) -> None:
    assert Fraction(micro_epsilon(epsilon), 1_000_000) >= Fraction(epsilon)


@pytest.mark.parametrize("epsilon", [math.inf, -1.0, math.nan])
def test_what_cannot_be_bounded_has_no_price(epsilon: float) -> None:
    with pytest.raises(Unbounded):
        micro_epsilon(epsilon)


def reserved(round_: int, steps: int = 3) -> Reserved:
    base = World().coordinator.state.course.plan
    from dataclasses import replace

    learning = replace(base.learning, event=replace(base.learning.event, steps=steps))
    plan = replace(base, round=round_, learning=learning)
    price = Price(wire.plan_hash(plan), Hash(bytes(32)), MicroEpsilon(round_), {Level.DATASET: MicroEpsilon(1)})
    return Reserved(plan, "data", price, bytes(16))


moves = st.lists(st.tuples(st.sampled_from(["reserve", "settle", "settle less", "free", "other"]), st.integers(1, 5)), max_size=40)


@given(moves)
@settings(max_examples=150)
def test_no_sequence_of_entries_makes_the_spent_budget_smaller(sequence: list[tuple[str, int]]) -> None:
    account = Account()
    kept = []
    spent = 0
    for what, number in sequence:
        made = reserved(number)
        plan = wire.plan_hash(made.plan)
        event = made.plan.learning.event
        entry = {
            "reserve": made,
            "settle": Settled(plan, event),
            "settle less": Settled(plan, PoissonGaussian(event.sampling_rate, event.noise_multiplier, 1)),
            "free": Freed(plan, "nothing ran"),
            "other": Closed(RunId(bytes(16)), "aborted", ""),
        }[what]
        try:
            account = account.apply(entry)
        except AccountFault:
            continue
        kept.append(entry)
        settled = sum(charge.event.steps for charge in account.charges if charge.standing is Standing.SETTLED)
        assert settled >= spent
        spent = settled
    assert Account.of(kept) == account
    assert Account.of(kept).digest == account.digest
    standing = sum(event.steps for event in account.events(Level.DATASET, "data"))
    assert standing == sum(charge.event.steps for charge in account.charges if charge.standing is not Standing.FREED)


def test_a_plan_is_charged_once_whatever_became_of_it() -> None:
    made = reserved(1)
    plan = wire.plan_hash(made.plan)
    for after in ([], [Settled(plan, made.plan.learning.event)], [Freed(plan, "")]):
        with pytest.raises(AccountFault):
            Account.of([made, *after, made])


@pytest.mark.parametrize("did", [
    PoissonGaussian(Fraction(1, 10), Fraction(1), 4), PoissonGaussian(Fraction(1, 9), Fraction(1), 3), PoissonGaussian(Fraction(1, 10), Fraction(2), 3),
])  # fmt: skip
def test_more_or_other_than_was_reserved_is_not_settled(did: PoissonGaussian) -> None:
    made = reserved(1)
    with pytest.raises(AccountFault):
        Account.of([made, Settled(wire.plan_hash(made.plan), did)])


def test_the_order_of_charges_does_not_change_an_accounts_name() -> None:
    assert Account.of([reserved(1), reserved(2)]).digest == Account.of([reserved(2), reserved(1)]).digest
    assert Account.of([reserved(1)]).digest != Account.of([reserved(2)]).digest
