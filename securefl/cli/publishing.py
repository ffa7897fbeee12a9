"""What a process counts, while it runs: as a file for Prometheus, and as lines of JSON on standard error.

Both hold whole numbers under names from closed lists. Under ``--log json`` no word goes to standard error, not even of
what ends the process: what an operator would have read there stands in ``words.log`` in the party's home, for its owner
alone. Only what was wrong before that home was known, an option or the document, is printed.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from securefl import files
from securefl.cli.faults import Unspoken, ending
from securefl.errors import OperatorFault
from securefl.metrics import SUFFIX
from securefl.shown import on_screen
from securefl.standard_error import owned
from securefl.telling import screen, tell

if TYPE_CHECKING:
    from securefl.metrics import Metrics

EVERY_S: Final = 5.0  # between two looks
WORDS: Final = "words.log"
MOST_WORDS: Final = 1 << 20  # bytes; those before are kept once, in ``words.log.1``


class Log(StrEnum):
    """How a long-lived process tells what happens."""

    TEXT = "text"
    JSON = "json"


MetricsFile = Annotated[
    Path | None,
    typer.Option("--metrics", help="Write counts here for Prometheus: FILE.prom, in node_exporter's textfile folder."),
]
LogForm = Annotated[
    Log, typer.Option("--log", help="json: lines of counts alone; the words stand in words.log in the home.")
]


class Words(io.TextIOBase):
    """Keeps what is written to it in a file of a home, of a bounded size."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def write(self, text: str) -> int:
        """Append it; where that cannot be done it is lost, and the process goes on."""
        with self._lock, suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > MOST_WORDS:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW
            with os.fdopen(os.open(self._path, flags, files.FILE), "a") as file:
                file.write(text)
        return len(text)

    def taker(self) -> Callable[[bytes], object]:
        """What keeps bytes that were meant for standard error, piece by piece, as text."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda data: self.write(decoder.decode(data))


class Publisher:
    """Tells of one process's numbers whenever they changed."""

    def __init__(self, metrics: Metrics, file: Path | None, out: TextIO | None, clock: Callable[[], float]) -> None:
        self._metrics, self._file, self._out, self._clock = metrics, file, out, clock
        self._told: Mapping[tuple[str, str], int] = {}
        metrics.put("started_seconds", int(clock()))

    def look(self) -> None:
        """Write the file anew; tell what changed since the last look."""
        self._metrics.put("written_seconds", int(self._clock()))
        if self._file is not None:
            with suppress(OSError):  # a full disk ends no run; the age of the file tells
                self._metrics.write(self._file)
        numbers = self._metrics.numbers()
        changed = {
            f"{name}.{value}" if value else name: number
            for (name, value), number in numbers.items()
            if number != self._told.get((name, value), 0) and name not in ("started_seconds", "written_seconds")
        }
        if changed:
            self.tell("counts", **changed)
        self._told = numbers

    def tell(self, event: str, **numbers: int) -> None:
        """One line of JSON: when, what, and numbers."""
        if self._out is not None:
            with suppress(OSError):  # nobody reads it any more; the file is still written
                line = json.dumps({"at": int(self._clock()), "event": event, **numbers})
                self._out.write(f"{on_screen(line)}\n")
                self._out.flush()


@contextmanager
def published(metrics: Metrics, file: Path | None, log: Log, home: Path, every_s: float = EVERY_S) -> Iterator[None]:
    """Publish these numbers until the block is over.

    Raises:
        OperatorFault: the file's name is none that is collected, or its folder is not there.
        Unspoken: the block failed, under ``Log.JSON``; ``words.log`` says why.
    """
    if file is not None and (file.suffix != SUFFIX or not file.parent.is_dir()):
        remedy = f"give a name that ends in {SUFFIX}, in a folder that exists: a collector reads nothing else"
        raise OperatorFault(f"no file for metrics: {file}", remedy, "--metrics")
    words = Words(home / WORDS) if log is Log.JSON else None
    if words is not None:
        with suppress(OperatorFault):  # the block says what is wrong with it
            files.folder(home)
    with owned(None if words is None else words.taker()) as outside:
        if file is None and words is None:
            yield
            return
        publisher = Publisher(metrics, file, None if words is None else screen(outside), time.time)
        with _publishing(publisher, words, every_s):
            yield


@contextmanager
def _publishing(publisher: Publisher, words: Words | None, every_s: float) -> Iterator[None]:
    over = threading.Event()

    def looking() -> None:
        while not over.wait(every_s):
            publisher.look()

    looks = threading.Thread(target=looking, daemon=True, name="publishing")
    with redirect_stderr(sys.stderr if words is None else words):
        publisher.tell("begun", pid=os.getpid())
        publisher.look()
        looks.start()
        code = 130  # interrupted, unless it ends otherwise
        try:
            yield
            code = 0
        except typer.Exit as ended:
            code = ended.exit_code
            raise
        except Exception as fault:
            found = ending(fault)
            code = found.code
            if words is None:
                raise
            tell(f"{found.trace}{found.text}")
            raise Unspoken(code) from None
        finally:
            over.set()
            looks.join()
            publisher.look()
            publisher.tell("ended", exit=code)
