"""What a coordinator counts: rounds, answers by kind, silences by rule, bytes. Totals alone, and no party's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from securefl.metrics import Family, Metrics
from securefl.protocol import coordinator_state
from securefl.protocol.messages import OUTCOMES
from securefl.seams import Failure, Runtime, Waiting
from securefl.terms import Closed, MemberId, MessageReceived, SumOpened, rules
from securefl.terms.envelopes import KINDS

OTHER: Final = "other"
FAMILIES: Final = (
    Family("round", "The round that is under way.", is_gauge=True),
    Family("rounds", "The rounds that the run has.", is_gauge=True),
    Family("answers_total", "Answers that were accepted, by kind.", "kind", tuple(sorted(KINDS))),
    Family("silences_total", "Requests without an answer, by rule.", "rule", (*sorted(rules.FAULTS), OTHER)),
    Family("sums_total", "Sums that were opened."),
    Family("survivors", "Members in the latest sum.", is_gauge=True),
    Family("bytes_total", "Bytes of messages.", "way", ("down", "up")),
    Family("runs_total", "Runs that ended, by outcome.", "outcome", tuple(sorted(OUTCOMES))),
    Family("started_seconds", "When this process began, in seconds since 1970.", is_gauge=True),
    Family("written_seconds", "When this file was written, in seconds since 1970.", is_gauge=True),
)


class Counts:
    """What one run's coordinator counts."""

    def __init__(self) -> None:
        self.metrics = Metrics(FAMILIES)

    def observe(self, moved: coordinator_state.Step) -> None:
        """Count what a step wrote down."""
        course = moved.state.course
        self.metrics.put("round", course.plan.round)
        self.metrics.put("rounds", course.rounds)
        for entry in moved.entries:
            if isinstance(entry, MessageReceived):
                self.metrics.add("answers_total", entry.receipt.kind)
            elif isinstance(entry, SumOpened):
                self.metrics.add("sums_total")
                self.metrics.put("survivors", len(entry.survivors))
            elif isinstance(entry, Closed):
                self.metrics.add("runs_total", entry.outcome)


class Counted:
    """A runtime whose messages are counted."""

    def __init__(self, inner: Runtime, counts: Counts) -> None:
        self._inner, self._metrics = inner, counts.metrics

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask as the runtime does."""

        def counted() -> Iterator[tuple[MemberId, bytes]]:
            for member, request in outbound:
                self._metrics.add("bytes_total", "down", len(request))
                yield member, request

        for member, answer in self._inner.exchange(counted(), waiting):
            if isinstance(answer, Failure):
                rule = answer.why.partition(":")[0]
                self._metrics.add("silences_total", rule if rule in rules.FAULTS else OTHER)
            else:
                self._metrics.add("bytes_total", "up", len(answer))
            yield member, answer
