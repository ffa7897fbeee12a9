"""What all private runs of an experiment would cost together, had they trained on the same records and been released.

Each run has a budget of its own; this is what the sum of them would say. The grid is fixed before the first run, so its
events compose by PLD, whatever the results are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.audit.ledger_files import read_all
from securefl.policy import load as policies
from securefl.privacy import accountant
from securefl.privacy.account import Account, Charge, Standing
from securefl.terms import RunJoined, Unbounded, Unit

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Total:
    """All private runs of one unit together."""

    unit: str
    runs: int
    epsilon: float | None  # None: no finite one
    delta: float


def together(runs: Iterable[Path]) -> list[Total]:
    """For each unit, the member that would have lost most; empty without a private run.

    Raises:
        Tampered: a run's ledgers cannot be read.
    """
    charges: dict[tuple[Unit, str], list[Charge]] = defaultdict(list)
    deltas: dict[Unit, Fraction] = {}
    counted: dict[Unit, set[Path]] = defaultdict(set)
    for run in runs:
        for ledger in read_all(run).values():
            shares = [policies.parse(each.policy, ledger.name).budget.delta_share for _, each in ledger.each(RunJoined)]
            for charge in Account.of(leaf.entry for leaf in ledger.leaves).charges:
                if charge.standing is not Standing.FREED:
                    unit = charge.event.unit
                    charges[unit, str(ledger.owner)].append(charge)
                    deltas[unit] = min((*shares, *([deltas[unit]] if unit in deltas else [])))
                    counted[unit].add(run)
    totals = []
    for unit in sorted(deltas):
        mine = [found for (each, _), found in charges.items() if each is unit]
        epsilon: float | None
        try:
            epsilon = max(accountant.epsilon_together(found, float(deltas[unit])) for found in mine)
        except Unbounded:
            epsilon = None
        totals.append(Total(unit.value, len(counted[unit]), epsilon, float(deltas[unit])))
    return totals
