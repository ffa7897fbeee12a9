"""The end where somebody asks: a socket for each site that can be reached, in a folder of this process's own.

To whoever connects it looks like the site itself. One connection carries one request; it is polled for, through
whatever engine there is, until the site has said its last word or whoever asked hangs up.
"""

from __future__ import annotations

import os
import re
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from securefl_carriers import frames
from securefl_carriers.polls import HOLD_S, Poll, Said, State, Unreadable, ticket_of

READ_S: Final = 60.0  # a request that is not whole by then is dropped
AGAIN_S: Final = 0.5  # between two tries at a site that cannot be reached
MOST_AT_ONCE: Final = 32  # connections to one site; others are turned away, and try again
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")  # of a site; a file's name too
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

WAY_S: Final = 5.0  # for an engine to bring a poll there and its answer back, where it does not say how slow it is
LONGEST_S: Final = 300.0  # for a poll and its answer, on a line that gets slower

# Through the engine: a site's name, a poll, and seconds that it may take; `Unreached` if no answer came.
Ask = Callable[[str, bytes, float], bytes]


class Unreached(Exception):
    """The engine brought no answer: the site is away, or the way to it is. It may have heard all the same."""


class Doors:
    """Sockets called ``NAME`` in ``folder``, for this process's user and for ``users``, by uid.

    ``way_s`` is how long this engine takes there and back; a line that turns out slower is given more by and by.
    """

    def __init__(self, folder: Path, ask: Ask, users: Collection[int] = (), way_s: float = WAY_S) -> None:
        self._folder, self._ask, self._allowed_s = folder, ask, HOLD_S + way_s
        self._users = {os.geteuid(), *users}
        self._open: dict[str, _Door] = {}
        self._shared = bool(self._users - {os.geteuid()})
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o711 if self._shared else 0o700)

    def open(self, name: str) -> bool:
        """Open the door of a site, if it has none; whether it can have one: its name must be one."""
        if NAME.fullmatch(name) is None:
            return False
        if name not in self._open:
            path = self._folder / name
            path.unlink(missing_ok=True)  # of a process that was killed: the folder is this one's alone
            door = self._open[name] = _Door(path, name, self._ask, self._users, self._allowed_s)
            path.chmod(0o666 if self._shared else 0o600)  # the kernel says who connects
            threading.Thread(target=door.serve_forever, args=(0.1,), daemon=True, name=f"door of {name}").start()
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """Whose doors are open."""
        return tuple(sorted(self._open))

    def shut(self, name: str) -> None:
        """Close the door of a site, if it has one; whoever asks is left to ask again."""
        door = self._open.pop(name, None)
        if door is not None:
            door.enough.set()
            door.shutdown()
            door.server_close()
            (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close all of them."""
        for name in self.names:
            self.shut(name)


class _Door(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, site: str, ask: Ask, users: Collection[int], allowed_s: float) -> None:
        self.site, self.ask, self.allowed_s, self._users = site, ask, allowed_s, users
        self.enough = threading.Event()
        self._room = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__(str(path), _Line)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as the library has it
        said_by_kernel = request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return _CREDENTIALS.unpack(said_by_kernel)[1] in self._users and self._room.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say what kind of error ended a connection; somebody who is gone is none."""
        fault = sys.exception()
        if not isinstance(fault, frames.Cut | OSError):
            with suppress(OSError, ValueError):  # a log that nobody reads closes no door
                print(f"a connection ended by {type(fault).__name__}", file=sys.stderr)


class _Line(socketserver.BaseRequestHandler):
    """One connection: one request, and all that the site says to it."""

    server: _Door

    def handle(self) -> None:
        request = frames.receive(self.request, READ_S)
        ticket = ticket_of(request)
        have, bring = 0, True
        allowed = self.server.allowed_s
        while not self.server.enough.is_set() and not self._hung_up():
            poll, begun = Poll(ticket, have, request if bring else None), time.monotonic()
            try:
                said = Said.decode(self.server.ask(self.server.site, poll.encode(), allowed))
            except (Unreached, Unreadable):
                bring = False  # it may be there already: its name is enough
                if time.monotonic() - begun >= allowed:
                    allowed = min(2 * allowed, LONGEST_S)
                self.server.enough.wait(AGAIN_S)
                continue
            if said.state is State.UNKNOWN:
                have, again, bring = 0, bring, True
                if again:
                    self.server.enough.wait(AGAIN_S)
                continue
            if said.state is State.FULL:
                self.server.enough.wait(AGAIN_S)
                continue
            bring = False
            frames.send(self.request, said.frames, READ_S)
            have = said.have
            if said.state is State.OVER:
                return

    def _hung_up(self) -> bool:
        self.request.settimeout(0.0)
        with suppress(BlockingIOError):
            self.request.recv(1, socket.MSG_PEEK)
            return True  # nothing more comes, or what nobody waits for
        return False
