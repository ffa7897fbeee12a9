"""Somebody who may ask at a site's socket hangs up and asks again, so that what waits there grows without end."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.protocol import messages as m
from securefl.runtime import framing
from securefl.runtime.inprocess import InProcess
from securefl.site import serve
from securefl.terms import MemberId, RunId
from tests.support.parties import Federation

ASKED, PATIENCE_S = 24, 2.0


class _Door(serve.Door):
    """The door itself; how many have come through it is counted."""

    came = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as the library has it
        _Door.came += 1
        return super().verify_request(request, client_address)


class _Asked:
    """A member behind a socket: it is asked there for one training again and again, or for others of its run."""

    def __init__(self, federation: Federation, name: str, number: int) -> None:
        self.there, self.go_on, self.number, self.more = threading.Event(), threading.Event(), number, 0
        self.party = federation.agent(name, self._stepped)

    def _stepped(self, _: int) -> None:
        self.there.set()
        assert self.go_on.wait(60)

    def handle(self, data: bytes) -> bytes | m.InProgress:
        frame: m.Frame = wire.decode(data, m.Frame)
        if frame.envelope.receipt.kind == "Propose" and not self.more:
            with TemporaryDirectory() as place, _Door(Path(place) / "d", self.party, {os.geteuid()}) as door:
                listening = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
                listening.start()
                self.more = self._asked_again(door, frame, data)
                door.shutdown()
        return self.party.handle(data)

    def _asked_again(self, door: serve.Door, frame: m.Frame, data: bytes) -> int:
        """How many threads more there are, once everybody has hung up."""
        drawn = random.Random(self.number)  # noqa: S311 - trials that can be repeated
        _hung_up(door, data)
        assert self.there.wait(60)
        deadline, calm, _Door.came = time.monotonic() + PATIENCE_S, threading.active_count(), 0
        for _ in range(ASKED):
            head = frame.head and replace(frame.head, signature=drawn.randbytes(64))
            _hung_up(door, wire.encode(replace(frame, head=head)) if self.number % 2 else data)
        more = ASKED
        while (_Door.came < ASKED or more > 1) and time.monotonic() < deadline:
            time.sleep(0.05)
            more = threading.active_count() - calm
        self.go_on.set()
        return max(1, more)


def _hung_up(door: serve.Door, data: bytes) -> None:
    with suppress(OSError, framing.Cut), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(door.server_address)  # type: ignore[arg-type]
        framing.send(connection, data, 10)


def piled_up(number: int, folder: Path) -> Outcome:
    """Ask for a training, hang up, and ask again: the same, or another request of its run each time."""
    drawn = random.Random(f"door {number}")  # noqa: S311 - as above
    federation = Federation(folder, run=RunId(drawn.randbytes(16)))
    victim = _Asked(federation, drawn.choice(federation.names), number)
    parties = {MemberId(name): federation.agent(name) for name in federation.names}
    beat, serve.HEARTBEAT_S = serve.HEARTBEAT_S, 0.02  # type: ignore[misc]
    try:
        end = federation.drive(InProcess({**parties, victim.party.charter.me: victim}))
    finally:
        serve.HEARTBEAT_S = beat  # type: ignore[misc]
    assert victim.more, "nobody was asked"
    return Outcome(victim.more > 2 or end.outcome != "finished", "one worker for one request")


ATTEMPTS = (Attempt("A client hangs up and asks again so that workers pile up", piled_up),)
