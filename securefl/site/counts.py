"""What a served party counts: how requests ended, and by which rule they were refused. No word of a request is kept.

What nobody signed leaves no entry in a ledger, for then whoever reaches the socket could fill it. It is counted here by
the name of its refusal, and told to the operator the first time, the tenth, the hundredth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from securefl import wire
from securefl.errors import Malformed
from securefl.metrics import Family, Metrics
from securefl.protocol.messages import Frame, NoAnswer
from securefl.runtime.answering import ANSWER, SILENCE
from securefl.telling import tell
from securefl.terms import rules

ANSWERED, CUT, STRANGER, TURNED_AWAY, LEFT = "answered", "cut", "stranger", "turned-away", "left"
REPLIES: Final = ("Accept", "Enrolled", "Submitted", "Declined", "Answered", "Bye")
OTHER: Final = "other"  # a share of a decryption key
FAMILIES: Final = (
    Family("requests_total", "How requests ended.", "end", (ANSWERED, CUT, STRANGER, TURNED_AWAY, LEFT, "refused")),
    Family("refused_total", "Requests that were refused, by rule.", "rule", tuple(sorted(rules.FAULTS))),
    Family("replies_total", "Replies that were made, by kind.", "kind", (*REPLIES, OTHER)),
    Family("working", "Requests that are worked on.", is_gauge=True),
    Family("started_seconds", "When this process began to serve, in seconds since 1970.", is_gauge=True),
    Family("written_seconds", "When this file was written, in seconds since 1970.", is_gauge=True),
)

Tell = Callable[[str, int], None]


def told(what: str, times: int) -> None:
    """A line for the operator: a name from a closed list, and a number."""
    tell(f"{what}: {times} so far")


class Counts:
    """What one served party counts; ``tell`` hears of the first, tenth, hundredth of whatever is not answered."""

    def __init__(self, tell: Tell = told) -> None:
        self.metrics, self._tell = Metrics(FAMILIES), tell

    def said(self, answer: bytes) -> None:
        """Count the end of a request: an answer, the name of a rule, or nothing where nobody waited."""
        kind, body = answer[:1], answer[1:]
        if kind == ANSWER:
            self.metrics.add("requests_total", ANSWERED)
            self.metrics.add("replies_total", _kind(body))
        elif kind == SILENCE:
            self.refused(wire.decode(body, NoAnswer).rule)
        else:
            self.metrics.add("requests_total", LEFT)

    def refused(self, rule: str) -> None:
        """Count a request that was refused by this rule."""
        self.metrics.add("requests_total", "refused")
        self._told(rule, self.metrics.add("refused_total", rule))

    def ended(self, how: str) -> None:
        """Count a connection on which no whole request came: ``CUT``, ``STRANGER`` or ``TURNED_AWAY``."""
        self._told(f"connection {how}", self.metrics.add("requests_total", how))

    def working(self, requests: int) -> None:
        """So many requests are worked on now."""
        self.metrics.put("working", requests)

    def _told(self, what: str, times: int) -> None:
        if str(times).strip("0") == "1":
            self._tell(what, times)


def _kind(answer: bytes) -> str:
    try:
        found: Frame = wire.decode(answer, Frame)
    except Malformed:
        return OTHER
    return found.envelope.receipt.kind if found.envelope.receipt.kind in REPLIES else OTHER
