"""A line for whoever operates this process, on standard error. Whether anybody reads it decides nothing.

A log's reader may be gone or stand still, its disk may be full, its stream closed. Then the line is lost, and what was
under way goes on as if it had been read: some lines depend on one record, and nobody else may see that there was one.
"""

from __future__ import annotations

import io
import select
import sys
import threading
from contextlib import suppress
from typing import Final, TextIO, cast

from securefl.shown import on_screen

WAIT_MS: Final = 100  # for a reader that is only slow
PIECE: Final = 1000  # characters, at most 4000 bytes: what is ready for any byte takes so many (POSIX, PIPE_BUF)
_turn = threading.Lock()  # between two threads that found room for one piece


def tell(text: str, end: str = "\n") -> None:
    """Have the line read, or lost. It never fails, and waits for no reader that stands still."""
    if sys.stderr is not None:
        _put(sys.stderr, on_screen(text) + end)


def screen() -> TextIO:
    """Standard error as it is now, for whoever writes to a stream of its own: what it does not take is lost."""
    return cast("TextIO", _Screen())


class _Screen(io.TextIOBase):
    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        """Have it read, or lost."""
        if self._stream is not None:
            _put(self._stream, text)
        return len(text)

    def isatty(self) -> bool:
        """Whether a person may look at it."""
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The same file."""
        return self._stream.fileno()


def _put(stream: TextIO, text: str) -> None:
    with suppress(OSError, ValueError):  # ValueError: it was closed
        if not isinstance(stream, io.TextIOWrapper):  # in memory, words.log, or a bar's, which ends in a ``screen``
            stream.write(text)
            return
        with _turn:
            for start in range(0, len(text), PIECE):
                if not _takes_more(stream):
                    return
                stream.write(text[start : start + PIECE])
                stream.flush()


def _takes_more(stream: TextIO) -> bool:
    """Whether a piece can be written that nobody has to make room for."""
    try:
        place = stream.fileno()
    except (OSError, ValueError):  # in memory
        return True
    watched = select.poll()
    watched.register(place, select.POLLOUT)
    return bool(watched.poll(WAIT_MS))
