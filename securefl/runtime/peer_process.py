"""What runs in a peer's process: it answers on a pipe, hears a later request while it works, and ends in order.

Who asked may go on without an answer. The pipe stays, and the next request tells the party that its round is over: so
a late party ends for the reason that its own site names, as behind a socket. Answers carry the number of their request.
"""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Final, Protocol

from securefl.protocol.messages import InProgress
from securefl.runtime.answering import Handler, Leaving, said
from securefl.standard_error import owned

GRACE_S: Final = 10.0  # for what is under way when this process is told to end: a step of a training
NUMBER: Final = struct.Struct(">Q")  # before each request and its answer: requests of one pipe are counted from 1


class Party(Handler, Protocol):
    """Whoever answers, and can be told that its process ends."""

    def leave(self) -> None:
        """End what takes long; what was reserved stays reserved."""
        ...


Maker = Callable[[], Party]  # importable by name: the process builds its own party


class _Unheard(BaseException):
    """Whoever asked has gone on, and nothing is worked on for this request."""


class _Told(BaseException):
    """This process is told to end."""


def serve(make: Maker, pipe: Connection, grace_s: float = GRACE_S) -> None:
    """Answer until the pipe or this process is ended; a training ends after its step, and its reservation stands.

    Ctrl-C is for whoever runs all processes of a terminal, and reaches this one by its pipe.
    """

    def told(_: int, __: FrameType | None) -> None:
        raise _Told

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, told)
    serving = _Serving(make, pipe)
    with owned():
        with suppress(EOFError, OSError, _Told):
            while True:
                serving.begin(pipe.recv_bytes())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        all_ended = serving.ended(grace_s)
    if not all_ended:  # a thread that is left in a step would be torn apart with the interpreter
        os._exit(0)


class _Serving:
    """A party that is built when it is first asked, and a thread for each request."""

    def __init__(self, make: Maker, pipe: Connection) -> None:
        self._make, self._pipe = make, pipe
        self._party: Party | None = None
        self._building, self._sending = threading.Lock(), threading.Lock()
        self._threads: list[threading.Thread] = []
        self._latest = 0  # the number of the request that somebody waits for; 0 when this process ends

    def begin(self, data: bytes) -> None:
        """Begin to answer a request; nobody waits for those before it any more."""
        (self._latest,) = NUMBER.unpack_from(data)
        self._threads = [each for each in self._threads if each.is_alive()]
        thread = threading.Thread(target=self._answer, args=(self._latest, data[NUMBER.size :]), daemon=True)
        self._threads.append(thread)
        thread.start()

    def ended(self, grace_s: float) -> bool:
        """Tell the party to leave; return whether all that was under way has ended."""
        self._latest, deadline = 0, time.monotonic() + grace_s
        if self._party is not None:
            self._party.leave()
        for each in self._threads:
            each.join(max(0.0, deadline - time.monotonic()))
        return not any(each.is_alive() for each in self._threads)

    def _answer(self, number: int, request: bytes) -> None:
        with suppress(Leaving, _Unheard, OSError):  # OSError: nobody reads this pipe any more
            answer = said(_Asked(self, number), request)
            with self._sending:
                self._pipe.send_bytes(NUMBER.pack(number) + answer)

    def handle(self, number: int, data: bytes) -> bytes | InProgress:
        """Have the party answer; of no bytes it only says that it is there."""
        with self._building:
            party = self._party = self._party or self._make()
        answer = party.handle(data) if data else b""
        if isinstance(answer, InProgress) and number != self._latest:
            raise _Unheard
        return answer


class _Asked:
    """The party, for one request."""

    def __init__(self, serving: _Serving, number: int) -> None:
        self._serving, self._number = serving, number

    def handle(self, data: bytes) -> bytes | InProgress:
        """Have the party answer, for as long as somebody waits or it is at work."""
        return self._serving.handle(self._number, data)
