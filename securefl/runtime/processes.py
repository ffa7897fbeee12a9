"""Members as processes of their own: each can be killed, and comes back from its own home."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

from securefl.runtime import starting
from securefl.runtime.answering import GONE, Leaving, answered
from securefl.runtime.peer_process import GRACE_S, NUMBER, Maker, serve
from securefl.seams import Failure, Waiting
from securefl.telling import tell
from securefl.terms import MemberId

KILL_S: Final = 5.0  # beyond a process's own grace: then it is killed


@dataclass(slots=True)
class _Peer:
    """One peer's process, and the number of the request that it was sent last."""

    process: BaseProcess
    pipe: Connection
    asked: int = 0

    def send(self, request: bytes) -> None:
        """Send a request, under the next number."""
        self.asked += 1
        self.pipe.send_bytes(NUMBER.pack(self.asked) + request)

    def receive(self) -> bytes:
        """Read one answer; nothing of one to a request before the last, which nobody waits for any more."""
        data = self.pipe.recv_bytes()
        return data[NUMBER.size :] if NUMBER.unpack_from(data) == (self.asked,) else b""


class Processes:
    """One process for each peer, started when it is first asked and again after it died.

    Args:
        makers: of each peer.
        parents: the peers that start processes of their own.
        grace_s: for what is under way in a process when it is told to end.
    """

    def __init__(
        self, makers: Mapping[MemberId, Maker], parents: Collection[str] = (), grace_s: float = GRACE_S
    ) -> None:
        self._makers, self._parents, self._grace_s = dict(makers), frozenset(parents), grace_s
        self._running: dict[MemberId, _Peer] = {}
        self._turn = threading.Lock()  # of whoever uses the pipes: ``close`` may come from another thread
        self._over = threading.Event()
        self._waking, self._wake = Pipe(duplex=False)

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask all at once; yield answers in the order they come. Who is silent too long is left to itself.

        The next request tells it that its round is over; of the answer to this one nothing is read then.

        Raises:
            Leaving: this runtime was closed meanwhile.
        """
        asked: dict[Connection, MemberId] = {}
        for member, request in outbound:
            pipe = self._sent(member, request)
            if pipe is None:
                yield member, GONE
            else:
                asked[pipe] = member
        while asked and (heard := self._heard(asked, waiting)):
            for pipe, answer in heard:
                if answer is None:
                    yield asked.pop(pipe), GONE
                elif answer:
                    yield asked.pop(pipe), answered(answer, waiting.most_bytes)
        for member in asked.values():
            yield member, waiting.late

    def start(self, waiting: Waiting) -> dict[MemberId, Failure]:
        """Start every peer's process, and wait until each has built its agent; return those that could not."""
        answers = self.exchange([(member, b"") for member in self._makers], waiting)
        return {member: answer for member, answer in answers if isinstance(answer, Failure)}

    def close(self) -> None:
        """End every process in order: what trains ends after its step. Whose is alive after that time is killed."""
        self._over.set()
        self._wake.close()  # which wakes whoever waits
        with self._turn:
            self._end(list(self._running))

    def pid(self, member: MemberId) -> int | None:
        """The process of a peer that was asked at least once."""
        return self._running[member].process.pid if member in self._running else None

    def _sent(self, member: MemberId, request: bytes) -> Connection | None:
        """Send one request; return where its answer comes, None if its process died of it."""
        with self._turn:
            peer = self._peer(member)
            try:
                peer.send(request)
            except OSError:
                self._end([member])
                return None
            return peer.pipe

    def _heard(self, asked: Mapping[Connection, MemberId], waiting: Waiting) -> list[tuple[Connection, bytes | None]]:
        """Wait for whoever says something first, and read it; None of whose process died. Nothing if all are late."""
        with self._turn:
            ready = wait([*asked, self._waking], timeout=waiting.left())
            if self._over.is_set():
                raise Leaving
            return [(pipe, self._received(member)) for pipe, member in asked.items() if pipe in ready]

    def _received(self, member: MemberId) -> bytes | None:
        try:
            return self._running[member].receive()
        except (EOFError, OSError):
            self._end([member])
            return None

    def _peer(self, member: MemberId) -> _Peer:
        if self._over.is_set():
            raise Leaving
        if member in self._running:
            if self._running[member].process.is_alive():
                return self._running[member]
            self._end([member])
        ours, theirs = Pipe()
        process = starting.start(serve, self._makers[member], theirs, self._grace_s, daemon=member not in self._parents)
        theirs.close()
        self._running[member] = _Peer(process, ours)
        return self._running[member]

    def _end(self, members: Collection[MemberId]) -> None:
        """Close these peers' pipes, by which their processes hear that they end; kill those that do not."""
        ending = {member: self._running.pop(member) for member in members}
        for peer in ending.values():
            peer.pipe.close()
        deadline = time.monotonic() + self._grace_s + KILL_S
        for member, peer in ending.items():
            peer.process.join(max(0.0, deadline - time.monotonic()))
            if peer.process.is_alive():
                what = f"its process had not ended after {self._grace_s + KILL_S:g} s, and was killed"
                tell(f"{member}: {what}; what it had reserved stays reserved until the run goes on")
                peer.process.kill()
                peer.process.join()
