"""How much a coordinator writes to its disk for what it receives, in one round of masking.

The coordinator and its members are real, each with a home of its own. They meet in one process, so what the members
write is taken off. Counted are bytes that their thread hands to the kernel (``wchar`` of ``/proc/thread-self/io``): the
database, its log and what is copied from there, bodies, keys and heads. Received are all answers of the run.

python -m audits.speed.writes [--quick] [--json]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from audits.figures import figure, report
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure, Waiting
from securefl.terms import MemberId
from tests.support.parties import Federation, in_process

BAR: Final = 2.0  # bytes written for each that is received
FULL, QUICK = ((12, 100_000), (48, 100_000)), ((6, 20_000), (12, 20_000))  # members, values of an update


def handed_to_the_kernel() -> int:
    """Bytes that this thread has written so far: whatever else a process does beside it does not count."""
    lines = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
    return int(lines["wchar"])


@dataclass
class Counted:
    """A runtime that counts what comes back, and what others than the coordinator write."""

    inner: InProcess
    received: int = 0
    others: int = 0

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask one after the other."""
        for asked in outbound:
            before = handed_to_the_kernel()
            answers = list(self.inner.exchange([asked], waiting))
            self.others += handed_to_the_kernel() - before
            for member, answer in answers:
                assert not isinstance(answer, Failure), answer
                self.received += len(answer)
                yield member, answer


def one_round(members: int, dimension: int) -> tuple[int, int]:
    """Bytes written and received by the coordinator of one round."""
    with TemporaryDirectory() as folder:
        federation = Federation(
            Path(folder), names=tuple(f"m{number}" for number in range(members)), dimension=dimension
        )
        with in_process(federation) as runtime:
            counted, before = Counted(runtime), handed_to_the_kernel()
            end = federation.drive(counted)
            assert end.outcome == "finished", end.why
            return handed_to_the_kernel() - before - counted.others, counted.received


def measured(sizes: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
    """The figures."""
    figures = []
    for members, dimension in sizes:
        written, received = one_round(members, dimension)
        of = f"{members} members, {dimension} values, one masked round:"
        figures += [
            figure(f"{of} megabytes received", round(received / 1e6, 1), "", holds=True),
            figure(
                f"{of} bytes written for each received", round(written / received, 2), f"<= {BAR}",
                holds=written <= BAR * received,
            ),
        ]  # fmt: skip
    return figures


def main() -> None:
    """Print the figures; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description="How much is written for what is received.")
    parser.add_argument("--quick", action="store_true", help="fewer members, smaller updates")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    raise SystemExit(report(measured(QUICK if options.quick else FULL), as_json=options.json))


if __name__ == "__main__":
    main()
