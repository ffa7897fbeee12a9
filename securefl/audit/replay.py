"""Verify a run or a ledger, then compute again what it says was spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from securefl.audit.ledger_files import Ledger, read_all, read_one
from securefl.audit.spent import Opinion, _rows, replayed
from securefl.errors import OperatorFault
from securefl.ledger import export
from securefl.privacy.account import Account, Standing


def replay(run: Path, third: Opinion | None = None) -> dict[str, Any]:
    """Every privacy event that counts, and the largest total over the members' data sets.

    Args:
        run: the folder.
        third: another accountant's opinion, shown beside the others as ``prv``; nothing is held to it.

    Returns:
        ``{"events": [...], "epsilon": {"pld", "rdp", "renyi_filter", "bound", "delta"}}``: ``bound`` names the one of
        the three that the sites were held to, the filter if any was; delta is the least that a policy names. Where some
        events hide members, ``epsilon`` has their own largest total beside it: ``"client": {"rdp"}``.

    Raises:
        Tampered: the ledgers do not verify.
    """
    from securefl.audit import folder, verify  # noqa: PLC0415 - what is checked there is computed here

    ledgers = read_all(run)
    verify.check(ledgers, folder.wanted(run))
    return replayed(ledgers, third)


def reserved(path: Path) -> list[dict[str, Any]]:
    """Every price that is reserved and neither spent nor freed: its training goes on, or ended with its process.

    Raises:
        Tampered, OperatorFault: as for ``accounts``.
    """
    return [
        {
            "member": str(ledger.owner), "run": charge.run.hex(), "round": charge.round,
            "federation": charge.federation, "dataset": charge.dataset,
        }
        for ledger in _ledgers(path)
        for charge in Account.of(leaf.entry for leaf in ledger.leaves).charges
        if charge.standing is Standing.RESERVED
    ]  # fmt: skip


def accounts(path: Path) -> list[dict[str, Any]]:
    """Limit, spent, reserved and left of every account, from a run, a folder of ledgers, or one ledger.

    Costs include the policy's overlap; what is left is never overstated. A data set that several federations train on
    is held to the strictest of their limits.

    Raises:
        Tampered: a ledger's head does not cover it, or its account does not fit together.
        OperatorFault: there is nothing here.
    """
    return [row for ledger in _ledgers(path) for row in _rows(ledger)]


def _ledgers(path: Path) -> list[Ledger]:
    remedy = "give a run, its ledger folder, or one .ledger file"
    if not path.exists():
        raise OperatorFault("nothing here", remedy, str(path))
    if path.is_file() and path.suffix != export.SUFFIX:
        raise OperatorFault("no ledger", remedy, str(path))
    return [read_one(path)] if path.is_file() else list(read_all(path).values())
