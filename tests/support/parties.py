"""Federations of real agents with homes of their own, whatever carries their messages: makers cross a process border.

Clock, keys and randomness repeat, so two runs of one story differ in nothing but what carried them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction as F
from functools import partial
from pathlib import Path

import numpy as np

from securefl import wire
from securefl.coordinator.drive import drive
from securefl.errors import OperatorFault, PeerFault
from securefl.home.home import Home
from securefl.ledger import store
from securefl.planning.plan import price_in
from securefl.policy import load
from securefl.protection import schemes
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.protocol import messages as m
from securefl.protocol.seen_heads import Seen
from securefl.runtime.couriers import Couriers
from securefl.runtime.inprocess import InProcess
from securefl.runtime.processes import Processes
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Own, Runtime, Waiting
from securefl.site.agent import CustodianAgent, MemberAgent
from securefl.site.serve import Party, serve
from securefl.site.turns import Turns
from securefl.strategy.fedavg import FedAvg
from securefl.terms import (
    Adapter,
    Entry,
    FixedPoint,
    Learning,
    MemberId,
    Participant,
    Patience,
    Plan,
    ProtectionSpec,
    PublicKey,
    RunId,
    Scheme,
    Task,
    Update,
)
from tests.support import nested
from tests.support.relays import relayed
from tests.support.walk import Meddle, Walk
from tests.support.worlds import MODEL, an_update, entropy

COORDINATOR, CUSTODIAN = "coordinator", "custodian"
NAMES = ("a", "b", "c")
SECRET = "patient-4711"  # what a fault says, and nobody outside its site may hear
DIMENSION = 6
NOW = 1_790_000_000


def bug(_: bytes) -> bytes:
    raise AssertionError(SECRET)


def peer(_: bytes) -> bytes:
    raise PeerFault(SECRET, "protocol.unsafe")


def operator(_: bytes) -> bytes:
    raise OperatorFault(SECRET, SECRET, SECRET)


def noise(_: bytes) -> bytes:
    return b"no frame"


STALL_S = 100_000


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK, RELEASED = Clock(), threading.Event()  # of parties that are called; of those that have a thread or a process


def stalls(data: bytes) -> bytes:
    """Take too long: where calls are measured time passes, elsewhere nothing comes."""
    if threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is None:
        CLOCK.now += STALL_S
    else:
        RELEASED.wait()
    return data


MISHAPS: dict[str, Callable[[bytes], bytes]] = {each.__name__: each for each in (bug, peer, operator, noise, stalls)}


@dataclass(frozen=True)
class Unlucky:
    """A party at which something goes wrong, whenever it is asked for something of one kind."""

    inner: Party
    kind: str
    mishap: str

    def handle(self, data: bytes) -> bytes | m.InProgress:
        frame = wire.decode(data, m.Frame)
        return MISHAPS[self.mishap](data) if frame.envelope.receipt.kind == self.kind else self.inner.handle(data)

    def progress(self, data: bytes) -> m.InProgress:
        return self.inner.progress(data)

    def leave(self) -> None:
        self.inner.leave()

    @property
    def idle(self) -> bool:
        return self.inner.idle

    @property
    def most_request(self) -> int:
        return self.inner.most_request


@dataclass(frozen=True)
class Site:
    """A trainer that needs no records: it steps, tells of each step, and may refuse or break."""

    name: str
    luck: str  # "" | "refuses" | "breaks" | "leaves" | "waits": in round 1, until the round is over | "late", see agent
    turns: Turns
    dimension: int = DIMENSION
    stepped: Callable[[int], None] = lambda _: None

    def admit(self, plan: Plan, base: bytes) -> None:
        if self.luck == "refuses":
            raise PeerFault(SECRET)

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        if self.luck == "breaks":
            raise MemoryError(SECRET)
        if self.luck == "leaves":
            raise KeyboardInterrupt
        for done in range(1, plan.learning.event.steps + 1):
            self.stepped(done)
            while self.luck == "waits" and (plan.round, done) == (1, 3):
                self.turns.step(2, plan.learning.event.steps)
                time.sleep(0.002)  # another thread hears that the round is over
            self.turns.step(done, plan.learning.event.steps)
        return Update(an_update(self.name, plan.round, self.dimension), plan.learning.event), Own()


@dataclass(frozen=True)
class Federation:
    """Plain values, from which each party can be made anywhere."""

    folder: Path
    scheme: Scheme = Scheme.MASKING
    names: tuple[str, ...] = NAMES
    luck: tuple[tuple[str, str], ...] = ()  # (member, what its training does)
    mishap: tuple[str, str, str] | None = None  # (member, kind of request, one of MISHAPS)
    steps: int = 4
    dimension: int = DIMENSION
    patience: Patience = field(default_factory=Patience)
    run: RunId = RunId(bytes(16))
    name: str = "f"
    priced: bool = False  # by the accountant, so that an audit finds what it computes itself
    centre: str = COORDINATOR  # whose key and folder the coordinator has

    @property
    def policy(self) -> load.Policy:
        text = nested.POLICY.format(name=self.name, least=2, colluding=0)
        allowed = text.replace("[masking, ckks, clear]", "[masking, ckks, clear, masked-ckks]")
        return load.parse(allowed.encode(), "policy.yaml")

    def door(self, name: str) -> Path:
        """Where a party serves."""
        return self.place(name) / "door"

    def sockets(self, gone_s: float = 60.0) -> Sockets:
        return Sockets({MemberId(name): self.door(name) for name in self.parties}, gone_s)

    @property
    def parties(self) -> tuple[str, ...]:
        return (*self.names, *((CUSTODIAN,) if self.scheme.has_custodian else ()))

    def place(self, name: str) -> Path:
        """One party's own folder."""
        return self.folder / name

    def home(self, name: str) -> Home:
        path = self.place(name)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (key := path / "identity.key").exists():
            key.touch(mode=0o600)
            key.write_bytes(hashlib.sha256(b"party " + name.encode()).digest())
        return Home.at(path, MemberId(COORDINATOR if name == self.centre else name), lambda: NOW)

    def seat(self, name: str) -> Participant:
        from securefl import keys

        identity = keys.Identity(keys.Secret(hashlib.sha256(b"party " + name.encode()).digest()))
        owner = MemberId(COORDINATOR if name == self.centre else name)
        return Participant(owner, identity.public, "here" if name in self.names else "")

    @property
    def threshold(self) -> int:
        """More than half of the members."""
        return len(self.names) // 2 + 1

    def session(self) -> m.Session:
        custodian = self.seat(CUSTODIAN) if self.scheme.has_custodian else None
        seats = tuple(map(self.seat, self.names))
        centre = self.seat(self.centre)
        return m.Session(self.run, self.name, self.policy.hash, self.scheme, self.threshold, centre, custodian, seats)

    def party(self, name: str) -> Party:
        """A party, from its own home."""
        made = self.agent(name)
        return Unlucky(made, *self.mishap[1:]) if self.mishap and self.mishap[0] == name else made

    def agent(self, name: str, stepped: Callable[[int], None] = lambda _: None) -> MemberAgent | CustodianAgent:
        home, session, policy, turns = self.home(name), self.session(), self.policy, Turns()
        charter = member_state.SiteConfig(
            MemberId(name), self.name, policy.hash, policy.text, name if name in self.names else "", session.coordinator,
            session.custodian, session.roster, {}, MODEL if name in self.names else None,
        )  # fmt: skip
        if name == CUSTODIAN:
            holder = schemes.key_holder(self.scheme, home.identity, home.path)
            return CustodianAgent(home, charter, u.Ports(home.identity, holder, 2), entropy(name), turns)
        luck, round_s = dict(self.luck).get(name, ""), None
        if luck == "late":  # this site's own clock goes past what it lets a round take, in the third step
            now, round_s = Clock(NOW), 100
            home = replace(home, clock=now)

            def stepped(done: int, now: Clock = now) -> None:
                now.now += 101 if done == 3 else 0

        trainer = Site(name, luck, turns, self.dimension, stepped)
        ports = member_state.Ports(home.identity, schemes.member_half)
        price = (price_in if self.priced else nested.price_in)(policy, name)
        return MemberAgent(
            home, charter, policy, ports, trainer, price, entropy(name), turns, round_s=round_s
        )  # fmt: skip

    def drive(
        self,
        runtime: Runtime,
        rounds: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> coordinator_state.Ended:
        """The coordinator, over this runtime."""
        home, session, policy = self.home(self.centre), self.session(), self.policy
        start = np.zeros(self.dimension, "<f4").tobytes()
        cover = ProtectionSpec(
            self.scheme,
            2,
            self.threshold,
            0,
            FixedPoint(24, 16, 32),
            session.custodian.key if session.custodian else None,
        )
        learning = Learning(replace(nested.EVENT, steps=self.steps), F(1, 2), 100, F(1), "sgd", 48, 32)
        plan = Plan(self.name, policy.hash, self.run, 1, "testing", MODEL, Task("classification", ("x", "y")),
                    Adapter(("query",), 8, 16, 1), learning, cover, (), ("weights",), m.state_digest(start), self.dimension, patience=self.patience)  # fmt: skip
        strategy, seen = FedAvg(), self.seen(home, session)
        course = coordinator_state.RunState(session, policy.text, (learning.learning_rate,) * rounds, plan, start,
                                          strategy.begin(start), {}, {}, seen.shown, {}, former=seen.former)  # fmt: skip
        ports = coordinator_state.Ports(home.identity, schemes.coordinator_half, strategy)
        try:
            return drive(home, coordinator_state.Planned(course), ports, runtime, lambda *_: None, clock)
        finally:
            home.engine.dispose()

    def seen(self, home: Home, session: m.Session) -> Seen:
        """What the coordinator knows of others' ledgers as a run begins: nothing."""
        del home, session
        return Seen({}, {})

    def entries(self, name: str) -> list[Entry]:
        """A party's ledger, without times."""
        home = self.home(name)
        with home.transaction() as conn:
            found = [leaf.entry for leaf in store.read(conn, home.identity.public)[1]]
        home.engine.dispose()
        return found

    def ledgers(self) -> dict[str, list[Entry]]:
        return {name: self.entries(name) for name in (COORDINATOR, *self.parties)}


@dataclass(frozen=True)
class Maker:
    """Makes one party in whatever process calls it."""

    federation: Federation
    name: str

    def __call__(self) -> Party:
        return self.federation.party(self.name)


@dataclass
class InOrder:
    """The same runtime; answers come in the order of the questions, slow ones last, and what each said is kept."""

    inner: Runtime
    slow: tuple[str, ...] = ()
    left_waiting: Callable[[str], None] = lambda _: None  # is told what was asked, when only slow ones have to answer
    silences: list[tuple[str, str]] = field(default_factory=list)

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        asked = list(outbound)
        heard: dict[MemberId, bytes | Failure] = {}
        answers = iter(self.inner.exchange(asked, waiting))
        for name, _ in sorted(asked, key=lambda each: each[0] in self.slow):
            if name in self.slow and name not in heard:
                self.left_waiting(wire.decode(asked[0][1], m.Frame).envelope.receipt.kind)
            while name not in heard:
                member, heard[member] = next(answers)
            answer = heard[name]
            if isinstance(answer, Failure):
                self.silences.append((name, answer.why))
            yield name, answer


@contextmanager
def in_process(federation: Federation) -> Iterator[InProcess]:
    yield InProcess({MemberId(name): federation.party(name) for name in federation.parties}, CLOCK)


@contextmanager
def in_processes(federation: Federation) -> Iterator[Processes]:
    runtime = Processes({MemberId(name): Maker(federation, name) for name in federation.parties}, grace_s=1)
    try:
        yield runtime
    finally:
        runtime.close()


@contextmanager
def on_sockets(federation: Federation) -> Iterator[Sockets]:
    """Parties that serve on sockets, all in this process."""
    stop = threading.Event()

    def serving(name: str) -> None:
        serve(Maker(federation, name), federation.door(name), federation.place(name) / "serving", stop=stop)

    threads = [threading.Thread(target=serving, args=(name,)) for name in federation.parties]
    for each in threads:
        each.start()
    try:
        yield federation.sockets()
    finally:
        stop.set()
        for each in threads:
            each.join()


@contextmanager
def by_couriers(
    federation: Federation, meddle: Meddle = lambda name, medium, to: None, told: list[str] | None = None
) -> Iterator[Couriers]:
    """Parties on machines of their own, and a courier for each: what it carries it may meddle with."""
    carried, said = federation.folder / "carried", [] if told is None else told
    coordinator, centre = federation.home(federation.centre), federation.seat(federation.centre).key

    def counting(name: str) -> tuple[PublicKey, ...]:
        return coordinator.key_line(federation.name, federation.seat(name), federation.policy.text).counting()

    known = {MemberId(name): partial(counting, name) for name in federation.parties}
    homes = {name: federation.home(name) for name in federation.parties}
    walks = [
        Walk(name, federation.party(name), home, partial(home.line, federation.name, centre), carried, meddle, said)
        for name, home in homes.items()
    ]
    try:
        yield Couriers(carried, coordinator.identity, known, look_s=0.002, tell=said.append)
    finally:
        coordinator.engine.dispose()
        for each in walks:
            each.end()


def waiting(seconds: float) -> Waiting:
    """From now on, by the machine's own clock."""
    return Waiting(seconds, time.monotonic)


@contextmanager
def over_relays(federation: Federation) -> Iterator[Sockets]:
    """The same parties, and a relay on both ends."""
    with on_sockets(federation), relayed(federation.folder, {name: federation.door(name) for name in federation.parties}) as (_, runtime):  # fmt: skip
        yield runtime


RUNTIMES = {
    "inprocess": in_process,
    "processes": in_processes,
    "sockets": on_sockets,
    "relayed": over_relays,
    "couriers": by_couriers,
}
