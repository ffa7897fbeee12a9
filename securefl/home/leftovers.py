"""What trainings leave at their site: its own model and weights, sealed in its database, written with their charge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from securefl import wire
from securefl.ledger.tables import owned
from securefl.privacy.account import Standing
from securefl.seams import Own

if TYPE_CHECKING:
    from securefl.privacy.account import Account
    from securefl.protocol.member_state import Kept
    from securefl.terms import RunId

Sealing = Callable[[str, "RunId", bytes], bytes]  # kind of data, run, data: ``Home.seal`` and ``Home.open``


def keep(conn: sa.Connection, run: RunId, keep: Kept, seal: Sealing) -> None:
    """Keep what one training left, beside that of the round before; earlier ones are of no more use."""
    here = owned.c.run == bytes(run)
    before = [row.round for row in conn.execute(sa.select(owned.c.round).where(here).order_by(owned.c.round))]
    conn.execute(sa.delete(owned).where(here & owned.c.round.in_([*before[:-1], keep.round])))
    row = {
        "run": bytes(run),
        "round": keep.round,
        "plan": bytes(keep.plan),
        "own": seal(_name(keep.round, keep.plan), run, wire.encode(keep.own)),
    }
    conn.execute(sa.insert(owned).values(**row))


def latest(conn: sa.Connection, run: RunId, before: int, account: Account, opened: Sealing) -> Own:
    """What the latest training before this round left; nothing is read whose plan is not settled."""
    query = sa.select(owned).where((owned.c.run == bytes(run)) & (owned.c.round < before))
    for row in conn.execute(query.order_by(owned.c.round.desc())):
        charge = account.by_plan.get(row.plan)
        if charge is not None and charge.standing is Standing.SETTLED:
            kept: Own = wire.decode(opened(_name(row.round, row.plan), run, row.own), Own)
            return kept
    return Own()


def _name(round_: int, plan: bytes) -> str:
    return f"what round {round_} left under plan {bytes(plan).hex()}"
