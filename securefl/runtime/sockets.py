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
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Final

from securefl.errors import Malformed
from securefl.protocol.messages import InProgress, NoAnswer
from securefl.runtime import framing
from securefl.runtime.answering import GONE, POLL_S, heard, late
from securefl.seams import Failure
from securefl.terms import MemberId
from securefl.terms.rules import PEER

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

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], patience_s: float
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask all at once; yield answers in the order they come. Who is silent too long is left to itself."""
        deadline, enough = time.monotonic() + patience_s, threading.Event()
        with ThreadPoolExecutor(max(1, len(self._places)), thread_name_prefix="asking") as threads:
            try:
                asked: dict[Future[bytes | Failure | None], MemberId] = {}
                for member, request in outbound:
                    asked[threads.submit(self._ask, member, request, deadline, enough)] = member
                for done in as_completed(asked):
                    answer = done.result()
                    yield asked[done], late(patience_s) if answer is None else answer
            finally:
                enough.set()  # whoever asked has gone on: nobody is waited for

    def _ask(
        self, member: MemberId, request: bytes, deadline: float, enough: threading.Event
    ) -> bytes | Failure | None:
        """Ask until the peer has answered; None if patience ended."""
        place = self._places.get(member)
        if place is None:
            return GONE
        pause, longest = POLL_S
        lost = time.monotonic()  # since when nothing was heard
        while (left := deadline - time.monotonic()) > 0 and not enough.is_set():
            with suppress(framing.Cut, OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(left)
                connection.connect(str(place))
                with suppress(framing.Cut):  # it may have said why before it closed
                    framing.send(connection, request, SILENT_S)
                while (left := deadline - time.monotonic()) > 0 and not enough.is_set():
                    try:
                        found = heard(framing.receive(connection, min(SILENT_S, left)))
                    except Malformed:
                        return Failure(str(NoAnswer(PEER)))
                    if not isinstance(found, InProgress):
                        return found
                    self._watch(member, found)
                    lost, pause = time.monotonic(), POLL_S[0]
            if time.monotonic() - lost > self._gone_s:
                return GONE
            enough.wait(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(2 * pause, longest)
        return None
