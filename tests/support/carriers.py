"""What carries the messages of worlds in memory: calls, or Unix sockets between threads; the stories are the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from securefl import wire
from securefl.errors import PeerFault
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Runtime
from securefl.site.serve import Door
from securefl.terms import MemberId
from tests.support.parties import waiting
from tests.support.worlds import World

NAMES = ("a", "b", "c", "d", "e", "f", "custodian")


@dataclass
class Stage:
    """The world that plays now, as parties that a runtime can ask; what a runtime may not tell is kept beside it."""

    world: World | None = None
    faults: list[PeerFault] = field(default_factory=list)
    bugs: list[BaseException] = field(default_factory=list)


@dataclass(frozen=True)
class Actor:
    """One party of the world that plays."""

    stage: Stage
    name: str
    idle: bool = True
    most_request: int = wire.LIMIT_BYTES

    def handle(self, data: bytes) -> bytes:
        assert self.stage.world is not None
        try:
            return self.stage.world.handle(self.name, data)
        except PeerFault as fault:
            self.stage.faults.append(fault)
            raise
        except BaseException as bug:
            self.stage.bugs.append(bug)
            raise PeerFault("a test that failed") from bug

    def progress(self, data: bytes) -> m.InProgress:
        return m.InProgress(0, 0)

    def leave(self) -> None:
        """Nothing here takes long."""


@contextmanager
def runtime_of(kind: str, stage: Stage) -> Iterator[Runtime]:
    actors = {MemberId(name): Actor(stage, name) for name in NAMES}
    if kind == "inprocess":
        yield InProcess(actors)
        return
    with TemporaryDirectory() as folder, ExitStack() as stack:
        for name, actor in actors.items():
            door = stack.enter_context(Door(Path(folder) / name, actor, {os.geteuid()}))
            threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.02}).start()
            stack.callback(door.shutdown)
        yield Sockets({name: Path(folder) / name for name in actors})


def carrying(stage: Stage, runtime: Runtime) -> Callable[[World, str, bytes], bytes]:
    """Carry one request by this runtime; a fault is told as its rule alone, and raised here with its own words."""

    def carried(world: World, name: str, data: bytes) -> bytes:
        stage.world = world
        stage.faults.clear()
        ((_, answer),) = runtime.exchange([(MemberId(name), data)], waiting(60.0))
        for bug in stage.bugs:
            raise bug
        if isinstance(answer, Failure):
            (fault,) = stage.faults
            assert answer == Failure(str(m.NoAnswer.by(fault)))
            raise fault
        assert not stage.faults
        return answer

    return carried
