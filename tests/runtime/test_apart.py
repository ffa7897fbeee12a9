"""Three sites, a custodian and a coordinator, each a process in a directory of its own that no other one can read.

As root each is another user. Else each has a folder of mode 0700, and what the mode says is looked at. They are joined by
signed documents alone, and every step is a command. A command runs in a fork of this process: another user could not
read this interpreter's files.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from securefl.audit.verify import verify
from securefl.cli.main import main
from securefl.coordinator import run
from securefl.documents import coordinator_file, site_file
from securefl.ledger import export
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.site import serve
from securefl.site.build import Environment
from securefl.site.dispatch import built
from securefl.terms import MemberId, ReservationReleased, Reserved, Settled
from tests.support.apart import COORDINATOR, Apart

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

    def start(self, name: str, *arguments: object) -> None:
        """Let this party's user run a command, in a process of its own."""
        here, there = os.pipe()
        process = FORK.Process(target=self.as_its_user, args=(name, there, arguments), daemon=True)
        process.start()
        os.close(there)
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

    def as_its_user(self, name: str, said: int, arguments: tuple[object, ...]) -> None:
        os.dup2(said, 1)
        os.dup2(said, 2)
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
        """Every site answers, until it is told to end."""
        for name in self.parties:
            self.start(name, "site", "serve", self.document(name), "--socket", self.door(name), "--let-in",
                       self.users[COORDINATOR])  # fmt: skip
        for name in self.parties:
            self.hear(name, "answering at")

    def coordinating(self) -> None:
        self.start(COORDINATOR, "coordinate", self.document(COORDINATOR), "--out", self.of(COORDINATOR) / "run")


def preload(apart: Apart) -> None:
    """Have this interpreter import all that such a run imports on its way: other users could not read it."""
    apart.found()
    apart.introduce()
    sites = {MemberId(name): built(site_file.load(apart.document(name)), Environment()) for name in apart.parties}
    result = run.coordinate(
        coordinator_file.load(apart.document(COORDINATOR)), apart.folder / "run", Silent(), InProcess(sites)
    )
    assert result.outcome == "finished", result.why


@pytest.mark.parametrize("protection", ["masking", "ckks"])
def test_parties_that_read_nothing_of_each_other_finish_although_each_is_killed_once(
    protection: str, small, tmp_path: Path, capsys
) -> None:
    preload(Apart(small, tmp_path / "preload", capsys, protection))
    with TemporaryDirectory(dir="/tmp") as folder:
        ground = Ground(small, Path(folder), capsys, protection)
        keys = ground.found()
        ground.introduce()
        ground.serve()
        ground.coordinating()
        ground.hear(COORDINATOR, "round 1/2")
        for name in ground.names:
            ground.kill(name)
        ground.serve()
        ground.coordinating()
        code, said = ground.end(COORDINATOR)
        assert code == 0, said
        for name in ground.parties:
            os.kill(ground.running[name][0].pid, signal.SIGTERM)
            code, said = ground.end(name)
            assert code == 0, said
        copies = tmp_path / "copies"
        copies.mkdir()
        for name in ground.names:
            told = ground.told(name, "ledger", "export", ground.document(name), ground.mail / name)
            found = Path(told["ledger"])
            (copies / found.name).write_bytes(found.read_bytes())
        for name in ground.members:
            told = [leaf.entry for leaf in _read(copies / f"{name}.ledger")]
            assert [type(each) for each in told if isinstance(each, Reserved | Settled | ReservationReleased)] == [
                Reserved,
                Settled,
            ] * 2
    found = verify(copies, keys)
    assert found.ok, found.why
    assert found.pinned


def _read(path: Path):
    return export.leaves_of(export.read(path), path.name)
