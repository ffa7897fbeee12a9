"""What a runtime makes of a site: its answer, what it says in place of one, or that it is not there.

Every runtime says so with the functions of this file, so that a fault is the same words whatever carried them.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from securefl import wire
from securefl.errors import Malformed, PeerFault
from securefl.protocol.messages import InProgress, NoAnswer
from securefl.seams import Failure
from securefl.shown import short
from securefl.telling import tell
from securefl.terms.rules import FULL, PEER

ANSWER, SILENCE, WORKING = b"+", b"-", b"~"  # the first byte says what the rest is
GONE: Final = Failure("gone: nobody answers there; start its process again, and it takes part in what follows")
TOO_LONG: Final = Failure(str(NoAnswer(PEER)))  # nothing of it was read
BUSY: Final = Failure(str(NoAnswer(FULL)))  # the same request may be sent again
POLL_S: Final = (0.02, 1.0)  # between two questions whether it is done: the first wait, and the longest


class Leaving(BaseException):
    """This process ends, so there is no answer. A reservation stands; the run goes on when its party is asked again."""


class Handler(Protocol):
    """Whoever answers requests."""

    def handle(self, data: bytes) -> bytes | InProgress:
        """Answer one request, or say that its run is being worked on."""
        ...


def said(handler: Handler, request: bytes) -> bytes:
    """Ask until there is an answer, and say it; or, whatever went wrong, the name of one rule.

    What else a fault holds may name a file, a line or a value. It is told to this site's own operator; of a fault of
    the peer nothing is told, for whoever sends such requests could fill the screen.
    """
    try:
        return ANSWER + _finished(handler, request)
    except Exception as fault:  # noqa: BLE001 - whatever it is, only the name of a rule leaves
        if not isinstance(fault, PeerFault):
            tell(short(f"{type(fault).__name__}: {fault}"))
        return SILENCE + wire.encode(NoAnswer.by(fault))


def heard_within(data: bytes, most: int) -> bytes | InProgress | Failure:
    """Read what a site said, in a message of at most ``most`` bytes; a longer one is a fault of the peer."""
    return TOO_LONG if len(data) > most + 1 else heard(data)


def heard(data: bytes) -> bytes | InProgress | Failure:
    """Read what a site said; whatever is on no list counts as a fault of the peer."""
    kind, body = data[:1], data[1:]
    if kind == ANSWER:
        return body
    try:
        if kind == WORKING:
            progress: InProgress = wire.decode(body, InProgress)
            return progress
        return Failure(str(wire.decode(body, NoAnswer)))
    except Malformed:
        return Failure(str(NoAnswer(PEER)))


def answered(data: bytes, most: int) -> bytes | Failure:
    """Read the last thing a site said, of at most ``most`` bytes: after it, nothing comes."""
    found = heard_within(data, most)
    return Failure(str(NoAnswer(PEER))) if isinstance(found, InProgress) else found


def _finished(handler: Handler, request: bytes) -> bytes:
    pause, longest = POLL_S
    while isinstance(answer := handler.handle(request), InProgress):
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return answer
