"""Whatever a process writes to standard error by itself: no reader of it holds the process up, and one has all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from tests.support.logs import almost_full, on_a_full_disk, standing_still, unread

SAID = ["told", "printed", "of a library", "by its number", "of a child", "told last"]
SAYS = f"""
import logging, os, subprocess, sys
from pathlib import Path
from securefl.standard_error import owned
from securefl.telling import tell

def say():
    tell({SAID[0]!r})
    print({SAID[1]!r}, file=sys.stderr)
    logging.getLogger("a library").warning({SAID[2]!r})
    os.write(2, {SAID[3].encode()!r} + b"\\n")
    subprocess.run(["sh", "-c", "echo {SAID[4]} >&2"], check=True)
    tell({SAID[5]!r})
"""
OWNED = f"""{SAYS}
with owned():
    say()
    for _ in range(int(sys.argv[1])):
        os.write(2, b"x" * 65535 + b"\\n")  # as native code does
    print("went on", flush=True)
"""
AS_JSON = f"""{SAYS}
from securefl.cli.publishing import Log, published
from securefl.site.counts import Counts
with published(Counts().metrics, None, Log.JSON, Path(sys.argv[1])):
    say()
"""


def process(script: str, argument: object, log: IO[str] | int | None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", script, str(argument)]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=log, text=True, timeout=60)


@pytest.mark.parametrize("log", [standing_still, almost_full, unread, on_a_full_disk])
def test_no_reader_of_standard_error_holds_a_process_up(log: Callable[[], IO[str]]) -> None:
    """Forty times 64 KiB: more than a pipe and all that waits behind it hold."""
    with log() as stream:
        done = process(OWNED, 40, stream)
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_without_standard_error_a_process_goes_on() -> None:
    argv = ["sh", "-c", 'exec "$0" -c "$1" 1 2>&-', sys.executable, OWNED]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["printed", "went on"])  # Python's print to None


def test_a_log_that_is_read_has_everything_in_order(tmp_path: Path) -> None:
    done = process(OWNED, 10, subprocess.PIPE)
    assert done.stderr.splitlines() == [*SAID, *["x" * 65535] * 10]
    with (tmp_path / "log").open("w") as file:
        process(OWNED, 0, file)
    assert (tmp_path / "log").read_text().splitlines() == SAID


def test_a_bar_knows_the_terminal_behind_it() -> None:
    reads, writes = os.openpty()
    script = "from securefl.standard_error import owned\nfrom securefl.telling import screen\n"
    script += "with owned():\n    print(screen().isatty(), screen().fileno() > 2)\nprint(screen().fileno())"
    with os.fdopen(writes, "w") as stream, os.fdopen(reads):
        assert process(script, "", stream).stdout.split() == ["True", "True", "2"]


def test_under_json_what_anybody_writes_there_stays_in_the_home(tmp_path: Path) -> None:
    done = process(AS_JSON, tmp_path / "home", subprocess.PIPE)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["begun", "ended"]
    assert sorted((tmp_path / "home" / "words.log").read_text().splitlines()) == sorted(SAID)


def test_behind_it_standard_error_is_as_before_also_where_a_child_lives_on() -> None:
    script = (
        "import os, subprocess, sys\nfrom securefl.standard_error import owned\nbefore = os.fstat(2)\n"
        "with owned():\n    child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n    assert os.fstat(2) != before\n"
        "print(os.fstat(2) == before, flush=True)\nos.write(2, b'after')\nchild.kill()"
    )
    done = process(script, "", subprocess.PIPE)
    assert (done.stdout, done.stderr) == ("True\n", "after")
