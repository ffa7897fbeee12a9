"""The two messages between the ends of a carrier: a poll, and what was said since the one before.

A poll names a request by the digest of its bytes. The bytes themselves travel when the other end does not have them:
the first time, and after it was started anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from securefl_carriers import frames

HOLD_S: Final = 5.0  # for so long a poll waits at most: an engine's own time-outs are longer
TICKET: Final = 32  # bytes: SHA-256 of the request
COUNT: Final = 8  # bytes, big-endian


class Unreadable(Exception):
    """Bytes that are no message between two ends."""


def ticket_of(request: bytes) -> bytes:
    """The name of a request: the digest of its bytes."""
    return hashlib.sha256(request).digest()


@dataclass(frozen=True, slots=True)
class Poll:
    """What did the site say to this request, after its first ``have`` frames? ``request`` is there if it must be."""

    ticket: bytes
    have: int = 0
    request: bytes | None = None

    def encode(self) -> bytes:
        """As it travels."""
        head = self.ticket + self.have.to_bytes(COUNT, "big")
        return head if self.request is None else head + frames.packed(self.request)

    @classmethod
    def decode(cls, data: bytes) -> Poll:
        """Read one.

        Raises:
            Unreadable: it is none, or its request is not the one that its ticket names.
        """
        ticket, have, rest = data[:TICKET], data[TICKET : TICKET + COUNT], data[TICKET + COUNT :]
        if len(have) < COUNT:
            raise Unreadable("too short for a poll")
        requests = _frames(rest)
        if len(requests) > 1 or any(ticket_of(each) != ticket for each in requests):
            raise Unreadable("a ticket is the digest of one request")
        return cls(ticket, int.from_bytes(have, "big"), *requests)


class State(Enum):
    """What becomes of a request at its site."""

    UNKNOWN = b"?"  # there is no such request here: send its bytes
    GOING = b"~"  # it was handed on, and more may be said
    OVER = b"."  # the site ended the conversation; whatever it was, it is told now and forgotten here
    FULL = b"-"  # too many at once: ask again later


@dataclass(frozen=True, slots=True)
class Said:
    """What a site said since the poll before, and how many frames those are together with the ones before."""

    state: State
    have: int = 0
    frames: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """As it travels."""
        return b"".join((self.state.value, self.have.to_bytes(COUNT, "big"), *map(frames.packed, self.frames)))

    @classmethod
    def decode(cls, data: bytes) -> Said:
        """Read one.

        Raises:
            Unreadable: it is none.
        """
        try:
            state = State(data[:1])
        except ValueError as fault:
            raise Unreadable("no state that is known") from fault
        have, rest = data[1 : 1 + COUNT], data[1 + COUNT :]
        if len(have) < COUNT:
            raise Unreadable("too short for an answer")
        return cls(state, int.from_bytes(have, "big"), _frames(rest))


def _frames(data: bytes) -> tuple[bytes, ...]:
    try:
        return frames.unpacked(data)
    except frames.Cut as fault:
        raise Unreadable(str(fault)) from fault
