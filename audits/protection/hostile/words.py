"""Words where only names of rules may be: from a leaf to its parent's parent, from strangers, in faults."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, make_dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import cbor2
import numpy as np

from audits.protection.attempt import Attempt, Outcome
from audits.protection.desk import ME, Desk, Learner, refused_by
from securefl import wire
from securefl.errors import PeerFault
from securefl.ledger import store
from securefl.ledger.tables import machines
from securefl.protocol import declining
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure, Waiting
from securefl.terms import Closed, Envelope, Hash, MemberId, Plan, Reason, Refusal, Refused, RunId, rules
from tests.support import nested
from tests.support.worlds import World

TREE: nested.Tree = {
    "left": dict.fromkeys(("l1", "l2", "l3")), "mid": dict.fromkeys(("m1", "m2", "m3")),
    "right": dict.fromkeys(("r1", "r2", "r3")),
}  # fmt: skip
Lie = Callable[[Envelope], tuple[dict[str, Any], object]]  # the receipt's fields that differ, and the body


def _named(name: str, **fields: Any) -> object:  # noqa: ANN401
    """A value that looks like one of the protocol's on the wire, and was checked by nobody."""
    made: object = make_dataclass(name, list(fields), frozen=True)(**fields)
    return made


def _bytes(value: Any) -> Any:  # noqa: ANN401 - what cbor2 takes
    if hasattr(value, "__dataclass_fields__"):
        return [type(value).__name__, *(_bytes(getattr(value, name)) for name in value.__dataclass_fields__)]
    return [_bytes(each) for each in value] if isinstance(value, tuple) else value


@dataclass
class Liar:
    """A leaf that answers a plan as it likes, under its own key."""

    world: Lying
    way: tuple[str, ...]
    handler: Any

    def handle(self, data: bytes) -> bytes:
        """The genuine answer, unless it declines a plan."""
        answer: m.Frame = wire.decode(self.handler.handle(data), m.Frame)
        receipt = answer.envelope.receipt
        if receipt.kind != "Declined":
            return wire.encode(answer)
        fields, message = self.world.lie(answer.envelope)
        body = cbor2.dumps(_bytes(message), canonical=True)
        told = {name: fields.get(name, getattr(receipt, name)) for name in type(receipt).__dataclass_fields__} | {
            "digest": hashlib.sha256(body).digest(),
            "size": len(body),
        }
        forged = _named("Receipt", **told)
        signed = self.world.home(self.way).identity.sign("receipt", cbor2.dumps(_bytes(forged), canonical=True))
        envelope = _named("Envelope", receipt=forged, signature=signed, body=body)
        return cbor2.dumps(_bytes(_named("Frame", envelope=envelope, head=answer.head)), canonical=True)


class Lying(nested.World):
    """A tree whose leaves `l1` and `l2` refuse every plan, in words of their own."""

    lie: Lie

    def federation(self, way: tuple[str, ...], tree: nested.Tree, above: Any) -> Any:  # noqa: ANN401
        """The same parties; two of them lie."""
        *parts, runtime = super().federation(way, tree, above)

        def lying() -> InProcess:
            made = runtime()
            for name in ("l1", "l2"):
                if name in made._peers:  # noqa: SLF001
                    made._peers[MemberId(name)] = Liar(self, (*way, name), made._peers[MemberId(name)])  # noqa: SLF001
            return made

        return (*parts, lying)


def _heard(folder: Path, secret: str, lie: Lie) -> tuple[bool, set[str]]:
    """Whether a secret reached the root, or anything above the node; and by which rules the root heard of refusals."""
    world = Lying(folder, TREE, rounds=1)
    world.lie, world.refusing = lie, {"l1", "l2"}
    with redirect_stderr(StringIO()):
        world.play(np.zeros(nested.LAYOUT.entries))
    found, told = False, set()
    for way in (("coordinator",), ("left",), ("right",)):
        home = world.home(way)
        with home.transaction() as conn:
            found = found or secret.encode() in b"".join(store.raw(conn))
            for leaf in store.read(conn, home.identity.public)[1]:
                if isinstance(leaf.entry, Refused):
                    told |= {reason.rule for reason in leaf.entry.reasons}
    return found, told


def _secret(number: int) -> str:
    return f"patient_{random.Random(number).getrandbits(64):016x}_positive"  # noqa: S311


def _up(number: int, folder: Path, lie: Callable[[str, Envelope], tuple[dict[str, Any], object]]) -> Outcome:
    secret = _secret(number)
    found, told = _heard(folder, secret, lambda envelope: lie(secret, envelope))
    return Outcome(found, ", ".join(sorted(told)))


def _declined(*reasons: object) -> object:
    return _named("Declined", round=1, reasons=reasons)


def as_a_rule(number: int, folder: Path) -> Outcome:
    """Say it as the name of a rule."""
    part = ("context.{}.of_left", "protocol.{}", "{}", "training.{}")[number % 4]

    def lie(secret: str, _: Envelope) -> tuple[dict[str, Any], object]:
        return {}, _declined(_named("Reason", rule=part.format(secret), value="x", limit="y", fix="z"))

    return _up(number, folder, lie)


def beside_a_rule(number: int, folder: Path) -> Outcome:
    """Say it as value, limit or remedy of a rule that is known."""
    place = ("value", "limit", "fix")[number % 3]

    def lie(secret: str, _: Envelope) -> tuple[dict[str, Any], object]:
        said = {"value": "x", "limit": "y", "fix": "z"} | {place: secret}
        return {}, _declined(_named("Reason", rule="training", **said))

    return _up(number, folder, lie)


def as_a_kind(number: int, folder: Path) -> Outcome:
    """Say it as the kind of message that a receipt names: a member writes down which message it refused."""
    desk, secret = Desk(number, folder, Learner(number)), _secret(number)
    message = (m.Close("aborted", "enough", 0, b"", ()), m.Ask(1, b""))[number % 2]
    genuine = m.enclose(desk.key, MemberId("coordinator"), ME, desk.run, 0, message)
    told = {name: getattr(genuine.receipt, name) for name in type(genuine.receipt).__dataclass_fields__}
    receipt = _named("Receipt", **(told | {"kind": secret}))
    signature = desk.key.sign("receipt", cbor2.dumps(_bytes(receipt), canonical=True))
    envelope = _named("Envelope", receipt=receipt, signature=signature, body=genuine.body)
    frame = cbor2.dumps(_bytes(_named("Frame", envelope=envelope, head=None)), canonical=True)
    rule = refused_by(lambda: desk.agent.handle(frame))
    return Outcome(secret.encode() in desk.said() or not rule, rule)


def by_many(number: int, folder: Path) -> Outcome:
    """Have much written down: by more reasons than there are rules, or by one without end."""
    most = 3_000

    def lie(secret: str, _: Envelope) -> tuple[dict[str, Any], object]:
        value = secret if number % 2 else "x" * 400_000
        one = _named("Reason", rule="training", value=value, limit="y", fix="z")
        return {}, _declined(*(one,) * (most if number % 2 else 1))

    world = Lying(folder, TREE, rounds=1)
    world.lie, world.refusing = (lambda envelope: lie(_secret(number), envelope)), {"l1", "l2"}
    with redirect_stderr(StringIO()):
        world.play(np.zeros(nested.LAYOUT.entries))
    with world.home(("left", "coordinator")).transaction() as conn:
        longest = max(map(len, store.raw(conn)))
    return Outcome(longest > 20_000, "protocol.malformed")  # an entry with its policy has some thousands


def unsigned(number: int, folder: Path) -> Outcome:
    """Send what the coordinator never signed: does anything of it stay?"""
    desk, drawn = Desk(number, folder, Learner(number)), random.Random(number + 10**6)  # noqa: S311
    base = np.zeros(nested.LAYOUT.entries, "<f4").tobytes()
    plan = desk.plan(1, base)
    frame: m.Frame = wire.decode(desk.frame(m.Propose(plan, base, b""), 1, plan), m.Frame)
    envelope, before = frame.envelope, desk.said()
    other, stranger = RunId(drawn.randbytes(16)), MemberId(_secret(number))
    forged = (
        wire.encode(replace(frame, envelope=replace(envelope, signature=drawn.randbytes(64)))),
        wire.encode(replace(frame, envelope=replace(envelope, body=drawn.randbytes(5_000)))),
        wire.encode(replace(frame, envelope=replace(envelope, receipt=replace(envelope.receipt, run=other)))),
        wire.encode(replace(frame, envelope=replace(envelope, receipt=replace(envelope.receipt, sender=stranger)))),
        drawn.randbytes(2_000),
        wire.encode(frame)[: drawn.randrange(1, 400)],
    )[number % 6]
    rule = refused_by(lambda: desk.agent.handle(forged))
    stays = desk.said() != before or b"".join(_machines(desk, other)) != b""
    return Outcome(stays or not rule, rule)


def _machines(desk: Desk, run: RunId) -> Iterator[bytes]:
    with desk.home.transaction() as conn:
        for row in conn.execute(machines.select().where(machines.c.run == bytes(run))):
            yield row.state


def in_a_fault(number: int, folder: Path) -> Outcome:
    """Have the member write down, or say to others, a name that it was asked about."""
    desk, secret = Desk(number, folder, Learner(number)), _secret(number)
    base = np.zeros(nested.LAYOUT.entries, "<f4").tobytes()
    plan = replace(desk.plan(1, base), **({"federation": secret}, {"policy": Hash(secret.encode())})[number % 2])
    request = desk.frame(m.Propose(plan, base, b""), 1, plan)
    (_, answer), *_ = InProcess({ME: desk.agent}).exchange([(ME, request)], Waiting(1.0, time.monotonic))
    said = answer.why if isinstance(answer, Failure) else ""
    known = {f"{rule}: {sentence}" for rule, sentence in rules.FAULTS.items()}
    found = secret.encode() in desk.said() or said not in known
    return Outcome(found, said.partition(":")[0])


class Talking(Learner):
    """A trainer that says what it read in whatever it raises before a record is read."""

    def admit(self, plan: Plan, base: bytes) -> None:
        """Refuse by a rule of its own making."""
        raise PeerFault("no", f"protocol.{_secret(self.seed)}")


def by_a_rule_of_its_own(number: int, folder: Path) -> Outcome:
    """Raise, in the member's own code, by a rule that nobody knows."""
    desk, base = Desk(number, folder, Talking(number)), np.zeros(nested.LAYOUT.entries, "<f4").tobytes()
    answer = desk.propose(desk.plan(1, base), base)
    heard = wire.encode(answer) + wire.encode(m.NoAnswer.by(PeerFault("no", f"protocol.{_secret(number)}")))
    by = ", ".join(reason.rule for reason in answer.reasons) if isinstance(answer, m.Declined) else ""
    return Outcome(_secret(number).encode() in heard + desk.said(), by)


def at_the_end(number: int, folder: Path) -> Outcome:
    """Close the run for a reason without end, or with an outcome that is none."""
    desk = Desk(number, folder, Learner(number))
    outcome, why = (("aborted", "x" * 100_000), (_secret(number), "enough"))[number % 2]
    close = _named("Close", outcome=outcome, why=why, round=0, state=b"", heads=())
    body = cbor2.dumps(_bytes(close), canonical=True)
    signed = m.enclose(desk.key, MemberId("coordinator"), ME, desk.run, 0, m.Close("aborted", "enough", 0, b"", ()))
    receipt = replace(signed.receipt, digest=Hash(hashlib.sha256(body).digest()), size=len(body))
    envelope = Envelope(receipt, desk.key.sign("receipt", wire.encode(receipt)), body)
    rule = refused_by(lambda: desk.agent.handle(wire.encode(m.Frame(envelope, None))))
    with desk.home.transaction() as conn:
        longest = max(map(len, store.raw(conn)))
    return Outcome(longest > 20_000 or _secret(number).encode() in desk.said(), rule)


def by_choice(number: int, folder: Path) -> Outcome:
    """Write up by which known rules one declines: many bits a round, if their names go on as they came."""
    drawn = random.Random(number)  # noqa: S311
    chosen = drawn.sample(sorted(rules.KNOWN), drawn.randint(2, 80))

    def lie(_: Envelope) -> tuple[dict[str, Any], object]:
        return {}, _declined(*(_named("Reason", rule=rule, value="x", limit="y", fix="z") for rule in chosen))

    world = Lying(folder, TREE, rounds=1)
    world.lie, world.refusing = lie, {"l1", "l2", *(("l3",) * (number % 2))}
    with redirect_stderr(StringIO()):
        world.play(np.zeros(nested.LAYOUT.entries))
    paid, free = declining.constant(declining.UNFINISHED), declining.constant(declining.UNREAD)
    trained = any(name in ("l1", "l2", "l3") for name, _ in world.trained)
    home, heard = world.home(("coordinator",)), list[tuple[Reason, ...]]()
    with home.transaction() as conn:
        for leaf in store.read(conn, home.identity.public)[1]:
            if isinstance(leaf.entry, Refused) and leaf.entry.what == "plan, by left":
                heard.append(leaf.entry.reasons)
    fits = [(len(told) == 1 and _one_name(told[0], free)) or told == (paid,) for told in heard]
    exact = all(told == (paid,) for told in heard) if trained else True
    return Outcome(not (heard and all(fits) and exact), heard[0][0].rule if heard else "")


def _one_name(told: Reason, free: Reason) -> bool:
    return told == free or (told.value in rules.DECISIONS and told == replace(free, value=told.value))


PRIVATE = (
    "budget.others.epsilon", "budget.above.epsilon", "budget.per_dataset.epsilon", "budget.unit", "budget.price",
    "policy.version", "policy.error", "training",
)  # fmt: skip
SHOWN = ("budget.epsilon", "budget.per_round.epsilon", "context.purposes", "training.clip", "release.fields")


def _refusing(number: int, listed: tuple[str, ...]) -> tuple[World, str, Any]:
    """A run whose members refuse by these rules, in words that hold a secret."""
    secret, drawn = _secret(number), random.Random(number)  # noqa: S311
    reasons = tuple(
        Reason(rule, *(secret if drawn.random() < 1 / 2 else "x" for _ in range(2)), secret)
        for rule in drawn.sample(listed, drawn.randint(1, len(listed)))
    )
    world = World(rounds=1)
    for name in drawn.sample(["a", "b", "c", "d"], drawn.randint(2, 4)):
        world.parties[name].decide = lambda _: Refusal(reasons)
    return world, secret, world.play()


def of_others(number: int, folder: Path) -> Outcome:
    """Have a site tell its coordinator what other federations were promised there, or how it calls its data."""
    del folder
    world, secret, end = _refusing(number, PRIVATE)
    return Outcome(secret in repr(world.coordinator.entries) + end.why, end.why.rpartition(": ")[2])


def to_all(number: int, folder: Path) -> Outcome:
    """Have what one member said in a refusal told to all members and the custodian when the run is closed."""
    del folder
    world, secret, end = _refusing(number, (*PRIVATE, *SHOWN))
    closed = [each for party in world.parties.values() for each in party.entries if isinstance(each, Closed)]
    return Outcome(not closed or secret in repr(closed) + end.why, end.why.rpartition(": ")[2])


ATTEMPTS = (
    Attempt("A leaf chooses which known rules it declines by, to write to its parent's parent", by_choice),
    Attempt("A refusal says what other federations were promised at the site", of_others),
    Attempt("A member's words in a refusal are told to everybody at the end", to_all),
    Attempt("A leaf names a rule of its own, to be heard by its parent's parent", as_a_rule),
    Attempt("A leaf says it beside the name of a known rule, to be heard further up", beside_a_rule),
    Attempt("A receipt is for a message of a kind that says it", as_a_kind),
    Attempt("A leaf has more written down than a refusal holds", by_many),
    Attempt("Whoever signs nothing has something written into a member's store", unsigned),
    Attempt("A coordinator's own words come back in a fault, or stay in the ledger", in_a_fault),
    Attempt("A fault by a rule that nobody knows leaves a site", by_a_rule_of_its_own),
    Attempt("A run is closed in words without end", at_the_end),
)
