"""A way to each site on which connections are cut, wait, come twice or out of order, and which is closed for a while."""

from __future__ import annotations

import random
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from securefl import wire
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.runtime.answering import WORKING
from securefl.runtime.inprocess import InProcess
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Waiting
from securefl.terms import MemberId, Refused
from securefl_carriers import frames
from tests.support.parties import Federation

CUTS = ("before", "request", "answer")  # when a connection is cut: unread, in the midst of the request, of the answer
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Weather:
    """How often what happens to a connection, and how long each frame takes."""

    loss: float = 0.1
    twice: float = 0.05
    late: float = 0.05
    delay_s: float = 0.5


class Sky:
    """What all ways share: the draw, and whether they are closed. The fates come in one order, whoever draws."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather, self.met = weather, Counter[str]()
        self._drawn, self._changed, self._passed = random.Random(seed), threading.Condition(), 0
        self._parted, self._never = threading.Event(), threading.Event()

    def fate(self) -> str:
        weather = self.weather
        with self._changed:
            at, cut = self._drawn.random(), self._drawn.choice(CUTS)
            fate = cut if at < weather.loss else "twice" if at < weather.loss + weather.twice else ""
            fate = fate or ("late" if at < weather.loss + weather.twice + weather.late else "")
            self.met[fate] += 1
        return fate

    def takes_its_time(self) -> None:
        self._never.wait(self.weather.delay_s)

    def lets_another_pass(self) -> None:
        """Wait until another request went by, if one does soon."""
        with self._changed:
            before = self._passed
            self._changed.wait_for(lambda: self._passed > before, 4 * self.weather.delay_s)

    def passed(self) -> None:
        with self._changed:
            self._passed += 1
            self._changed.notify_all()

    @property
    def is_parted(self) -> bool:
        if self._parted.is_set():
            self.met["parted"] += 1
        return self._parted.is_set()

    def part(self, seconds: float) -> None:
        """Nothing goes either way for so long."""
        self._parted.set()
        threading.Timer(seconds, self._parted.clear).start()


class Way(socketserver.ThreadingUnixStreamServer):
    """The way to one site."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, site: Path, sky: Sky) -> None:
        self.site, self.sky = site, sky
        super().__init__(str(path), Passing)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that ended."""


class Passing(socketserver.BaseRequestHandler):
    server: Way

    def handle(self) -> None:
        sky = self.server.sky
        if sky.is_parted or (fate := sky.fate()) == "before":
            return
        request = frames.receive(self.request, PATIENCE_S)
        sky.takes_its_time()
        if fate == "late":
            sky.lets_another_pass()
        if sky.is_parted:
            return
        with socket.socket(socket.AF_UNIX) as site:
            site.connect(str(self.server.site))
            if fate == "request":
                site.sendall(frames.packed(request)[: len(request) // 2])
                return
            frames.send(site, (request,), PATIENCE_S)
            sky.passed()
            if fate == "twice":
                threading.Thread(target=self._again, args=(request,), daemon=True).start()
            while True:
                frame = frames.receive(site, PATIENCE_S)
                sky.takes_its_time()
                if sky.is_parted or (fate == "answer" and frame[:1] != WORKING):
                    return
                frames.send(self.request, (frame,), PATIENCE_S)

    def _again(self, request: bytes) -> None:
        with suppress(OSError, frames.Cut), socket.socket(socket.AF_UNIX) as site:
            site.connect(str(self.server.site))
            frames.send(site, (request,), PATIENCE_S)
            frames.receive(site, PATIENCE_S)


@contextmanager
def ways(folder: Path, federation: Federation, sky: Sky) -> Iterator[Sockets]:
    """A way to each party, through this weather."""
    folder.mkdir(parents=True)
    made = []
    for name in federation.parties:
        way = Way(folder / name, federation.door(name), sky)
        threading.Thread(target=way.serve_forever, args=(0.02,), daemon=True).start()
        made.append(way)
    try:
        yield Sockets({MemberId(name): folder / name for name in federation.parties})
    finally:
        for way in made:
            way.shutdown()
            way.server_close()


class Killed(BaseException):
    """The coordinator's process ends here."""


class Striking:
    """The same runtime; before an exchange of a kind, something is done once."""

    def __init__(self, inner: Sockets, strikes: dict) -> None:
        self.inner, self.strikes = inner, strikes

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        asked = list(outbound)
        receipt = wire.decode(asked[0][1], m.Frame).envelope.receipt
        strike = self.strikes.pop((receipt.kind, receipt.round), None)
        if strike is not None:
            strike()
        yield from self.inner.exchange(asked, waiting)


def calm(federation: Federation, rounds: int) -> tuple[bytes, dict[str, list[type]]]:
    """The state of the same run in good weather, and everybody's ledger without refusals of requests."""
    runtime = InProcess({MemberId(name): federation.party(name) for name in federation.parties})
    end = federation.drive(runtime, rounds)
    assert end.outcome == "finished"
    return end.course.state, kinds(federation)


def kinds(federation: Federation) -> dict[str, list[type]]:
    """The kinds of everybody's entries, in order."""
    return {
        name: [type(each) for each in entries if not isinstance(each, Refused)]
        for name, entries in federation.ledgers().items()
    }


def driven(federation: Federation, runtime: object, rounds: int) -> coordinator_state.Ended:
    """The end of the run; a coordinator that was killed is started again with the same command."""
    while True:
        try:
            return federation.drive(runtime, rounds)  # type: ignore[arg-type]
        except Killed:
            continue
