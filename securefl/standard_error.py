"""Standard error, owned: what anybody in this process writes to it is taken at once, whatever becomes of its reader.

Libraries, the interpreter and a panic in a native extension write to file descriptor 2 by themselves, and wait there
for a reader that stands still. Some of what they say depends on one record, and nobody else may see that there was one.
So whatever runs long has a pipe of its own there. A thread empties it; another hands on what came, and waits alone.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

PLACE: Final = 2  # standard error's file descriptor
MOST_KEPT: Final = 1 << 20  # bytes that wait for a reader; what comes while so many wait is lost
PIPE: Final = 1 << 20  # bytes that a pipe may hold, if the system lets it
END_S: Final = 1.0  # for a reader to take what is left when the process ends
PAUSE_S: Final = 0.02

_outside: int | None = None  # the real standard error, while this process owns it


def place_of(stream: TextIO) -> int:
    """Return the file that a stream ends in; of standard error that is owned, the real one.

    Raises:
        OSError, ValueError: in none, or it was closed.
    """
    place = stream.fileno()
    return _outside if place == PLACE and _outside is not None else place


def written(place: int, data: bytes) -> None:
    """Write all of it, however long its reader takes; behind a fault, no more of it."""
    with suppress(OSError):
        while data:
            try:
                data = data[os.write(place, data) :]
            except BlockingIOError:  # whoever shares this file made it so; poll says of a terminal what is not so
                time.sleep(PAUSE_S)


@contextmanager
def owned(take: Callable[[bytes], object] | None = None) -> Iterator[TextIO | None]:
    """Own standard error while the block runs, and give a stream to the real one; behind the block it is as before.

    It is left alone where it is owned already, or where ``sys.stderr`` is another stream: whoever put it there owns it.
    None if there is no standard error; then what native code writes there is lost, and in no file that is opened later.

    Args:
        take: has whatever is written there, in order, in place of the real one; it never fails and never waits.
    """
    global _outside  # noqa: PLW0603 - a process has one standard error
    stream = sys.stderr
    if stream is None:
        _closed_to_others()
    if _outside is not None or not isinstance(stream, io.TextIOWrapper) or not _is_standard(stream):
        yield stream
        return
    kept = os.dup(PLACE)
    drain = _Drain(PLACE, take)
    _outside = kept
    try:
        with os.fdopen(os.dup(kept), "w", buffering=1, encoding=stream.encoding, errors=stream.errors) as outside:
            yield outside
    finally:
        with suppress(OSError, ValueError):
            stream.flush()
        _outside = None
        os.dup2(kept, PLACE)
        os.close(kept)
        drain.settle(time.monotonic() + END_S)


def _is_standard(stream: TextIO) -> bool:
    with suppress(OSError, ValueError):
        return stream.fileno() == PLACE
    return False


def _closed_to_others() -> None:
    """No file that is opened from now on becomes standard error by having its number."""
    try:
        os.fstat(PLACE)
    except OSError:
        place = os.open(os.devnull, os.O_WRONLY)
        os.dup2(place, PLACE)  # which children have, too
        os.set_inheritable(PLACE, True)
        if place != PLACE:
            os.close(place)


class _Drain:
    """A pipe in the place of a file, and the thread that empties it: until nobody, no child either, can write to it."""

    def __init__(self, place: int, take: Callable[[bytes], object] | None) -> None:
        self._writer = _Writer(os.dup(place))
        self._take = take or self._writer.put
        self._turn, self._over = threading.Lock(), False  # for a chunk from the pipe to ``take``
        self._reads, writes = os.pipe()
        with suppress(OSError, AttributeError):  # its usual size does, too
            fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE)
        threading.Thread(target=self._run, daemon=True, name="standard error").start()
        os.dup2(writes, place)
        os.close(writes)

    def settle(self, until: float) -> None:
        """Wait until all that was written before is where it belongs, or it is too late."""
        while time.monotonic() < until:
            with self._turn:
                if self._over or not self._ready(0):
                    break
            time.sleep(PAUSE_S / 10)
        self._writer.settle(until)

    def _ready(self, wait_ms: int | None = None) -> bool:
        watched = select.poll()
        watched.register(self._reads, select.POLLIN)
        return bool(watched.poll(wait_ms))

    def _run(self) -> None:
        while not self._over:
            self._ready()
            with self._turn:
                data = os.read(self._reads, 1 << 16)
                if data:
                    self._take(data)
                self._over = not data
        os.close(self._reads)
        self._writer.end()


class _Writer:
    """Writes to one file from a thread of its own: whoever hands bytes over waits for nobody."""

    def __init__(self, place: int) -> None:
        self._place = place
        self._waiting: deque[bytes] = deque()  # the first is being written
        self._bytes, self._over = 0, False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True, name="standard error's reader").start()

    def put(self, data: bytes) -> None:
        """Have it written behind what waits; it is lost where that is too much."""
        with self._changed:
            if self._bytes + len(data) <= MOST_KEPT:
                self._waiting.append(data)
                self._bytes += len(data)
                self._changed.notify_all()

    def settle(self, until: float) -> None:
        """Wait until nothing waits, or it is too late."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(0.0, until - time.monotonic()))

    def end(self) -> None:
        """Nothing more is to come."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    break
                data = self._waiting[0]
            written(self._place, data)
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(data)
                self._changed.notify_all()
        os.close(self._place)
