"""Trees of federations whose leaves train in no time: real homes, machines, protections and policies, a made-up training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction as F
from pathlib import Path

import numpy as np

from securefl import wire
from securefl.coordinator.drive import drive
from securefl.errors import PeerFault
from securefl.home.home import Home
from securefl.planning.subfederation import Inside
from securefl.policy import load
from securefl.privacy.account import Account
from securefl.protection import schemes
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.seams import Own, Runtime
from securefl.site.agent import CustodianAgent, MemberAgent
from securefl.site.subfederation import NestedTrainer
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.member import MemberStrategy
from securefl.strategy.rules import FactorServer
from securefl.strategy.worldlm import AttentionServer
from securefl.terms import (
    Adapter,
    AdapterRule,
    FixedPoint,
    Learning,
    Level,
    MemberId,
    MicroEpsilon,
    Participant,
    Plan,
    PoissonGaussian,
    Price,
    ProtectionSpec,
    RunId,
    Scheme,
    Sharing,
    SignedHead,
    Task,
    Update,
)
from securefl.terms.layout import Layout, Tensor
from tests.support.worlds import MODEL

LAYOUT = Layout(
    (Tensor("head.bias", (2,)), Tensor("head.weight", (2, 3)), Tensor("l0.lora_B.default.weight", (3, 2))),
    AdapterRule.B_ONLY,
)
EVENT = PoissonGaussian(F(1, 10), F(1), 4)
POLICY = """\
securefl_policy: 1
federation: {name}
version: 1
valid: {{from: 2020-01-01, until: 2099-12-31}}
budget: {{unit: record, neighbours: add-or-remove-one, epsilon: 20, delta: 1e-5, per_round: {{epsilon: 10}}, per_dataset: {{epsilon: 20}}, overlap: 1}}
training:
  mechanisms: [poisson-gaussian]
  clip: {{at_most: 1.0, norm: l2}}
  noise_multiplier: {{at_least: 0.5}}
  losses: [own-label, fedntd, fedlsd, soft-labels, pseudo-labels]
  optimizers: [sgd, adamw, adamw-bc]
  modules: [query]
  rank: {{at_most: 8}}
  base_models: [m]
sharing: {{home: [head, lora_B, weight, bias, l0], pull: true, attention: true, weightings: 2, weight_ratio: {{at_most: 2981}}}}
protection: {{schemes: [masking, ckks, clear], min_cohort: {least}, threshold: {{at_least: {least}}}, colluding: {colluding}, trust: [custodian], grid: {{fraction_bits: {{at_least: 0, at_most: 40}}, value_bits: {{at_most: 64}}}}}}
release: {{fields: [weights], to: members}}
context: {{purposes: [testing], regions: [here]}}
"""
Tree = Mapping[str, "Tree | None"]  # names of members; those of a federation with what is below it


def score(base: np.ndarray, after: np.ndarray) -> float:
    """How alike two states are, in (0, 1]: any function of the two would do."""
    return float(np.exp(-np.abs(np.asarray(after, float) - np.asarray(base, float)).mean()))


def trained(name: str, round_: int, start: np.ndarray) -> np.ndarray:
    """A training that depends on where it starts, and on whose it is."""
    seed = int.from_bytes(hashlib.sha256(f"{name}/{round_}".encode()).digest()[:4], "big")
    drawn = np.random.default_rng(seed).normal(0, 1, LAYOUT.entries)
    return (start + 0.3 * np.tanh(drawn - start)).astype("<f4")


def price_in(policy: load.Policy, dataset: str) -> Callable[[Plan, Account], Price]:
    """A price that is nearly nothing: no accountant is asked."""

    def price(plan: Plan, account: Account) -> Price:
        one = MicroEpsilon(1)
        above = {each.federation: one for each in policy.above}
        return Price(
            wire.plan_hash(plan), account.digest, one, dict.fromkeys(Level, one), above, policy.caps(dataset, plan.run)
        )

    return price


@dataclass
class Site:
    """A leaf: it trains what is asked, unless it is told to refuse."""

    world: World
    name: str

    def admit(self, plan: Plan, base: bytes) -> None:
        if self.name in self.world.refusing:
            raise PeerFault("not today")

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        self.world.trained.append((self.name, self.world.round))
        half = MemberStrategy(LAYOUT, self.world.origin)
        start = np.frombuffer(half.start(plan, base, own.model), "<f4")
        after = trained(self.name, self.world.round, start)
        keep = Own(after.tobytes() if plan.sharing.keeps else b"")
        scores = (score(np.frombuffer(base, "<f4"), after),) * len(plan.sharing.weightings)
        weights = half.weights(plan, scores, b"")
        return Update(half.share(plan, base, start.tobytes(), after.tobytes(), weights), plan.learning.event), keep


@dataclass
class World:
    """A tree under ``folder``: each federation has a scheme, by its depth."""

    folder: Path
    tree: Tree
    schemes: tuple[Scheme, ...] = (Scheme.MASKING, Scheme.MASKING)
    optimizer: object = field(default_factory=FedAvg)
    sharing: Sharing = field(default_factory=Sharing)
    inside: Sharing = field(default_factory=Sharing)
    encoding: FixedPoint = field(default_factory=lambda: FixedPoint(24, 20, 32))
    rounds: int = 2
    rounds_inside: int = 1
    least: int = 3  # members of a node
    top: int = 2  # of the root
    prices: Callable[[load.Policy, str], Callable[[Plan, Account], Price]] = price_in

    def __post_init__(self) -> None:
        self.round = 0
        self.origin = b""
        self.refusing: set[str] = set()
        self.trained: list[tuple[str, int]] = []
        self.homes: dict[str, Home] = {}
        self.ended: list[coordinator_state.Ended] = []

    def home(self, way: tuple[str, ...]) -> Home:
        key = "/".join(way)
        if key not in self.homes:
            self.homes[key] = Home.at(self.folder.joinpath(*way), MemberId(way[-1]), lambda: 1_790_000_000)
        return self.homes[key]

    def federation(self, way: tuple[str, ...], tree: Tree, above: load.Policy | None):
        """One federation's parties: its policy, cover, seats, coordinator's home, and the way to them."""
        scheme = self.schemes[min(len(way), len(self.schemes) - 1)]
        policy, home = self.chained(way, above), self.home((*way, "coordinator"))
        names = tuple(tree)
        seats = tuple(Participant(MemberId(n), self.home((*way, n)).identity.public, "here") for n in names)
        coordinator, custodian = Participant(MemberId("coordinator"), home.identity.public, ""), None
        if scheme.has_custodian:
            custodian = Participant(MemberId("custodian"), self.home((*way, "custodian")).identity.public, "")
        colluding = policy.protection.colluding
        threshold = max((len(names) + colluding) // 2 + 1, policy.protection.threshold.at_least)
        cover = ProtectionSpec(scheme, policy.protection.min_cohort, threshold, colluding, self.encoding,
                      custodian.key if custodian else None)  # fmt: skip

        def charter(name: str, dataset: str) -> member_state.SiteConfig:
            return member_state.SiteConfig(MemberId(name), policy.federation, policy.hash, policy.text, dataset, coordinator,
                              custodian, seats, {}, MODEL)  # fmt: skip

        def runtime() -> Runtime:
            parties = {}
            for name, below in tree.items():
                own = self.home((*way, name))
                trainer = Site(self, name) if below is None else self.nested((*way, name), below, policy)
                ports = member_state.Ports(own.identity, schemes.member_half)
                parties[MemberId(name)] = MemberAgent(
                    own, charter(name, name), policy, ports, trainer, self.prices(policy, name), os.urandom
                )
            if custodian:
                own = self.home((*way, "custodian"))
                ports = u.Ports(own.identity, schemes.key_holder(scheme, own.identity), cover.min_cohort)
                parties[custodian.member] = CustodianAgent(own, charter("custodian", ""), ports, os.urandom)
            return self.carried(way, InProcess(parties))

        return policy, cover, seats, coordinator, custodian, home, runtime

    def known(self, home: Home, federation: str, seats: Iterable[Participant]) -> Mapping[str, SignedHead]:
        """The longest ledger a coordinator saw of each of these."""
        with home.transaction() as conn:
            return home.witnessed(conn, seats).shown

    def carried(self, way: tuple[str, ...], runtime: InProcess) -> Runtime:
        """What carries a federation's messages: as they are."""
        del way
        return runtime

    def chained(self, way: tuple[str, ...], above: load.Policy | None) -> load.Policy:
        least, colluding = (self.least, 1) if way else (self.top, 0)
        text = POLICY.format(name="-".join(("f", *way)), least=least, colluding=colluding)
        if above is None:
            return load.parse(text.encode(), "p.yaml")
        return load.parse(load.ABOVE.join([text.encode() + b"parent: {policy: above.yaml}\n", above.text]), "p.yaml")

    def nested(self, way: tuple[str, ...], tree: Tree, above: load.Policy) -> NestedTrainer:
        policy, cover, seats, coordinator, custodian, home, runtime = self.federation(way, tree, above)
        inside = Inside(above, policy, b"", cover, self.inside, self.rounds_inside, coordinator, custodian, seats)
        ports = coordinator_state.Ports(
            home.identity, schemes.coordinator_half, FactorServer(LAYOUT, FedAvg(), self.inside)
        )
        return NestedTrainer(
            MemberId(way[-1]), inside, home, ports, runtime, MemberStrategy(LAYOUT, self.origin),
            lambda _, base, after: score(np.frombuffer(base, "<f4"), np.frombuffer(after, "<f4")), lambda *_: None,
        )  # fmt: skip

    def play(
        self, start: np.ndarray, run: bytes = bytes(16), each_round: Callable[[int], None] = lambda _: None
    ) -> coordinator_state.Ended:
        """The whole run, from a state; ``each_round`` is told before a round is proposed."""
        policy, cover, seats, coordinator, custodian, home, runtime = self.federation((), self.tree, None)
        self.origin = start.astype("<f4").tobytes()
        strategy = FactorServer(LAYOUT, self.optimizer, self.sharing)
        if self.sharing.attention is not None:
            strategy = AttentionServer(LAYOUT, self.optimizer, self.sharing.attention, self.origin)
        state = strategy.broadcast(self.origin)
        session = m.Session(RunId(run), policy.federation, policy.hash, cover.scheme, cover.threshold, coordinator,
                            custodian, seats)  # fmt: skip
        learning = Learning(EVENT, F(1, 2), 100, F(1), "sgd", 48, 32)
        plan = Plan(policy.federation, policy.hash, RunId(run), 1, "testing", MODEL,
                    Task("classification", ("x", "y")), Adapter(("query",), 8, 16, 1), learning, cover, (), ("weights",),
                    m.state_digest(state), strategy.dimension(1, state), self.sharing)  # fmt: skip
        heads = self.known(home, policy.federation, (*seats, *((custodian,) if custodian else ())))
        course = coordinator_state.RunState(session, policy.text, (learning.learning_rate,) * self.rounds, plan, state,
                          strategy.begin(state), {}, {}, heads, {})  # fmt: skip

        def observe(before: coordinator_state.State, moved: coordinator_state.Step) -> None:
            if isinstance(moved.state, coordinator_state.Collecting) and self.round != moved.state.course.plan.round:
                self.round = moved.state.course.plan.round
                each_round(self.round)

        ports = coordinator_state.Ports(home.identity, schemes.coordinator_half, strategy)
        return drive(home, coordinator_state.Planned(course), ports, runtime(), observe)


def reached(end: coordinator_state.Ended) -> np.ndarray:
    """The model's state at the end; what a strategy keeps behind it is no part of it."""
    return np.frombuffer(end.course.state, "<f4")[: LAYOUT.entries].astype(float)
