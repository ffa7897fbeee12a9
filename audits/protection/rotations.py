"""Keys exchanged while runs go on: 50 rotations, each in the midst of a round, and how many rounds failed.

Three members and a coordinator are built once and live through every run; each exchange is by a process of its own, as
`securefl keys rotate` is. One in three is heard of by the others at once, one when the round is over, and one when the
next run is about to begin. In the end an auditor who knows the first keys alone verifies everybody's ledger.

    python -m audits.protection.rotations [--rotations 50] [--into FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from securefl.audit.verify import verify
from securefl.terms import SignedNotice, SumOpened
from tests.support.rotating import COORDINATOR, Living, Rotating, folder_of

ROUNDS = 2  # of a run: one rotation in the training of each, or before its sum is opened


def measured(rotations: int, base: Path) -> dict[str, Any]:
    """Play runs until so many keys were exchanged, and say what became of their rounds."""
    begun = time.monotonic()
    federation = Rotating(base, priced=True, steps=1).made()
    pins = {str(federation.seat(name).member): federation.seat(name).key.hex() for name in federation.everybody()}
    living, done, waiting = Living(federation), list[str](), list[SignedNotice]()

    def before(kind: str, times: int) -> None:
        if kind == "Enrol" or len(done) >= rotations or (kind, times % 2) not in {("Propose", 0), ("Ask", 1)}:
            return
        name = federation.everybody()[len(done) % 4]
        notice = federation.rotated(name)
        done.append(name)
        if len(done) % 3 == 0:
            federation.taken(notice)
        else:
            waiting.append(notice)
            if len(done) % 3 == 1:
                federation.taken(notice, by=federation.names)

    runs, silences, outcomes = 0, 0, list[str]()
    while len(done) < rotations:
        for notice in waiting:
            federation.taken(notice)
        waiting.clear()
        runs += 1
        end, runtime = living.play(runs, ROUNDS, before)
        outcomes.append(end.outcome)
        silences += len(runtime.silences)
    opened = [each.survivors for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)]
    with tempfile.TemporaryDirectory() as copies:
        found = verify(folder_of(federation, Path(copies)), pins)
    return {
        "rotations": len(done), "of": {name: done.count(name) for name in sorted(set(done))}, "runs": runs,
        "rounds": runs * ROUNDS, "failed_rounds": runs * ROUNDS - sum(each == ("a", "b", "c") for each in opened),
        "requests_without_answer": silences, "outcomes": sorted(set(outcomes)),
        "verified_by_the_first_keys": found.ok and found.pinned, "why": found.why,
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=50)
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        found = measured(given.rotations, Path(base))
    text = json.dumps(found, indent=1) + "\n"
    sys.stdout.write(text)
    if given.into:
        given.into.write_text(text)


if __name__ == "__main__":
    main()
