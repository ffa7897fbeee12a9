"""What a message may be is known before it is read, and no honest one is longer; a site holds so many bytes at once."""

from __future__ import annotations

import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.protection import bfv_coefficients, ckks_coefficients, ckks_slots, tenseal_context
from securefl.protection.mask_streams import Stream
from securefl.protocol import messages as m
from securefl.protocol.message_sizes import COPIES, FIXED, longest_answer, longest_request, said_by_protocol
from securefl.runtime import framing
from securefl.runtime.answering import BUSY, SILENCE, TOO_LONG
from securefl.runtime.held_bytes import Claim, Full, Room
from securefl.runtime.inprocess import InProcess
from securefl.runtime.processes import Processes
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Waiting
from securefl.simulation import parties
from securefl.site import serve as served
from securefl.strategy import worldlm
from securefl.terms import AdapterRule, Attention, FixedPoint, MemberId, Scheme
from securefl.terms.layout import VALUE_BYTES, Layout, Tensor
from securefl.terms.parties import CUSTODIAN
from securefl.terms.schemes import ENCRYPTED_BYTES
from tests.support.parties import Federation, waiting
from tests.support.sites import Introduced
from tests.support.small import MEMBERS

MIB = 1 << 20
A = MemberId("a")


@dataclass
class Measured:
    """A runtime that measures what passes, and holds each answer against the bound that its exchange gives."""

    inner: InProcess
    longest: dict[tuple[bool, str], int]  # of requests to members, and answers, by kind

    def exchange(self, outbound, waiting: Waiting) -> Iterator[tuple[MemberId, bytes | Failure]]:
        asked = list(outbound)
        for name, data in asked:
            if name != CUSTODIAN:
                self._note(True, data)
        for name, answer in self.inner.exchange(asked, waiting):
            assert isinstance(answer, bytes), answer
            assert len(answer) <= waiting.most_bytes
            self._note(False, answer)
            yield name, answer

    def _note(self, asked: bool, data: bytes) -> None:
        kind = wire.decode(data, m.Frame).envelope.receipt.kind
        self.longest[asked, kind] = max(len(data), self.longest.get((asked, kind), 0))


@pytest.mark.parametrize("names", [("a", "b", "c"), tuple(f"member-{number:02}" for number in range(12))], ids=len)
@pytest.mark.parametrize("scheme", [Scheme.CLEAR, Scheme.MASKING, Scheme.CKKS, Scheme.MASKED_CKKS])
def test_no_honest_message_is_longer_than_its_bound_and_the_bound_grows_with_the_update(
    scheme: Scheme, names: tuple[str, ...], tmp_path: Path
) -> None:
    federation = Federation(tmp_path, scheme, names=names, dimension=200_000 if len(names) == 3 else 100)
    everybody = {MemberId(name): federation.party(name) for name in federation.parties}
    runtime = Measured(InProcess(everybody), {})
    ended = federation.drive(runtime, rounds=2)
    assert ended.outcome == "finished", ended.why
    plan, count = ended.course.plan, len(names) + 2
    assert max(size for (asked, _), size in runtime.longest.items() if asked) <= longest_request(
        count, federation.dimension
    )
    assert runtime.longest[False, "Submitted"] <= longest_answer(plan, count)
    beside = longest_answer(replace(plan, dimension=0), count)
    assert runtime.longest[False, "Accept"] <= beside, "a key to encrypt under is part of what does not grow"
    assert longest_answer(plan, count) - beside == plan.dimension * scheme.promise.value_bytes


def test_a_state_with_residuals_of_every_tensor_is_within_the_bound() -> None:
    layout = Layout(tuple(Tensor(f"l{number}", (1000, 700)) for number in range(3)), AdapterRule.BOTH)
    keys_of_all = Attention(tuple(each.name for each in layout.tensors), F(5), F(1, 10), residual=True)
    state = worldlm.broadcast(layout, keys_of_all, bytes(VALUE_BYTES * layout.entries))
    assert len(state) == COPIES * VALUE_BYTES * layout.entries > said_by_protocol(5)
    assert len(state) < longest_request(5, layout.entries)


@pytest.mark.parametrize("cipher", [ckks_slots, ckks_coefficients, bfv_coefficients], ids=lambda each: each.__name__)
def test_no_encryption_takes_more_for_a_value_than_its_scheme_says(cipher) -> None:
    key = cipher.new_context()
    public = tenseal_context.public_half(key)
    packing = cipher.packing(FixedPoint(30, 16, 32), 3)
    assert packing.per == 1, "the least dense: each value has an integer to itself"
    for count in (1, 4096, 20_000):
        masks = ([Stream(keys.Secret(bytes(32)))],) if cipher is ckks_coefficients else ()
        size = sum(map(len, cipher.encrypt(public, np.ones(count, np.int64), packing, *masks)))
        assert size <= FIXED + count * ENCRYPTED_BYTES


@given(st.integers(1, 200), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_bound_never_falls_and_is_never_above_what_is_decoded(parties: int, entries: int, more: int) -> None:
    one, other = longest_request(parties, entries), longest_request(parties + 1, entries + more)
    assert one <= other <= wire.LIMIT_BYTES


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=40))
def test_a_room_never_holds_more_than_it_has_and_what_is_left_is_there_again(acts: list[tuple[int, int]]) -> None:
    room, claims, held = Room(100), [], 0
    claims = [Claim(room) for _ in range(4)]
    mine = [0] * 4
    for which, size in acts:
        if size == 0:
            claims[which].end()
            held, mine[which] = held - mine[which], 0
            continue
        if size == 1:
            claims[which] = claims[which].taken_over()
        try:
            claims[which].more(size)
        except Full:
            assert held + size > 100
        else:
            held, mine[which] = held + size, mine[which] + size
        assert room.held == held <= 100
    for each in claims:
        each.end()
    assert room.held == 0


@dataclass
class Deaf:
    """A party that refuses whatever it is asked, once it may: as a site does with what nobody signed."""

    may: threading.Event
    most_request: int
    idle: bool = True

    def handle(self, data: bytes) -> bytes:
        assert self.may.wait(60)
        with suppress(PeerFault):
            wire.decode(data, m.Frame)
        raise PeerFault("nobody signed this", "protocol.forged")

    def progress(self, data: bytes) -> m.InProgress:
        raise PeerFault("nobody signed this", "protocol.forged")

    def leave(self) -> None:
        """Nothing here takes steps."""


@contextmanager
def deaf(folder: Path, most: int) -> Iterator[tuple[served.Door, Path, threading.Event]]:
    may, path = threading.Event(), folder / "door"
    with served.Door(path, Deaf(may, most), {os.geteuid()}) as door:
        threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield door, path, may
        finally:
            may.set()
            door.shutdown()


def until(is_so) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stranger_cannot_make_a_site_hold_more_than_its_room_whatever_it_sends_and_however_often(
    tmp_path: Path,
) -> None:
    """Connections that stop halfway, and requests that wait; what one piece more would take is refused by name."""
    most = 2 * MIB
    with deaf(tmp_path, most) as (door, path, may), ExitStack() as stack:
        room = door.room.most
        assert room == served.LONGEST_AT_ONCE * most
        tracemalloc.start()
        refused, halfway = 0, most - 1
        for number in range(served.MOST_AT_ONCE - 2):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))
            with suppress(OSError):
                size = most if number % 2 else halfway
                connection.sendall(most.to_bytes(framing.PREFIX, "big") + bytes([number]) * size)
            before = door.room.held
            assert before <= room
            if room - before < most:
                with suppress(framing.Cut, TimeoutError):
                    refused += framing.receive(connection, 0.2) == SILENCE + wire.encode(m.NoAnswer("site.full"))
        assert refused > 0
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * room + served.MOST_AT_ONCE * framing.PIECE, f"{peak / MIB:.0f} MiB"
        assert door.room.held > room - most
        may.set()
        stack.close()
        until(lambda: door.room.held == 0)


def test_what_is_announced_and_not_sent_takes_no_room(tmp_path: Path) -> None:
    with deaf(tmp_path, 2 * MIB) as (door, path, may), ExitStack() as stack:
        for _ in range(served.MOST_AT_ONCE - 1):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))
            connection.sendall((2 * MIB).to_bytes(framing.PREFIX, "big") + b"a few")
        may.set()
        assert said(path, b"nobody signed it") == SILENCE + wire.encode(m.NoAnswer("protocol.forged"))
        assert door.room.held <= 5 * served.MOST_AT_ONCE


def test_one_request_that_many_connections_wait_for_is_held_once(tmp_path: Path) -> None:
    with deaf(tmp_path, 2 * MIB) as (door, path, _), ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))
            framing.send(connection, bytes(MIB), 10)
            until(lambda: door.room.held == MIB)
    assert door.room.held == 0


def test_a_request_that_is_longer_than_any_plan_of_the_site_needs_is_refused_unread(tmp_path: Path) -> None:
    with deaf(tmp_path, 1000) as (door, path, _):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall((1001).to_bytes(framing.PREFIX, "big"))
            assert framing.receive(connection, 10) == SILENCE + wire.encode(m.NoAnswer("protocol.malformed"))
        assert door.room.held == 0


def said(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        framing.send(connection, data, 10)
        return framing.receive(connection, 10)


def test_a_coordinator_that_finds_a_site_full_asks_again_until_there_is_room(tmp_path: Path) -> None:
    with deaf(tmp_path, 100) as (door, path, may):
        may.set()
        door.room.take(door.room.most)
        freed = threading.Timer(0.3, door.room.leave, (door.room.most,))
        freed.start()
        ((_, answer),) = Sockets({A: path}).exchange([(A, b"nobody signed it")], waiting(60))
        freed.join()
        assert answer == Failure(str(m.NoAnswer("protocol.forged")))
        door.room.take(door.room.most)
        ((_, late),) = Sockets({A: path}).exchange([(A, b"nobody signed it")], waiting(0.3))
        assert late not in (BUSY, answer), "silent for as long as patience lasted"
        door.room.leave(door.room.most)


class Loud:
    """A party that answers more than any plan gives it to say."""

    def handle(self, data: bytes) -> bytes:
        return bytes(len(data) + 5001)

    def leave(self) -> None:
        pass


def test_an_answer_that_is_longer_than_its_plan_gives_is_the_same_fault_on_every_runtime(tmp_path: Path) -> None:
    def asked(runtime, most: int):
        ((_, answer),) = runtime.exchange([(A, b"ask")], Waiting(60, time.monotonic, most))
        return answer

    processes = Processes({A: Loud})
    try:
        for runtime in (InProcess({A: Loud()}), processes):
            assert asked(runtime, 5003) == TOO_LONG
            assert asked(runtime, 5004) == bytes(5004)
    finally:
        processes.close()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "door"))
        listening.listen()

        def answer() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection, suppress(framing.Cut):  # who finds it too long hangs up
                    framing.receive(connection, 10)
                    framing.send(connection, b"+" + bytes(5004), 10)

        serving = threading.Thread(target=answer)
        serving.start()
        runtime = Sockets({A: tmp_path / "door"})
        assert asked(runtime, 5003) == TOO_LONG
        assert asked(runtime, 5004) == bytes(5004)
        serving.join()


def test_a_real_site_knows_how_long_a_request_may_be(small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("bounded.yaml"))
    agent, model = world.agent("north"), parties.load_model(world.places.loaded)
    assert agent.most_request == longest_request(len(MEMBERS) + 2, model.layout.entries)
    assert agent.most_request < served.room_for(agent.most_request) == 8 * agent.most_request < 48 * MIB
