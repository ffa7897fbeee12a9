"""Does anything that one member says depend on its private values? Two runs that differ in these alone look alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.protocol import messages as m
from securefl.terms import DistributedDiscreteGaussian, FixedPoint, Scheme
from tests.support.worlds import EVENT, World

SIZE = 6
CLIENT = DistributedDiscreteGaussian(Fraction(1, 2), Fraction(1), 2, SIZE, 10, Fraction(1, 10), 3)
Twist = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def _above(rand: np.random.Generator, values: np.ndarray) -> np.ndarray:
    values[rand.integers(SIZE)] = 10.0 ** rand.integers(1, 300)
    return values


def _all_above(rand: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return values + rand.choice([-1, 1], SIZE) * 10.0 ** rand.integers(3, 30)


def _no_number(rand: np.random.Generator, values: np.ndarray) -> np.ndarray:
    values[rand.integers(SIZE)] = rand.choice([np.nan, np.inf, -np.inf])
    return values


def _nothing(rand: np.random.Generator, values: np.ndarray) -> np.ndarray:
    del rand
    return np.zeros_like(values)


def transcript(scheme: Scheme, unit: str, rounds: int, update: np.ndarray) -> tuple[list[tuple[str, str, int]], str]:
    """Who said what kind of message of what size, in order; and the rules that were broken."""
    event = CLIENT if unit == "client" else EVENT
    world = World(names=("a", "b", "c"), rounds=rounds, scheme=scheme, event=event)
    state = world.coordinator.state
    if unit == "client":
        cover = replace(state.course.plan.cover, encoding=FixedPoint(24, 10, 32))
        course = replace(state.course, plan=replace(state.course.plan, cover=cover))
        world.coordinator.saved = wire.encode(replace(state, course=course))
    usual = world.update_of
    world.update_of = lambda name, round_: update if name == "b" else usual(name, round_)  # type: ignore[method-assign]
    world.play()
    said = []
    for name, data in world.carried:
        receipt = wire.decode(data, m.Frame).envelope.receipt
        said.append((name, receipt.kind, receipt.size))
    return said, ", ".join(sorted({fault.rule for _, fault in world.faults}))


def told_apart(twist: Twist, scheme: Scheme, unit: str, number: int, folder: Path) -> Outcome:
    """One member's update lies within every bound, or beyond them: does anything on the wire say which?"""
    del folder
    rand = np.random.default_rng(number)
    values = rand.normal(0, 0.1, SIZE)
    rounds = 1 + number % 2
    first, _ = transcript(scheme, unit, rounds, values.copy())
    second, _ = transcript(scheme, unit, rounds, twist(rand, values.copy()))
    answered = [said for said in first if said[1] == "Submitted"]
    return Outcome(first != second, "the same messages" if answered else "")


ATTEMPTS = tuple(
    Attempt(f"{what} is told from another by its messages, unit {unit}, {scheme.value}",
            partial(told_apart, twist, scheme, unit))
    for scheme, unit in ((Scheme.MASKING, "record"), (Scheme.MASKING, "client"), (Scheme.CLEAR, "record"))
    for what, twist in (
        ("a value beyond the grid", _above), ("an update beyond it", _all_above), ("no number", _no_number),
        ("an owner of nothing", _nothing),
    )
)  # fmt: skip
