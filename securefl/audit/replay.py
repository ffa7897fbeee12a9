"""What the ledgers say was spent, computed again from their events alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from securefl.audit.verify import Ledger, check, read_all
from securefl.errors import OperatorFault, Tampered
from securefl.policy import load as policies
from securefl.policy.decide import MECHANISMS
from securefl.privacy import accountant
from securefl.privacy.account import Account, Charge, Standing
from securefl.terms import Level, Opened


def replay(run: Path) -> dict[str, Any]:
    """Every privacy event, and the largest total over members at their data sets.

    Raises:
        Tampered: the ledgers do not verify.
    """
    ledgers = read_all(run)
    check(ledgers)
    events: list[dict[str, Any]] = []
    worst_pld = worst_rdp = 0.0
    delta = None
    for ledger in ledgers.values():
        policy = _policy(ledger)
        if policy is None or ledger.owner not in _members(ledger):
            continue
        delta = float(policy.budget.delta)
        account = Account.of(leaf.entry for leaf in ledger.leaves)
        events += [_event(ledger, charge) for charge in account.charges]
        for dataset in sorted({charge.dataset for charge in account.charges}):
            standing = account.events(Level.DATASET, dataset)
            worst_pld = max(worst_pld, accountant.epsilon_pld(standing, delta))
            worst_rdp = max(worst_rdp, accountant.epsilon_rdp(standing, delta))
    return {"events": events, "epsilon": {"pld": worst_pld, "rdp": worst_rdp, "delta": delta}}


def _event(ledger: Ledger, charge: Charge) -> dict[str, Any]:
    rate = charge.event.sampling_rate
    return {
        "member": str(ledger.owner),
        "mechanism": MECHANISMS[type(charge.event)],
        "sampling_rate": [rate.numerator, rate.denominator],
        "noise_multiplier": float(charge.event.noise_multiplier),
        "steps": charge.event.steps,
        "state": charge.standing.value,
    }


def _members(ledger: Ledger) -> set[str]:
    return {str(ledger.owner) for _, opened in ledger.each(Opened) if opened.role == "member"}


def _policy(ledger: Ledger) -> policies.Policy | None:
    """The policy of the latest run."""
    texts = [opened.policy for _, opened in ledger.each(Opened)]
    return policies.parse(texts[-1], f"{ledger.owner}.ledger") if texts else None


def accounts(path: Path) -> list[dict[str, Any]]:
    """Limit, spent, reserved and left of every account, from a run, a folder of ledgers, or one ledger's file.

    Costs are rounded up, what is left is rounded down.

    Raises:
        Tampered: a ledger's head does not cover it.
        OperatorFault: there is nothing here.
    """
    if not path.exists():
        raise OperatorFault("nothing here", "give a run, its ledger folder, or one .ledger file", str(path))
    if path.is_file():
        from securefl.audit.verify import read_one  # noqa: PLC0415

        ledgers = [read_one(path)]
    else:
        ledgers = list(read_all(path).values())
    rows = [row for ledger in ledgers for row in _rows(ledger)]
    if not rows and not any(_policy(ledger) for ledger in ledgers):
        raise Tampered(str(path), "ledgers without a run")
    return rows


def _rows(ledger: Ledger) -> list[dict[str, Any]]:
    policy = _policy(ledger)
    opened = [entry for _, entry in ledger.each(Opened) if entry.role == "member"]
    if policy is None or not opened:
        return []
    account = Account.of(leaf.entry for leaf in ledger.leaves)
    budget, delta = policy.budget, float(policy.budget.delta)
    names = [(Level.DATASET, name, budget.per_dataset.epsilon) for name in sorted({e.dataset for e in opened})]
    names += [(Level.FEDERATION, name, budget.epsilon) for name in sorted({e.federation for e in opened})]
    rows = []
    for level, name, limit in names:
        standing = account.standing(level, name)
        total = accountant.epsilon_pld((charge.event for charge in standing), delta)
        settled = (charge.event for charge in standing if charge.standing is Standing.SETTLED)
        spent = accountant.epsilon_pld(settled, delta)
        rows.append(
            {
                "member": str(ledger.owner),
                "level": level.value,
                "name": name,
                "limit": float(limit),
                "spent": spent * budget.overlap,
                "reserved": max(0.0, total - spent) * budget.overlap,
                "left": max(0.0, float(limit) - total * budget.overlap),
                "delta": delta,
                "unit": budget.unit.value,
            }
        )
    return rows
