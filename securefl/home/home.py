"""What one party keeps: its key, its ledger, and where its machine stands. One database, so one transaction.

A home outlives every run: whatever a run's output folder is called, the same account is charged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from securefl import files, key_files, keys, wire
from securefl.errors import Forged, Malformed, OperatorFault, Tampered
from securefl.home import identity as identity_file
from securefl.home import leftovers, peers, ring, run_policy
from securefl.home.body_files import Bodies, Body, Known
from securefl.home.ledger_view import Mark, Told
from securefl.home.live_ledger import Live
from securefl.home.ratchet import PREFIX, SUFFIX, Ratchet
from securefl.ledger import anchor, databases, heads, store
from securefl.ledger.tables import machines
from securefl.policy import key_age
from securefl.privacy.account import Account
from securefl.protocol import coordinator_state, custodian, member_state
from securefl.protocol.key_line import KeyLine
from securefl.protocol.member_state import Kept
from securefl.protocol.seen_heads import Seen
from securefl.seams import Own
from securefl.terms import Entry, Head, MemberId, Noticed, Participant, PublicKey, RunId, RunJoined, SignedHead

MACHINE = "machine"
OVER = (member_state.Left, custodian.Left, coordinator_state.Ended)  # states of a run that is over: they hold no secret


@dataclass(frozen=True, slots=True)
class Saved:
    """A machine's state, and how far the ledger had told of its run: an older state cannot stand for it."""

    mark: Mark
    state: bytes  # its encoding; empty if it stands in files
    root: tuple[bytes, int, int, bytes] | None = None  # of a state with bodies


@dataclass(frozen=True, slots=True)
class Home:
    """One party's own place. Nobody else writes here."""

    owner: MemberId
    path: Path
    engine: sa.Engine
    clock: Callable[[], int]
    live: Live = field(repr=False, compare=False)

    @property
    def identity(self) -> keys.Identity:
        """Who signs for this party now, with its former keys."""
        return self.live.identity

    @classmethod
    def at(cls, path: Path, owner: MemberId, clock: Callable[[], int]) -> Home:
        """Open the home at ``path``, making it if there is none; its ledger is verified whole before it is used.

        Raises:
            OperatorFault: the folder cannot be written or others may use it, its database cannot be reached, or it is
                another party's home.
            Tampered: the ledger does not fit its head, or was set back.
        """
        files.folder(path)
        files.clear(path)
        identity = key_files.load_or_create(identity_file.place(path))
        engine = store.open_store(databases.place_of(path, owner, identity))
        home = cls(owner, path, engine, clock, Live(identity, databases.name_of(engine)))
        if ring.pending(path):
            with identity_file.in_turn(path):
                home.exchange_key()
        with home.transaction() as conn:
            head = home.head()
            if head is not None and head.head.owner != owner:
                remedy = "give each party a folder of its own"
                raise OperatorFault(f"this is the home of {head.head.owner}, not of {owner}", remedy, str(path))
            home._settle_all(conn)
            peers.follow(path, home.live.now.standings.current)
        return home

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All of it, or nothing: decision, reservation, ledger leaf and machine state commit together.

        Whatever is read of the ledger in it was verified after the home's lock and the store's were had. The home's is
        kept until the head is written: the store's is in the hands of whoever administers it. The head is signed once
        the store has committed, and kept here before anybody is shown it: a store that refuses holds nothing signed.

        Raises:
            OperatorFault: the database cannot be reached or written, or another transaction has this home for too long.
            Tampered: the ledger is not what this home signed last.
        """
        with anchor.alone(self.path):
            self._refresh()
            with store.begin(self.engine) as conn:
                kept = anchor.read(self.path)
                self.live.begin(conn, kept)
                self._sign(self.live.committed, kept)  # a process may have ended between a commit and its head
                yield conn
            self._sign(self.live.written, self.live.committed)  # before anything that was decided here can be sent
            for run, key in self.live.fresh.items():
                Ratchet.of(self.path, run).settle(key)
            for run, saved in self.live.saved.items():
                Bodies.of(self.path, self.owner, run).keep(saved)
                self.live.know(run, saved if self.live.fresh.get(run) else None)
            self.live.behind(self.path)  # what is kept now, this process has seen

    def _refresh(self) -> None:
        """Go on under the key that is here: another process of this party may have exchanged it."""
        looks, exchanging = ring.looks(self.path), bool(ring.pending(self.path))
        if (looks, exchanging) != self.live.looks:
            self.live.take(key_files.load(identity_file.place(self.path)), exchanging=exchanging)
            self.live.looks = (looks, exchanging)

    def exchange_key(self) -> None:
        """End the exchange of this home's key, from wherever it stands; see ``home.rotation``."""
        ring.exchange(self.path)
        with self.transaction() as conn:
            new = tuple(each for each in ring.pending(self.path) if each not in self.live.now.noticed)
            if new:
                self.record(conn, tuple(map(Noticed, new)))
        ring.end(self.path)

    def _sign(self, head: Head | None, kept: Head | None) -> None:
        """Sign the head of what is committed, and keep it in the home; nothing is signed that is not kept."""
        if head is None or (self.live.signed is not None and self.live.signed.head == head):
            return
        signed = heads.sign(self.identity, head)
        if head != kept:
            anchor.write(self.path, signed, self.live.verified.holds)
        self.live.signed = signed

    def commit(
        self, conn: sa.Connection, run: RunId, entries: Sequence[Entry], state: object, at: int | None = None,
        keep: Kept | None = None,
    ) -> None:  # fmt: skip
        """Record, save and keep; sending comes after the transaction. ``at`` is the clock, where it was read before.

        Raises:
            Unsafe: a run would begin under a policy that this home may not adopt.
        """
        if not entries and self.live.now.mark(run) != Mark():
            assert keep is None, "what is kept is kept with entries"
            assert self.stands(conn, run, state), "a machine moves only with entries that tell of it"
            return
        now, before = self.clock() if at is None else at, self._known(conn, run)
        run_policy.check(self.opened(conn), entries, now)
        if entries:
            self._append(conn, now, entries)
        row = {"run": bytes(run), "state": self._sealed(conn, run, state, before)}
        conn.execute(sa.delete(machines).where(machines.c.run == row["run"]))
        conn.execute(sa.insert(machines).values(**row))
        if keep is not None:
            leftovers.keep(conn, run, keep, self.seal)

    def _sealed(self, conn: sa.Connection, run: RunId, state: object, before: Known | None) -> bytes:
        """The state, under a key that no older one has and no newer one will; of a run that is over, the home's own."""
        file, over = Ratchet.of(self.path, run), isinstance(state, OVER)
        known = Bodies.of(self.path, self.owner, run).save(
            state, before.alone if before is not None and over else before
        )
        self.live.saved[run] = known
        data = wire.encode(
            Saved(self.live.now.mark(run), wire.encode(state)) if known is None
            else Saved(self.live.now.mark(run), b"", known.root)
        )  # fmt: skip
        key = self.live.fresh.get(run)
        if key is None and (not over or file.held()):
            key = file.fresh(self._newest(conn, run, file.held()))
        if key is None:
            return self.seal(MACHINE, run, data)
        self.live.fresh[run] = None if over else key
        if over:
            return self.seal(MACHINE, run, data)
        context = wire.encode((MACHINE, bytes(run), self.owner))
        return keys.seal_at_rest(self._of_state(key, context), context, data, os.urandom(12))

    def _of_state(self, key: keys.Secret, context: bytes) -> keys.Secret:
        """The key that a state is under: of the ratchet, which forgets, and of the identity, which may be encrypted."""
        return keys.derive(self.identity.at_rest(key.raw), "at-rest", context)

    def _newest(self, conn: sa.Connection, run: RunId, kept: Sequence[keys.Secret]) -> keys.Secret | None:
        """The key of the state that stands, of these; a second one was left by a transaction that ended midway."""
        if len(kept) <= 1:
            return next(iter(kept), None)
        row = conn.execute(sa.select(machines.c.state).where(machines.c.run == bytes(run))).first()
        return None if row is None else self._opened(run, row.state)[1]

    def _opened(self, run: RunId, sealed: bytes) -> tuple[bytes, keys.Secret | None]:
        """A machine's state, with its key; None for a state of a run that is over.

        Raises:
            Tampered: it was altered, replaced by one that is older, or is of another run or party.
        """
        context = wire.encode((MACHINE, bytes(run), self.owner))
        for key in Ratchet.of(self.path, run).held():
            with suppress(Forged):
                return self.identity.opened_at_rest(context, sealed, within=key.raw), key
        return self.open(MACHINE, run, sealed), None

    def _settle_all(self, conn: sa.Connection) -> None:
        """Write over the keys of older states that a process left when it ended between a commit and that."""
        for path in sorted(self.path.glob(f"{PREFIX}*{SUFFIX}")):
            if len(Ratchet(path).held()) > 1:
                with suppress(Tampered, ValueError):  # whoever goes on with that run is told
                    self._row(conn, RunId(bytes.fromhex(path.name[len(PREFIX) : -len(SUFFIX)])))

    def own(self, conn: sa.Connection, run: RunId, before: int) -> Own:
        """What the latest training before this round left to be kept; nothing is read whose plan is not settled."""
        return leftovers.latest(conn, run, before, self.account(conn), self.open)

    def record(self, conn: sa.Connection, entries: Sequence[Entry]) -> None:
        """Write down what moved no machine: a refused message."""
        self._append(conn, self.clock(), entries)

    def _append(self, conn: sa.Connection, now: int, entries: Sequence[Entry]) -> None:
        stored, written = store.append(conn, self.live.tree, self.identity, self.owner, now, entries)
        self.live.wrote(stored.head, written)

    def head(self) -> SignedHead | None:
        """The newest head of this home's ledger that is certain; None before its first entry.

        In a transaction it is that of what was committed before. Of each size there is one, whatever a store refuses.
        """
        return self.live.signed

    def head_under(self, identity: keys.Identity) -> SignedHead | None:
        """The same head, under one of this party's keys: in a run that began under it, peers know that one."""
        signed = self.live.signed
        return signed if signed is None or identity is self.identity else heads.sign(identity, signed.head)

    def under(self, key: PublicKey) -> keys.Identity:
        """The identity of this party that has this key.

        Raises:
            Forged: none has.
        """
        found = self.identity.under(key)
        if found is None:
            raise Forged(f"{key.hex()[:16]} is no key of {self.owner}", "protocol.another-party")
        return found

    def holds(self, head: Head) -> bool:
        """Return whether this home's ledger is one that had this head before: not set back, and not begun again."""
        return head.owner == self.owner and self.live.verified.holds(head)

    def saved(self, conn: sa.Connection, run: RunId, expected: Any) -> Any:  # noqa: ANN401 - a union of states
        """Return where the machine of this run stands; None if it never moved.

        Raises:
            Tampered: the state is gone, altered, another run's, or older than what the ledger tells of the run.
        """
        row = self._row(conn, run)
        if row is None or row.root is None:
            return None if row is None else wire.decode(row.state, expected)
        return self._loaded(run, Body(*row.root), expected).state

    def _loaded(self, run: RunId, root: Body, expected: Any) -> Known:  # noqa: ANN401 - a union of states
        known = self.live.knows(run)
        if known is None or known.root != root:
            known = Bodies.of(self.path, self.owner, run).load(root, expected)
            self.live.know(run, known)
        return known

    def _known(self, conn: sa.Connection, run: RunId) -> Known | None:
        """Return what stands, as far as this process knows its bodies; what another process wrote it does not."""
        known = self.live.knows(run)
        row = None if known is None else self._row(conn, run)
        return known if known is not None and row is not None and row.root == known.root else None

    def stands(self, conn: sa.Connection, run: RunId, state: object) -> bool:
        """Whether the machine of this run, if it ever moved, is where ``state`` has it: no second process moved it.

        Raises:
            Tampered: as for ``saved``.
        """
        row = self._row(conn, run)
        if row is None or row.root is None:
            return row is None or row.state == wire.encode(state)
        try:
            found = self._loaded(run, Body(*row.root), type(state)).state
        except Malformed:
            return False  # another kind of state
        return found is state or found == state

    def _row(self, conn: sa.Connection, run: RunId) -> Saved | None:
        row = conn.execute(sa.select(machines.c.state).where(machines.c.run == bytes(run))).first()
        mark = self.live.now.mark(run)
        where = f"{databases.name_of(self.engine)}, {MACHINE} of run {run.hex()}"
        if row is None:
            if mark != Mark():
                raise Tampered(where, "gone, and the ledger tells of the run")
            return None
        data, key = self._opened(run, row.state)
        saved: Saved = wire.decode(data, Saved)
        if saved.mark != mark:
            raise Tampered(where, f"saved at entry {saved.mark.size}, and the ledger told of the run at {mark.size}")
        file = Ratchet.of(self.path, run)
        if run not in self.live.fresh and file.held() != (() if key is None else (key,)):
            file.settle(key)  # a process ended before it could
        return saved

    def seal(self, what: str, run: RunId, data: bytes) -> bytes:
        """The data, readable and changeable with this home's key alone: for a database that others administer.

        Args:
            what: names the kind of data, and the round if it is of one; opened under the same name alone.
        """
        context = wire.encode((what, bytes(run), self.owner))
        return keys.seal_at_rest(self.identity.at_rest(context), context, data, os.urandom(12))

    def open(self, what: str, run: RunId, sealed: bytes) -> bytes:
        """Return what ``seal`` was given under these names.

        Raises:
            Tampered: it was altered, or is of another run, party or kind.
        """
        context = wire.encode((what, bytes(run), self.owner))
        try:
            return self.identity.opened_at_rest(context, sealed)
        except Forged as fault:
            where = f"{databases.name_of(self.engine)}, {what} of run {run.hex()}"
            raise Tampered(where, "altered, or moved here from another place") from fault

    def account(self, conn: sa.Connection) -> Account:
        """The account: a fold over the verified entries, so it cannot differ from them.

        Raises:
            Tampered: an entry that was verified before is not what it was.
        """
        self.live.verified.again(conn)
        return self.live.now.account

    def opened(self, conn: sa.Connection) -> tuple[tuple[int, RunJoined], ...]:
        """Every run that began here, with its time, in order."""
        del conn
        return tuple(self.live.now.opened)

    def told(self, conn: sa.Connection, run: RunId) -> Sequence[Told]:
        """Return what this run opened, refused, proposed and reported, in order."""
        del conn
        return self.live.now.told(run)

    def reserved(self, conn: sa.Connection, run: RunId) -> int | None:
        """When this run's latest round was reserved, by this home's own clock; None if none ever was."""
        del conn
        return self.live.now.reserved(run)

    def witnessed(self, conn: sa.Connection, peers: Iterable[Participant]) -> Seen:
        """The longest heads seen of each of these parties' ledgers, under whatever key it had, in any federation."""
        del conn
        return self.live.now.witnessed(peers)

    def line(self, federation: str, key: PublicKey) -> tuple[PublicKey, ...]:
        """Every key of the party that has this one, as this ledger has their hand-overs; oldest first."""
        self.catch_up()
        return self.live.now.standings.line(federation, key)

    def catch_up(self) -> None:
        """Know what other processes of this home wrote, such as a notice; where none did, no store is opened."""
        if self.live.behind(self.path):
            with self.transaction():
                pass

    def key_line(self, federation: str, seat: Participant, policy: bytes | None = None) -> KeyLine:
        """What this ledger has now of a party's keys in one federation; ``policy`` as in ``standing_in``."""
        keys_ = tuple(reversed(self.line(federation, seat.key)))
        return KeyLine(seat, keys_, self.standing_in(federation, policy))

    def current(self, federation: str, seat: Participant) -> Participant:
        """The party under the newest key of its line, as this ledger has it now."""
        self.catch_up()
        return self.live.now.standings.current(federation, seat)

    def standing_in(self, federation: str, policy: bytes | None) -> Callable[[Participant], None]:
        """Return the check of a party's key in one federation, by what this ledger has now; it raises ``Forged``.

        Args:
            federation: in which notices count.
            policy: the text that the run is under: how old a key may be. None: a key's age is asked elsewhere.
        """
        most_s = None if policy is None else key_age.most_age_in(policy)

        def check(seat: Participant) -> None:
            now = self.clock()
            self.live.now.standings.check(federation, seat, now)
            self.live.now.ages.check(seat, now, most_s)

        return check
