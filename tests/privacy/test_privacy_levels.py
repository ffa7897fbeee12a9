"""Accounts on levels: a charge counts once in each of its data set, its federation, those above, and its run.

Two federations under one parent, and a third that stands alone, train on the same two data sets of one site. Whatever
they ask for, and wherever the site crashes, no level holds more than anybody was promised.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.documents.strict import parse
from securefl.policy import load
from securefl.policy.decide import decide
from securefl.policy.plan_document import draft
from securefl.privacy.account import Account, Standing
from securefl.privacy.accountant import epsilon_charged, epsilon_filter, epsilon_pld, price
from securefl.terms import (
    Accountant,
    Entry,
    Grant,
    Leaf,
    Level,
    Plan,
    PoissonGaussian,
    Refusal,
    ReservationReleased,
    Reserved,
    RunId,
    Settled,
)
from tests.policy.test_policy_oracle import PLAN, POLICY, changed

NOW = int(dt.datetime(2026, 6, 1, tzinfo=dt.UTC).timestamp())
BUDGETS = {  # what each federation may spend, in all, on a data set whoever asks, and in a run
    "parent": {"epsilon": "7/2", "per_dataset": {"epsilon": 5}, "per_run": {"epsilon": 3}},
    "left": {"epsilon": 3, "per_dataset": {"epsilon": 5}, "per_run": {"epsilon": 2}},
    "right": {"epsilon": 3, "per_dataset": {"epsilon": 4}, "per_run": {"epsilon": 3}},
    "alone": {"epsilon": 4, "per_dataset": {"epsilon": "9/2"}, "delta": "1/1000000"},
    "wary": {
        "epsilon": 8,
        "per_round": {"epsilon": 8},
        "per_dataset": {"epsilon": 9},
        "bound": "renyi-filter",
        "overlap": 2,
    },
}
PARENTS = {"left": "parent", "right": "parent"}


@cache
def policy(name: str) -> load.Policy:
    """The policy of a federation, with its parent's if it has one."""
    texts = []
    for each in (name, *([PARENTS[name]] if name in PARENTS else [])):
        parent = {"parent": "above.yaml"} if each in PARENTS else {}
        said = {**{f"budget.{field}": value for field, value in BUDGETS[each].items()}, **parent, "federation": each}
        texts.append(yaml.safe_dump(changed(POLICY, said)).encode())
    return load.parse(load.ABOVE.join(texts), name)


@cache
def drafted(name: str) -> Plan:
    return draft(parse(yaml.safe_dump({**PLAN, "federation": name}).encode(), "plan"), policy(name).hash)


def run_id(name: str, run: int) -> RunId:
    return RunId(wire.digest("run", (name, run))[:16])


def plan_of(name: str, run: int, number: int, noise: str, steps: int) -> Plan:
    plan, event = drafted(name), PoissonGaussian(Fraction(1, 20), Fraction(noise), steps)
    learning = replace(plan.learning, event=event)
    return replace(plan, learning=learning, round=number, run=run_id(name, run))


ASKED = st.tuples(
    st.just("ask"), st.sampled_from(sorted(set(BUDGETS))), st.integers(1, 2), st.sampled_from(["1", "1", "3/2"]),
    st.sampled_from([1, 4]), st.sampled_from("dde"),
)  # fmt: skip
ENDED = st.tuples(st.sampled_from(["settle", "cut short", "free", "crash"]), st.integers(0, 30))
STORY = st.lists(st.one_of(ASKED, ASKED, ENDED), max_size=14)


class Site:
    """Entries as bytes on a disk, and the account that was folded along the way."""

    def __init__(self) -> None:
        self.disk: list[bytes] = []
        self.account = Account()
        self.number = 0

    def write(self, entry: Entry) -> None:
        self.disk.append(wire.encode(Leaf(NOW, entry)))
        self.account = self.account.apply(entry)

    def reopened(self) -> Account:
        return Account.of(wire.decode(leaf, Leaf).entry for leaf in self.disk)

    def ask(self, name: str, run: int, noise: str, steps: int, dataset: str) -> Grant | Refusal:
        self.number += 1
        plan, its = plan_of(name, run, self.number, noise, steps), policy(name)
        due = price(plan, self.account, dataset, float(its.budget.delta_share), its.caps(dataset, plan.run))
        answer = decide(its, plan, self.account, due, NOW)
        if isinstance(answer, Grant):
            self.write(Reserved(plan, dataset, due, answer.nonce))
        return answer

    def end(self, how: str, which: int) -> None:
        """What became of one reservation; a crash forgets all but the disk."""
        if how == "crash":
            self.account = self.reopened()
            return
        open_ = [charge for charge in self.account.charges if charge.standing is Standing.RESERVED]
        if open_:
            charge = open_[which % len(open_)]
            did = replace(charge.event, steps=1) if how == "cut short" else charge.event
            self.write(ReservationReleased(charge.plan, "nothing left") if how == "free" else Settled(charge.plan, did))

    def play(self, step: tuple) -> None:
        if step[0] == "ask":
            self.ask(*step[1:])
        else:
            self.end(*step)

    def levels(self) -> Iterator[tuple[Level, str, str]]:
        """Every level's name, on every data set, that anybody could be charged at."""
        for dataset in "de":
            yield Level.DATASET, dataset, dataset
            for name in BUDGETS:
                yield Level.FEDERATION, name, dataset
                for run in (1, 2):
                    yield Level.RUN, run_id(name, run).hex(), dataset

    def naive(self, level: Level, name: str, dataset: str) -> list[tuple[str, object, bool]]:
        """(federation, event, whether settled) of what counts there, from the disk, counted the plain way."""
        found: dict[bytes, tuple[str, object, bool]] = {}
        for data in self.disk:
            entry = wire.decode(data, Leaf).entry
            if isinstance(entry, Reserved):
                its = entry.plan.federation
                at = {
                    Level.DATASET: entry.dataset == name,
                    Level.FEDERATION: name in (its, PARENTS.get(its)),
                    Level.RUN: entry.plan.run.hex() == name,
                }
                if at[level] and entry.dataset == dataset:
                    found[wire.plan_hash(entry.plan)] = (its, entry.plan.learning.event, False)
            elif isinstance(entry, Settled) and entry.plan in found:
                found[entry.plan] = (found[entry.plan][0], entry.did, True)
            elif isinstance(entry, ReservationReleased):
                found.pop(entry.plan, None)
        return list(found.values())


def limits(level: Level, name: str, federation: str) -> tuple[Fraction, Fraction, bool]:
    """What a federation was promised at a level, for one data set's share: epsilon, delta, and whether by the filter."""
    budget = {**POLICY["budget"], **BUDGETS[federation]}
    limit = {
        Level.DATASET: budget["per_dataset"]["epsilon"],
        Level.FEDERATION: BUDGETS[name]["epsilon"] if level is Level.FEDERATION else 0,
        Level.RUN: min(budget["per_run"]["epsilon"], budget["epsilon"], key=lambda each: Fraction(str(each))),
    }[level]
    shared = budget["overlap"]
    return Fraction(str(limit)) / shared, Fraction(str(budget["delta"])) / shared, budget.get("bound") is not None


def cost(counted: list[tuple[str, object, bool]], delta: float, *, filtered: bool) -> float:
    events = [event for _, event, _ in counted]
    if filtered or len({(event.sampling_rate, event.noise_multiplier) for event in events}) > 1:
        return epsilon_filter(events, delta)
    return epsilon_pld(events, delta)


@settings(max_examples=60, deadline=None)
@given(STORY)
def test_no_level_ever_holds_more_than_any_policy_there_was_promised(story):
    site = Site()
    for step in story:
        charges = len(site.account.charges)
        site.play(step)
        if len(site.account.charges) == charges:
            continue  # nothing was added anywhere
        for level, name, dataset in site.levels():
            counted = site.naive(level, name, dataset)
            for federation in {each[0] for each in counted}:
                epsilon, delta, filtered = limits(level, name, federation)
                assert cost(counted, float(delta), filtered=filtered) <= float(epsilon) + 1e-6, (level, name)


@settings(max_examples=60, deadline=None)
@given(STORY)
def test_the_replay_equals_the_account_on_every_level_wherever_the_site_crashes(story):
    site = Site()
    for step in story:
        site.play(step)
        again = site.reopened()
        assert (again, again.digest) == (site.account, site.account.digest)
        for level, name, dataset in site.levels():
            standing = site.account.standing(level, name, dataset)
            told = [(each.federation, each.event, each.standing is Standing.SETTLED) for each in standing]
            assert told == site.naive(level, name, dataset), "each charge once, and none of another level"


@settings(max_examples=40, deadline=None)
@given(STORY)
def test_what_a_level_has_spent_never_decreases(story):
    site, spent = Site(), {}
    for step in story:
        site.play(step)
        for at in site.levels():
            settled = [each for each in site.account.standing(*at) if each.standing is Standing.SETTLED]
            now = max(epsilon_charged(settled, 1e-5, bound) for bound in Accountant) if settled else 0.0
            assert now >= spent.get(at, 0.0)
            spent[at] = now


@settings(max_examples=30, deadline=None)
@given(STORY)
def test_a_reservation_is_on_every_level_or_on_none(story):
    site = Site()
    for step in story:
        before = {at: site.account.standing(*at) for at in site.levels()}
        charges = len(site.account.charges)
        site.play(step)
        if step[0] != "ask":
            continue
        name, run, dataset = step[1], step[2], step[5]
        made = len(site.account.charges) - charges
        due = {
            (Level.DATASET, dataset, dataset), (Level.RUN, run_id(name, run).hex(), dataset),
            *((Level.FEDERATION, each, dataset) for each in (name, PARENTS.get(name)) if each),
        }  # fmt: skip
        for at in site.levels():
            assert len(site.account.standing(*at)) - len(before[at]) == (made if at in due else 0)


# Single cases.


def rules(answer: Grant | Refusal) -> set[str]:
    return {reason.rule for reason in answer.reasons} if isinstance(answer, Refusal) else set()


def full(site: Site, name: str, dataset: str = "d") -> set[str]:
    """Ask, each time in a run of its own, until the federation is refused; by which rules."""
    for run in range(10, 200):
        if isinstance(answer := site.ask(name, run, "1", 4, dataset), Refusal):
            return rules(answer)
    raise AssertionError("never refused")


def test_what_one_federation_left_of_its_parents_budget_is_all_another_below_it_gets():
    site = Site()
    assert full(site, "left") == {"budget.epsilon"}
    assert "budget.above.epsilon" in full(site, "right")
    left = len(site.account.standing(Level.FEDERATION, "left"))
    right = len(site.account.standing(Level.FEDERATION, "right"))
    assert len(site.account.standing(Level.FEDERATION, "parent")) == left + right > left > right


def test_a_parents_own_plans_count_with_those_below_it():
    site = Site()
    full(site, "left")
    full(site, "parent")
    assert "budget.above.epsilon" in full(site, "left")


def test_a_dataset_of_two_federations_is_charged_once_at_its_root_and_in_both_their_views():
    site = Site()
    for name in ("left", "alone"):
        assert isinstance(site.ask(name, 1, "1", 1, "d"), Grant)
    assert [len(site.account.standing(Level.FEDERATION, name)) for name in ("left", "alone")] == [1, 1]
    assert len(site.account.standing(Level.DATASET, "d")) == 2


def test_a_limit_that_one_federation_set_for_a_dataset_binds_all_that_come_later():
    site = Site()
    full(site, "right")
    refused = full(site, "alone")
    assert refused == {"budget.others.epsilon"}, "its own policy would have allowed more"


def test_disjoint_datasets_compose_in_parallel():
    site = Site()
    first = full(site, "alone", "d")
    count = len(site.account.charges)
    assert first == full(site, "alone", "e") == {"budget.epsilon"}
    assert len(site.account.charges) == 2 * count


def test_datasets_that_overlap_add_up_and_share_delta():
    its = policy("wary")
    assert its.budget.delta_share == its.budget.delta / 2
    (root,) = [cap for cap in its.caps("d", RunId(bytes(16))) if cap.level is Level.DATASET]
    assert (root.epsilon, root.delta) == (4_500_000, Fraction(1, 200_000))


def test_a_run_is_held_to_its_own_limit_while_the_federation_has_more():
    site = Site()
    while isinstance(answer := site.ask("left", 1, "1", 4, "d"), Grant):
        pass
    assert rules(answer) == {"budget.per_run.epsilon"}
    assert isinstance(site.ask("left", 2, "1", 1, "d"), Grant)


def test_the_ledger_says_by_which_bound_each_account_was_held():
    site = Site()
    site.ask("left", 1, "1", 1, "d")
    site.ask("left", 1, "1", 2, "d")
    site.ask("left", 2, "3/2", 1, "d")
    first, second, third = site.account.charges
    assert {cap.bound for cap in (*first.caps, *second.caps)} == {Accountant.PLD}
    told = {cap.level: cap.bound for cap in third.caps if cap.name != "parent"}
    assert told == {Level.DATASET: Accountant.FILTER, Level.FEDERATION: Accountant.FILTER, Level.RUN: Accountant.PLD}
    assert isinstance(site.ask("wary", 3, "1", 1, "e"), Grant)
    assert {cap.bound for cap in site.account.charges[-1].caps} == {Accountant.FILTER}, "its policy asks for it"
    assert isinstance(site.ask("alone", 4, "1", 1, "e"), Grant)
    assert site.account.charges[-1].caps[0].bound is Accountant.FILTER, "and the data set stays with it"


@pytest.mark.parametrize("missing", [Level.DATASET, Level.FEDERATION, Level.RUN])
def test_a_price_that_does_not_hand_on_its_own_limits_is_refused(missing):
    its, plan = policy("left"), plan_of("left", 1, 1, "1", 1)
    due = price(plan, Account(), "d", 1e-5, its.caps("d", plan.run))
    assert isinstance(decide(its, plan, Account(), due, NOW), Grant)
    silent = replace(due, caps=tuple(cap for cap in due.caps if cap.level is not missing))
    assert rules(decide(its, plan, Account(), silent, NOW)) == {"budget.price"}
    weaker = replace(due, caps=tuple(replace(cap, epsilon=cap.epsilon + 1) for cap in due.caps))
    assert rules(decide(its, plan, Account(), weaker, NOW)) == {"budget.price"}


def test_a_price_without_the_total_of_a_federation_above_never_allows():
    its, plan = policy("left"), plan_of("left", 1, 1, "1", 1)
    due = price(plan, Account(), "d", 1e-5, its.caps("d", plan.run))
    assert rules(decide(its, plan, Account(), replace(due, above={}), NOW)) == {"policy.error"}


@pytest.mark.parametrize(
    ("first", "then", "rule"),
    [
        ("left", "right", "budget.above.epsilon"), ("right", "alone", "budget.others.epsilon"),
        ("left", "left", "budget.per_run.epsilon"),
    ],
)  # fmt: skip
def test_a_plan_within_what_a_refusal_says_is_left_is_granted(first, then, rule):
    site = Site()
    run = 1 if first == then else 2
    if first != then:
        full(site, first)
    for steps in (4, 4, 4, 4, 4, 4, 4, 4, 4):
        if isinstance(answer := site.ask(then, run, "1", steps, "d"), Refusal):
            break
    (reason,) = [each for each in answer.reasons if each.rule == rule]
    allowed = int(Fraction(reason.fix.rpartition(" ")[2]) * 1_000_000)
    its, plan = policy(then), plan_of(then, run, 99, "1", 4)
    due = price(plan, site.account, "d", float(its.budget.delta_share), its.caps("d", plan.run))
    lowered = replace(
        due, after={level: min(total, allowed) for level, total in due.after.items()},
        above={name: min(total, allowed) for name, total in due.above.items()},
    )  # fmt: skip
    assert rule in rules(decide(its, plan, site.account, due, NOW))
    assert rule not in rules(decide(its, plan, site.account, lowered, NOW))
    above = replace(due, after=dict.fromkeys(due.after, allowed + 1), above=dict.fromkeys(due.above, allowed + 1))
    assert rule in rules(decide(its, plan, site.account, above, NOW)), "and it is the least that does"
