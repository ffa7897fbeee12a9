"""A thousand rounds in one run: is memory flat, and is every file, socket, thread and process given back?

Coordinator and members are real, each with a home of its own; training is made up and takes no time. Over sockets each
party serves in a thread of this process, so whatever leaks, leaks here. Every so often the process is looked at: its
memory, open files and sockets, threads, children, and the files of all homes. A slope is by least squares over the
second half of the run, for caches fill in the first. Seconds of late rounds stand beside those of early ones.

    python -m audits.speed.long [--rounds 1000] [--over inprocess|sockets|processes] [--json]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from audits.figures import circumstances, figure, report
from securefl.coordinator import drive as driving
from securefl.protocol import coordinator_state
from tests.support.parties import RUNTIMES, Federation

MOST_KIB, MOST_SLOWER = 4.0, 1.5  # a round of four parties writes some 25 KiB of ledger, all of which is on the disk
LOOKS: Final = 20
DIMENSION = 200


@dataclass(frozen=True)
class Look:
    """What this process has, after so many rounds."""

    rounds: int
    cpu_s: float
    kib: int
    files: int
    threads: int
    children: int
    kept: int  # files of all homes


def look(rounds: int, folder: Path) -> Look:
    """Look at this process, once what is no longer referred to is gone."""
    gc.collect()
    status = Path("/proc/self/status").read_text().splitlines()
    kib = int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    kept = sum(len(names) for _, _, names in os.walk(folder))
    return Look(
        rounds=rounds,
        cpu_s=time.process_time(),
        kib=kib,
        files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        threads=threading.active_count(),
        children=len(children),
        kept=kept,
    )


def driven(federation: Federation, rounds: int, over: str) -> coordinator_state.Ended:
    """How the run ended; nobody who took part is referred to afterwards."""
    with RUNTIMES[over](federation) as runtime:
        return federation.drive(runtime, rounds)


def watched(rounds: int, over: str) -> tuple[list[Look], Look, Look]:
    """Looks during the run, and before and after it, when everybody has left."""
    looks = list[Look]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        federation, before = Federation(folder, dimension=DIMENSION), look(0, folder)
        advance, number = driving._advance, 0  # noqa: SLF001 - to see rounds begin, as an observer does

        def observed(*given: Any) -> coordinator_state.Step:  # noqa: ANN401 - as `_advance` has it
            nonlocal number
            moved = advance(*given)
            if isinstance(moved.state, coordinator_state.Collecting) and not isinstance(
                given[1], coordinator_state.Collecting
            ):
                number += 1
                if number % max(1, rounds // LOOKS) == 0:
                    looks.append(look(number, folder))
                    print(looks[-1], file=sys.stderr, flush=True)
            return moved

        driving._advance = observed  # noqa: SLF001
        try:
            end = driven(federation, rounds, over)
        finally:
            driving._advance = advance  # noqa: SLF001
        assert end.outcome == "finished", end.why
        return looks, before, look(rounds, folder)


def slope(looks: list[Look], of: str) -> float:
    """How much of it is added in each round, over the second half."""
    late = looks[len(looks) // 2 :]
    return float(np.polyfit([each.rounds for each in late], [getattr(each, of) for each in late], 1)[0])


def figures_of(looks: list[Look], before: Look, after: Look, over: str) -> list[dict[str, Any]]:
    """The figures of one run."""
    what = f"{after.rounds} rounds in one run, {over}"
    kib = slope(looks, "kib")
    middle, last = looks[len(looks) // 2], looks[-1]
    half = looks[0], looks[len(looks) // 2]
    early = (half[1].cpu_s - half[0].cpu_s) / (half[1].rounds - half[0].rounds)
    late = (last.cpu_s - middle.cpu_s) / (last.rounds - middle.rounds)
    made = [figure(f"{what}: KiB of memory added in a round", round(kib, 2), f"<= {MOST_KIB}", kib <= MOST_KIB)]
    for of in ("files", "threads", "children", "kept"):
        grown = getattr(last, of) - getattr(looks[len(looks) // 2], of)
        made.append(figure(f"{what}: {of} more at its end than at its half", grown, "<= 0", grown <= 0))
    for of in ("files", "threads", "children"):
        left = getattr(after, of) - getattr(before, of)
        made.append(figure(f"{what}: {of} left behind", left, "<= 0", left <= 0))
    slower, of = late / early, f"{what}: CPU of a round of the second half"
    made += [
        figure(f"{of} / of the first", round(slower, 2), f"<= {MOST_SLOWER}", slower <= MOST_SLOWER),
        figure(f"{of}, milliseconds", round(1000 * late), "", holds=True),
        figure(f"{what}: MiB at its end", round(last.kib / 1024), "", holds=True),
    ]
    return made


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=1000)
    options.add_argument("--over", choices=[name for name in RUNTIMES if name != "couriers"], default="inprocess")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    looks, before, after = watched(chosen.rounds, chosen.over)
    return report(figures_of(looks, before, after, chosen.over), as_json=chosen.json, also=circumstances())


if __name__ == "__main__":
    raise SystemExit(main())
