"""A line for whoever operates this process, on standard error. Whether anybody reads it decides nothing.

A log's reader may be gone or stand still, its disk may be full, its stream closed. Then the line is lost, and what was
under way goes on as if it had been read: some lines depend on one record, and nobody else may see that there was one.
No look at a file tells whether a write to it waits: a terminal that takes a byte may not take a line. So a thread of
its own writes each line, and is left alone where that takes long.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from typing import Final, TextIO, cast
from weakref import WeakKeyDictionary

from securefl.shown import on_screen
from securefl.standard_error import place_of, written

WAIT_S: Final = 0.1  # for a reader that is only slow
_turn = threading.Lock()  # so that lines stand one behind the other
_writing: WeakKeyDictionary[TextIO, threading.Thread] = WeakKeyDictionary()  # who was left alone, by stream


def tell(text: str, end: str = "\n") -> None:
    """Have the line read, or lost. It never fails, and waits for no reader that stands still."""
    if sys.stderr is not None:
        _put(sys.stderr, on_screen(text) + end)


def screen(stream: TextIO | None = None) -> TextIO:
    """A stream, or standard error as it is now, for whoever writes to one: what it does not take is lost."""
    return cast("TextIO", _Screen(stream or sys.stderr))


class _Screen(io.TextIOBase):
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Have it read, or lost."""
        if self._stream is not None:
            _put(self._stream, text)
        return len(text)

    def isatty(self) -> bool:
        """Whether a person may look at it."""
        if self._stream is None:
            return False
        with suppress(OSError, ValueError):
            return os.isatty(place_of(self._stream))
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The file behind it."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return place_of(self._stream)


def _put(stream: TextIO, text: str) -> None:
    with suppress(OSError, ValueError, RuntimeError):  # ValueError: it was closed; RuntimeError: no thread can start
        place = _place(stream)
        if place is None:
            stream.write(text)
            return
        with _turn, suppress(UnicodeError):
            before = _writing.get(stream)
            if before is None or _ended(before):
                data = text.encode(stream.encoding or "utf-8", stream.errors or "backslashreplace")
                _writing[stream] = _begun(os.dup(place), data)


def _place(stream: TextIO) -> int | None:
    """Return the file that a stream writes to; None of one in memory, words.log, or one that is closed."""
    with suppress(OSError, ValueError):
        return stream.fileno() if isinstance(stream, io.TextIOWrapper) else None
    return None


def _begun(place: int, data: bytes) -> threading.Thread:
    """Write all of it, or what is taken within the time; nothing more is begun before that has ended."""

    def writing() -> None:
        written(place, data)
        os.close(place)

    thread = threading.Thread(target=writing, daemon=True, name="telling")
    try:
        thread.start()
    except RuntimeError:
        os.close(place)
        raise
    _ended(thread)
    return thread


def _ended(thread: threading.Thread) -> bool:
    thread.join(WAIT_S)
    return not thread.is_alive()
