"""What a member keeps of a run from round to round: its own model. It never leaves; it is private like what does.

A round reads what an earlier one wrote and writes its own, so a round that is trained again starts where it did.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from securefl import keys
from securefl.terms import Plan, RunId, Weighting

if TYPE_CHECKING:
    from securefl.seams import MemberHalf


class Kept(Protocol):
    """A place for one state per run and round."""

    def read(self, run: RunId, before: int) -> bytes:
        """The latest state of a round before this one; empty if there is none."""
        ...

    def write(self, run: RunId, round_: int, state: bytes) -> None:
        """The state stands there, whole, once this returns."""
        ...


class InMemory:
    """For members whose home is this process."""

    def __init__(self) -> None:
        self._states: dict[tuple[RunId, int], bytes] = {}

    def read(self, run: RunId, before: int) -> bytes:
        """The latest state of a round before this one; empty if there is none."""
        rounds = [round_ for of, round_ in self._states if of == run and round_ < before]
        return self._states[run, max(rounds)] if rounds else b""

    def write(self, run: RunId, round_: int, state: bytes) -> None:
        """The state stands there."""
        self._states[run, round_] = state


class InFolder:
    """For members with a home: ``folder/<run>/<round>``, readable by the owner alone. Two rounds are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _rounds(self, run: RunId) -> list[int]:
        place = self._folder / run.hex()
        return sorted(int(each.name) for each in place.glob("*") if each.name.isdecimal())

    def read(self, run: RunId, before: int) -> bytes:
        """The latest state of a round before this one; empty if there is none."""
        rounds = [round_ for round_ in self._rounds(run) if round_ < before]
        return (self._folder / run.hex() / str(rounds[-1])).read_bytes() if rounds else b""

    def write(self, run: RunId, round_: int, state: bytes) -> None:
        """The state stands there, whole, once this returns."""
        place = self._folder / run.hex()
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys.put(place / str(round_), state)
        for old in self._rounds(run)[:-2]:  # whatever rounds lie between: this one may be trained again
            (place / str(old)).unlink()


def own_weights(half: MemberHalf, plan: Plan, score: Callable[[Weighting], float], kept: Kept) -> tuple[float, ...]:
    """A member's weight in each sum of the round: kept for its next one, where the plan's weights move by and by."""
    remembers = plan.sharing.remembers
    scores = tuple(map(score, plan.sharing.weightings))
    own = half.weights(plan, scores, kept.read(plan.run, plan.round) if remembers else b"")
    if remembers:
        kept.write(plan.run, plan.round, struct.pack(f"<{len(own)}d", *own))
    return own
