"""Members as calls: the same bytes, the same machines, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from securefl.errors import PeerFault
from securefl.protocol.messages import NoAnswer
from securefl.seams import Failure
from securefl.terms import MemberId


class Handler(Protocol):
    """Whoever answers requests."""

    def handle(self, data: bytes) -> bytes:
        """The answer to one request."""
        ...


class InProcess:
    """Every peer is an object in this process; they meet only through bytes."""

    def __init__(self, peers: Mapping[MemberId, Handler]) -> None:
        self._peers = dict(peers)

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], patience_s: float
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Call one peer after another. A call cannot be cut short, so patience is not measured here."""
        del patience_s
        for member, request in outbound:
            try:
                yield member, self._peers[member].handle(request)
            except PeerFault as fault:
                yield member, Failure(str(NoAnswer.by(fault)))
