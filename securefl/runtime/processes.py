"""Members as processes of their own: each can be killed, and comes back from its own home."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from securefl.protocol.messages import InProgress
from securefl.runtime.answering import GONE, Handler, answered, said
from securefl.seams import Failure, Waiting
from securefl.terms import MemberId

Maker = Callable[[], Handler]  # importable by name: the child builds its own agent


def _serve(make: Maker, pipe: Connection) -> None:
    built = _Built(make)
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:  # whoever asked is gone
            return
        pipe.send_bytes(said(built, request))


class _Built:
    """A party that is built when it is first asked: what goes wrong then is a fault like any other."""

    def __init__(self, make: Maker) -> None:
        self._make: Maker = make
        self._handler: Handler | None = None

    def handle(self, data: bytes) -> bytes | InProgress:
        """As the party does, which is built when it is first asked; of no bytes it only says that it is there."""
        self._handler = self._handler or self._make()
        return self._handler.handle(data) if data else b""


class Processes:
    """One process for each peer, started when it is first asked and again after it died."""

    def __init__(self, makers: Mapping[MemberId, Maker], parents: Collection[str] = ()) -> None:
        self._makers, self._parents = dict(makers), frozenset(parents)  # parents start processes of their own
        self._spawn = get_context("spawn")
        self._running: dict[MemberId, tuple[BaseProcess, Connection]] = {}

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask all at once; yield answers in the order they come. Who is silent too long is ended."""
        asked: dict[Connection, MemberId] = {}
        for member, request in outbound:
            pipe = self._pipe(member)
            try:
                pipe.send_bytes(request)
            except OSError:
                self._end(member)
                yield member, GONE
            else:
                asked[pipe] = member
        while asked:
            ready = wait(list(asked), timeout=waiting.left())
            if not ready:
                break
            for pipe in [each for each in asked if each in ready]:
                member = asked.pop(pipe)
                try:
                    answer = pipe.recv_bytes()
                except (EOFError, OSError):
                    self._end(member)
                    yield member, GONE
                    continue
                yield member, answered(answer, waiting.most_bytes)
        for member in asked.values():
            self._end(member)
            yield member, waiting.late

    def start(self, waiting: Waiting) -> dict[MemberId, Failure]:
        """Start every peer's process, and wait until each has built its agent; return those that could not."""
        answers = self.exchange([(member, b"") for member in self._makers], waiting)
        return {member: answer for member, answer in answers if isinstance(answer, Failure)}

    def close(self) -> None:
        """No process of this runtime is left."""
        for member in list(self._running):
            self._end(member)

    def pid(self, member: MemberId) -> int | None:
        """The process of a peer that was asked at least once."""
        return self._running[member][0].pid if member in self._running else None

    def _pipe(self, member: MemberId) -> Connection:
        if member in self._running and self._running[member][0].is_alive():
            return self._running[member][1]
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_serve, args=(self._makers[member], theirs), daemon=member not in self._parents
        )
        process.start()
        theirs.close()
        self._running[member] = (process, ours)
        return ours

    def _end(self, member: MemberId) -> None:
        process, pipe = self._running.pop(member)
        pipe.close()
        if process.is_alive():
            process.kill()
        process.join()
