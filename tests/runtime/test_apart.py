"""Three sites, a custodian and a coordinator, each a process in a directory of its own that no other one can read.

As root each is another user. Else each has a folder of mode 0700, and what the mode says is looked at.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from securefl.audit.verify import verify
from securefl.ledger import export
from securefl.runtime.inprocess import InProcess
from securefl.runtime.sockets import Sockets
from securefl.site.serve import serve
from securefl.terms import MemberId, ReservationReleased, Reserved, Scheme, Settled
from tests.support.parties import COORDINATOR, Federation

FORK = get_context("fork")  # what runs as another user could not read this interpreter's files
FIRST_USER = 54_000


class Ground:
    """A place with a folder, a door and an outbox for each party, and the users who own them."""

    def __init__(self, folder: Path, scheme: Scheme) -> None:
        self.folder, self.federation = folder, Federation(folder / "homes", scheme, priced=True)
        self.names = (*self.federation.parties, COORDINATOR)
        mine = os.geteuid()
        self.users = {each: mine or FIRST_USER + n for n, each in enumerate(self.names)}
        for above in (folder, folder / "homes", folder / "doors", folder / "outbox"):
            above.mkdir(exist_ok=True)
            above.chmod(0o711)
        for name in self.names:
            for kind, mode in (("homes", 0o700), ("doors", 0o711), ("outbox", 0o755)):
                place = folder / kind / name
                place.mkdir()
                place.chmod(mode)
                os.chown(place, self.users[name], self.users[name])
        self.there, self.from_training = os.pipe()
        self.gated = True
        self.running: dict[str, BaseProcess] = {}

    def door(self, name: str) -> Path:
        return self.folder / "doors" / name / "door"

    def start(self, name: str, what: Callable[[str], object]) -> None:
        """Let this party's user do this, in a process of its own."""
        self.running[name] = FORK.Process(target=self.as_its_user, args=(name, what), daemon=True)
        self.running[name].start()

    def end(self, name: str) -> int | None:
        self.running[name].join(60)
        return self.running.pop(name).exitcode

    def kill(self, name: str) -> None:
        os.kill(self.running[name].pid, signal.SIGKILL)
        assert self.end(name) == -signal.SIGKILL

    def as_its_user(self, name: str, what: Callable[[str], object]) -> None:
        code = 70
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(self.users[name])
                os.setuid(self.users[name])
            self.check_apart(name)
            code = 0 if what(name) else 1
        except BaseException as fault:
            print(f"{name}: {type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
        os._exit(code)

    def check_apart(self, name: str) -> None:
        """Nothing of another party's can be listed, read or written; of a door it is known where it is, no more."""
        for other in set(self.names) - {name}:
            home, door = self.folder / "homes" / other, self.folder / "doors" / other
            assert (home.stat().st_mode & 0o777, door.stat().st_mode & 0o777) == (0o700, 0o711)
            if self.users[other] == self.users[name]:
                continue
            for closed in (
                lambda home=home: list(home.iterdir()),
                lambda home=home: (home / "identity.key").read_bytes(),
                lambda home=home: (home / "ledger.db").stat(),
                lambda door=door: list(door.iterdir()),
                lambda door=door: (door / "another").touch(),
            ):
                with pytest.raises(PermissionError):
                    closed()

    # What a party's process does.

    def serving(self, name: str) -> bool:
        agent = self.federation.agent(name, self.gate if name == "a" else lambda _: None)
        lock, asks = self.federation.place(name) / "serving", {self.users[COORDINATOR]}
        return serve(lambda: agent, self.door(name), lock, asks)

    def gate(self, done: int) -> None:
        if done == 2 and self.gated:
            os.write(self.from_training, b"!")
            threading.Event().wait(60)  # until it is killed

    def wait_for_training(self) -> None:
        ready, _, _ = select.select([self.there], [], [], 60)
        assert ready, "a trains its first round"

    def coordinating(self, name: str) -> bool:
        sockets = Sockets({MemberId(each): self.door(each) for each in self.federation.parties}, gone_s=60.0)
        return self.federation.drive(sockets, 2).outcome == "finished"

    def exporting(self, name: str) -> bool:
        """The party's own ledger, where an auditor may fetch it."""
        file = self.federation.home(name).ledger()
        assert file is not None
        export.write(self.folder / "outbox" / name / f"{file.owner}.ledger", file)
        return True


def preload(folder: Path, scheme: Scheme) -> None:
    """Have this interpreter import all that a run imports on its way: other users could not read it."""
    small = Federation(folder, scheme, priced=True)
    assert small.drive(InProcess({MemberId(name): small.party(name) for name in small.parties})).outcome == "finished"


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_parties_that_read_nothing_of_each_other_finish_although_each_is_killed_once(
    scheme: Scheme, tmp_path: Path
) -> None:
    preload(tmp_path, scheme)
    with TemporaryDirectory(dir="/tmp") as folder:
        ground = Ground(Path(folder), scheme)
        for name in ground.federation.parties:
            ground.start(name, ground.serving)
        ground.start(COORDINATOR, ground.coordinating)
        ground.wait_for_training()
        for name in ground.names:
            ground.kill(name)
        ground.gated = False
        for name in ground.federation.parties:
            ground.start(name, ground.serving)
        ground.start(COORDINATOR, ground.coordinating)
        assert ground.end(COORDINATOR) == 0
        for name in ground.federation.parties:
            os.kill(ground.running[name].pid, signal.SIGTERM)
            assert ground.end(name) == 0
        copies = tmp_path / "copies"
        copies.mkdir()
        for name in ground.names:
            ground.start(name, ground.exporting)
            assert ground.end(name) == 0
            found = ground.folder / "outbox" / name / f"{name}.ledger"
            (copies / found.name).write_bytes(found.read_bytes())
        for name in ground.federation.names:
            told = [leaf.entry for leaf in _read(copies / f"{name}.ledger")]
            assert [type(each) for each in told if isinstance(each, Reserved | Settled | ReservationReleased)] == [
                Reserved,
                Settled,
            ] * 2
    found = verify(copies)
    assert found.ok, found.why


def _read(path: Path):
    return export.leaves_of(export.read(path), path.name)
