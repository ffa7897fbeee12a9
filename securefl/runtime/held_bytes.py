"""How many bytes of others' messages a process holds at once: what comes beyond that is refused, and nobody waits.

Bytes count as they come, not as they are announced: whoever announces much and sends little holds little. Nobody who
holds some waits for more, so two long messages cannot block each other.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from securefl.errors import PeerFault


class Full(PeerFault):
    """There is no room for these bytes now. Whoever sent them asks again later."""

    rule = "site.full"


class Room:
    """So many bytes, and who holds them. Safe to share between threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._held

    def take(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            Full: there is no room for them.
        """
        with self._lock:
            if self._held + size > self.most:
                raise Full(f"{size} bytes more than the {self._held} of {self.most} that are held")
            self._held += size

    def leave(self, size: int) -> None:
        """Hold so many bytes less."""
        with self._lock:
            self._held -= size


class Claim:
    """The bytes of one message. They are held until the block is over, unless somebody else takes the claim over."""

    def __init__(self, room: Room) -> None:
        self._room, self._size = room, 0

    def more(self, size: int) -> None:
        """Hold so many bytes more for this message.

        Raises:
            Full: there is no room for them.
        """
        self._room.take(size)
        self._size += size

    def taken_over(self) -> Claim:
        """Return a claim of the same bytes, for whoever keeps the message; this one holds nothing then."""
        other = Claim(self._room)
        other._size, self._size = self._size, 0
        return other

    def end(self) -> None:
        """Hold nothing any more."""
        size, self._size = self._size, 0
        self._room.leave(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.end()
