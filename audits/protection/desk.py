"""One real member at its desk, and a coordinator that asks it whatever it likes: where attacks on a member begin."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.home.home import Home
from securefl.ledger import store
from securefl.policy import load as policies
from securefl.privacy.account import Charge
from securefl.protection import schemes
from securefl.protection.clear import Bare
from securefl.protocol import member_state
from securefl.protocol import messages as m
from securefl.seams import Own, Trainer
from securefl.site.agent import MemberAgent
from securefl.terms import (
    Adapter,
    Event,
    FixedPoint,
    Hash,
    Head,
    Learning,
    MemberId,
    Participant,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    RunId,
    Scheme,
    Sharing,
    SignedHead,
    Task,
    Update,
)
from tests.support.nested import LAYOUT, POLICY, price_in
from tests.support.worlds import MODEL

ME, COORDINATOR = MemberId("v"), MemberId("coordinator")
BITS = FixedPoint(24, 16, 32)
STEP = 2.0**-6  # deviation of what a learner moves a value by: no more than an honest update, so it leaves as it is


@dataclass
class Learner:
    """A trainer that moves each entry by a little that nobody can guess, and fails where it is told to."""

    seed: int
    fails: BaseException | None = None
    after: bool = False  # whether it fails once it is done, and not at its first step
    trained: int = 0
    did: Event | None = None
    keeps: list[Own] = field(default_factory=list)
    had: list[Own] = field(default_factory=list)

    def admit(self, plan: Plan, base: bytes) -> None:
        """Any plan can be trained here."""

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """A state that depends on what was kept, as own models do; what leaves is the change."""
        self.had.append(own)
        if self.fails is not None and not self.after:
            raise self.fails
        self.trained += 1
        change = np.random.default_rng((self.seed, self.trained)).normal(0, STEP, plan.dimension)
        begun = np.frombuffer(own.model or base, "<f4").astype(np.float64)[: plan.dimension]
        keep = Own((begun + change).astype("<f4").tobytes(), bytes([self.trained]))
        self.keeps.append(keep)
        if self.fails is not None:
            raise self.fails
        return Update(change, self.did or plan.learning.event), keep


class Desk:
    """A member's agent in ``folder``, and the key of its coordinator."""

    def __init__(self, number: int, folder: Path, trainer: Trainer) -> None:
        self.drawn = random.Random(number)  # noqa: S311 - of an attack, which may be repeated
        self.policy = policies.parse(POLICY.format(name="f", least=2, colluding=0).encode(), "policy.yaml")
        self.key = _identity(number, COORDINATOR)
        self.home = Home.at(folder / "home", ME, lambda: 1_790_000_000)
        others = tuple(MemberId(f"m{n}") for n in range(2 + number % 3))
        self._others = {name: _identity(number, name) for name in others}
        self.seats = (
            Participant(ME, self.home.identity.public, "here"),
            *(Participant(name, key.public, "here") for name, key in self._others.items()),
        )
        coordinator = Participant(COORDINATOR, self.key.public, "")
        self.charter = member_state.SiteConfig(
            ME, "f", self.policy.hash, self.policy.text, "data", coordinator, None, self.seats, {}, MODEL
        )
        self.run, self.trainer = RunId(self.drawn.randbytes(16)), trainer
        self.agent = self.another(trainer)
        session = m.Session(self.run, "f", self.policy.hash, Scheme.CLEAR, 2, coordinator, None, self.seats)
        accepted = self.ask(m.Invite(session), 0)
        frames = tuple(self._accepts(name) for name in others)
        self.ask(m.Enrol(1, (accepted, *frames)), 1)

    def another(self, trainer: Trainer) -> MemberAgent:
        """A second process of the same site, or the same one after a restart."""
        ports = member_state.Ports(self.home.identity, schemes.member_half)
        return MemberAgent(
            self.home, self.charter, self.policy, ports, trainer, price_in(self.policy, "data"), os.urandom
        )

    def _accepts(self, name: MemberId) -> m.Frame:
        key, head = self._others[name], Head(name, 1, Hash(bytes(32)))
        accept = m.Accept(self.drawn.randbytes(32), b"")
        envelope = m.enclose(key, name, COORDINATOR, self.run, 0, accept)
        return m.Frame(envelope, SignedHead(head, key.sign("head", wire.encode(head))))

    def plan(self, round_: int, base: bytes, sharing: Sharing = Sharing(), **learning: Any) -> Plan:  # noqa: ANN401, B008
        """A plan that this site's policy grants."""
        event = PoissonGaussian(Fraction(1, 10), Fraction(1), 4)
        how = {"clip_l2": Fraction(1, 2), "divisor": 100, "learning_rate": Fraction(1, 50), "optimizer": "sgd"}
        made = Learning(**{"event": event, **how, "max_tokens": 48, "micro_batch": 32, **learning})
        return Plan(
            "f", self.policy.hash, self.run, round_, "testing", MODEL, Task("classification", ("x", "y")),
            Adapter(("query",), 8, 16, 1), made, ProtectionSpec(Scheme.CLEAR, 2, 2, 0, BITS, None), self.seats,
            ("weights",),
            m.state_digest(base), LAYOUT.dimension(round_, sharing), sharing,
        )  # fmt: skip

    def frame(self, message: m.Request, round_: int, plan: Plan | None = None) -> bytes:
        """A request as the coordinator signs it."""
        name = None if plan is None else wire.plan_hash(plan)
        envelope = m.enclose(self.key, COORDINATOR, ME, self.run, round_, message, name)
        head = Head(COORDINATOR, 1, Hash(bytes(32)))
        return wire.encode(m.Frame(envelope, SignedHead(head, self.key.sign("head", wire.encode(head)))))

    def ask(self, message: m.Request, round_: int, plan: Plan | None = None) -> m.Frame:
        """What the member answers."""
        answer: m.Frame = wire.decode(self.agent.handle(self.frame(message, round_, plan)), m.Frame)
        return answer

    def propose(self, plan: Plan, base: bytes) -> m.Submitted | m.Declined:
        """What the member makes of a plan."""
        return read(self.ask(m.Propose(plan, base, b""), plan.round, plan))

    def charges(self) -> tuple[Charge, ...]:
        """What stands on the account."""
        with self.home.transaction() as conn:
            return self.home.account(conn).charges

    def kept(self, before: int) -> Own:
        """What the next round would start from."""
        with self.home.transaction() as conn:
            return self.home.own(conn, self.run, before)

    def written(self) -> int:
        """Entries in the ledger."""
        with self.home.transaction() as conn:
            return sum(1 for _ in store.raw(conn))

    def said(self) -> bytes:
        """All that the ledger holds, and the machines' states."""
        with self.home.transaction() as conn:
            return b"".join(store.raw(conn))


def read(frame: m.Frame) -> m.Submitted | m.Declined:
    """The answer to a plan."""
    answer = m.opened(frame.envelope, m.Submitted | m.Declined)
    assert isinstance(answer, m.Submitted | m.Declined)
    return answer


def sent(answer: m.Submitted) -> np.ndarray[Any, Any]:
    """The values of an update that went in the clear."""
    values = np.frombuffer(wire.decode(answer.payload, Bare).values, "<i8")
    return values / float(1 << BITS.fraction_bits)


def refused_by(asked: Any) -> str:  # noqa: ANN401 - whatever asks
    """The rule that an agent refuses a request by; empty if it answers."""
    try:
        asked()
    except PeerFault as fault:
        return fault.rule
    return ""


def shape(answer: m.Submitted | m.Declined) -> tuple[str, int]:
    """What anybody on the way sees of an answer: its kind and its size."""
    return type(answer).__name__, len(wire.encode(answer))


def changed(plan: Plan, **fields: Any) -> Plan:  # noqa: ANN401
    """The plan with other fields."""
    return replace(plan, **fields)


def _identity(number: int, name: str) -> keys.Identity:
    return keys.Identity(keys.Secret(wire.digest("hostile", (number, name))))
