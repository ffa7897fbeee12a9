"""Answer on a Unix socket, for as long as this process lives: whoever asks may come and go.

The socket is this user's alone: a file of mode 0600 in a folder of mode 0700. Others may be let in by name; then the
folder lets anybody look the socket up and nobody list it, and the kernel says who connects. Before a byte is parsed,
who asks, how long the request is and how long it takes are bounded.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import signal
import socket
import socketserver
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

from securefl import files, wire
from securefl.errors import Malformed, OperatorFault, PeerFault
from securefl.protocol.messages import InProgress, NoAnswer
from securefl.runtime import framing
from securefl.runtime.answering import SILENCE, WORKING, Handler
from securefl.runtime.held_bytes import Claim, Full, Room
from securefl.runtime.sockets import HEARTBEAT_S
from securefl.site.counts import CUT, STRANGER, TURNED_AWAY, Counts
from securefl.site.workers import Work, Workers
from securefl.telling import tell
from securefl.terms.rules import FULL

READ_S: Final = 60.0  # a request that is not whole by then is dropped
MOST_AT_ONCE: Final = 32  # connections; others are turned away, and try again
MOST_WAITING: Final = 24  # connections among them that wait for what takes long; others ask again
MOST_WORKING: Final = 2 * MOST_AT_ONCE  # requests that are worked on, those of clients that hung up among them
LONGEST_AT_ONCE: Final = 8  # requests of the longest kind whose bytes are held at once
MOST_ROOM: Final = 256 << 20  # bytes of requests held at once, unless a single one is longer
GRACE_S: Final = 10.0  # for what is under way when this process is told to end
DOOR, LOCK = "door", "serving"  # names in a home
LONGEST_PATH: Final = 107  # bytes of a socket's path, by the kernel
LOOKED_UP, ANYBODY = 0o711, 0o666  # of folder and socket, where others are let in: the kernel says who they are
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


def peer_uid(connection: socket.socket) -> int:
    """The user who opened this connection, by the kernel's word."""
    said_by_kernel = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(said_by_kernel)[1]
    return uid


def user_named(name: str) -> int:
    """Find the uid of a user, by name or number.

    Raises:
        OperatorFault: there is none of this name.
    """
    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError as fault:
        raise OperatorFault(f"no user is called {name}", "give a name or number that `id` knows", "--let-in") from fault


class Party(Handler, Protocol):
    """Whoever is served: it answers, says how far it is, and can be told that this process ends."""

    def progress(self, data: bytes) -> InProgress:
        """Say how far the run of this request is."""
        ...

    def leave(self) -> None:
        """End what takes long."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing is worked on."""
        ...

    @property
    def most_request(self) -> int:
        """Bytes that one request may have."""
        ...


class Door(socketserver.ThreadingUnixStreamServer):
    """Listens, and lets in who may ask. Each connection has a thread and asks one thing."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, party: Party, users: Collection[int], counts: Counts | None = None) -> None:
        self.counts = counts or Counts()
        self.party, self.users, self.most = party, frozenset(users), party.most_request
        self.room = Room(room_for(self.most))
        self._room = threading.BoundedSemaphore(MOST_AT_ONCE)
        self.waiting = threading.BoundedSemaphore(MOST_WAITING)
        self.workers = Workers(party, MOST_WORKING, self.counts)
        super().__init__(str(path), Conversation)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as the library has it
        """Let in the users who may ask, while there is room; of whoever else connects nothing is read."""
        if peer_uid(request) not in self.users:
            self.counts.ended(STRANGER)
            return False
        if not self._room.acquire(blocking=False):
            self.counts.ended(TURNED_AWAY)
            return False
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Serve, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say what kind of error ended a connection; a client that is gone is none."""
        fault = sys.exception()
        if not isinstance(fault, framing.Cut):
            tell(f"a connection ended by {type(fault).__name__}")


class Conversation(socketserver.BaseRequestHandler):
    """One connection: one request, signs of life, one answer."""

    server: Door

    def handle(self) -> None:
        """Answer; if the client is gone meanwhile, the answer is there when it asks again."""
        with Claim(self.server.room) as claim:
            try:
                request = framing.receive(self.request, READ_S, self.server.most, claim.more)
            except (Malformed, Full) as fault:
                self.server.counts.refused(NoAnswer.by(fault).rule)
                framing.send(self.request, SILENCE + wire.encode(NoAnswer.by(fault)), READ_S)
                return
            except framing.Cut:  # hung up, or too slow
                self.server.counts.ended(CUT)
                return
            with self.server.workers.hearing(request, claim) as work:
                del request  # the worker has it
                if work is None:
                    self.server.counts.ended(TURNED_AWAY)
                    return
                if not work.done.wait(HEARTBEAT_S) and not self._waited(work):
                    self.server.counts.refused(FULL)
                    framing.send(self.request, SILENCE + wire.encode(NoAnswer(FULL)), READ_S)
                    return
        if work.answer:
            framing.send(self.request, work.answer, READ_S)

    def _waited(self, work: Work) -> bool:
        """Wait for the answer, with signs of life. False where too many do: the work goes on, and is asked for again.

        So whoever repeats what takes long never holds all connections of a site.
        """
        if not self.server.waiting.acquire(blocking=False):
            return False
        try:
            while not work.done.is_set():
                framing.send(self.request, WORKING + wire.encode(_progress(self.server.party, work)), READ_S)
                work.done.wait(HEARTBEAT_S)
        finally:
            self.server.waiting.release()
        return True


def room_for(longest: int) -> int:
    """Bytes of requests that a site holds at once: some of the longest, and one of them whatever it has."""
    return max(longest, min(LONGEST_AT_ONCE * longest, MOST_ROOM))


def _progress(party: Party, work: Work) -> InProgress:
    try:
        return party.progress(work.request)
    except PeerFault:
        return InProgress(0, 0)


def serve(
    make: Callable[[], Party], path: Path, lock: Path, users: Collection[int] = (),
    ready: Callable[[], None] = lambda: None, stop: threading.Event | None = None, counts: Counts | None = None,
) -> bool:  # fmt: skip
    """Answer on the socket ``path`` until SIGTERM, SIGINT or ``stop``; whether all that was under way has ended.

    Args:
        make: builds the party, once this process is the only one that serves it.
        lock: a file of the party's home: one process holds it.
        users: who may ask beside this user, by uid.
        ready: is called when the socket is open.
        counts: how requests end.

    Raises:
        OperatorFault: another process serves this party, the socket cannot be made, or the party cannot be built.
    """
    others = frozenset(users) - {os.geteuid()}
    _check_place(path, others)
    stop = threading.Event() if stop is None else stop
    with alone(lock), _until_told(stop):
        party = make()
        _clear(path)
        with Door(path, party, {os.geteuid(), *others}, counts) as door:
            path.chmod(ANYBODY if others else files.FILE)
            listening = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            listening.start()
            ready()
            stop.wait()
            party.leave()
            door.shutdown()
            path.unlink(missing_ok=True)
            return _ended(party)


def _clear(path: Path) -> None:
    """Remove the socket of a process that was killed.

    Raises:
        OperatorFault: somebody listens there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        try:
            tried.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OperatorFault("another process listens here", "give each site a socket of its own", str(path))


def _ended(party: Party) -> bool:
    deadline = time.monotonic() + GRACE_S
    while not party.idle and time.monotonic() < deadline:
        time.sleep(0.05)
    return party.idle


def _check_place(path: Path, others: Collection[int]) -> None:
    """Check that a socket can be made here, and make its folder.

    Raises:
        OperatorFault: it cannot.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        raise OperatorFault("this system does not say who connects to a socket", "serve on Linux", str(path))
    if len(os.fsencode(path)) > LONGEST_PATH:
        what = f"a socket's path may have {LONGEST_PATH} bytes, and this one has {len(os.fsencode(path))}"
        raise OperatorFault(what, "give a shorter one with --socket, for instance below /run/user", str(path))
    folder = path.parent
    if others and not folder.exists():
        files.folder(folder)
        folder.chmod(LOOKED_UP)
    elif others:
        _check_open(folder)
    else:
        files.folder(folder)
    if path.exists() and not path.is_socket():
        raise OperatorFault("something else than a socket", "move it away, or give another path", str(path))


def _check_open(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        what = "others could put a socket of theirs in the place of this one"
        raise OperatorFault(what, f"use a folder of your own, of mode {LOOKED_UP:o}", str(folder))
    if found.st_mode & 0o011 != 0o011:
        what = "those who are let in cannot reach a socket here"
        raise OperatorFault(what, f"run: chmod {LOOKED_UP:o} {folder}; keep nothing else in it", str(folder))


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Be the one process that serves this party, or acts in its place.

    Raises:
        OperatorFault: another one does.
    """
    files.folder(lock.parent)
    files.file(lock)
    with lock.open("r+b") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            what = f"process {held.read(20).decode(errors='replace')} serves this site"
            raise OperatorFault(what, "let it go on, or end it first", str(lock)) from fault
        held.truncate(0)
        held.write(str(os.getpid()).encode())
        held.flush()
        yield


@contextmanager
def _until_told(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the service, where signals can be heard: in a process's main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {each: signal.signal(each, told) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
