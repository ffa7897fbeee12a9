"""What somebody who reaches the gate can hold before anybody knows who they are: so many connections, for so long.

Every connection has a deadline from its first moment to its last: for the head of a request, then for the rest of it
and its answer, then for the next head: it is held for less than six minutes a request, and as long as it keeps asking.
Connections are counted where the kernel hands them out, before TLS.
"""

from __future__ import annotations

import ipaddress
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers can hold."""

    at_once: int = 256  # connections that are answered; a request on one more is told to come again
    of_one: int = 128  # connections of one address, so that nobody alone holds all of them
    head_bytes: int = 1 << 14  # of a request, before its body
    head_s: float = 30.0  # for those to come, and of a connection that says nothing
    body_s: float = 300.0  # for a whole body to come
    whole_s: float = 330.0  # from a request's head to the end of its answer

    @property
    def accepted(self) -> int:
        """Connections of everybody together, those that are not through their TLS handshake among them."""
        return 2 * self.at_once


class Timed(H11Protocol):
    """One connection, which is ended when its deadline is over, whatever is under way and whoever does not read."""

    def __init__(self, limits: Limits, **told: Any) -> None:  # noqa: ANN401 - as the library has it
        super().__init__(**told)
        self._limits = limits
        self._deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        self._within(self._limits.head_s)

    def handle_events(self) -> None:
        """Read on; a request whose head is whole has until its own deadline."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._within(self._limits.whole_s)

    def on_response_complete(self) -> None:
        """Wait for the head of the next request; what is left of this one is its sender's time."""
        self._within(self._limits.head_s)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _within(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)


class Counted:
    """The connections that are open, each with whose it is."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: list[tuple[socket.socket, str]] = []

    def admit(self, connection: socket.socket, host: str) -> bool:
        """Count a connection, if there is room for one more of this address."""
        self._open = [each for each in self._open if each[0].fileno() >= 0]  # a closed socket has none
        whose = _whose(host)
        theirs = sum(each == whose for _, each in self._open)
        if len(self._open) >= self._limits.accepted or theirs >= self._limits.of_one:
            return False
        self._open.append((connection, whose))
        return True


def _whose(host: str) -> str:
    """Return what one party has of addresses: of IPv6 a whole network."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Listening(socket.socket):
    """A socket that takes no more connections than are counted."""

    def __init__(self, bound: socket.socket, counted: Counted) -> None:
        super().__init__(fileno=bound.detach())
        self._counted = counted

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection; close one that there is no room for, before a byte of it is read.

        Raises:
            ConnectionAbortedError: that one: the event loop goes on.
        """
        connection, peer = super().accept()
        if self._counted.admit(connection, peer[0]):
            return connection, peer
        connection.close()
        raise ConnectionAbortedError


class Bounded(uvicorn.Server):
    """A server whose connections are counted, on every address that a host has here."""

    def __init__(self, config: uvicorn.Config, limits: Limits) -> None:
        super().__init__(config)
        self._limits = limits

    def run(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve until it is enough.

        Raises:
            OSError: the port is taken, or the host is none of this machine's.
        """
        counted, host = Counted(self._limits), self.config.host.strip("[]")
        found = socket.getaddrinfo(host, self.config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        bound = [socket.create_server(address[:2], family=family) for family, _, _, _, address in found]
        super().run([Listening(each, counted) for each in bound])
