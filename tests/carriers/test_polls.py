"""What travels between the two ends: every message has one form, and nothing else is one."""

from __future__ import annotations

import itertools
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.runtime import framing
from securefl_carriers import frames
from securefl_carriers.polls import Poll, Said, State, Unreadable, ticket_of

COUNTS = st.integers(0, 2**64 - 1)
SAID = st.builds(Said, st.sampled_from(State), COUNTS, st.lists(st.binary(max_size=50)).map(tuple))
POLLS = st.builds(
    lambda request, have, brings: Poll(ticket_of(request), have, request if brings else None),
    st.binary(max_size=50),
    COUNTS,
    st.booleans(),
)


@given(POLLS)
def test_a_poll_is_read_as_it_was_written(poll: Poll) -> None:
    assert Poll.decode(poll.encode()) == poll


@given(SAID)
def test_an_answer_is_read_as_it_was_written(said: Said) -> None:
    assert Said.decode(said.encode()) == said


@given(st.binary(max_size=120))
def test_whatever_is_read_is_the_only_way_to_write_it(data: bytes) -> None:
    for kind in (Poll, Said):
        try:
            found = kind.decode(data)
        except Unreadable:
            continue
        assert found.encode() == data


@given(POLLS.filter(lambda poll: poll.request is not None), st.data())
def test_a_poll_that_was_altered_brings_no_other_request(poll: Poll, data: st.DataObject) -> None:
    written = bytearray(poll.encode())
    written[data.draw(st.integers(0, len(written) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Poll.decode(bytes(written))
    except Unreadable:
        return
    assert found.request in (None, poll.request)


@pytest.mark.parametrize(
    "data",
    [b"", b"?", b"x" + bytes(8), b"~" + bytes(7), b"~" + bytes(8) + b"\0\0", b"~" + bytes(8) + b"\0\0\0\2a", bytes(39)],
)
def test_what_is_cut_short_is_no_message(data: bytes) -> None:
    for kind in (Poll, Said):
        with pytest.raises(Unreadable):
            kind.decode(data)


def test_frames_are_those_of_the_products_sockets() -> None:
    assert (frames.PREFIX, frames.MOST) == (framing.PREFIX, framing.MOST)


@pytest.mark.parametrize(("receive", "fault"), [(frames.receive, frames.Cut), (framing.receive, framing.Cut)])
def test_who_sends_one_byte_after_the_other_holds_nobody_for_longer_than_was_allowed(
    receive, fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))  # each byte takes a second
    for module in (frames, framing):
        monkeypatch.setattr(module, "PIECE", 1)
    here, there = socket.socketpair()
    with here, there:
        there.sendall(frames.packed(bytes(1000)))
        with pytest.raises(fault, match="too slow"):
            receive(here, 60.0)
