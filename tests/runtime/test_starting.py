"""A process of a party begins like a fresh one, whoever forked it."""

from __future__ import annotations

import os
import random
import signal
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from securefl.runtime import starting

NAME = "SECUREFL_TEST_OF_STARTING"


def look(pipe: Connection) -> None:
    """Tell what this process sees of where it is."""
    print("told")
    print("complained", file=sys.stderr)
    server = Path(f"/proc/{os.getppid()}")
    mapped = (server / "maps").read_text()
    pipe.send({
        "environment": os.environ.get(NAME),
        "folder": str(Path.cwd()),
        "drawn": (os.urandom(16), random.random()),
        "threads of the server": len(list((server / "task").iterdir())),
        "libraries of the server": {name for name in ("libtorch", "nvidia0") if name in mapped},
        "imported": "torch" in sys.modules,
    })  # fmt: skip


def looked() -> dict[str, object]:
    ours, theirs = Pipe()
    process = starting.start(look, theirs, daemon=True)
    theirs.close()
    found = ours.recv()
    process.join()
    assert process.exitcode == 0
    return found


def test_a_process_has_what_is_here_when_it_is_started_and_draws_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = looked()
    capfd.readouterr()
    monkeypatch.setenv(NAME, "new")
    monkeypatch.chdir(tmp_path)
    after = looked()
    assert (before["environment"], after["environment"]) == (None, "new")
    assert after["folder"] == str(tmp_path) != before["folder"]
    assert capfd.readouterr() == ("told\n", "complained\n")
    assert not set(before["drawn"]) & set(after["drawn"])
    monkeypatch.delenv(NAME)
    assert looked()["environment"] is None


def test_what_forks_them_has_imported_what_they_need_and_runs_nothing() -> None:
    found = looked()
    assert found["imported"]
    assert found["libraries of the server"] == {"libtorch"}, "and no device is open there"
    assert found["threads of the server"] == 1


def die(pipe: Connection) -> None:
    pipe.send(os.getpid())
    signal.pause()


def test_a_process_that_is_killed_is_known_to_be_and_its_pipe_has_ended() -> None:
    ours, theirs = Pipe()
    process = starting.start(die, theirs, daemon=True)
    theirs.close()
    assert ours.recv() == process.pid
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionResetError)):
        ours.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
