"""A client that is slow, or many that wait, hold a site's connections for as long as is said, and no longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from securefl.protocol import messages as m
from securefl.runtime import framing
from securefl.runtime.answering import BUSY, heard
from securefl.runtime.sockets import Sockets
from securefl.site import serve as served
from securefl.terms import MemberId
from securefl_carriers import frames
from tests.support.parties import waiting

SENDS: dict[str, tuple[Callable[[socket.socket], None], type[Exception]]] = {
    "a site": (lambda to: framing.send(to, bytes(16 << 20), 0.5), framing.Cut),
    "a carrier": (lambda to: frames.send(to, (bytes(1 << 20) for _ in range(16)), 0.5), frames.Cut),
}


@pytest.mark.parametrize("who", SENDS)
def test_one_deadline_holds_for_all_that_is_sent_however_slowly_it_is_taken(who: str) -> None:
    """The reader takes a MiB within each time-out; all of it would take ten of them."""
    send, cut = SENDS[who]
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def slowly() -> None:
        while not over.wait(0.02) and theirs.recv(1 << 16):
            pass

    reading = threading.Thread(target=slowly)
    reading.start()
    begun = time.monotonic()
    with ours, theirs:
        with pytest.raises(cut):
            send(ours)
        took = time.monotonic() - begun
        over.set()
        reading.join()
    assert took < 2


class Slow:
    """Is long at whatever is asked, until it is let go on; and at once with what is quick."""

    idle, most_request = True, 1 << 10

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def handle(self, data: bytes) -> bytes:
        assert data == b"quick" or self.go_on.wait(60)
        return data

    def progress(self, data: bytes) -> m.InProgress:
        return m.InProgress(1, 2)

    def leave(self) -> None:
        self.go_on.set()


@contextmanager
def a_door(party: Slow) -> Iterator[Path]:
    stop, up = threading.Event(), threading.Event()
    with TemporaryDirectory() as folder:
        door, lock = Path(folder) / "s" / "door", Path(folder) / "lock"
        site = threading.Thread(
            target=served.serve, args=(lambda: party, door, lock), kwargs={"stop": stop, "ready": up.set}
        )
        site.start()
        assert up.wait(60)
        try:
            yield door
        finally:
            stop.set()
            site.join()


@pytest.mark.parametrize("requests", ["one", "many"])
def test_whoever_waits_with_what_takes_long_holds_a_part_of_the_connections(
    requests: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "HEARTBEAT_S", 0.02)
    party = Slow()
    with a_door(party) as door, ExitStack() as held:
        first = list[object]()
        for number in range(served.MOST_AT_ONCE):
            connection = held.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(door))
            framing.send(connection, b"long" if requests == "one" else b"long %d" % number, 10)
            first.append(heard(framing.receive(connection, 10)))
        waits = served.MOST_WAITING
        assert first == [m.InProgress(1, 2)] * waits + [BUSY] * (served.MOST_AT_ONCE - waits)
        honest = Sockets({MemberId("a"): door})
        assert dict(honest.exchange([(MemberId("a"), b"quick")], waiting(30))) == {"a": b"quick"}
        party.go_on.set()
        assert dict(honest.exchange([(MemberId("a"), b"long 31")], waiting(30))) == {"a": b"long 31"}
