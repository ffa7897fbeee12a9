"""One worker for each request, however many connections ask it; and so many workers, whoever hangs up and asks again.

A request that nobody waits for any more is not waited with: its worker ends as soon as it is told that another request
of the run is worked on. What is being worked on goes on, and whoever asks for it again waits with the same worker.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from securefl.protocol.messages import InProgress
from securefl.runtime.answering import Handler, Leaving, said
from securefl.runtime.held_bytes import Claim
from securefl.site.counts import Counts


class Unheard(BaseException):
    """Nobody waits for this answer, and nothing is worked on for it."""


@dataclass(eq=False, slots=True)
class Work:
    """One request, and its answer once ``done`` is set: empty if this process ends, or nobody waited."""

    name: bytes  # SHA-256 of the request
    request: bytes = field(repr=False)
    held: Claim = field(repr=False)  # the request's bytes
    listeners: int = 0
    answer: bytes = b""
    done: threading.Event = field(default_factory=threading.Event)


class Workers:
    """All the requests that one process is asked."""

    def __init__(self, party: Handler, most: int, counts: Counts | None = None) -> None:
        self._party, self._most, self._counts = party, most, counts or Counts()
        self._lock = threading.Lock()
        self._under_way: dict[bytes, Work] = {}

    @contextmanager
    def hearing(self, request: bytes, held: Claim) -> Iterator[Work | None]:
        """Wait with the one worker of this request, which is begun if there is none; None if there is no room.

        A worker that is begun keeps the request and takes over what is held for it. Nothing is held for one that
        another connection asked before: whoever waits with its worker has no need of a copy.
        """
        name = hashlib.sha256(request).digest()
        with self._lock:
            work = self._under_way.get(name)
            if work is None and len(self._under_way) < self._most:
                work = self._under_way[name] = Work(name, request, held.taken_over())
                self._counts.working(len(self._under_way))
                threading.Thread(target=self._answer, args=(work,), daemon=True).start()
            if work is not None:
                work.listeners += 1
        held.end()
        try:
            yield work
        finally:
            if work is not None:
                with self._lock:
                    work.listeners -= 1

    def _answer(self, work: Work) -> None:
        try:
            with suppress(Leaving, Unheard):  # then there is no answer; the client asks whoever serves next
                work.answer = said(_Waiting(self, work), work.request)
        finally:
            try:
                self._counts.said(work.answer)
            finally:  # whoever waits is answered, and the room is free again, also where nobody reads what is told
                with self._lock:
                    self._end(work)
                work.request = b""
                work.held.end()
                work.done.set()

    def _end(self, work: Work) -> None:
        if self._under_way.get(work.name) is work:
            del self._under_way[work.name]
            self._counts.working(len(self._under_way))

    def handle(self, work: Work, data: bytes) -> bytes | InProgress:
        """Have the party answer.

        Raises:
            Unheard: another request of the run is worked on, and nobody waits for this one.
        """
        answer = self._party.handle(data)
        if isinstance(answer, InProgress):
            with self._lock:
                if not work.listeners:
                    self._end(work)  # whoever asks from now on begins anew
                    raise Unheard
        return answer


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The party, for as long as somebody waits."""

    workers: Workers
    work: Work

    def handle(self, data: bytes) -> bytes | InProgress:
        """Have the party answer, if anybody waits."""
        return self.workers.handle(self.work, data)
