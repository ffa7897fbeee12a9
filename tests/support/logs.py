"""Logs of a process whose reader is gone, stands still, or never was: real pipes, files and streams."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def unread() -> io.TextIOWrapper:
    reads, writes = os.pipe()
    os.close(reads)
    return os.fdopen(writes, "w", buffering=1)


def standing_still() -> io.TextIOWrapper:
    """A full pipe, whose reader is there and reads nothing: it is never closed."""
    _, writes = os.pipe()
    os.set_blocking(writes, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writes, bytes(1 << 12))
    os.set_blocking(writes, True)
    return os.fdopen(writes, "w", buffering=1)


def almost_full() -> io.TextIOWrapper:
    """A terminal that nobody reads any more: it says that it takes more, and has no room for a line."""
    reads, writes = os.openpty()
    os.set_blocking(writes, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writes, b"a line that was there before\n")
    room = select.poll()
    room.register(writes, select.POLLOUT)
    while not room.poll(10):
        os.read(reads, 1)
    os.set_blocking(writes, True)
    return os.fdopen(writes, "w", buffering=1)


def closed() -> io.TextIOWrapper:
    stream = unread()
    stream.close()
    return stream


def on_a_full_disk() -> io.TextIOWrapper:
    return Path("/dev/full").open("w", buffering=1)


class Terminal(io.StringIO):
    """A terminal that is gone."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


LOGS: dict[str, Callable[[], object]] = {
    "unread": unread, "standing still": standing_still, "almost full": almost_full, "closed": closed, "on a full disk": on_a_full_disk,
    "none": lambda: None, "a terminal that is gone": Terminal,
}  # fmt: skip


@contextmanager
def logging_to(stream: object) -> Iterator[None]:
    before, sys.stderr = sys.stderr, stream
    try:
        yield
    finally:
        sys.stderr = before
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # what is left in it
                stream.close()
