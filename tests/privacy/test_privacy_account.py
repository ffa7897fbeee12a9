"""The account: whatever happens, in whatever order, nothing that ran is forgotten and nothing is charged twice."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import wire
from securefl.privacy.account import Account, AccountFault, Charge, Standing, bound_of, caps_of, in_order
from securefl.terms import (
    Accountant,
    Adapter,
    Closed,
    DistributedDiscreteGaussian,
    Entry,
    Event,
    FixedPoint,
    Hash,
    Learning,
    Level,
    Limit,
    MicroEpsilon,
    Model,
    Plan,
    PoissonGaussian,
    Price,
    ProtectionSpec,
    ReservationReleased,
    Reserved,
    RunId,
    Scheme,
    Settled,
    Task,
    Unit,
)

EVENT = PoissonGaussian(Fraction(1, 100), Fraction(1), 10)
ZERO = Hash(bytes(32))


def a_plan(number: int, event: PoissonGaussian = EVENT, federation: str = "f") -> Plan:
    return Plan(
        federation, ZERO, RunId(bytes(16)), number, "test", Model("m", ZERO), Task("classification", ("x",)),
        Adapter(("query",), 1, 1, 1), Learning(event, Fraction(1), 1, Fraction(1), "sgd", 1, 1),
        ProtectionSpec(Scheme.MASKING, 3, 3, 1, FixedPoint(24, 16, 32), None), (), ("weights",), ZERO, 1,
    )  # fmt: skip


def reserved(plan: Plan, dataset: str = "d") -> Reserved:
    price = Price(wire.plan_hash(plan), ZERO, MicroEpsilon(5), {})
    return Reserved(plan, dataset, price, bytes(16))


def settled(plan: Plan, **did: object) -> Settled:
    return Settled(wire.plan_hash(plan), replace(plan.learning.event, **did))


def freed(plan: Plan) -> ReservationReleased:
    return ReservationReleased(wire.plan_hash(plan), "nothing ran")


events = st.builds(
    PoissonGaussian,
    st.fractions(Fraction(1, 5), Fraction(1), max_denominator=5),
    st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(2)]),
    st.integers(1, 50),
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Plan, str, list[Entry]]]:
    """Some plans at two data sets of two federations; each reserved, then perhaps settled or freed."""
    made = []
    for number in range(draw(st.integers(0, 8))):
        plan = a_plan(number, draw(events), draw(st.sampled_from(["f", "g"])))
        steps = draw(st.integers(1, plan.learning.event.steps))
        after = draw(st.sampled_from([[], [settled(plan, steps=steps)], [freed(plan)]]))
        dataset = draw(st.sampled_from(["d", "e"]))
        made.append((plan, dataset, [reserved(plan, dataset), *after]))
    return made


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[tuple[Plan, str, list[Entry]]], list[Entry], list[Entry]]:
    """The same history in two orders; each plan's own entries stay in theirs."""
    history = draw(histories())
    orders = []
    for _ in range(2):
        queues = [list(entries) for _, _, entries in history]
        order: list[Entry] = []
        while any(queues):
            queue = draw(st.sampled_from([queue for queue in queues if queue]))
            order.append(queue.pop(0))
        orders.append(order)
    return history, orders[0], orders[1]


@given(interleavings())
def test_the_order_in_which_plans_run_changes_no_balance_and_no_name(case: tuple) -> None:
    _, one, other = case
    first, second = Account.of(one), Account.of(other)
    assert first.digest == second.digest
    for level, name in ((Level.DATASET, "d"), (Level.DATASET, "e"), (Level.FEDERATION, "f"), (Level.FEDERATION, "g")):
        assert first.events(level, name) == second.events(level, name)


@given(interleavings())
def test_an_account_holds_exactly_what_a_naive_count_holds(case: tuple) -> None:
    history, order, _ = case
    account = Account.of(order)
    for dataset in ("d", "e"):
        count: dict[tuple[Fraction, Fraction], int] = {}
        for plan, where, entries in history:
            if where != dataset or isinstance(entries[-1], ReservationReleased):
                continue
            event = entries[-1].did if isinstance(entries[-1], Settled) else plan.learning.event
            key = (event.sampling_rate, event.noise_multiplier)
            count[key] = count.get(key, 0) + event.steps
        told: dict[tuple[Fraction, Fraction], int] = {}
        for e in account.events(Level.DATASET, dataset):
            told[e.sampling_rate, e.noise_multiplier] = told.get((e.sampling_rate, e.noise_multiplier), 0) + e.steps
        assert told == count
    assert all(account.knows(wire.plan_hash(plan)) for plan, _, _ in history)
    assert not account.knows(ZERO)


@given(interleavings())
def test_folding_at_once_and_step_by_step_is_the_same(case: tuple) -> None:
    _, order, _ = case
    account = Account()
    for entry in order:
        before = account
        account = account.apply(entry)
        assert before.charges != account.charges
    assert account == Account.of(order)
    assert account.charges == Account.of(order).charges


@given(interleavings(), st.data())
def test_a_crash_at_any_point_leaves_at_least_what_had_run(case: tuple, data: st.DataObject) -> None:
    history, order, _ = case
    cut = order[: data.draw(st.integers(0, len(order)))]
    ran = sum(entry.did.steps for entry in cut if isinstance(entry, Settled))
    standing = [c for name in ("d", "e") for c in Account.of(cut).standing(Level.DATASET, name)]
    assert sum(charge.event.steps for charge in standing) >= ran
    open_plans = {c.plan for c in standing if c.standing is Standing.RESERVED}
    for plan, _, entries in history:
        if entries[0] in cut and not any(entry in cut for entry in entries[1:]):
            assert wire.plan_hash(plan) in open_plans, "a crash before settling leaves the reservation standing"


@given(interleavings())
def test_no_plan_is_ever_reserved_a_second_time_not_even_a_freed_one(case: tuple) -> None:
    history, order, _ = case
    account = Account.of(order)
    for plan, dataset, _ in history:
        with pytest.raises(AccountFault, match="reserved twice"):
            account.apply(reserved(plan, dataset))


@given(st.lists(events, max_size=8), st.randoms())
def test_events_have_one_order_however_they_came_and_none_is_lost(made: list[PoissonGaussian], drawn) -> None:
    mixed = list(made)
    drawn.shuffle(mixed)
    assert in_order(made) == in_order(mixed) == in_order(in_order(made))
    assert sorted(map(repr, in_order(made))) == sorted(map(repr, made))


PLAN = a_plan(1)
BAD = {
    "settled unreserved": ([settled(PLAN)], "no reservation"),
    "freed unreserved": ([freed(PLAN)], "no reservation"),
    "settled twice": ([reserved(PLAN), settled(PLAN), settled(PLAN)], "no reservation"),
    "freed after settling": ([reserved(PLAN), settled(PLAN), freed(PLAN)], "no reservation"),
    "settled after freeing": ([reserved(PLAN), freed(PLAN), settled(PLAN)], "no reservation"),
    "reserved after freeing": ([reserved(PLAN), freed(PLAN), reserved(PLAN)], "reserved twice"),
    "more noise": ([reserved(PLAN), settled(PLAN, noise_multiplier=Fraction(2))], "may cost less than"),
    "less noise, fewer steps": (
        [reserved(PLAN), settled(PLAN, noise_multiplier=Fraction(1, 2), steps=9)],
        "may cost less than",
    ),
    "a lower rate": ([reserved(PLAN), settled(PLAN, sampling_rate=Fraction(1, 200))], "may cost less than"),
}


@pytest.mark.parametrize("name", BAD)
def test_entries_no_honest_site_writes_are_refused(name: str) -> None:
    entries, why = BAD[name]
    with pytest.raises(AccountFault, match=why) as caught:
        Account.of(entries)
    assert caught.value.exit_code == 4


def test_what_stands_and_what_it_is_called_changes_with_each_step() -> None:
    names = [Account.of(entries).digest for entries in (
        [], [reserved(PLAN)], [reserved(PLAN), settled(PLAN)], [reserved(PLAN), settled(PLAN, steps=9)], [reserved(PLAN), freed(PLAN)],
    )]  # fmt: skip
    assert len(set(names)) == 5


def test_entries_that_are_not_about_money_change_nothing() -> None:
    account = Account.of([reserved(PLAN)])
    assert account.apply(Closed(RunId(bytes(16)), "finished", "")) is account


def test_an_account_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Account().by_plan = {}  # type: ignore[misc]


def a_limit(level: Level, name: str, by: str, epsilon: int = 1, bound: Accountant = Accountant.PLD) -> Limit:
    return Limit(level, name, MicroEpsilon(epsilon), Fraction(1, 10**5), bound, by)


def a_charge(number: int, *caps: Limit, event: Event = EVENT, federation: str = "f") -> Charge:
    return Charge(
        Hash(bytes([number]) * 32), federation, "d", RunId(bytes(16)), number, event, MicroEpsilon(5),
        Standing.RESERVED, caps,
    )  # fmt: skip


CLIENTS = DistributedDiscreteGaussian(Fraction(1), Fraction(4), 3, 8, 16, Fraction(1), 1)
OTHER_NOISE = replace(EVENT, noise_multiplier=Fraction(2))
ASKED = a_limit(Level.RUN, "r", "f", bound=Accountant.FILTER)


@pytest.mark.parametrize(
    ("charges", "more", "bound"),
    [
        ((), (), Accountant.PLD),
        ((), (EVENT,), Accountant.PLD),
        ((), (CLIENTS,), Accountant.FILTER),
        ((a_charge(1, event=CLIENTS),), (), Accountant.FILTER),
        ((a_charge(1), a_charge(2, event=replace(EVENT, steps=3))), (replace(EVENT, steps=4),), Accountant.PLD),
        ((a_charge(1), a_charge(2, event=OTHER_NOISE)), (), Accountant.FILTER),
        ((a_charge(1),), (OTHER_NOISE,), Accountant.FILTER),
        ((a_charge(1, ASKED),), (), Accountant.FILTER),
        ((a_charge(1), a_charge(2, a_limit(Level.RUN, "s", "f"), ASKED)), (), Accountant.FILTER),
        ((a_charge(1, replace(ASKED, name="s")),), (), Accountant.PLD),
        ((a_charge(1, replace(ASKED, level=Level.DATASET)),), (), Accountant.PLD),
        ((a_charge(1, replace(ASKED, bound=Accountant.PLD)),), (), Accountant.PLD),
    ],
)
def test_one_mechanism_that_nobody_asked_the_filter_for_is_composed_and_all_else_is_filtered(
    charges, more, bound: Accountant
) -> None:
    assert bound_of(charges, Level.RUN, "r", *more) is bound


def test_of_each_federation_what_its_policy_said_last_of_a_level_holds() -> None:
    first, second = a_limit(Level.RUN, "r", "g", 1), a_limit(Level.RUN, "r", "g", 2)
    other, elsewhere = a_limit(Level.RUN, "r", "f", 3), a_limit(Level.RUN, "s", "f", 4)
    charges = (
        a_charge(1, first, elsewhere),
        a_charge(2, second, replace(other, level=Level.DATASET)),
        a_charge(3, other),
    )
    assert caps_of(charges, Level.RUN, "r") == (other, second)
    assert caps_of(charges, Level.RUN, "s") == (elsewhere,)
    assert caps_of((), Level.RUN, "r") == ()


def test_a_charge_counts_on_its_data_set_its_run_its_federation_and_those_above() -> None:
    charge = a_charge(1, a_limit(Level.FEDERATION, "above", "f"), a_limit(Level.RUN, "r", "f"), federation="f")
    assert charge.names_at(Level.DATASET) == {"d"}
    assert charge.names_at(Level.RUN) == {bytes(16).hex()}
    assert charge.names_at(Level.FEDERATION) == {"f", "above"}
    for level, name in ((Level.DATASET, "d"), (Level.RUN, bytes(16).hex()), (Level.FEDERATION, "above")):
        assert charge.counts_at(level, name)
        assert not charge.counts_at(level, "another")


def test_a_reservation_is_charged_as_it_was_priced_and_held_by_its_own_policy_alone() -> None:
    own, others = a_limit(Level.RUN, "r", "f"), a_limit(Level.RUN, "r", "g")
    price = Price(wire.plan_hash(PLAN), ZERO, MicroEpsilon(5), {Level.RUN: MicroEpsilon(9)}, caps=(own, others))
    (charge,) = Account.of([Reserved(PLAN, "d", price, bytes(16))]).charges
    assert charge == Charge(
        wire.plan_hash(PLAN), "f", "d", PLAN.run, PLAN.round, PLAN.learning.event, MicroEpsilon(5), Standing.RESERVED,
        (own,),
    )  # fmt: skip


def test_what_stands_is_what_is_asked_for_and_was_not_freed() -> None:
    plans = [
        a_plan(1),
        a_plan(2, OTHER_NOISE),
        replace(a_plan(3), learning=replace(PLAN.learning, event=CLIENTS)),
        a_plan(4),
    ]
    account = Account.of(
        [*map(reserved, plans[:3]), reserved(plans[3], "e"), freed(plans[0]), settled(plans[1], steps=1)]
    )

    def rounds(**asked: object) -> list[int]:
        return [charge.round for charge in account.standing(Level.FEDERATION, "f", **asked)]

    assert rounds() == [2, 3, 4]
    assert rounds(dataset="d") == [2, 3]
    assert rounds(dataset="e") == [4]
    assert rounds(unit=Unit.RECORD) == [2, 4]
    assert rounds(unit=Unit.CLIENT) == [3]
    assert rounds(dataset="d", unit=Unit.CLIENT) == [3]
    assert account.standing(Level.FEDERATION, "g") == ()
    assert account.events(Level.FEDERATION, "f", "d") == in_order([replace(OTHER_NOISE, steps=1), CLIENTS])
    assert [charge.standing for charge in account.charges] == [
        Standing.FREED, Standing.SETTLED, Standing.RESERVED, Standing.RESERVED,
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [10, 11, 20])
def test_more_steps_than_were_reserved_are_charged(steps: int) -> None:
    (charge,) = Account.of([reserved(PLAN), settled(PLAN, steps=steps)]).charges
    assert charge.event.steps == steps
