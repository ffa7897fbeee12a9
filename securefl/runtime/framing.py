"""Frames on a stream: four bytes that say how many follow, then those bytes. A frame that is too long is never read."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final

from securefl import wire
from securefl.errors import Malformed

PREFIX: Final = 4  # bytes, big-endian
MOST: Final = wire.LIMIT_BYTES + 1  # one byte beside a message says what it is
PIECE: Final = 1 << 20  # bytes read at once: memory grows with what came, not with what was announced


class Cut(Exception):
    """The other side ended the connection, or fell silent, before a frame was whole."""


def send(connection: socket.socket, data: bytes, timeout_s: float) -> None:
    """Send one frame, within ``timeout_s`` seconds for all of it.

    Raises:
        Cut: the other side is gone, or too slow.
    """
    assert len(data) <= MOST, "a frame that nobody would read"
    deadline = time.monotonic() + timeout_s
    try:
        for part in (len(data).to_bytes(PREFIX, "big"), data):
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.sendall(part)  # all of it within the time-out, which no byte that is taken renews
    except OSError as fault:
        raise Cut(str(fault)) from fault


def unbounded(size: int) -> None:
    """Let any number of bytes come."""
    del size


def receive(
    connection: socket.socket, timeout_s: float, most: int = MOST, came: Callable[[int], None] = unbounded
) -> bytes:
    """Read one frame of at most ``most`` bytes, within ``timeout_s`` seconds.

    Args:
        connection: where it comes from.
        timeout_s: for all of it.
        most: bytes that it may have.
        came: is told of each piece by its size, and may refuse to go on.

    Raises:
        Malformed: a longer one is announced; none of it was read.
        Cut: the other side is gone, or too slow.
        Full: ``came`` refused.
    """
    deadline = time.monotonic() + timeout_s
    size = int.from_bytes(_exactly(connection, PREFIX, deadline, unbounded), "big")
    if size > most:
        raise Malformed(f"a frame of {size} bytes; at most {most} are read")
    return _exactly(connection, size, deadline, came)


def _exactly(connection: socket.socket, size: int, deadline: float, came: Callable[[int], None]) -> bytes:
    data = bytearray()
    try:
        while len(data) < size:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            piece = connection.recv(min(PIECE, size - len(data)))
            if not piece:
                raise Cut("the other side ended the connection")
            came(len(piece))
            data += piece
            if time.monotonic() > deadline and len(data) < size:
                raise Cut("too slow")
    except OSError as fault:
        raise Cut(str(fault)) from fault
    return bytes(data)
