"""Bytes that are small and cost much: before anybody's signature is looked at, and in what a party signs itself.

What a trial costs is counted in seconds of this process's own work and in bytes: other work beside it changes nothing.
Each is so small that a reader who falls for it takes seconds, where it could take for ever.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.errors import PeerFault
from securefl.protocol import messages as m
from securefl.runtime import framing
from securefl.runtime.answering import SILENCE
from securefl.runtime.inprocess import InProcess
from securefl.site import serve
from securefl.site.dispatch import Dispatcher
from securefl.terms import Envelope, MemberId, RunId
from tests.support.parties import Federation

MOST_S, MOST_TIMES = 4.0, 4  # seconds of work; bytes of memory for each byte that came
LARGE, MANY = 150_000, 300_000  # bytes of an integer; items of a list
LEVELS = 21  # of lists that are shared: each doubles the work of whoever walks through them


def _rational(drawn: random.Random) -> bytes:
    """A fraction of two large integers: whoever makes it reduces it, which takes their length squared."""
    return b"\xd8\x1e\x82" + b"".join(
        b"\xc2\x5a" + LARGE.to_bytes(4, "big") + b"\xff" + drawn.randbytes(LARGE - 1) for _ in range(2)
    )


def _shared(levels: int) -> bytes:
    """Lists of one another: written once each, and walked through 2 to the power of their number."""
    parts = [b"\xd8\x1c\x81\x59\x01\x00" + bytes(256)]
    parts += [b"\xd8\x1c\x82" + (b"\xd8\x1d" + cbor2.dumps(level)) * 2 for level in range(levels - 1)]
    return b"\x98" + bytes([levels]) + b"".join(parts)


def _heavy(drawn: random.Random) -> bytes:
    """Many items of one byte, which takes tens of bytes to hold each."""
    head = b"\x9a" + MANY.to_bytes(4, "big")
    return drawn.choice((head + b"\x80" * MANY, head + b"\xa0" * MANY, head + b"\x81\x80" * MANY))


def at_the_door(number: int, folder: Path) -> Outcome:
    """A user who is let in, and has nobody's key, sends a fraction; then another asks."""
    data = _rational(random.Random(f"door {number}"))  # noqa: S311 - trials that can be repeated
    with serve.Door(folder / "d", Dispatcher(()), {os.geteuid()}) as door:
        threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        before = time.process_time()
        answers = [_asked(door, each) for each in (data, b"\x80")]
        worked = time.process_time() - before
        door.shutdown()
    silent = all(answer.startswith(SILENCE) for answer in answers)
    return Outcome(worked > MOST_S / 4 or not silent, "protocol.malformed")


def _asked(door: serve.Door, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(door.server_address)  # type: ignore[arg-type]
        framing.send(connection, data, 60)
        return framing.receive(connection, 60)


def in_memory(number: int, folder: Path) -> Outcome:
    """An unsigned frame of many small things is sent to a site."""
    del folder
    data = _heavy(random.Random(f"memory {number}"))  # noqa: S311 - as above
    tracemalloc.start()
    try:
        Dispatcher(()).handle(data)
    except PeerFault as fault:
        taken = tracemalloc.get_traced_memory()[1]
        return Outcome(taken > MOST_TIMES * len(data), fault.rule)
    finally:
        tracemalloc.stop()
    return Outcome(succeeded=True, stopped_by="")


@dataclass
class _Member:
    """A member that hands in what it likes, under its own key."""

    agent: Any
    payload: bytes

    def handle(self, data: bytes) -> bytes | m.InProgress:
        answer: bytes | m.InProgress = self.agent.handle(data)
        return (
            _signed(self.agent.home.identity, answer, "Submitted", self._said) if isinstance(answer, bytes) else answer
        )

    def _said(self, said: m.Submitted) -> m.Submitted:
        return replace(said, payload=self.payload)


def _signed(identity: Any, data: bytes, kind: str, say: Callable[[Any], Any]) -> bytes:  # noqa: ANN401 - any party's
    """The same frame; a message of this kind says something else, under the same key as before."""
    frame: m.Frame = wire.decode(data, m.Frame)
    told = frame.envelope.receipt
    if told.kind != kind:
        return data
    message = say(m.opened(frame.envelope, getattr(m, kind)))
    plan = wire.plan_hash(message.plan) if kind == "Propose" else told.plan
    envelope: Envelope = m.enclose(
        identity, told.sender, told.to, told.run, told.round, message, plan, told.cost, ("weights",), told.head
    )
    return wire.encode(m.Frame(envelope, frame.head))


def by_a_member(number: int, folder: Path) -> Outcome:
    """A masked vector of a few hundred bytes keeps the coordinator at work, its home's lock in hand."""
    drawn = random.Random(f"member {number}")  # noqa: S311 - as above
    federation = Federation(folder, run=RunId(drawn.randbytes(16)))
    parties: dict[MemberId, Any] = {MemberId(name): federation.agent(name) for name in federation.names}
    hostile = MemberId(drawn.choice(federation.names))
    parties[hostile] = _Member(parties[hostile], _shared(LEVELS + number % 2))
    before = time.process_time()
    end = federation.drive(InProcess(parties))
    worked = time.process_time() - before
    return Outcome(worked > MOST_S, f"the run {end.outcome}")


@dataclass
class _Coordinator:
    """What a coordinator sends, but for the plan's first state, which one member gets as the coordinator likes."""

    inner: InProcess
    identity: Any
    member: str
    base: bytes
    worked: float = 0.0

    def exchange(self, outbound: Any, patience: Any) -> Iterator[Any]:  # noqa: ANN401 - as a runtime has it
        for who, data in outbound:
            sent = _signed(self.identity, data, "Propose", self._said) if who == self.member else data
            before = time.process_time()
            yield from self.inner.exchange(iter([(who, sent)]), patience)
            self.worked = max(self.worked, (time.process_time() - before) * (sent != data))

    def _said(self, said: m.Propose) -> m.Propose:
        return replace(said, plan=replace(said.plan, base=m.state_digest(self.base)), base=self.base)


def by_a_coordinator(number: int, folder: Path) -> Outcome:
    """A plan starts from a state that keeps a site at work, and with it the site's other federations."""
    drawn = random.Random(f"coordinator {number}")  # noqa: S311 - as above
    fitting = (b"\x82" + _shared(LEVELS + 2 + number % 2) + cbor2.dumps(bytes(300 + more)) for more in range(4))
    base = next(each for each in fitting if len(each) % 4 == 0)  # as many bytes as a state of numbers has
    federation = Federation(folder, run=RunId(drawn.randbytes(16)), dimension=len(base) // 4)
    parties = {MemberId(name): federation.agent(name) for name in federation.names}
    home = federation.home(federation.centre)
    runtime = _Coordinator(InProcess(parties), home.identity, federation.names[0], base)
    end = federation.drive(runtime)  # type: ignore[arg-type]
    home.engine.dispose()
    assert runtime.worked, "nothing was proposed"
    return Outcome(runtime.worked > MOST_S, f"the run {end.outcome}")


ATTEMPTS = (
    Attempt("a stranger who is let in sends a fraction that takes long to reduce", at_the_door),
    Attempt("an unsigned frame takes many times its size of memory", in_memory),
    Attempt("a member's masked vector keeps its coordinator at work for ever", by_a_member),
    Attempt("a plan's first state keeps a site at work for ever", by_a_coordinator),
)
