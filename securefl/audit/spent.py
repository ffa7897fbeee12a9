"""What verified ledgers say was spent, computed again from their events alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from securefl.audit.ledger_files import Ledger, policy_in
from securefl.policy import load as policies
from securefl.policy.training_rules import MECHANISMS
from securefl.privacy import accountant
from securefl.privacy.account import Account, Charge, Standing, bound_of, caps_of
from securefl.terms import (
    Accountant,
    DistributedDiscreteGaussian,
    Event,
    Level,
    Limit,
    MemberId,
    RunId,
    RunJoined,
    Unbounded,
    Unit,
)

Opinion = Callable[[Sequence[Event], float], float | None]  # epsilon of events at a delta; None for none


def replayed(ledgers: Mapping[MemberId, Ledger], third: Opinion | None = None) -> dict[str, Any]:
    """The same of ledgers that were checked."""
    delta = min(
        float(policy.budget.delta_share) for ledger in ledgers.values() for policy in _policies(ledger).values()
    )
    members = [(ledger, _account(ledger)) for ledger in ledgers.values() if _joined(ledger)]
    totals = [
        account.standing(Level.DATASET, dataset)
        for _, account in members
        for dataset in sorted({charge.dataset for charge in account.charges})
    ]
    records = [charges for charges in totals if _unit(charges) is not Unit.CLIENT]
    hiding = [tuple(each for each in _standing(account) if each.event.unit is Unit.CLIENT) for _, account in members]
    clients = [charges for charges in hiding if charges]  # of a member, whatever its data sets
    beside: dict[str, Any] = {"client": {"rdp": max(_rdp(charges, delta) for charges in clients)}} if clients else {}
    if third is not None:
        beside["prv"] = _third(third, records, delta)
    return {
        "events": [_event(ledger, charge) for ledger, account in members for charge in _standing(account)],
        "epsilon": {
            "pld": max((accountant.epsilon_charged(charges, delta) for charges in records), default=0.0),
            "rdp": max((_rdp(charges, delta) for charges in records), default=0.0),
            "renyi_filter": _filter(records, delta),
            "bound": _enforced(account for _, account in members),
            "delta": delta,
            **beside,
        },
    }


def _third(opinion: Opinion, totals: Sequence[tuple[Charge, ...]], delta: float) -> float | None:
    """The largest total by another accountant; nothing where it has no opinion on one of them."""
    found = [opinion([charge.event for charge in charges], delta) for charges in totals]
    known = [each for each in found if each is not None]
    return max(known, default=0.0) if len(known) == len(found) else None


def _unit(charges: tuple[Charge, ...]) -> Unit | None:
    return accountant.unit_of(charge.event for charge in charges)


def _rdp(charges: tuple[Charge, ...], delta: float) -> float:
    return accountant.epsilon_rdp((charge.event for charge in charges), delta)


def _filter(totals: Sequence[tuple[Charge, ...]], delta: float) -> float | None:
    """The largest total by the filter; nothing where it has no finite one."""
    try:
        return max((accountant.epsilon_charged(charges, delta, Accountant.FILTER) for charges in totals), default=0.0)
    except Unbounded:
        return None


def _enforced(accounts: Iterable[Account]) -> str:
    """The bound that prices were held to at the roots; the filter if any was."""
    bounds = {
        cap.bound for account in accounts for charge in _standing(account) for cap in charge.caps
        if cap.level is Level.DATASET
    }  # fmt: skip
    return (Accountant.FILTER if Accountant.FILTER in bounds else Accountant.PLD).value


def _event(ledger: Ledger, charge: Charge) -> dict[str, Any]:
    rate, event = charge.event.sampling_rate, charge.event
    shares = {}
    if isinstance(event, DistributedDiscreteGaussian):
        shares = {
            "unit": event.unit.value,
            "clip_l2": float(event.clip_l2),
            "honest": event.honest,
            "dimension": event.dimension,
            "fraction_bits": event.fraction_bits,
            "deviation": float(event.deviation),
        }
    return {
        "member": str(ledger.owner),
        "mechanism": MECHANISMS[type(charge.event)],
        "sampling_rate": [rate.numerator, rate.denominator],
        "noise_multiplier": float(charge.event.noise_multiplier),
        "steps": charge.event.steps,
        "state": charge.standing.value,
        **shares,
    }


def _account(ledger: Ledger) -> Account:
    return Account.of(leaf.entry for leaf in ledger.leaves)


def _standing(account: Account) -> tuple[Charge, ...]:
    return tuple(charge for charge in account.charges if charge.standing is not Standing.FREED)


def _joined(ledger: Ledger) -> list[RunJoined]:
    """The runs it took part in with records of its own."""
    return [opened for _, opened in ledger.each(RunJoined) if opened.role == "member"]


def _policies(ledger: Ledger) -> Mapping[str, policies.Policy]:
    """Each federation's policy, as it was in its latest run here."""
    latest = {opened.federation: opened.policy for _, opened in ledger.each(RunJoined)}
    return {name: policy_in(text, ledger.name) for name, text in latest.items()}


def accounts_of(ledgers: Mapping[MemberId, Ledger]) -> list[dict[str, Any]]:
    """The same of ledgers that were read."""
    return [row for _, ledger in sorted(ledgers.items()) for row in _rows(ledger)]


def _rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Accounts: of each data set, each federation and those above it, and each run that was charged."""
    account, joined, by_name = _account(ledger), _joined(ledger), _policies(ledger)
    rows = []
    for dataset in sorted({opened.dataset for opened in joined}):
        here = [by_name[opened.federation] for opened in joined if opened.dataset == dataset]
        rows += _accounts(ledger, account, here, Level.DATASET, dataset, [dataset])
    for name in sorted({name for opened in joined for name in _names(by_name[opened.federation])}):
        below = [opened for opened in joined if name in _names(by_name[opened.federation])]
        here = [by_name[opened.federation] for opened in below]
        rows += _accounts(ledger, account, here, Level.FEDERATION, name, sorted({one.dataset for one in below}))
    for opened in joined:
        name, policy = opened.run.hex(), policy_in(opened.policy, ledger.name)
        if account.standing(Level.RUN, name):
            rows += _accounts(ledger, account, [policy], Level.RUN, name, [opened.dataset])
    return rows


def _names(policy: policies.Policy) -> tuple[str, ...]:
    """The federations that a plan under this policy counts in."""
    return (policy.federation, *(each.federation for each in policy.above))


def _accounts(
    ledger: Ledger,
    account: Account,
    here: Sequence[policies.Policy],
    level: Level,
    name: str,
    datasets: Sequence[str],
) -> list[dict[str, Any]]:
    """One account, a row for each unit, at the strictest of the policies that hold it, as a decision takes them.

    Those are the policies of federations that were charged there; of an account with no charge, all that may be. One
    that was opened once and never charged promises nothing to anybody.

    What hides records composes in parallel over these data sets: the one with the least left speaks for all. What hides
    the member adds up, on these data sets and any other, and is held by all policies that hide it.
    """
    parts = [account.standing(level, name, dataset) for dataset in datasets]
    units = sorted({charge.event.unit for part in parts for charge in part})
    rows = []
    for unit in units or [_strictest(here, level, name).budget.unit]:
        holding = [*here, *_hiding_the_member(ledger)] if (level, unit) == (Level.DATASET, Unit.CLIENT) else here
        beside = (charge for dataset in datasets for charge in account.beside(level, name, dataset, unit))
        charged = {cap.by for cap in caps_of(beside, level, name)}
        holding = [each for each in holding if each.federation in charged] or holding
        policy = _strictest(holding, level, name)
        delta = min(_cap(each, level, name).delta for each in holding)  # taken apart, as a decision does
        of_each = (
            [each for each in account.beside(level, name, dataset, unit) if each.event.unit is unit]
            for dataset in datasets
        )
        told = [_row(ledger, charges, policy, level, name, delta) for charges in of_each]
        rows.append(min(told, key=lambda row: float(row["left"])) | {"unit": unit.value})
    return rows


def _strictest(policies_here: Sequence[policies.Policy], level: Level, name: str) -> policies.Policy:
    return min(policies_here, key=lambda each: (_cap(each, level, name).epsilon, _cap(each, level, name).delta))


def _hiding_the_member(ledger: Ledger) -> list[policies.Policy]:
    """The policies of all runs here that hide the member, on whatever data set."""
    by_name = _policies(ledger)
    names = sorted({opened.federation for opened in _joined(ledger)})
    return [by_name[name] for name in names if by_name[name].budget.unit is Unit.CLIENT]


def _cap(policy: policies.Policy, level: Level, name: str) -> Limit:
    """Return what this policy lets an account hold."""
    run = RunId(bytes.fromhex(name) if level is Level.RUN else bytes(16))
    return next(cap for cap in policy.caps(name, run) if (cap.level, cap.name) == (level, name))


def _row(
    ledger: Ledger, standing: Sequence[Charge], policy: policies.Policy, level: Level, name: str, delta: Fraction
) -> dict[str, Any]:
    budget, cap = policy.budget, _cap(policy, level, name)
    settled = [charge for charge in standing if charge.standing is Standing.SETTLED]

    def cost(charges: Sequence[Charge]) -> tuple[float, Accountant]:
        bound = max(cap.bound, bound_of(charges, level, name), key=lambda each: each is Accountant.FILTER)
        return accountant.epsilon_charged(charges, float(delta), bound) * budget.overlap, bound

    (spent, _), (total, bound) = cost(settled), cost(standing)
    limit = float(_limit(policy, level, name))
    left = limit - total
    return {
        "member": str(ledger.owner),
        "level": level.value,
        "name": name,
        "limit": limit,
        "spent": spent,
        "reserved": max(0.0, total - spent),
        "left": math.nextafter(left, -math.inf) if left > 0 else 0.0,
        "delta": float(delta * budget.overlap),
        "unit": budget.unit.value,
        "bound": bound.value,
    }


def _limit(policy: policies.Policy, level: Level, name: str) -> Fraction:
    """The limit behind a cap, before it is shared among overlapping data sets."""
    budget = policy.budget
    if level is Level.DATASET:
        return budget.per_dataset.epsilon
    if level is Level.RUN:
        return budget.per_run.epsilon if budget.per_run else budget.epsilon
    return next((each.budget.epsilon for each in policy.above if each.federation == name), budget.epsilon)
