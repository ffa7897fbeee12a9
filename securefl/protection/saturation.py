"""Whether noise alone fills the grid's range: an inequality of public constants, known before anything is spent.

An update is cut off at the ends of the grid. Where a round's own noise reaches them, what is left of it is signs, and
what was spent has bought nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from securefl.terms import FixedPoint, Learning, Plan, Unit

ROOM: Final = 4  # deviations between 0 and the end: of 30,000 values of noise about two are cut off


def end(encoding: FixedPoint) -> float:
    """The largest value that the grid holds."""
    return float(2.0 ** (encoding.value_bits - 1 - encoding.fraction_bits))


def deviation(plan: Plan) -> float:
    """How far a round's noise alone moves a value, in standard deviations of one: before the grid."""
    return float(plan.learning.learning_rate) * _per_rate(plan.learning)


def largest_rate(plan: Plan) -> Fraction | None:
    """The learning rate up to which a round's noise has room; None where each step's noise is none (unit client)."""
    if plan.learning.event.unit is not Unit.RECORD:
        return None
    return Fraction(end(plan.cover.encoding)) / (ROOM * Fraction(_per_rate(plan.learning)))


def _per_rate(learning: Learning) -> float:
    """The deviation at learning rate 1. A step of Adam moves a value by about the rate, whatever the gradient is."""
    event = learning.event
    if learning.optimizer != "sgd":
        return math.sqrt(event.steps)
    return float(event.noise_multiplier * learning.clip_l2) * math.sqrt(event.steps) / learning.divisor
