"""Runs that take turns, one round each: what is measured of them differs in nothing but what they do."""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
Pause = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Spent:
    """What one round took."""

    cpu_s: float  # of this process, and of the arm's own
    wall_s: float
    moved: int  # bytes, there and back


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far: its user's and the system's."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) * TICK_S


class Arm:
    """A run in a thread of its own, which goes on by one round whenever it is its turn.

    Args:
        run: the whole run. It calls what it is given where a round begins; set-up comes before the first call.
        moved: bytes that its messages had so far.
        others: processes that work for it.
    """

    def __init__(self, run: Callable[[Pause], object], moved: Callable[[], int], others: Sequence[int] = ()) -> None:
        self._run, self._moved, self._others = run, moved, others
        self._go, self._rested = threading.Semaphore(0), threading.Semaphore(0)
        self._fault: BaseException | None = None
        self._over = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def round(self) -> Spent:
        """Let it go on to where the next round begins, or to its end.

        Raises:
            BaseException: whatever ended the run.
        """
        cpu, wall, moved = self._cpu(), time.monotonic(), self._moved()
        self._go.release()
        self._rested.acquire()
        if self._fault is not None:
            raise self._fault
        return Spent(self._cpu() - cpu, time.monotonic() - wall, self._moved() - moved)

    def end(self) -> None:
        """Let it run to its end."""
        while not self._over:
            self.round()
        self._thread.join()

    def _cpu(self) -> float:
        return time.process_time() + sum(map(cpu_of, self._others))

    def _work(self) -> None:
        self._go.acquire()
        try:
            self._run(self._rest)
        except BaseException as fault:  # noqa: BLE001 - told to whoever waits
            self._fault = fault
        self._over = True
        self._rested.release()

    def _rest(self) -> None:
        self._rested.release()
        self._go.acquire()


def paired(arms: Mapping[str, Arm], turns: int) -> dict[str, list[Spent]]:
    """What each arm's rounds took, in turns; the set-up and the first round warm up. All run to their ends."""
    order, spent = list(arms), {name: list[Spent]() for name in arms}
    for name in order:
        arms[name].round()  # set-up
    for turn in range(turns + 1):
        for place in range(len(order)):
            name = order[(turn + place) % len(order)]
            took = arms[name].round()
            print(f"turn {turn}: {name} {took.cpu_s:.2f} s CPU, {took.wall_s:.2f} s", file=sys.stderr, flush=True)
            if turn:
                spent[name].append(took)
    for arm in arms.values():
        arm.end()
    return spent


def ratio(arm: Sequence[Spent], beside: Sequence[Spent], of: Callable[[Spent], float]) -> float:
    """The median of what the one took as a multiple of what the other took in the same turn."""
    return statistics.median(of(one) / of(other) for one, other in zip(arm, beside, strict=True))
