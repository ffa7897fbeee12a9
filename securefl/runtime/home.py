"""What one party keeps: its key, its ledger, and where its machine stands. One database, so one transaction.

A home outlives every run: whatever a run's output folder is called, the same account is charged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from securefl import keys, wire
from securefl.errors import Forged, OperatorFault, Tampered
from securefl.ledger import databases, export, heads, store
from securefl.ledger.tables import machines, owned
from securefl.privacy.account import Account, Standing
from securefl.protocol.member import Kept
from securefl.runtime import adoption
from securefl.seams import Own
from securefl.terms import Entry, MemberId, RunId, Seat, SignedHead, Witnessed

MACHINE = "machine"
ACCOUNT_KINDS = ("Reserved", "Settled", "Freed")


@dataclass(frozen=True, slots=True)
class Home:
    """One party's own place. Nobody else writes here."""

    owner: MemberId
    path: Path
    identity: keys.Identity
    engine: sa.Engine
    clock: Callable[[], int]

    @classmethod
    def at(cls, path: Path, owner: MemberId, clock: Callable[[], int]) -> Home:
        """The home at ``path``, made there if there is none; its ledger is checked whole before it is used.

        Raises:
            OperatorFault: the folder cannot be written, its database not be reached, or it is another party's home.
            Tampered: the ledger does not fit its head.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as fault:
            raise OperatorFault(
                f"cannot make a home here: {fault.strerror}", "choose a folder you may write", str(path)
            ) from fault
        identity = keys.load_or_create(path / "identity.key")
        engine = store.open_store(databases.place_of(path, owner))
        home = cls(owner, path, identity, engine, clock)
        with home.transaction() as conn:
            store.check(conn, identity.public, databases.name_of(engine))
            head = store.head(conn)
            if head is not None and head.head.owner != owner:
                remedy = "give each party a folder of its own"
                raise OperatorFault(f"this is the home of {head.head.owner}, not of {owner}", remedy, str(path))
        return home

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All of it, or nothing: decision, reservation, ledger leaf and machine state commit together."""
        with store.begin(self.engine) as conn:
            yield conn

    def commit(
        self, conn: sa.Connection, run: RunId, entries: Sequence[Entry], state: object, at: int | None = None,
        keep: Kept | None = None,
    ) -> SignedHead | None:  # fmt: skip
        """Record, save and keep; sending comes after the transaction. ``at`` is the clock, where it was read before.

        Raises:
            Unsafe: a run would begin under a policy that this home may not adopt.
        """
        now = self.clock() if at is None else at
        adoption.check(conn, entries, now)
        head = store.append(conn, self.identity, self.owner, now, entries) if entries else store.head(conn)
        row = {"run": bytes(run), "state": self.seal(MACHINE, run, wire.encode(state))}
        conn.execute(sa.delete(machines).where(machines.c.run == row["run"]))
        conn.execute(sa.insert(machines).values(**row))
        if keep is not None:
            self._keep(conn, run, keep)
        return head

    def _keep(self, conn: sa.Connection, run: RunId, keep: Kept) -> None:
        """Keep what one training left, beside that of the round before; earlier ones are of no more use."""
        here = owned.c.run == bytes(run)
        before = [row.round for row in conn.execute(sa.select(owned.c.round).where(here).order_by(owned.c.round))]
        conn.execute(sa.delete(owned).where(here & owned.c.round.in_([*before[:-1], keep.round])))
        row = {
            "run": bytes(run),
            "round": keep.round,
            "plan": bytes(keep.plan),
            "own": self.seal(_owned(keep.round, keep.plan), run, wire.encode(keep.own)),
        }
        conn.execute(sa.insert(owned).values(**row))

    def own(self, conn: sa.Connection, run: RunId, before: int) -> Own:
        """What the latest training before this round left to be kept; nothing is read whose plan is not settled."""
        query = sa.select(owned).where((owned.c.run == bytes(run)) & (owned.c.round < before))
        charges = self.account(conn).by_plan
        for row in conn.execute(query.order_by(owned.c.round.desc())):
            charge = charges.get(row.plan)
            if charge is not None and charge.standing is Standing.SETTLED:
                kept: Own = wire.decode(self.open(_owned(row.round, row.plan), run, row.own), Own)
                return kept
        return Own()

    def record(self, conn: sa.Connection, entries: Sequence[Entry]) -> SignedHead:
        """Write down what moved no machine: a refused message."""
        return store.append(conn, self.identity, self.owner, self.clock(), entries)

    def saved(self, conn: sa.Connection, run: RunId, expected: Any) -> Any:  # noqa: ANN401 - a union of states
        """Where the machine of this run stands; None if it never moved."""
        row = conn.execute(sa.select(machines.c.state).where(machines.c.run == bytes(run))).first()
        return None if row is None else wire.decode(self.open(MACHINE, run, row.state), expected)

    def stands(self, conn: sa.Connection, run: RunId, state: object) -> bool:
        """Whether the machine of this run, if it ever moved, is where ``state`` has it: no second process moved it."""
        row = conn.execute(sa.select(machines.c.state).where(machines.c.run == bytes(run))).first()
        return row is None or self.open(MACHINE, run, row.state) == wire.encode(state)

    def seal(self, what: str, run: RunId, data: bytes) -> bytes:
        """The data, readable and changeable with this home's key alone: for a database that others administer.

        Args:
            what: names the kind of data, and the round if it is of one; opened under the same name alone.
        """
        context = wire.encode((what, bytes(run), self.owner))
        return keys.seal_at_rest(self.identity.at_rest(context), context, data, os.urandom(12))

    def open(self, what: str, run: RunId, sealed: bytes) -> bytes:
        """What ``seal`` was given under these names.

        Raises:
            Tampered: it was altered, or is of another run, party or kind.
        """
        context = wire.encode((what, bytes(run), self.owner))
        try:
            return keys.open_at_rest(self.identity.at_rest(context), context, sealed)
        except Forged as fault:
            where = f"{databases.name_of(self.engine)}, {what} of run {run.hex()}"
            raise Tampered(where, "altered, or moved here from another place") from fault

    def account(self, conn: sa.Connection) -> Account:
        """The account: a fold over this ledger, so it cannot differ from it."""
        return Account.of(leaf.entry for leaf in store.leaves_of(conn, ACCOUNT_KINDS))

    def witnessed(self, conn: sa.Connection, peers: Iterable[Seat]) -> Mapping[str, SignedHead]:
        """The largest head seen of each of these parties' ledgers, under the key it has now.

        Whoever is no peer any more, or was given a new key and so a new ledger, is held to nothing it showed before.
        """
        keys_of = {seat.member: seat.key for seat in peers}
        seen: dict[str, SignedHead] = {}
        for leaf in store.leaves_of(conn, ("Witnessed",)):
            entry = leaf.entry
            assert isinstance(entry, Witnessed), "leaves_of filters by kind"
            owner = entry.head.head.owner
            if owner not in keys_of or (owner in seen and seen[owner].head.size >= entry.head.head.size):
                continue
            try:
                heads.verify(keys_of[owner], entry.head)
            except Forged:
                continue
            seen[owner] = entry.head
        return seen

    def ledger(self) -> export.LedgerFile | None:
        """A copy of the whole ledger that can be checked without this home; None before its first entry."""
        with self.transaction() as conn:
            head = store.head(conn)
            leaves = tuple(store.raw(conn))
        return None if head is None else export.LedgerFile(self.owner, self.identity.public, leaves, head)


def _owned(round_: int, plan: bytes) -> str:
    return f"what round {round_} left under plan {bytes(plan).hex()}"


def export_all(homes: Sequence[Home], folder: Path) -> None:
    """These parties' ledgers in ``folder``, as all of them stood at one moment.

    Raises:
        OperatorFault: they cannot be written, or never stood still.
    """

    def copies() -> tuple[export.LedgerFile, ...]:
        return tuple(file for home in homes if (file := home.ledger()) is not None)

    for file in export.steady(copies):
        export.write(folder / f"{file.owner}{export.SUFFIX}", file)
