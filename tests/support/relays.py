"""An engine made of a socket for each site: one connection carries one poll there and its answer back, and may be lost."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from securefl.runtime.sockets import Sockets
from securefl.terms import MemberId
from securefl_carriers import frames
from securefl_carriers.doors import Doors, Unreached
from securefl_carriers.site_end import SiteEnd

Luck = Callable[[str, bytes], str]  # of a site's poll: "" | "lost" | "deaf" (heard, and the answer is lost) | "twice"


class Wire(socketserver.ThreadingUnixStreamServer):
    """The engine's process at a site."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, agent: Path) -> None:
        self.end = SiteEnd(agent)
        super().__init__(str(path), Crossing)

    def server_close(self) -> None:
        self.end.close()
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A poll that is lost."""


class Crossing(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        frames.send(self.request, (self.server.end.answer(frames.receive(self.request, 60)),), 60)


class Engine:
    """Carries polls to sites; ``luck`` says what becomes of each."""

    def __init__(self, folder: Path, luck: Luck = lambda *_: "") -> None:
        self.folder, self.luck, self.sites = folder, luck, dict[str, Wire]()
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, site: str, agent: Path) -> None:
        path = self.folder / site
        path.unlink(missing_ok=True)
        wire = self.sites[site] = Wire(path, agent)
        threading.Thread(target=wire.serve_forever, args=(0.02,), daemon=True).start()

    def end(self, site: str) -> None:
        """As if this site's engine had died: what it kept is gone."""
        wire = self.sites.pop(site)
        wire.shutdown()
        wire.server_close()
        (self.folder / site).unlink()

    def ask(self, site: str, poll: bytes, allowed_s: float) -> bytes:
        luck = self.luck(site, poll)
        if luck == "lost":
            raise Unreached(site)
        if luck == "twice":
            self._carried(site, poll, allowed_s)
        answer = self._carried(site, poll, allowed_s)
        if luck == "deaf":
            raise Unreached(site)
        return answer

    def _carried(self, site: str, poll: bytes, allowed_s: float) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self.folder / site))
                frames.send(connection, (poll,), allowed_s)
                return frames.receive(connection, allowed_s)
        except (OSError, frames.Cut) as fault:
            raise Unreached(site) from fault


@contextmanager
def relayed(folder: Path, agents: dict[str, Path], luck: Luck = lambda *_: "") -> Iterator[tuple[Engine, Sockets]]:
    """A relay on both ends: what asks sees a socket for each site, as if it stood there."""
    engine = Engine(folder / "engine", luck)
    doors = Doors(folder / "doors", engine.ask)
    for name, agent in agents.items():
        engine.start(name, agent)
        assert doors.open(name)
    try:
        yield engine, Sockets({MemberId(name): folder / "doors" / name for name in agents}, 60.0)
    finally:
        doors.close()
        for name in list(engine.sites):
            engine.end(name)
