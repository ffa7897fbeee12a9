"""Whole federations in memory: real machines, real keys, real protections, and a wire that can lose, repeat and forge.

Every state is encoded and decoded between any two events, so each story is also a story of restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.protection import schemes
from securefl.protocol import coordinator as c
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.protocol import member as mm
from securefl.protocol import messages as m
from securefl.seams import Failure
from securefl.strategy.fedavg import FedAvg
from securefl.terms import (
    Adapter,
    Entry,
    Event,
    FixedPoint,
    Grant,
    Hash,
    Head,
    Learning,
    Level,
    MemberId,
    MicroEpsilon,
    Model,
    Participant,
    Plan,
    PoissonGaussian,
    Price,
    ProtectionSpec,
    Reason,
    Refusal,
    RunId,
    Scheme,
    SignedHead,
    Task,
    Update,
)

POLICY = b"""\
securefl_policy: 1
federation: f
version: 1
valid: {from: 2020-01-01, until: 2099-12-31}
budget: {unit: record, neighbours: add-or-remove-one, epsilon: 8, delta: 1e-5, per_round: {epsilon: 8}, per_dataset: {epsilon: 8}, overlap: 1}
training: {mechanisms: [], clip: {at_most: 1, norm: l2}, noise_multiplier: {at_least: 1}, modules: [], rank: {at_most: 1}, base_models: []}
protection: {schemes: [], min_cohort: 2, threshold: {at_least: 1}, colluding: 0}
release: {fields: [], to: members}
context: {purposes: [], regions: []}
"""  # it allows nothing: what a test decides by is its own
POLICY_HASH = Hash(hashlib.sha256(POLICY).digest())
EVENT = PoissonGaussian(Fraction(1, 10), Fraction(1), 3)
ENCODING = FixedPoint(24, 16, 32)
MODEL = Model("m", Hash(bytes(32)))


def entropy(label: str) -> Callable[[int], bytes]:
    """Bytes that repeat from test to test and never within one."""
    counter = 0

    def draw(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{label}/{counter}".encode()).digest(size)

    return draw


def identity(name: str) -> keys.Identity:
    return keys.Identity(keys.Secret(hashlib.sha256(b"identity " + name.encode()).digest()))


def seat(name: str) -> Participant:
    return Participant(MemberId(name), identity(name).public, "here")


def signed_head(owner: str, size: int, root: bytes = b"") -> SignedHead:
    head = Head(MemberId(owner), size, Hash(root or hashlib.sha256(f"{owner}/{size}".encode()).digest()))
    return SignedHead(head, identity(owner).sign("head", wire.encode(head)))


def an_update(name: str, round_: int, dimension: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(f"{name}/{round_}".encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(0, 0.5, dimension)


def a_grant(plan: Plan) -> Grant | Refusal:
    name = wire.plan_hash(plan)
    price = Price(name, Hash(bytes(32)), MicroEpsilon(1), {Level.DATASET: MicroEpsilon(plan.round)})
    return Grant(name, price, name[:16])


def refuse(_: object) -> Refusal:
    return Refusal((Reason("budget.epsilon", "8.1", "8", "run fewer rounds"),))


@dataclass
class Party:
    """One machine, as a process would hold it: bytes between events, and a ledger that only grows."""

    name: str
    saved: bytes
    kind: object
    entries: list[Entry] = field(default_factory=list)
    decide: Callable[[Plan], Grant | Refusal] = a_grant
    trained: int = 0

    @property
    def state(self) -> object:
        return wire.decode(self.saved, self.kind)

    def head(self) -> SignedHead:
        return signed_head(self.name, len(self.entries) + 1)


@dataclass
class World:
    """A federation and the wire between its parties."""

    names: tuple[str, ...] = ("a", "b", "c", "d")
    scheme: Scheme = Scheme.MASKING
    rounds: int = 2
    min_cohort: int = 3
    threshold: int = 3
    colluding: int = 1
    dimension: int = 6
    event: Event = EVENT

    def __post_init__(self) -> None:
        self.rand = entropy("world")
        self.lost: set[tuple[str, str]] = set()  # (member, message kind): the answer never arrives
        self.deaf: set[tuple[str, str]] = set()  # (member, message kind): the request never arrives
        self.twice: set[tuple[str, str]] = set()  # (member, message kind): the request arrives twice
        self.forge: dict[str, Callable[[m.Frame], m.Frame]] = {}  # request kind -> what the wire makes of it
        self.backwards = False
        self.carried: list[tuple[str, bytes]] = []  # every answer's bytes
        self.faults: list[tuple[str, PeerFault]] = []
        self.seen: list[tuple[coordinator_state.State, coordinator_state.Step]] = []
        coordinator, custodian = seat("coordinator"), None
        self.holder = None
        if self.scheme.has_custodian:
            custodian = seat("custodian")
            self.holder = schemes.key_holder(self.scheme, identity("custodian"))
        seats = tuple(seat(name) for name in self.names)
        run = RunId(bytes(16))
        session = m.Session(run, "f", POLICY_HASH, self.scheme, self.threshold, coordinator, custodian, seats)
        cover = ProtectionSpec(self.scheme, self.min_cohort, self.threshold, self.colluding, ENCODING,
                      custodian.key if custodian else None)  # fmt: skip
        start = np.zeros(self.dimension, "<f4").tobytes()
        learning = Learning(self.event, Fraction(1, 2), 100, Fraction(1 << 10), "sgd", 48, 32)  # updates fill the grid
        plan = Plan("f", POLICY_HASH, run, 1, "test", MODEL, Task("classification", ("x", "y")),
                    Adapter(("query",), 8, 16, 1), learning, cover, (), ("weights",), m.state_digest(start),
                    self.dimension)  # fmt: skip
        course = coordinator_state.RunState(
            session, POLICY, (learning.learning_rate,) * self.rounds, plan, start, start, {}, {}, {}, {}
        )
        self.parties: dict[str, Party] = {}
        for name in self.names:
            charter = member_state.SiteConfig(
                MemberId(name),
                "f",
                POLICY_HASH,
                POLICY,
                f"{name}-data",
                coordinator,
                custodian,
                seats,
                {},
                MODEL,
            )
            self.parties[name] = Party(name, wire.encode(member_state.Idle(charter)), member_state.State)
        if custodian:
            charter = member_state.SiteConfig(
                MemberId("custodian"), "f", POLICY_HASH, POLICY, "", coordinator, custodian, seats, {}, None
            )
            self.parties["custodian"] = Party("custodian", wire.encode(u.Idle(charter)), u.State)
        self.coordinator = Party("coordinator", wire.encode(coordinator_state.Planned(course)), coordinator_state.State)
        self.coordinator_plugs = coordinator_state.Ports(
            identity("coordinator"), schemes.coordinator_half, FedAvg(), self.coordinator.head
        )

    def member_plugs(self, name: str) -> member_state.Ports:
        return member_state.Ports(identity(name), schemes.member_half, head=self.parties[name].head)

    def custodian_plugs(self) -> u.Ports:
        assert self.holder is not None
        return u.Ports(identity("custodian"), self.holder, self.min_cohort, head=self.parties["custodian"].head)

    def handle(self, name: str, data: bytes) -> bytes:
        """One request to one peer, as its agent would treat it."""
        party = self.parties[name]
        frame: m.Frame = wire.decode(data, m.Frame)
        event = member_state.Received(frame.envelope, frame.head, keys.Secret(self.rand(32)))
        if name == "custodian":
            moved: u.Step | member_state.Step = u.step(party.state, event, self.custodian_plugs())
        else:
            moved = mm.step(party.state, event, self.member_plugs(name))
        self.keep(party, moved)
        while moved.effects:
            moved = self.perform(party, moved.effects[0])
            self.keep(party, moved)
        assert moved.outbound is not None
        return wire.encode(m.Frame(moved.outbound, party.head()))

    def carry(self, name: str, data: bytes) -> bytes:
        """One request, as whatever carries messages brings it: here a call."""
        return self.handle(name, data)

    def perform(self, party: Party, effect: member_state.Effect | u.Decrypt) -> member_state.Step | u.Step:
        if isinstance(effect, u.Decrypt):
            answer = self.custodian_plugs().holder.open_sum(effect.prepared)
            return u.step(party.state, u.Decrypted(answer), self.custodian_plugs())
        if isinstance(effect, member_state.Reserve):
            event: member_state.Event = member_state.Decided(party.decide(effect.plan))
        else:
            party.trained += 1
            values = self.update_of(party.name, effect.plan.round)
            event = member_state.Trained(Update(values, effect.plan.learning.event), keys.Secret(self.rand(32)))
        return mm.step(party.state, event, self.member_plugs(party.name))

    def update_of(self, name: str, round_: int) -> np.ndarray:
        return an_update(name, round_, self.dimension)

    def keep(self, party: Party, moved: object) -> None:
        party.entries += moved.entries
        party.saved = wire.encode(moved.state)

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], patience_s: float = 0
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        del patience_s
        asked = list(outbound)
        for name, data in reversed(asked) if self.backwards else asked:
            frame: m.Frame = wire.decode(data, m.Frame)
            kind = frame.envelope.receipt.kind
            if (name, kind) in self.deaf:
                yield name, Failure("the request was lost")
                continue
            if kind in self.forge:
                data = wire.encode(self.forge[kind](frame))  # noqa: PLW2901
            try:
                answer = self.carry(name, data)
                if (name, kind) in self.twice:
                    again = self.carry(name, data)
                    assert wire.decode(again, m.Frame).envelope == wire.decode(answer, m.Frame).envelope
                    yield name, again
            except PeerFault as fault:
                self.faults.append((name, fault))
                yield name, Failure(str(fault))
                continue
            self.carried.append((name, answer))
            if (name, kind) in self.lost:
                yield name, Failure("the answer was lost")
                continue
            yield name, answer

    def advance(self, event: coordinator_state.Event) -> coordinator_state.Step:
        before = self.coordinator.state
        moved = c.step(before, event, self.coordinator_plugs)
        self.keep(self.coordinator, moved)
        self.seen.append((before, moved))
        return moved

    def play(self, first: coordinator_state.Event | None = None, patience: int = 100) -> coordinator_state.Ended:
        """The whole run, as ``runtime.drive`` plays it."""
        outbound = self.advance(first or coordinator_state.Started()).outbound
        for _ in range(patience):
            state = self.coordinator.state
            if isinstance(state, coordinator_state.Ended):
                return state
            asked = [(e.receipt.to, wire.encode(m.Frame(e, self.coordinator.head()))) for e in outbound]
            outbound = ()
            for sender, answer in self.exchange(asked):
                if isinstance(answer, Failure):
                    continue
                try:
                    moved = self.advance(coordinator_state.Received(sender, wire.decode(answer, m.Frame)))
                except PeerFault as fault:
                    self.faults.append(("coordinator", fault))
                    continue
                outbound += moved.outbound
            if not outbound and not isinstance(self.coordinator.state, coordinator_state.Ended):
                outbound = self.advance(coordinator_state.Elapsed()).outbound
        raise AssertionError("the run does not end")

    def expected(self, *survivors: tuple[str, ...]) -> np.ndarray:
        """The state after rounds with these survivors, from plain integers."""
        state = np.zeros(self.dimension)
        for round_, names in enumerate(survivors, start=1):
            total = sum(np.rint(an_update(name, round_, self.dimension) * 2**16) for name in names)
            state = (state + total / (len(names) * 2**16)).astype("<f4").astype(float)
        return state

    def reached(self, end: coordinator_state.Ended) -> np.ndarray:
        return np.frombuffer(end.course.state, "<f4").astype(float)


def replaced_plan(frame: m.Frame, signer: str = "coordinator", **changes: object) -> m.Frame:
    """A proposal whose plan a coordinator altered, properly signed by it."""
    receipt = frame.envelope.receipt
    proposal = wire.decode(frame.envelope.body, m.Propose)
    message = replace(proposal, plan=replace(proposal.plan, **changes))
    return resigned(receipt, message, signer)


def resigned(receipt: object, message: m.Request | m.Reply, signer: str) -> m.Frame:
    envelope = m.enclose(
        identity(signer), receipt.sender, receipt.to, receipt.run, receipt.round, message, receipt.plan,
        release=("weights",), head=receipt.head,
    )  # fmt: skip
    return m.Frame(envelope, signed_head(signer, 10_000))
