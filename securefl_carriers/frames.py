"""Frames on a stream: four bytes that say how many follow, then those bytes. What stands in them is not read here.

The same form as the product's own sockets have; this package is installed where the product is not.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import Final

PREFIX: Final = 4  # bytes, big-endian
MOST: Final = (256 << 20) + 1  # bytes of a frame: what a site reads at most
PIECE: Final = 1 << 20  # bytes read at once: memory grows with what came, not with what was announced


class Cut(Exception):
    """The other side ended the connection, fell silent, or announced more than anybody reads."""


def packed(data: bytes) -> bytes:
    """One frame, as it travels."""
    return len(data).to_bytes(PREFIX, "big") + data


def unpacked(data: bytes) -> tuple[bytes, ...]:
    """Every frame in ``data``; the inverse of joining packed ones.

    Raises:
        Cut: it does not end with a frame.
    """
    found, at = [], 0
    while at < len(data):
        end = at + PREFIX + int.from_bytes(data[at : at + PREFIX], "big")
        if len(data) < end or len(data) < at + PREFIX:
            raise Cut("the last frame is not whole")
        found.append(data[at + PREFIX : end])
        at = end
    return tuple(found)


def send(connection: socket.socket, frames: Iterable[bytes], timeout_s: float) -> None:
    """Send frames, within ``timeout_s`` seconds for all of them.

    Raises:
        Cut: the other side is gone, or too slow.
    """
    deadline = time.monotonic() + timeout_s
    try:
        for frame in frames:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.sendall(packed(frame))
    except OSError as fault:
        raise Cut(str(fault)) from fault


def receive(connection: socket.socket, timeout_s: float, most: int = MOST) -> bytes:
    """Read one frame of at most ``most`` bytes, within ``timeout_s`` seconds.

    Raises:
        Cut: the other side is gone, or too slow, or announced a longer one, of which nothing was read.
    """
    deadline = time.monotonic() + timeout_s
    size = int.from_bytes(_exactly(connection, PREFIX, deadline), "big")
    if size > most:
        raise Cut(f"a frame of {size} bytes; at most {most} are read")
    return _exactly(connection, size, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    try:
        while len(data) < size:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            piece = connection.recv(min(PIECE, size - len(data)))
            if not piece:
                raise Cut("the other side ended the connection")
            data += piece
            if time.monotonic() > deadline and len(data) < size:
                raise Cut("too slow")
    except OSError as fault:
        raise Cut(str(fault)) from fault
    return bytes(data)
