"""Parties that are users of their own, each with a folder that no other can read; whatever they do is a command.

As root each is another user. Else each has a folder of mode 0700, and what the mode says is looked at. A command runs
in a fork of this process: another user could not read this interpreter's files.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from securefl.cli.main import main
from securefl.coordinator import run
from securefl.documents import coordinator_file, site_file
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.site import serve
from securefl.site.build import Environment
from securefl.site.dispatch import built
from securefl.terms import MemberId
from tests.support.apart import COORDINATOR, CUSTODIAN, Apart

FORK = get_context("fork")
FIRST_USER = 54_000


class Ground(Apart):
    """The same parties, each another user, with a folder, a door and a letter box of its own."""

    def __post_init__(self) -> None:
        mine = os.geteuid()
        self.names = (*self.parties, COORDINATOR)
        self.users = {each: mine or FIRST_USER + n for n, each in enumerate(self.names)}
        self.running: dict[str, tuple[BaseProcess, int]] = {}
        for kind in ("", "parties", "doors", "mail"):
            (self.folder / kind).mkdir(exist_ok=True)
            (self.folder / kind).chmod(0o711)
        super().__post_init__()
        for name in self.names:
            self.place(name, "doors")

    def place(self, name: str, kind: str) -> Path:
        path = self.folder / kind / name
        path.mkdir()
        path.chmod({"parties": 0o700, "doors": 0o711, "mail": 0o755}[kind])
        os.chown(path, self.users[name], self.users[name])
        return path

    def door(self, name: str) -> Path:
        return self.folder / "doors" / name / serve.DOOR

    def given(self, name: str, *things: str) -> None:
        super().given(name, *things)
        self.own(name)

    def own(self, name: str) -> None:
        for path in self.of(name).rglob("*"):
            os.chown(path, self.users[name], self.users[name])

    def coordinates(self, start: bool = True, **changes: object) -> str:
        key = super().coordinates(start, **changes)
        self.own(COORDINATOR)
        return key

    def start(self, name: str, *arguments: object, typed: str = "") -> None:
        """Let this party's user run a command, in a process of its own; ``typed`` is what it is given to read."""
        here, there = os.pipe()
        reads, types = os.pipe()
        os.write(types, typed.encode())
        os.close(types)
        process = FORK.Process(target=self.as_its_user, args=(name, reads, there, arguments), daemon=True)
        process.start()
        os.close(there)
        os.close(reads)
        self.running[name] = process, here

    def end(self, name: str) -> tuple[int, str]:
        """How a command ended, and all that it said since it was heard last."""
        process, said = self.running.pop(name)
        with os.fdopen(said, "rb") as pipe:
            heard = pipe.read().decode()
        process.join(60)
        return process.exitcode, heard

    def hear(self, name: str, word: str) -> str:
        """What a command says, until it says this."""
        heard = ""
        while word not in heard:
            piece = os.read(self.running[name][1], 4096).decode()
            assert piece, f"{name} never said {word!r}, but:\n{heard}"
            heard += piece
        return heard

    def kill(self, name: str) -> None:
        os.kill(self.running[name][0].pid, signal.SIGKILL)
        assert self.end(name)[0] == -signal.SIGKILL

    def asked(self, name: str, *arguments: object) -> tuple[int, str]:
        self.start(name, *arguments)
        return self.end(name)

    def as_its_user(self, name: str, reads: int, said: int, arguments: tuple[object, ...]) -> None:
        os.dup2(reads, 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = 70
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(self.users[name])
                os.setuid(self.users[name])
            os.chdir(self.of(name))
            self.check_apart(name)
            main([str(each) for each in arguments])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException as fault:
            print(f"{name}: {type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def check_apart(self, name: str) -> None:
        """Nothing of another party's can be listed, read or written; of a door it is known where it is, no more."""
        for other in set(self.names) - {name}:
            home, door = self.of(other), self.folder / "doors" / other
            if not home.exists():
                continue
            assert (home.stat().st_mode & 0o777, door.stat().st_mode & 0o777) == (0o700, 0o711)
            if self.users[other] == self.users[name]:
                continue
            for closed in (
                lambda home=home: list(home.iterdir()),
                lambda home=home: (home / "home" / "identity.key").read_bytes(),
                lambda home=home: (home / "home" / "ledger.db").stat(),
                lambda door=door: list(door.iterdir()),
                lambda door=door: (door / "another").touch(),
                lambda other=other: (self.mail / other / "another").touch(),
            ):
                with pytest.raises(PermissionError):
                    closed()

    def serve(self) -> None:
        """Every site answers, until it is told to end; a custodian whose key was split asks the members first."""
        for name in self.parties:
            split = name == CUSTODIAN and any((self.of(name) / "home").glob("*.split"))
            ways = (
                [part for each in self.members for part in ("--member", f"{each}={self.door(each)}")] if split else []
            )
            asks = [part for each in self.asking(name) for part in ("--let-in", self.users[each])]
            self.start(name, "site", "serve", self.document(name), "--socket", self.door(name), *asks, *ways)
        for name in self.parties:
            self.hear(name, "answering at")

    def asking(self, name: str) -> tuple[str, ...]:
        """Who may ask this party: the coordinator, and a custodian its members for their shares."""
        return (COORDINATOR, *((CUSTODIAN,) if CUSTODIAN in self.parties and name != CUSTODIAN else ()))

    def split(self) -> None:
        """The custodian's key is split: each member keeps the share that it was sent."""
        self.told(
            CUSTODIAN,
            "custodian",
            "split",
            self.document(CUSTODIAN),
            "--threshold",
            2,
            "--out",
            self.mail / CUSTODIAN / "shares",
        )
        for name in self.members:
            self.told(
                name, "custodian", "keep", self.document(name), self.mail / CUSTODIAN / "shares" / f"{name}.share"
            )

    def coordinating(self) -> None:
        self.start(COORDINATOR, "coordinate", self.document(COORDINATOR), "--out", self.of(COORDINATOR) / "run")

    def finish_though_killed(self, word: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run to the end, although everybody is killed once: when the coordinator says ``word``."""
        self.serve()
        self.coordinating()
        self.hear(COORDINATOR, word)
        for name in self.names:
            self.kill(name)
        meanwhile()
        self.serve()
        self.coordinating()
        code, said = self.end(COORDINATOR)
        assert code == 0, said
        for name in self.parties:
            os.kill(self.running[name][0].pid, signal.SIGTERM)
            code, said = self.end(name)
            assert code == 0, said


def preload(apart: Apart) -> None:
    """Have this interpreter import all that such a run imports on its way: other users could not read it."""
    apart.found()
    apart.introduce()
    sites = {MemberId(name): built(site_file.load(apart.document(name)), Environment()) for name in apart.parties}
    result = run.coordinate(
        coordinator_file.load(apart.document(COORDINATOR)), apart.folder / "run", Silent(), InProcess(sites)
    )
    assert result.outcome == "finished", result.why
