"""Members as calls: the same bytes, the same machines, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from securefl.runtime.answering import GONE, Handler, answered, said
from securefl.seams import Failure
from securefl.terms import MemberId


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
            peer = self._peers.get(member)
            yield member, GONE if peer is None else answered(said(peer, request))
