"""The end at a site: hands each request to the one socket that this machine's owner named, and keeps what is said.

Whoever polls chooses a request and nothing else: no place, no time, no name. A request is handed on once, however often
it is polled; while the site is away it is tried again, until nobody polls any more.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from securefl_carriers import frames
from securefl_carriers.polls import HOLD_S, Poll, Said, State

MOST_AT_ONCE: Final = 16  # requests
AGAIN_S: Final = 0.2  # between two tries at a socket where nobody listens
SILENT_S: Final = 60.0  # a site that says nothing for so long is asked anew; it says every two seconds how far it is
LEFT_S: Final = 30.0  # a request that nobody polled for so long is given up


class SiteEnd:
    """Answers polls. One for each site; any number of threads may ask.

    Where a message costs an engine more than a wait, the end is ``patient``: it answers when the site has said its last
    word, or after ``HOLD_S``, and not at every word.
    """

    def __init__(self, agent: Path, *, patient: bool = False) -> None:
        self._agent, self._patient = agent, patient
        self._lock = threading.Lock()
        self._under_way: dict[bytes, _Conversation] = {}

    def answer(self, message: bytes) -> bytes:
        """Answer one poll, within ``HOLD_S`` seconds.

        Raises:
            Unreadable: it is none.
        """
        poll = Poll.decode(message)
        with self._lock:
            self._give_up_what_is_left()
            found = self._under_way.get(poll.ticket)
            if found is None:
                if poll.request is None:
                    return Said(State.UNKNOWN).encode()
                if len(self._under_way) >= MOST_AT_ONCE:
                    return Said(State.FULL).encode()
                found = self._under_way[poll.ticket] = _Conversation(self._agent, poll.request)
        said = found.since(poll.have, patient=self._patient)
        if said.state is State.OVER:
            with self._lock:
                if self._under_way.get(poll.ticket) is found:
                    del self._under_way[poll.ticket]
        return said.encode()

    def close(self) -> None:
        """Hang up everywhere."""
        with self._lock:
            for each in self._under_way.values():
                each.end()
            self._under_way.clear()

    def _give_up_what_is_left(self) -> None:
        for ticket, each in list(self._under_way.items()):
            if each.is_left:
                each.end()
                del self._under_way[ticket]


class _Conversation:
    """One request that was handed on, and what the site says to it."""

    def __init__(self, agent: Path, request: bytes) -> None:
        self._agent = agent
        self._changed = threading.Condition()
        self._frames, self._dropped = deque[bytes](), 0  # those that somebody has are dropped
        self._over, self._enough = False, threading.Event()
        self._polled, self._polling = time.monotonic(), 0
        self._connection: socket.socket | None = None
        threading.Thread(target=self._ask, args=(request,), daemon=True, name="asking the site").start()

    def since(self, have: int, *, patient: bool = False) -> Said:
        """What was said after the first ``have`` frames; waits for something, or for the end if ``patient``."""
        with self._changed:
            self._polling += 1
            try:
                while self._dropped < have <= self._said:
                    self._frames.popleft()
                    self._dropped += 1
                self._changed.wait_for(lambda: self._over or (self._frames and not patient), HOLD_S)
                return Said(State.OVER if self._over else State.GOING, self._said, tuple(self._frames))
            finally:
                self._polling -= 1
                self._polled = time.monotonic()

    @property
    def _said(self) -> int:
        """How many frames came so far."""
        return self._dropped + len(self._frames)

    @property
    def is_left(self) -> bool:
        """Whether nobody has polled for long."""
        return not self._polling and time.monotonic() - self._polled > LEFT_S

    def end(self) -> None:
        """Hang up."""
        self._enough.set()
        with self._changed:
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    def _ask(self, request: bytes) -> None:
        try:
            while not self._enough.is_set():
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    try:
                        connection.settimeout(SILENT_S)
                        connection.connect(str(self._agent))
                    except OSError:  # it is away
                        self._enough.wait(AGAIN_S)
                        continue
                    self._talk(connection, request)
                    return
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _talk(self, connection: socket.socket, request: bytes) -> None:
        with self._changed:
            self._connection = connection
        try:
            with suppress(frames.Cut):  # it may have said why before it closed
                frames.send(connection, (request,), SILENT_S)
            with suppress(frames.Cut):
                while not self._enough.is_set():
                    frame = frames.receive(connection, SILENT_S)
                    with self._changed:
                        self._frames.append(frame)
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._connection = None
