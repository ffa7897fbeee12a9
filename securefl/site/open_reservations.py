"""What a site's operator does about a price that stays reserved: the training ended with its process, and the run too.

The reservation is settled whole, for records may have been read. The entry is signed like every other, and the machine
moves with it: if the run goes on after all, the coordinator is told that the training came to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from securefl import wire
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.ledger import anchor
from securefl.privacy.account import Charge, Standing
from securefl.protection import schemes
from securefl.protocol import declining, member, member_state
from securefl.site.run_keys import with_ledger
from securefl.site.serve import LOCK, alone
from securefl.terms import Reason, Refused

WHAT = "a training, by this site's operator"


@dataclass(frozen=True, slots=True)
class SettledByOperator:
    """A charge that is spent now."""

    charge: Charge
    reason: str


def settle(path: Path, run: str, reason: str, clock: Callable[[], int]) -> SettledByOperator:
    """Settle what a run has reserved in the home at ``path``; whole, as if all of it had run.

    Args:
        run: the beginning of its name, in hexadecimal digits.

    Raises:
        OperatorFault: no home is here, no such run has anything reserved, or a process serves this site.
    """
    kept = anchor.read(path) if path.is_dir() else None
    if kept is None:
        remedy = "give the folder that a SITE document calls `home`"
        raise OperatorFault("no home with a ledger is here", remedy, str(path))
    with alone(path / LOCK):
        return _settled(Home.at(path, kept.owner, clock), run, reason)


def _settled(home: Home, run: str, reason: str) -> SettledByOperator:
    path = home.path
    remedy = f"let the run go on in the process that has it: {path}"
    with home.transaction() as conn:
        charge = _reserved(home.account(conn).charges, run, path)
        state = home.saved(conn, charge.run, member_state.State)
        if not isinstance(state, member_state.UnderWay) or wire.plan_hash(state.proposal.plan) != charge.plan:
            raise OperatorFault("the run does not stand where its training began", remedy, f"run {charge.run.hex()}")
        ports = member_state.Ports(home.identity, schemes.member_half)
        moved = member.step(state, member_state.Stopped(reason), with_ledger(ports, home, state))
        why = Reason(declining.UNFINISHED, "nothing is known of its end", "a result", reason)
        note = Refused(charge.run, charge.round, WHAT, (why,))
        home.commit(conn, charge.run, (note, *moved.entries), moved.state)
    return SettledByOperator(charge, reason)


def _reserved(charges: tuple[Charge, ...], run: str, path: Path) -> Charge:
    open_ = {charge.run.hex(): charge for charge in charges if charge.standing is Standing.RESERVED}
    found = [charge for name, charge in open_.items() if run and name.startswith(run.lower())]
    if len(found) != 1:
        what = f"{len(found) or 'no'} runs whose names begin with {run!r} have anything reserved"
        remedy = f"give one of: {', '.join(open_)}" if open_ else "nothing is left to settle"
        raise OperatorFault(what, remedy, str(path))
    return found[0]
