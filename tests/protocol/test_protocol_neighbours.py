"""Two data sets that differ in one record look alike to everybody: in each message's kind, size and place, and each entry.

Real members train plans that are drawn, at every scheme's kind of wire. Both runs have the same keys and randomness, so
whatever differs tells of the record.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction as F
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from securefl import wire
from securefl.coordinator.drive import drive
from securefl.home.home import Home
from securefl.ledger import store
from securefl.policy import load
from securefl.protection import schemes
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure, Own
from securefl.site.agent import Agent, CustodianAgent, MemberAgent
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.member import MemberStrategy
from securefl.strategy.rules import FactorServer
from securefl.terms import (
    CrossEntropy,
    DistributedDiscreteGaussian,
    FixedPoint,
    Level,
    MemberId,
    NotTrueDistillation,
    Participant,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    PseudoLabels,
    Scheme,
    Scorer,
    Sharing,
    SoftLabels,
    Weighting,
)
from securefl.terms.records import UNKNOWN, Record
from securefl.training.data import Records
from securefl.training.shared_model import SharedModel
from securefl.training.trainer import LoraTrainer
from tests.support import nested, tiny_models
from tests.support.small import entropy
from tests.training.test_language import LORA
from tests.training.test_language import loaded as of_bytes
from tests.training.test_training_prompt import shared as prompted

NAMES, CENTRE, HOLDER = ("ada", "bel", "cod"), "coordinator", "custodian"
WORDS = "late lost broken rude delayed great kind smooth thanks lovely".split()
EXTREME = ("", " \t", "\0", "\ud800", "late \udfff lost", "\u202e\u200b", "\U0010ffff" * 40, "x" * 9000, "late " * 3000)
SATURATING = FixedPoint(8, 7, 32)  # a learning rate above 1 moves values beyond it


@cache
def model() -> SharedModel:
    made = tiny_models.shared("bert", Path(mkdtemp()))
    made.preflight()
    return made


@cache
def policy(unit: str) -> load.Policy:
    text = nested.POLICY.format(name="f", least=3, colluding=0)
    changes = {
        "[query]": "[query, value, attention.output.dense]",
        "base_models: [m]": "base_models: [any]\n  learning_rate: {at_least: 0.000001, at_most: 1000000}",
        "unit: record": f"unit: {unit}",
        "schemes: [masking, ckks, clear]": f"schemes: [{', '.join(Scheme)}]",
    }
    if unit == "client":
        changes["[poisson-gaussian]"] = "[distributed-discrete-gaussian]"
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return load.parse(text.encode(), "p.yaml")


@cache
def new_home(name: str) -> Path:
    """A home nobody used yet; copies of it have one key."""
    place = Path(mkdtemp()) / name
    Home.at(place, MemberId(name), lambda: 1_790_000_000).engine.dispose()
    return place


@cache
def key_holder(scheme: Scheme):
    """One decryption key: how long a key is as bytes follows from its random values."""
    home = Home.at(new_home(HOLDER), MemberId(HOLDER), lambda: 1_790_000_000)
    home.engine.dispose()
    return schemes.key_holder(scheme, home.identity)


def records(count: int, drawn: random.Random) -> tuple[Record, ...]:
    return tuple(Record(" ".join(drawn.sample(WORDS, 4)), drawn.randrange(3)) for _ in range(count))


def drawn_plan(scheme: Scheme, drawn: random.Random, unit: str) -> Plan:
    """A plan that members grant; parties and keys are filled in where it is proposed."""
    of, steps, rate = model(), drawn.randint(1, 2), drawn.choice([F(1), F(1, 2)])
    sharing, loss, encoding = Sharing(), CrossEntropy(), SATURATING
    if unit == "client":
        encoding = FixedPoint(24, 10, 32)
        event = DistributedDiscreteGaussian(F(1, 2), F(1), 3, of.dimension, 10, rate, steps)
    else:
        event = PoissonGaussian(rate, F(1, 2), steps)
        loss = drawn.choice([CrossEntropy(), NotTrueDistillation(F(1), F(2), true_label=False), SoftLabels(F(1), F(1), F(0), F(1), 2),
                             PseudoLabels(F(1), Scorer.ENERGY, F(1), F(1), 1)])  # fmt: skip
        kept = Sharing((Weighting(F(1), F(1, 5), renewal=F(1, 2)),), home=("head",), pull=F(1, 2))
        sharing = drawn.choice([Sharing(), Sharing(pull=F(0)), kept])
    learning = {"clip_l2": F(1, 2), "learning_rate": drawn.choice([F(100), F(10**6)]), "loss": loss,
                "optimizer": drawn.choice(["sgd", "adamw"]), "micro_batch": drawn.choice([1, 4])}  # fmt: skip
    if sharing != Sharing():  # the next round starts from what this one leaves
        encoding, learning["learning_rate"] = FixedPoint(24, 16, 32), F(1, 2)
    plan = tiny_models.plan(of, event=event, **learning)
    cover = ProtectionSpec(scheme, 3, 3, 0, encoding, None)
    agreed, dimension = policy(unit), of.layout.dimension(1, sharing)
    return replace(plan, policy=agreed.hash, purpose="testing", cover=cover, sharing=sharing, dimension=dimension)


def rounds(plan: Plan) -> int:
    """Where members keep something, another round starts from it."""
    return 2 if plan.sharing.keeps or plan.sharing.weightings else 1


class Watched(InProcess):
    """Parties as calls, and what anybody on the way sees of them."""

    def __init__(self, parties: dict[MemberId, Agent]) -> None:
        super().__init__(parties)
        self.seen: list[tuple[object, ...]] = []

    def exchange(self, outbound, patience_s):
        def asked():
            for member, request in outbound:
                self.note("to", member, request)
                yield member, request

        for member, answer in super().exchange(asked(), patience_s):
            self.note("from", member, answer)
            yield member, answer

    def note(self, way: str, member: MemberId, data: bytes | Failure) -> None:
        if isinstance(data, Failure):
            self.seen.append((way, member, data.why))
        else:
            receipt = wire.decode(data, m.Frame).envelope.receipt
            self.seen.append((way, member, receipt.kind, receipt.round, receipt.size, len(data)))


@dataclass
class Told:
    """What a run showed of itself."""

    wire: list[tuple[object, ...]]
    ledgers: dict[str, list[str]]  # the kinds of each party's entries
    spent: list[object]  # the first member's charges


def played(folder: Path, plan: Plan, held: tuple[Record, ...], trainer: type[LoraTrainer] = LoraTrainer) -> Told:
    """A run of three members, of whom the first holds these records."""
    of, agreed, parties = model(), policy(plan.learning.event.unit.value), dict[MemberId, Agent]()
    scheme, now = plan.cover.scheme, lambda: 1_790_000_000
    homes = {}
    for name in (*NAMES, CENTRE, *((HOLDER,) if scheme.has_custodian else ())):
        shutil.copytree(new_home(name), folder / name)
        homes[name] = Home.at(folder / name, MemberId(name), now)
    seat = {name: Participant(MemberId(name), home.identity.public, "here") for name, home in homes.items()}
    seats, centre, holder = tuple(seat[name] for name in NAMES), replace(seat[CENTRE], region=""), seat.get(HOLDER)
    holder = holder and replace(holder, region="")

    def charter(name: str, loaded) -> member_state.SiteConfig:
        who = MemberId(name), "f", agreed.hash, agreed.text, name
        return member_state.SiteConfig(*who, centre, holder, seats, {}, loaded)

    for name in NAMES:
        data = held if name == NAMES[0] else records(2, random.Random(name))
        half = MemberStrategy(of.layout, of.initial())
        made = trainer(of, Records(data, ()), entropy(name), half=half)
        ports = member_state.Ports(homes[name].identity, schemes.member_half)
        price = nested.price_in(agreed, name)
        parties[MemberId(name)] = MemberAgent(
            homes[name], charter(name, of.model), agreed, ports, made, price, entropy(f"agent {name}")
        )
    if holder:
        ports = u.Ports(homes[HOLDER].identity, key_holder(scheme), plan.cover.min_cohort)
        parties[holder.member] = CustodianAgent(homes[HOLDER], charter(HOLDER, None), ports, entropy(HOLDER))
    base = of.initial()
    cover = replace(plan.cover, custodian=holder and holder.key)
    plan = replace(plan, cover=cover, base=m.state_digest(base))
    session = m.Session(plan.run, "f", agreed.hash, scheme, cover.threshold, centre, holder, seats)
    strategy = FactorServer(of.layout, FedAvg(), plan.sharing)
    rates = (plan.learning.learning_rate,) * rounds(plan)
    course = coordinator_state.RunState(session, agreed.text, rates, plan, base, strategy.begin(base), {}, {}, {}, {})
    watched, ports = (
        Watched(parties),
        coordinator_state.Ports(homes[CENTRE].identity, schemes.coordinator_half, strategy),
    )
    drive(homes[CENTRE], coordinator_state.Planned(course), ports, watched, lambda *_: None)
    ledgers, spent = {}, []
    for name, home in homes.items():
        with home.transaction() as conn:
            ledgers[name] = [type(leaf.entry).__name__ for leaf in store.read(conn, home.identity.public)[1]]
            if name == NAMES[0]:
                spent = [(each.event, each.standing) for each in home.account(conn).standing(Level.DATASET, name)]
        home.engine.dispose()
    return Told(watched.seen, ledgers, spent)


NEIGHBOURS = {
    "another record": lambda held, drawn: (held, (*held, *records(1, drawn))),
    "the only record": lambda held, drawn: (held[:1], ()),
    "a record without a label": lambda held, drawn: (held, (*held, Record("kind", UNKNOWN))),
    "an extreme text": lambda held, drawn: (held, (*held, Record(drawn.choice(EXTREME), drawn.randrange(3)))),
    "half a character": lambda held, drawn: (held, (*held, Record("late \ud800", drawn.randrange(3)))),
}
TRIED = [
    (Scheme.MASKING, "record", "another record"),
    (Scheme.MASKING, "record", "half a character"),
    (Scheme.MASKING, "record", "an extreme text"),
    (Scheme.MASKING, "client", "a record without a label"),
    (Scheme.CLEAR, "record", "the only record"),
    (Scheme.CLEAR, "record", "half a character"),
    (Scheme.CKKS, "record", "the only record"),
    (Scheme.CKKS, "record", "a record without a label"),
]


@pytest.mark.parametrize(("scheme", "unit", "kind"), TRIED)
def test_neighbours_look_alike(tmp_path, scheme, unit, kind) -> None:
    drawn = random.Random(f"{scheme} {unit} {kind}")
    plan = drawn_plan(scheme, drawn, unit)
    one, other = (
        played(tmp_path / str(number), plan, held)
        for number, held in enumerate(NEIGHBOURS[kind](records(3, drawn), drawn))
    )
    assert one == other
    answers = [each[2] for each in one.wire if each[:2] == ("from", NAMES[0])]
    assert answers.count("Submitted") == rounds(plan), "who says nothing looks like whoever says nothing"
    assert len(one.spent) == rounds(plan)


class Telling(LoraTrainer):
    """A trainer that cannot train on an odd number of records."""

    def train(self, plan, base, own):
        if len(self._records.train) % 2:
            raise ValueError("an odd number of records")
        return super().train(plan, base, own)


def test_a_member_that_tells_of_a_record_would_be_seen(tmp_path) -> None:
    drawn = random.Random(1)
    plan = drawn_plan(Scheme.CLEAR, drawn, "record")
    held = records(4, drawn)
    odd, even = (played(tmp_path / str(n), plan, held[:n], Telling) for n in (3, 4))
    assert odd.wire != even.wire
    assert odd.ledgers != even.ledgers
    assert odd.spent[0] == even.spent[0], "either way it is paid for"


@pytest.mark.parametrize("kind", ["classification", "language", "prompt"])
def test_any_text_is_trained_on(kind, tmp_path) -> None:
    if kind == "classification":
        of, labels = model(), (0, UNKNOWN)
    elif kind == "language":
        of, labels = of_bytes(LORA), (0,)
    else:
        of, labels = prompted(tmp_path), (0, UNKNOWN)
    held = tuple(Record(text, label) for text in (*EXTREME, "[MASK]") for label in labels)
    event = PoissonGaussian(F(1), F(1, 2), 1)
    plan = tiny_models.plan(of, event=event, max_tokens=24, clip_l2=F(1, 2))
    plan = replace(plan, base=m.state_digest(of.initial()))
    update, _ = LoraTrainer(of, Records(held, ()), entropy(kind)).train(plan, of.initial(), Own())
    assert update.did == event
    assert update.values.shape == (of.dimension,)
    assert np.isfinite(update.values).all()
