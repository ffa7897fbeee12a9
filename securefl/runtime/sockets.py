"""Members behind Unix sockets: each serves at home, for as long as it likes, and outlives whoever asks it.

One connection carries one request. The site says now and then that it is still at it, then it answers. A connection
that breaks, and a site that is not there yet or no longer, are tried again with the same bytes: a site answers what is
repeated without doing anything twice.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from securefl.errors import Malformed
from securefl.protocol.messages import InProgress
from securefl.runtime import framing
from securefl.runtime.answering import BUSY, GONE, POLL_S, TOO_LONG, heard
from securefl.seams import Failure, Waiting
from securefl.terms import MemberId

HEARTBEAT_S: Final = 2.0  # how often a site says that it is still at it
SILENT_S: Final = 60.0  # with no word for so long the connection is given up, and the request sent anew
GONE_S: Final = 120.0  # a site that does not answer the door for so long is gone: time enough to restart it

Watch = Callable[[MemberId, InProgress], None]


def unwatched(member: MemberId, progress: InProgress) -> None:
    """Tell nobody how far a site is."""


class Sockets:
    """One socket for each peer.

    Args:
        places: where each peer serves.
        gone_s: how long a peer may be away before it counts as gone; patience that is shorter ends first.
        watch: is told whenever a peer says how far it is; called from other threads.
    """

    def __init__(self, places: Mapping[MemberId, Path], gone_s: float = GONE_S, watch: Watch = unwatched) -> None:
        self._places, self._gone_s, self._watch = dict(places), gone_s, watch

    @property
    def peers(self) -> tuple[MemberId, ...]:
        """Whom it is the way to."""
        return tuple(self._places)

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask all at once; yield answers in the order they come. Who is silent too long is left to itself."""
        asking = _Asking(waiting)
        with ThreadPoolExecutor(max(1, len(self._places)), thread_name_prefix="asking") as threads:
            try:
                asked: dict[Future[bytes | Failure | None], MemberId] = {}
                for member, request in outbound:
                    asked[threads.submit(self._ask, member, request, asking)] = member
                while asked:
                    done, _ = wait(asked, waiting.left(), FIRST_COMPLETED)
                    if not done:
                        break
                    for each in [each for each in asked if each in done]:
                        member, answer = asked.pop(each), each.result()
                        yield member, waiting.late if answer is None else answer
                asking.end()
                for member in asked.values():
                    yield member, waiting.late
            finally:
                asking.end()  # whoever asked has gone on: nobody is waited for

    def _ask(self, member: MemberId, request: bytes, asking: _Asking) -> bytes | Failure | None:
        """Ask until the peer has answered; None if patience ended."""
        place = self._places.get(member)
        if place is None:
            return GONE
        pause, longest = POLL_S
        lost = time.monotonic()  # since when nothing was heard
        while (left := asking.left()) > 0:
            with suppress(framing.Cut, OSError), asking.connection() as connection:
                connection.settimeout(left)
                connection.connect(str(place))
                with suppress(framing.Cut):  # it may have said why before it closed
                    framing.send(connection, request, SILENT_S)
                while (left := asking.left()) > 0:
                    try:
                        found = heard(framing.receive(connection, min(SILENT_S, left), asking.most_bytes + 1))
                    except Malformed:
                        return TOO_LONG
                    if found == BUSY:  # nothing was begun: later, the same again
                        lost = time.monotonic()
                        break
                    if not isinstance(found, InProgress):
                        return found
                    self._watch(member, found)
                    lost, pause = time.monotonic(), POLL_S[0]
            if time.monotonic() - lost > self._gone_s:
                return GONE
            asking.pause(pause)
            pause = min(2 * pause, longest)
        return None


class _Asking:
    """What the threads of one exchange share: until when they ask, and their connections."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting, self._enough = waiting, threading.Event()
        self.most_bytes = waiting.most_bytes  # of one answer
        self._open = set[socket.socket]()
        self._lock = threading.Lock()

    def left(self) -> float:
        """Seconds until it is over."""
        return 0.0 if self._enough.is_set() else self._waiting.left()

    def pause(self, seconds: float) -> None:
        """Do nothing for a while, unless it is over."""
        self._enough.wait(max(0.0, min(seconds, self._waiting.left())))

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """Hold a socket that ``end`` wakes."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            with self._lock:
                self._open.add(made)
            try:
                yield made
            finally:
                with self._lock:
                    self._open.discard(made)

    def end(self) -> None:
        """End every thread's asking, whatever it waits for."""
        self._enough.set()
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
