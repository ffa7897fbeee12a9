"""An engine that is not honest tries twenty attacks on a site, with its processes at both ends; see `engine_field`."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from audits.protection.attempt import Attempt, Outcome
from audits.protection.engine_field import CANARY, Attack, Engine, asked_at, outcomes
from securefl import wire
from securefl.protocol import messages as m
from securefl.runtime import framing
from securefl.runtime.answering import heard
from securefl.site import serve
from securefl.site.counts import CUT, TURNED_AWAY
from securefl.terms import Hash, MemberId, Plan, Scheme
from securefl_carriers.doors import Doors
from securefl_carriers.polls import Poll, Said, State, Unreadable

NOBODYS: Final = frozenset({"protocol.forged", "protocol.malformed"})


# What is changed in a genuine message; nobody's signature fits it then.


def forged(engine: Engine, frame: m.Frame, message: m.Request) -> bytes:
    """Another message in the place of a genuine one, under one of the signatures that an engine can have."""
    receipt, body = frame.envelope.receipt, wire.encode(message)
    named = replace(receipt, digest=Hash(hashlib.sha256(body).digest()), size=len(body))
    if isinstance(message, m.Propose):
        named = replace(named, plan=wire.plan_hash(message.plan))
    own = engine.identity.sign("receipt", wire.encode(named))
    another = wire.decode(engine.asked[0], m.Frame).envelope.signature
    envelope = engine.drawn.choice([
        replace(frame.envelope, body=body),  # 1. the receipt is of the genuine message
        replace(frame.envelope, receipt=named, body=body),  # 2. the signature is
        replace(frame.envelope, receipt=named, body=body, signature=own),  # 3. its own
        replace(frame.envelope, receipt=named, body=body, signature=another),  # 4. that of an earlier message
        replace(frame.envelope, receipt=named, body=body, signature=bytes(64)),
    ])  # fmt: skip
    return wire.encode(replace(frame, envelope=envelope))


def changed(change: Callable[[Plan, random.Random], Plan]) -> Callable[[Engine, m.Frame, bytes], None]:
    """Propose another plan than the coordinator's."""

    def act(engine: Engine, frame: m.Frame, request: bytes) -> None:
        del request
        asked: m.Propose = wire.decode(frame.envelope.body, m.Propose)
        engine.send(forged(engine, frame, replace(asked, plan=change(asked.plan, engine.drawn))))

    return act


def _event(plan: Plan, **changes: object) -> Plan:
    return replace(plan, learning=replace(plan.learning, event=replace(plan.learning.event, **changes)))  # type: ignore[type-var]


def _sigma(plan: Plan, drawn: random.Random) -> Plan:
    return _event(plan, noise_multiplier=plan.learning.event.noise_multiplier / drawn.randint(2, 1000))


def _clip(plan: Plan, drawn: random.Random) -> Plan:
    return replace(plan, learning=replace(plan.learning, clip_l2=plan.learning.clip_l2 * drawn.randint(2, 10**6)))


def _sampler(plan: Plan, drawn: random.Random) -> Plan:
    event = plan.learning.event
    return _event(plan, steps=event.steps + drawn.randint(1, 999), sampling_rate=event.sampling_rate / 2)


def _micro_batch(plan: Plan, drawn: random.Random) -> Plan:
    return replace(plan, learning=replace(plan.learning, micro_batch=drawn.randint(33, 10**6)))


def _cohort_floor(plan: Plan, drawn: random.Random) -> Plan:
    few = plan.cohort if drawn.random() < 0.5 else plan.cohort[:1]
    return replace(plan, cover=replace(plan.cover, min_cohort=1), cohort=few)


def _loss(plan: Plan, drawn: random.Random) -> Plan:
    del drawn
    return replace(plan, learning=replace(plan.learning, optimizer="adamw", divisor=1))


def _data(plan: Plan, drawn: random.Random) -> Plan:
    """A plan names no data set: that is the site's own. What it can name is what the rows are read as."""
    labels = tuple(f"another-{drawn.randint(0, 9)}-{number}" for number in range(3))
    return replace(plan, task=replace(plan.task, labels=labels))


def base(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Start from another state, named or not."""
    del request
    asked: m.Propose = wire.decode(frame.envelope.body, m.Propose)
    state = engine.drawn.randbytes(len(asked.base))
    named = replace(asked.plan, base=m.state_digest(state))
    engine.send(forged(engine, frame, m.Propose(named, state, asked.relayed, asked.heads)))
    engine.send(forged(engine, frame, m.Propose(asked.plan, state, asked.relayed, asked.heads)))


def session(**changes: object) -> Callable[[Engine, m.Frame, bytes], None]:
    """Invite to a run of another kind, or propose a plan of one."""

    def act(engine: Engine, frame: m.Frame, request: bytes) -> None:
        del request
        invite: m.Invite = wire.decode(frame.envelope.body, m.Invite)
        engine.asked.append(wire.encode(frame))  # a signature to borrow
        engine.send(forged(engine, frame, replace(invite, session=replace(invite.session, **changes))))  # type: ignore[type-var]
        engine.asked.pop()

    return act


# What is genuine, in another place.


def replayed(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Bring what was asked before again, each at its time, all but the last: that is answered with what was said."""
    del frame, request
    for earlier in engine.drawn.sample(engine.asked[:-1], min(3, len(engine.asked) - 1)):
        engine.send(earlier)


def reordered(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Bring the next round's keys first, then the plan that was kept until its round was over."""
    del frame
    assert engine.kept is not None
    asked_at(engine.site, request)
    engine.send(engine.kept)


def of_others(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Bring what another site was asked, and what another site answered."""
    del frame, request
    for other in (engine.drawn.choice(engine.others), engine.drawn.choice(engine.replies)):
        engine.send(other)


def spoofed(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Say that it is the coordinator, the custodian or the site itself: with its own key, and the words of each."""
    del request
    receipt = frame.envelope.receipt
    for sender in ("coordinator", "custodian", engine.victim):
        named = replace(receipt, sender=MemberId(sender), head=None)
        signature = engine.identity.sign("receipt", wire.encode(named))
        engine.send(wire.encode(m.Frame(replace(frame.envelope, receipt=named, signature=signature), None)))
    own = [each for each in engine.replies if wire.decode(each, m.Frame).envelope.receipt.sender == engine.victim]
    engine.send(engine.drawn.choice(own))


# What is no message.


def truncated(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Cut a message short: as a whole frame of less, or in the midst of one."""
    del frame
    engine.send(request[: engine.drawn.randrange(len(request))])
    before = _ended(engine, CUT)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(engine.site))
        connection.sendall(len(request).to_bytes(framing.PREFIX, "big") + request[: engine.drawn.randrange(99)])
    _until(lambda: _ended(engine, CUT) > before)


def oversize(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Announce more than any request has; within one, more than there is."""
    del frame
    most = engine.drawn.choice([framing.MOST + 1, 1 << 31, (1 << 32) - 1])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(engine.site))
        connection.sendall(most.to_bytes(framing.PREFIX, "big"))
        engine.answers.append(heard(framing.receive(connection, 20)))  # type: ignore[arg-type]
    head = engine.drawn.choice([b"\x5b", b"\x9b", b"\xbb"])  # bytes, a list, a map of 2**62
    engine.send(request[:1] + head + (1 << 62).to_bytes(8, "big") + request[1:])


def slow_loris(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Take every place at the door with requests that come byte by byte, then ask as anybody does."""
    del frame
    cut, turned_away = _ended(engine, CUT), _ended(engine, TURNED_AWAY)
    stop, lines = threading.Event(), [socket.socket(socket.AF_UNIX) for _ in range(serve.MOST_AT_ONCE + 4)]
    for each in lines:
        each.connect(str(engine.site))
        with suppress(OSError):
            each.sendall(len(request).to_bytes(framing.PREFIX, "big"))

    def drip() -> None:
        for at in range(len(request)):
            for each in lines:
                with suppress(OSError):
                    each.sendall(request[at : at + 1])
            if stop.wait(serve.READ_S / 20):
                return

    slow = threading.Thread(target=drip, daemon=True)
    slow.start()
    _until(lambda: _ended(engine, CUT) >= cut + serve.MOST_AT_ONCE and _ended(engine, TURNED_AWAY) >= turned_away + 4)
    stop.set()
    slow.join()
    for each in lines:
        each.close()


class _Code:
    """A pickle that makes a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (os.mkdir, (str(self.place),))


def code(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Send what other systems would run: a pickle, whole or in a message's body, Python, a shell's line."""
    place = engine.site.parent / CANARY
    harmful = pickle.dumps(_Code(place), engine.drawn.randint(0, 5))
    shell, python = f"$(mkdir {place})".encode(), f"import os; os.mkdir({str(place)!r})".encode()
    tagged = b"\xd8\x1b\x82\x68os.mkdir" + b"\x58" + bytes([len(shell)]) + shell  # CBOR's generic object, tag 27
    for data in (harmful, shell, python, tagged, request + harmful):
        engine.send(data)
    body = replace(frame.envelope, body=harmful)
    engine.send(wire.encode(replace(frame, envelope=body)))


def traversal(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Name a place on the site's disk: as a ticket, as a party, as a federation, as a door."""
    del request
    way = "../" * engine.drawn.randint(1, 9) + f"{engine.drawn.choice(['etc/passwd', CANARY, 'identity.key'])}"
    ticket = way.encode().ljust(32, b"/")[:32]
    assert Said.decode(engine.end.answer(Poll(ticket).encode())).state is State.UNKNOWN  # a name of nothing
    with suppress(Unreadable):
        engine.end.answer(ticket + bytes(8) + len(way).to_bytes(4, "big") + way.encode())
        raise AssertionError("a ticket that is no digest")
    doors = Doors(engine.site.parent / "tried", lambda *_: b"")
    assert not doors.open(way)
    doors.close()
    _named(engine, frame, way)


def injected(engine: Engine, frame: m.Frame, request: bytes) -> None:
    """Write into names what a log or a terminal would read as more than a name."""
    del request
    words = [
        "a\n1970-01-01 INFO round accepted",
        "a\r\x1b[2Jaccepted",
        'a", "event": "accepted',
        "\u202eaccepted",
        "%n%s${jndi:ldap://x}",
    ]
    _named(engine, frame, engine.drawn.choice(words))


def _named(engine: Engine, frame: m.Frame, words: str) -> None:
    """Put words in the place of names: of a party, of a message's kind, of a federation."""
    data = wire.encode(frame)
    for name in (b"coordinator", engine.victim.encode(), frame.envelope.receipt.kind.encode()):
        told = words.encode()
        old = bytes([0x60 + len(name)]) + name
        new = (bytes([0x60 + len(told)]) if len(told) < 24 else bytes([0x78, len(told)])) + told
        assert old in data, "a name as it stands in a message"
        engine.send(data.replace(old, new))
    invite: m.Invite = wire.decode(wire.decode(engine.asked[0], m.Frame).envelope.body, m.Invite)
    told = words.encode()
    stand_in = "w" * len(told)  # no honest encoder writes such words
    called = replace(invite.session, federation=stand_in)
    engine.send(forged(engine, frame, replace(invite, session=called)).replace(stand_in.encode(), told))


def _ended(engine: Engine, how: str) -> int:
    return engine.counts.metrics.numbers()["requests_total", how]


def _until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it never was")


ATTACKS: Final = {
    "changes sigma": Attack(changed(_sigma)),
    "changes the clip": Attack(changed(_clip)),
    "changes the sampler": Attack(changed(_sampler)),
    "changes the micro-batch": Attack(changed(_micro_batch)),
    "changes the state that a round starts from": Attack(base),
    "lowers the least cohort": Attack(changed(_cohort_floor)),
    "changes the protection": Attack(session(scheme=Scheme.CLEAR), kind="Invite", round=0),
    "changes the policy": Attack(session(policy=Hash(bytes(32))), kind="Invite", round=0),
    "changes what the data set is read as": Attack(changed(_data)),
    "changes the loss and how steps are made": Attack(changed(_loss)),
    "replays what was asked before": Attack(
        replayed, frozenset({"protocol.ledger-set-back", "protocol.replayed-round", "protocol.out-of-turn"}),
        round=2, in_ledger=True,
    ),
    "brings messages in another order": Attack(
        reordered, frozenset({"protocol.ledger-set-back", "protocol.replayed-round"}), kind="Enrol", round=2,
        in_ledger=True, is_late=True,
    ),
    "cuts messages short": Attack(truncated, NOBODYS, connections=frozenset({CUT})),
    "sends more than anybody reads": Attack(oversize, NOBODYS),
    "holds every place at the door, byte by byte": Attack(
        slow_loris, connections=frozenset({CUT, TURNED_AWAY}), read_s=0.3, tries=5
    ),
    "sends code": Attack(code, NOBODYS),
    "names places on the disk": Attack(traversal, NOBODYS),
    "brings another site's messages": Attack(of_others, round=2),
    "says that it is somebody else": Attack(spoofed, NOBODYS),
    "writes into logs": Attack(injected, NOBODYS),
}  # fmt: skip


def _of(name: str) -> Callable[[int, Path], Outcome]:
    done: list[tuple[Outcome, ...]] = []  # of each run that trials were part of

    def tried(number: int, folder: Path) -> Outcome:
        block, at = divmod(number, ATTACKS[name].tries)
        if at == 0:
            done[block:] = [outcomes(ATTACKS[name], name, block, folder)]
        return done[block][at]

    return tried


ATTEMPTS = tuple(Attempt(f"An engine that owns both ends {name}", _of(name)) for name in ATTACKS)
