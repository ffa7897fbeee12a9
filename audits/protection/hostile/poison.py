"""How far can one member move a sum? No further than honest updates: what is beyond is in no result, by name.

Where sums are masked it ends the run. In the clear it is refused as it comes, and the others finish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.protection import fixed_point
from securefl.terms import DistributedDiscreteGaussian, FixedPoint, Scheme
from tests.support.worlds import EVENT, World

POISONED = "protocol.poisoned-sum"
NAMES, SIZE = ("a", "b", "c", "evil"), 6
CLIENT = DistributedDiscreteGaussian(Fraction(1, 2), Fraction(1), 2, SIZE, 10, Fraction(1, 10), 3)
Shape = Callable[[np.random.Generator, int], np.ndarray]  # largest integer of the grid -> what is sent


def _one(rand: np.random.Generator, top: int) -> np.ndarray:
    made = np.zeros(SIZE)
    made[rand.integers(SIZE)] = rand.choice([-1, 1]) * top * rand.uniform(0.5, 1)
    return made


def _all(rand: np.random.Generator, top: int) -> np.ndarray:
    return rand.choice([-1, 1], SIZE) * top * rand.uniform(0.5, 1, SIZE)


def _ends(rand: np.random.Generator, top: int) -> np.ndarray:
    return np.where(rand.random(SIZE) < 0.5, float(top), float(-top - 1))


def poison(shape: Shape, unit: str, scheme: Scheme, number: int, folder: Path) -> Outcome:
    """A member that neither clips nor clamps sends what it likes; the others are as they are."""
    del folder
    rand = np.random.default_rng(number)
    world = World(names=NAMES, rounds=1, scheme=scheme, event=CLIENT if unit == "client" else EVENT)
    state = world.coordinator.state
    plan = state.course.plan
    if unit == "client":
        plan = replace(plan, cover=replace(plan.cover, encoding=FixedPoint(24, 10, 32)))
    else:
        plan = replace(plan, learning=replace(plan.learning, learning_rate=Fraction(1, 8)))
    world.coordinator.saved = wire.encode(replace(state, course=replace(state.course, plan=plan)))
    world.update_of = lambda *_: rand.normal(0, 0.05, SIZE)  # type: ignore[method-assign]
    top = (1 << (plan.cover.encoding.value_bits - 1)) - 1
    forged, honest, handled = np.rint(shape(rand, top)).astype(np.int64), fixed_point.encode_update, world.handle

    def handle(name: str, data: bytes) -> bytes:
        if name != "evil":
            return handled(name, data)
        fixed_point.encode_update = lambda *_: forged
        try:
            return handled(name, data)
        finally:
            fixed_point.encode_update = honest

    world.handle = handle  # type: ignore[method-assign]
    end = world.play()
    refused = any(name == "coordinator" and fault.rule == POISONED for name, fault in world.faults)
    found = refused or POISONED in end.why
    return Outcome(end.outcome == "finished" and not refused, POISONED if found else "")


ATTEMPTS = tuple(
    Attempt(f"a member poisons {what}, unit {unit}, {scheme.value}", partial(poison, shape, unit, scheme))
    for unit, scheme in (("record", Scheme.MASKING), ("client", Scheme.MASKING), ("record", Scheme.CLEAR))
    for what, shape in (("one value", _one), ("every value", _all), ("to the ends of the grid", _ends))
)
