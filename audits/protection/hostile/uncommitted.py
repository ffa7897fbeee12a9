"""Whoever administers a database refuses to commit, or takes a commit back, so that an effect is had once more.

It sees every statement, also of a transaction that it refuses. It has no file of the home.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from audits.budget import site
from audits.protection.attempt import Attempt, Outcome
from audits.protection.desk import Desk
from audits.protection.hostile.forgotten import custodian_home
from securefl import files, key_files, keys, wire
from securefl.errors import Fault, OperatorFault, Unsafe
from securefl.home.home import Home
from securefl.ledger import store as ledgers
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.protection.key_file import Exhausted, KeyFile
from securefl.protection.masking_terms import Survivors
from securefl.protection.summation import Summation
from securefl.protocol import custodian as u
from securefl.protocol import member_state
from securefl.protocol import messages as m
from securefl.site import custody
from securefl.site.agent import CustodianAgent, MemberAgent
from securefl.site.turns import Turns
from securefl.terms import MemberId, Refused, Scheme
from tests.support import worlds
from tests.support.nested import LAYOUT

ENCRYPTED = (Scheme.CKKS, Scheme.BFV, Scheme.MASKED_CKKS)


class Refusing:
    """The administrator of a home's database."""

    def __init__(self, home: Home, copy: Path) -> None:
        self._place, self._copy = home.path / "ledger.db", copy
        self.refuse: Callable[[int], bool] = lambda _: False  # the next commit, by its number in this watch
        self.also_done = False  # what it says it refused, it has committed
        self.commits = 0
        self.sent: list[bytes] = []  # every value of every statement
        sa.event.listen(home.engine, "before_cursor_execute", self._see)
        sa.event.listen(home.engine, "commit", self._decide)

    def _see(self, conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:  # noqa: ANN401
        del conn, cursor, statement
        values = parameters.values() if isinstance(parameters, dict) else parameters
        self.sent += [bytes(each) for each in values if isinstance(each, bytes | bytearray | memoryview)]

    def _decide(self, conn: sa.Connection) -> None:
        self.commits += 1
        if self.refuse(self.commits):
            if self.also_done:
                conn.connection.driver_connection.commit()  # type: ignore[union-attr]
            raise sqlite3.OperationalError("disk I/O error")

    @contextmanager
    def refusing(self, which: Callable[[int], bool], *, also_done: bool = False) -> Iterator[None]:
        """Within, refuse the commits with these numbers, from 1."""
        self.commits, self.refuse, self.also_done = 0, which, also_done
        try:
            yield
        finally:
            self.refuse = lambda _: False

    def copy(self) -> None:
        """Keep the database as it stands."""
        self._copy.unlink(missing_ok=True)
        with (
            closing(sqlite3.connect(self._place)) as real,
            closing(sqlite3.connect(self._copy)) as made,
        ):
            real.backup(made)

    def put_back(self) -> None:
        """Put the copy into the database's place."""
        with (
            closing(sqlite3.connect(self._copy)) as kept,
            closing(sqlite3.connect(self._place)) as real,
        ):
            kept.backup(real)


class _Counted:
    """The custodian's own key holder; the questions that it decrypts for are counted."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401 - any holder
        self._inner = inner
        self.asked = b""  # what it is asked now
        self.decrypted: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._inner, name)

    def open_sum(self, prepared: Any) -> bytes:  # noqa: ANN401
        self.decrypted.add(self.asked)
        return self._inner.open_sum(prepared)  # type: ignore[no-any-return]


# How a question is kept from being remembered: an error, if the way ends in one.


def refused(admin: Refusing, ask: Callable[[], object]) -> None:
    """The first commit is refused."""
    with admin.refusing(lambda number: number == 1):
        ask()


def refused_later(admin: Refusing, ask: Callable[[], object]) -> None:
    """The first commit is made, and every other one is refused."""
    with admin.refusing(lambda number: number > 1):
        ask()


def refused_and_done(admin: Refusing, ask: Callable[[], object]) -> None:
    """The commit is made and said to be refused; then it is taken back."""
    admin.copy()
    try:
        with admin.refusing(lambda _: True, also_done=True):
            ask()
    finally:
        admin.put_back()


def taken_back(admin: Refusing, ask: Callable[[], object]) -> None:
    """Every commit is made and acknowledged; then all of it is taken back."""
    admin.copy()
    try:
        ask()
    finally:
        admin.put_back()


WAYS = (refused, refused_later, refused_and_done, taken_back)


def custodian(number: int, folder: Path, *, reordered: bool = False) -> Outcome:
    """Ask a custodian about everybody but one, each in turn, and keep it from remembering; then about all.

    Or about all of them in another order: a question is a question, whatever its sum is.
    """
    world = worlds.World(scheme=ENCRYPTED[number % 3], rounds=1)
    me, home = MemberId("custodian"), custodian_home(folder / "home")
    holder = _Counted(world.holder)
    charter = world.parties[me].state.charter  # type: ignore[attr-defined]
    agent = CustodianAgent(home, charter, u.Ports(home.identity, holder, world.min_cohort), world.rand)
    admin, honest, stopped, way = Refusing(home, folder / "copy.db"), world.handle, set[str](), WAYS[number % 4]

    def handle(name: str, data: bytes) -> bytes:
        frame: m.Frame = wire.decode(data, m.Frame)
        receipt = frame.envelope.receipt
        if name != me or receipt.kind != "Ask":
            return agent.handle(data) if name == me else honest(name, data)  # type: ignore[return-value]
        asked = wire.decode(wire.decode(frame.envelope.body, m.Ask).question, Summation)
        for left in range(len(asked.inputs)):
            fewer = tuple(each for index, each in enumerate(asked.inputs) if index != left)
            inputs = (*asked.inputs[left + 1 :], *asked.inputs[: left + 1]) if reordered else fewer
            other = m.Ask(receipt.round, wire.encode(replace(asked, inputs=inputs)))
            question = wire.encode(replace(frame, envelope=worlds.resigned(receipt, other, "coordinator").envelope))
            holder.asked = question
            try:
                way(admin, lambda question=question: agent.handle(question))  # type: ignore[misc]
            except Fault as fault:
                stopped.add(getattr(fault, "rule", "") or type(fault).__name__)
        holder.asked = data
        try:
            return agent.handle(data)  # type: ignore[return-value]
        except Fault as fault:
            stopped.add(getattr(fault, "rule", "") or type(fault).__name__)
            raise

    world.handle = handle  # type: ignore[method-assign]
    with suppress(Fault):
        world.play()
    home.engine.dispose()
    assert holder.decrypted or stopped, "nothing was tried"
    return Outcome(len(holder.decrypted) > 1, ", ".join(sorted(stopped)) or "one sum")


class _Raising(_Counted):
    """The custodian's own key holder; it decrypts, and then something goes wrong: each time, or the first time."""

    def __init__(self, inner: Any, fault: Exception, times: int) -> None:  # noqa: ANN401 - as above
        super().__init__(inner)
        self.fault, self.times, self.opened = fault, times, 0

    def open_sum(self, prepared: Any) -> bytes:  # noqa: ANN401
        found, self.opened = super().open_sum(prepared), self.opened + 1
        if self.opened <= self.times:
            raise self.fault
        return found


def raising(number: int, folder: Path, *, restarted: bool = False) -> Outcome:
    """Have the decryption of a round raise, and ask for it again and again: also of a custodian that was restarted."""
    world = worlds.World(scheme=ENCRYPTED[number % 3], rounds=1)
    me, home = MemberId("custodian"), custodian_home(folder / "home")
    faults: tuple[Exception, ...] = (
        MemoryError(), ValueError("scale out of bounds"), Exhausted("4096 sums"),
        OperatorFault("no count", "restore it"), RuntimeError("the key's file is gone"),
    )  # fmt: skip
    holder = _Raising(world.holder, faults[number % len(faults)], 1 + number % 2 * 9)
    charter = world.parties[me].state.charter  # type: ignore[attr-defined]
    ports = u.Ports(home.identity, holder, world.min_cohort)
    agent, honest = CustodianAgent(home, charter, ports, world.rand), world.handle

    def handle(name: str, data: bytes) -> bytes:
        if name != me or wire.decode(data, m.Frame).envelope.receipt.kind != "Ask":
            return agent.handle(data) if name == me else honest(name, data)  # type: ignore[return-value]
        answer: bytes = b""
        for _ in range(3):
            with suppress(Exception):
                answer = agent.handle(data)  # type: ignore[assignment]
            if restarted:
                object.__setattr__(agent, "turns", Turns())
        if not answer:
            raise Unsafe("the custodian is still at it")
        return answer

    world.handle = handle  # type: ignore[method-assign]
    end = world.play()
    with home.transaction() as conn:
        written = [leaf.entry for leaf in ledgers.read(conn, home.identity.public)[1]]
    home.engine.dispose()
    assert holder.opened, "nothing was decrypted"
    named = sorted({each.rule for entry in written if isinstance(entry, Refused) for each in entry.reasons})
    ends = end.outcome == "aborted" and bool(named)
    return Outcome(holder.opened > 1 or not ends, ", ".join(named))


def shares(number: int, folder: Path) -> Outcome:
    """Ask a member for shares about everybody but one, each in turn, and keep it from remembering; then about all."""
    world = worlds.World(names=(site.OWNER, "b", "c", "d", "e"), threshold=4, scheme=Scheme.MASKING, rounds=1)
    home = site.home(folder / "home")
    party = world.parties[site.OWNER]
    admin, way = Refusing(home, folder / "copy.db"), WAYS[number % 4]
    honest, stopped, given = world.handle, set[str](), list[bytes]()
    agent = _member(home, world)

    def handle(name: str, data: bytes) -> bytes:
        if name != party.name:
            return honest(name, data)
        frame: m.Frame = wire.decode(data, m.Frame)
        receipt = frame.envelope.receipt
        if receipt.kind != "Ask":
            return agent.handle(data)  # type: ignore[return-value]
        told = wire.decode(frame.envelope.body, m.Ask)
        named = wire.decode(told.question, Survivors).members
        for left in sorted(set(named) - {party.name}):
            others = tuple(each for each in named if each != left)
            sealed = tuple(each for each in told.sealed if each.receipt.sender != left)
            other = m.Ask(told.round, wire.encode(Survivors(others)), sealed)
            question = wire.encode(replace(frame, envelope=worlds.resigned(receipt, other, "coordinator").envelope))
            try:
                way(admin, lambda question=question: given.append(agent.handle(question)))  # type: ignore[misc,arg-type]
            except Fault as fault:
                stopped.add(getattr(fault, "rule", "") or type(fault).__name__)
        try:
            given.append(agent.handle(data))  # type: ignore[arg-type]
        except Fault as fault:
            stopped.add(getattr(fault, "rule", "") or type(fault).__name__)
            raise
        return given[-1]

    world.handle = handle  # type: ignore[method-assign]
    with suppress(Fault):
        world.play()
    home.engine.dispose()
    answers = {wire.decode(each, m.Frame).envelope.body for each in given}
    assert given or stopped, "nothing was tried"
    return Outcome(len(answers) > 1, ", ".join(sorted(stopped)) or "one answer")


@dataclass
class _Untaught:
    """A trainer that counts how often it was asked to read records."""

    trained: int = 0
    standing: list[int] = field(default_factory=list)
    desk: Any = None

    def admit(self, plan: Any, base: bytes) -> None:  # noqa: ANN401
        """Anything goes."""

    def train(self, plan: Any, base: bytes, own: Any) -> Any:  # noqa: ANN401
        """Note whether the price stands; give up."""
        del plan, base, own
        self.trained += 1
        self.standing.append(len(self.desk.charges()))
        raise MemoryError


def training(number: int, folder: Path) -> Outcome:
    """Propose a plan, and keep the member from remembering what it set aside for it."""
    trainer = _Untaught()
    desk = Desk(number, folder, trainer)  # type: ignore[arg-type]
    trainer.desk = desk
    admin, way, stopped = Refusing(desk.home, folder / "copy.db"), WAYS[number % 4], set[str]()
    base = np.zeros(LAYOUT.entries, "<f4").tobytes()
    plan = desk.plan(1, base)
    for _ in range(3):
        try:
            way(admin, lambda: desk.propose(plan, base))
        except Fault as fault:
            stopped.add(getattr(fault, "rule", "") or type(fault).__name__)
    desk.home.engine.dispose()
    unpaid = trainer.trained > 0 and not all(trainer.standing)
    return Outcome(unpaid, ", ".join(sorted(stopped)) or "the price stood first")


def split_key(number: int, folder: Path) -> Outcome:
    """Split a decryption key anew, with the process gone after each write in turn, and look for the key."""
    homes = {MemberId(name): folder / name for name in ("a", "b", "c", "d")[: 3 + number % 2]}
    place = folder / "custodian"
    for path in (place, *homes.values()):
        files.folder(path)
        key_files.load_or_create(path / "identity.key")
    identity, file = key_files.load(place / "identity.key"), place / schemes.key_name(Scheme.CKKS)
    schemes.key_holder(Scheme.CKKS, identity, place)
    whole = KeyFile(file, identity).kept(lambda: b"")
    custody.split(file, 2, homes, identity, _rand(number, 0))
    kept, left, put = files.write, number % (len(homes) + 2), [0]

    def dying(path: Path, data: bytes) -> None:
        if put[0] == left:
            raise KeyboardInterrupt
        put[0] += 1
        kept(path, data)

    files.write = dying  # type: ignore[assignment]
    try:
        with suppress(KeyboardInterrupt):
            custody.split(file, 3, homes, identity, _rand(number, 1))
    finally:
        files.write = kept  # type: ignore[assignment]
    found = set[bool]()
    for again in (2, 3):  # as it was left, and after it was split once more
        try:
            gather = custody.gather_from(file, homes, identity)
            found.add(custody.assembled(file, identity, gather, _rand(number, 10 * again)) == whole)
            custody.split(file, 2, homes, identity, _rand(number, again))
        except Fault:
            found.add(False)
    return Outcome(found != {True}, "old shares stay until the new ones are all there")


def _rand(number: int, use: int) -> keys.Secret:
    return keys.Secret(wire.digest("split", (number, use)))


def _member(home: Home, world: worlds.World) -> MemberAgent:
    """The first member of a world, in a home of its own, whose training takes no time."""

    class Trainer:
        def admit(self, plan: Any, base: bytes) -> None:  # noqa: ANN401
            """Anything goes."""

        def train(self, plan: Any, base: bytes, own: Any) -> Any:  # noqa: ANN401
            del base
            return worlds.Update(world.update_of(site.OWNER, plan.round), plan.learning.event), own

    charter = world.parties[site.OWNER].state.charter  # type: ignore[attr-defined]
    ports = member_state.Ports(home.identity, schemes.member_half)
    text = site.TEXT.format(limit="9/10").replace("[clear]", "[masking]")
    held = replace(policies.parse(text.encode(), "policy"), text=worlds.POLICY, hash=worlds.POLICY_HASH)
    return MemberAgent(home, charter, held, ports, Trainer(), lambda plan, now: site.price(plan, now, held), world.rand)


ATTEMPTS = (
    Attempt("A custodian is asked about other sums while its database refuses to remember", custodian),
    Attempt(
        "A custodian is asked about the same inputs in another order while its database refuses to remember",
        partial(custodian, reordered=True),
    ),
    Attempt("A custodian's decryption raises and the question is asked again", raising),
    Attempt("So does it, and the custodian is started again in between", partial(raising, restarted=True)),
    Attempt("A member is asked for other shares while its database refuses to remember", shares),
    Attempt("A member's database refuses to remember what it set aside, and training begins", training),
    Attempt("A process ends while a decryption key is split anew", split_key),
)
