"""A few steps on synthetic text, before anything is asked: how long a record takes, and how far an update goes.

No record is read. The texts are made of public words, as long as the caller says; the noise is drawn anew and thrown
away with the update.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from securefl.terms import Plan, PoissonGaussian
from securefl.terms.records import Record
from securefl.training.preflight import TEXTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from securefl.training.shared_model import SharedModel

STEPS: Final = 3  # the first is not timed: it warms up
RECORDS: Final = 32  # in a step, at most: more of them take longer in proportion
KILO: Final = 1024


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rehearsal:
    """What the steps said."""

    records: int  # in each step
    seconds_per_record: float  # in one step
    peak_bytes: int  # the most that this process has had in memory
    update: NDArray[np.float64]  # of these texts, noise and all: (dimension,)


def rehearse(shared: SharedModel, plan: Plan, base: bytes, records: int, words: int) -> Rehearsal:
    """Train a few steps on synthetic text.

    Args:
        shared: the model, which has passed preflight.
        plan: of the first round.
        base: the state that it starts from.
        records: how many a step has on average.
        words: how many a typical record has.
    """
    texts, times = synthetic(max(1, min(records, RECORDS)), words), list[float]()
    labels = max(1, len(shared.task.labels))
    made = tuple(Record(text, number % labels) for number, text in enumerate(texts))
    event = replace(plan.learning.event, steps=STEPS)
    if isinstance(event, PoissonGaussian):
        event = replace(event, sampling_rate=Fraction(1))  # every one of these, as the sample of a step
    few = replace(plan, learning=replace(plan.learning, event=event))
    start = base[: 4 * shared.dimension]
    after, _ = shared.trained(few, start, start, made, os.urandom, lambda *_: times.append(time.perf_counter()))
    change = np.frombuffer(after, "<f4").astype(np.float64) - np.frombuffer(start, "<f4").astype(np.float64)
    moved = np.concatenate([change[part] for part in shared.layout.trained(plan.round)])
    step_s = min(later - sooner for sooner, later in pairwise(times))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILO
    return Rehearsal(len(made), step_s / len(made), peak, moved)


def synthetic(records: int, words: int) -> tuple[str, ...]:
    """Texts of public words, each of so many and in an order of its own."""
    known = " ".join(TEXTS).replace(",", "").split()

    def text(number: int) -> str:
        stride = 1 + number // len(known)
        return " ".join(known[(number + place * stride) % len(known)] for place in range(max(1, words)))

    return tuple(map(text, range(records)))
