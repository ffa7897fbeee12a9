"""Is it true? Offline, from a copy of a run's folder alone, trusting nobody.

Checks, in this order; the first that fails names the ledger and, where it can, the entry:

1. the folder holds ledgers, and nothing else, each named by its owner; nobody's who spoke in the last run is missing;
2. every file and every leaf is the canonical encoding of what it should be;
3. the head is signed by the ledger's key and covers exactly the leaves;
4. every receipt is signed by its sender, under the key that all ledgers give it;
5. what one party got from another, the other has sent; all joined the same run, under the same policy, and record the
   same release for the same round;
6. every head one party has seen of another is a prefix of that other's ledger: an older, cut or forked one is found;
7. the account: no plan twice, no settlement above its reservation, nothing freed that left; every price is what two
   accountants say; and the policy, asked again about each plan, grants it. A round is one plan for all, and its sum was
   opened once, over enough members who each paid for it;
8. a run that is closed is closed everywhere it was joined, and where it finished no reservation is left open;
9. under masks, everybody was asked about the same survivors, and the sum was opened over them;
10. the same of every federation below, where its ledgers are here; and what it passed on is what they say.

Any error while checking means: not verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl.audit import spending, tree, witnesses
from securefl.audit.copies import Ledger, of_seat, read_all, read_one
from securefl.errors import Tampered
from securefl.privacy.account import Account, Standing
from securefl.terms import Closed, Got, MemberId, Opened, Opening, Refused, Released, RunId, Sent

__all__ = ["Ledger", "Verdict", "check", "read_all", "read_one", "verify"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found."""

    ok: bool
    entries: int  # in all ledgers that could be read
    first_bad: dict[str, Any] | None  # {"ledger": file name, "entry": index or None}
    why: str
    unsigned: tuple[str, ...] = ()  # runs under a policy without its signatures


def verify(run: Path) -> Verdict:
    """Whether everything in ``run``'s ledgers holds together; never raises."""
    entries = 0
    ledgers: Mapping[MemberId, Ledger] = {}
    try:
        ledgers = read_all(run)
        entries = sum(len(ledger.leaves) for ledger in ledgers.values())
        check(ledgers)
        below = [_verified(name, folder, ledgers) for name, folder in tree.folders(run, ledgers)]
    except Tampered as fault:
        return Verdict(False, entries, {"ledger": fault.where, "entry": fault.entry}, str(fault))
    except Exception as fault:  # fail closed: what cannot be checked is not verified
        return Verdict(False, entries, None, f"{type(fault).__name__}: {fault}")
    opened = [entry for ledger in ledgers.values() for _, entry in ledger.each(Opened)]
    unsigned = {each.run.hex() for each in opened if not each.approvals}
    unsigned |= {run for each in below for run in each.unsigned}
    return Verdict(True, entries + sum(each.entries for each in below), None, "", tuple(sorted(unsigned)))


def _verified(name: MemberId, folder: Path, above: Mapping[MemberId, Ledger]) -> Verdict:
    """The verdict on a federation below and all below it.

    Raises:
        Tampered: something there does not hold; the ledger is named with the way to it.
    """
    found = verify(folder)
    if not found.ok:
        bad = found.first_bad or {"ledger": "", "entry": None}
        raise Tampered(f"{tree.BELOW}/{name}/{bad['ledger']}", found.why, bad["entry"])
    tree.check(name, above.get(name), read_all(folder))
    return found


def check(ledgers: Mapping[MemberId, Ledger]) -> None:
    """Nothing happens if what the ledgers say holds together: checks 4 to 9, and that none is missing.

    Raises:
        Tampered: one of them fails.
    """
    runs = witnesses.covered(ledgers)
    for ledger in ledgers.values():
        witnesses.check_openings(ledger, runs)
    witnesses.check_complete(ledgers, runs)
    witnesses.check_receipts(ledgers)
    witnesses.check_releases(ledgers)
    witnesses.check_heads(ledgers)
    accounts = {ledger.owner: spending.check_account(ledger) for ledger in ledgers.values()}
    spending.check_rounds(ledgers, runs)
    witnesses.check_questions(ledgers, runs)
    for ledger in ledgers.values():
        _check_ends(ledger, accounts[ledger.owner])
    for run, (coordinator, opened) in runs.items():
        _check_end(run, coordinator, opened, ledgers)


def _check_ends(ledger: Ledger, account: Account) -> None:
    """Each run ends once, after it began, and what finished is settled."""
    begun: set[RunId] = set()
    closed: dict[RunId, int] = {}
    for index, leaf in enumerate(ledger.leaves):
        if isinstance(leaf.entry, Opened):
            begun.add(leaf.entry.run)
        elif isinstance(leaf.entry, Closed):
            if leaf.entry.run not in begun or leaf.entry.run in closed:
                raise ledger.wrong("the end of a run that had not begun, or had ended", index)
            closed[leaf.entry.run] = index
            if leaf.entry.outcome == "finished" and _open(account, leaf.entry.run):
                raise ledger.wrong("a finished run left a reservation open", index)


def _open(account: Account, run: RunId) -> bool:
    return any(charge.run == run and charge.standing is Standing.RESERVED for charge in account.charges)


def _check_end(run: RunId, coordinator: Ledger, opened: Opened, ledgers: Mapping[MemberId, Ledger]) -> None:
    """Who said goodbye ended the run; all who did, did so alike; and the coordinator too, if its ledger ends with it.

    Runs may overlap: one that was killed while it said goodbye stands there, unended, before the end of another.
    """
    told = _end(coordinator, run)
    got = [entry.receipt for _, entry in coordinator.each(Got) if entry.receipt.run == run]
    byes = {receipt.sender for receipt in got if receipt.kind == "Bye"}
    for seat in opened.peers:
        peer = of_seat(ledgers, seat)
        if peer is None or peer is coordinator:
            continue
        ended = _end(peer, run)
        if ended is None and seat.member in byes:
            raise peer.wrong("its owner said goodbye, and it does not end the run")
        if ended is not None and told is None and run == _last(coordinator):
            raise coordinator.wrong(f"the run that {peer.owner} saw end does not end", len(coordinator.leaves))
        if None not in (ended, told) and ended != told:
            raise peer.wrong(f"the run ended {ended!r} here, and {told!r} for {coordinator.owner}")


def _last(ledger: Ledger) -> RunId | None:
    """The run this ledger speaks of last."""
    for leaf in reversed(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, Got | Sent):
            return entry.receipt.run
        if isinstance(entry, Opened | Opening | Released | Refused | Closed):
            return entry.run
    return None


def _end(ledger: Ledger, run: RunId) -> str | None:
    return next((entry.outcome for _, entry in ledger.each(Closed) if entry.run == run), None)
