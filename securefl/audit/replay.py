"""What the ledgers say was spent, computed again from their events alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from securefl.audit.copies import Ledger, read_all, read_one
from securefl.audit.verify import check
from securefl.errors import OperatorFault
from securefl.ledger import export
from securefl.policy import load as policies
from securefl.policy.decide import MECHANISMS
from securefl.privacy import accountant
from securefl.privacy.account import Account, Charge, Standing
from securefl.terms import DistributedDiscreteGaussian, Level, Opened, Unit


def replay(run: Path) -> dict[str, Any]:
    """Every privacy event that counts, and the largest total over the members' data sets.

    Returns:
        ``{"events": [...], "epsilon": {"pld", "rdp", "delta"}}``; delta is the least that a policy names. Where some
        events hide members, ``epsilon`` has their own largest total beside it: ``"client": {"rdp"}``.

    Raises:
        Tampered: the ledgers do not verify.
    """
    ledgers = read_all(run)
    check(ledgers)
    delta = min(float(policy.budget.delta) for ledger in ledgers.values() for policy in _policies(ledger).values())
    members = [(ledger, _account(ledger)) for ledger in ledgers.values() if _joined(ledger)]
    totals = [
        account.standing(Level.DATASET, dataset)
        for _, account in members
        for dataset in sorted({charge.dataset for charge in account.charges})
    ]
    records = [charges for charges in totals if _unit(charges) is not Unit.CLIENT]
    clients = [charges for charges in totals if _unit(charges) is Unit.CLIENT]
    beside = {"client": {"rdp": max(_rdp(charges, delta) for charges in clients)}} if clients else {}
    return {
        "events": [_event(ledger, charge) for ledger, account in members for charge in _standing(account)],
        "epsilon": {
            "pld": max((accountant.epsilon_charged(charges, delta) for charges in records), default=0.0),
            "rdp": max((_rdp(charges, delta) for charges in records), default=0.0),
            "delta": delta,
            **beside,
        },
    }


def _unit(charges: tuple[Charge, ...]) -> Unit | None:
    return accountant.unit_of(charge.event for charge in charges)


def _rdp(charges: tuple[Charge, ...], delta: float) -> float:
    return accountant.epsilon_rdp((charge.event for charge in charges), accountant.delta_left(delta, charges))


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


def _joined(ledger: Ledger) -> list[Opened]:
    """The runs it took part in with records of its own."""
    return [opened for _, opened in ledger.each(Opened) if opened.role == "member"]


def _policies(ledger: Ledger) -> Mapping[str, policies.Policy]:
    """Each federation's policy, as it was in its latest run here."""
    latest = {opened.federation: opened.policy for _, opened in ledger.each(Opened)}
    return {name: policies.parse(text, ledger.name) for name, text in latest.items()}


def accounts(path: Path) -> list[dict[str, Any]]:
    """Limit, spent, reserved and left of every account, from a run, a folder of ledgers, or one ledger.

    Costs include the policy's overlap; what is left is never overstated. A data set that several federations train on
    is held to the strictest of their limits.

    Raises:
        Tampered: a ledger's head does not cover it, or its account does not fit together.
        OperatorFault: there is nothing here.
    """
    remedy = "give a run, its ledger folder, or one .ledger file"
    if not path.exists():
        raise OperatorFault("nothing here", remedy, str(path))
    if path.is_file() and path.suffix != export.SUFFIX:
        raise OperatorFault("no ledger", remedy, str(path))
    ledgers = [read_one(path)] if path.is_file() else list(read_all(path).values())
    return [row for ledger in ledgers for row in _rows(ledger)]


def _rows(ledger: Ledger) -> list[dict[str, Any]]:
    account, joined, by_name = _account(ledger), _joined(ledger), _policies(ledger)
    rows = []
    for dataset in sorted({opened.dataset for opened in joined}):
        here = [by_name[opened.federation] for opened in joined if opened.dataset == dataset]
        strictest = min(here, key=lambda policy: (policy.budget.per_dataset.epsilon, policy.budget.delta))
        rows.append(_row(ledger, account, Level.DATASET, dataset, strictest, strictest.budget.per_dataset.epsilon))
    for name in sorted({opened.federation for opened in joined}):
        policy = by_name[name]
        rows.append(_row(ledger, account, Level.FEDERATION, name, policy, policy.budget.epsilon))
    return rows


def _row(
    ledger: Ledger, account: Account, level: Level, name: str, policy: policies.Policy, limit: Fraction
) -> dict[str, Any]:
    budget, delta = policy.budget, float(policy.budget.delta)
    standing = account.standing(level, name)
    settled = [charge for charge in standing if charge.standing is Standing.SETTLED]
    spent = accountant.epsilon_charged(settled, delta) * budget.overlap
    total = accountant.epsilon_charged(standing, delta) * budget.overlap
    left = float(limit) - total
    return {
        "member": str(ledger.owner),
        "level": level.value,
        "name": name,
        "limit": float(limit),
        "spent": spent,
        "reserved": max(0.0, total - spent),
        "left": math.nextafter(left, -math.inf) if left > 0 else 0.0,
        "delta": delta,
        "unit": next((charge.event.unit.value for charge in standing), budget.unit.value),
    }
