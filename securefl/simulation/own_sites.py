"""One person runs every site of a simulation: a fault of a site's own is theirs to mend, and the run waits for it.

A coordinator that is somebody else hears `site.fault`, and goes on without that site. Here nothing is gained by that: a
full disk would end the run as aborted, and it could not be gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from securefl.errors import PeerFault
from securefl.protocol.messages import InProgress
from securefl.runtime.answering import Handler


class Halted(BaseException):
    """A site of this simulation needs its operator; no runtime and no other party answers for that."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault
        super().__init__(str(fault))


@dataclass(frozen=True, slots=True)
class OwnSite:
    """A party in this process; whatever goes wrong with it that is no peer's fault stops the simulation."""

    party: Handler

    def handle(self, data: bytes) -> bytes | InProgress:
        """Answer one request.

        Raises:
            PeerFault: the request is not allowed.
            Halted: something is wrong at the site itself; its reservations stand.
        """
        try:
            return self.party.handle(data)
        except PeerFault:
            raise
        except Exception as fault:
            raise Halted(fault) from fault


@contextmanager
def told_to_operator() -> Iterator[None]:
    """Raise the fault itself, of a site that stopped the simulation, to whoever runs it."""
    try:
        yield
    except Halted as halted:
        raise halted.fault from None
