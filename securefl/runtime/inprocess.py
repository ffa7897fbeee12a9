"""Members as calls: the same bytes, the same machines, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from securefl.runtime.answering import GONE, Handler, answered, said
from securefl.seams import Failure, Waiting
from securefl.terms import MemberId


class InProcess:
    """Every peer is an object in this process; they meet only through bytes.

    Args:
        clock: seconds that only grow, by which each call is measured as if all had begun together. Without one nobody
            is late: calls one after the other take what no site takes by itself.
    """

    def __init__(self, peers: Mapping[MemberId, Handler], clock: Callable[[], float] | None = None) -> None:
        self._peers, self._clock = dict(peers), clock

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Call one peer after another. A call cannot be cut short: an answer that comes too late is thrown away."""
        if self._clock is None:
            yield from ((member, self._asked(member, request, waiting)) for member, request in outbound)
            return
        timed = list[tuple[float, MemberId, bytes | Failure]]()
        for member, request in outbound:
            begun = self._clock()
            answer = self._asked(member, request, waiting)
            timed.append((self._clock() - begun, member, answer))
        for seconds, member, answer in sorted(timed, key=lambda each: each[0]):
            waiting.took(seconds)
            yield member, waiting.late if waiting.is_over else answer

    def _asked(self, member: MemberId, request: bytes, waiting: Waiting) -> bytes | Failure:
        peer = self._peers.get(member)
        return GONE if peer is None else answered(said(peer, request), waiting.most_bytes)
