"""The longest update that a plan allows: no honest member sends a longer one, and no sum of more is believed.

It does not follow from any record. Under unit client it is the clip and the reach of the noise. Under unit record it is
what the steps of an optimizer can add up to, where a step's sample is at most ``MOST`` times the plan's divisor: what a
site with more records than that trains is scaled down to it, after its noise, which costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from securefl.errors import Forged
from securefl.terms import Aggregate, DistributedDiscreteGaussian, Learning, Plan, Quantile
from securefl.terms.uploads import upload_of

MOST = 8  # divisors: the largest sample whose gradients may all point the same way
TAIL = 89  # exp(-89) < 2**-128: noise is beyond the bounds below less often
ADAM = {"adamw": 8, "adamw-bc": 80}  # learning rates a step can move a value by: 7.27, and ten times that
FLOATS = 1 + 2.0**-20  # what rounding in float32 and float64 may add


@dataclass(frozen=True, slots=True)
class Longest:
    """Bounds on one member's vector, in grid units."""

    entry: float  # of each value
    l2: float  # of all together


def longest(plan: Plan) -> Longest:
    """Return what no honest member's vector under this plan exceeds."""
    event, grid, size = plan.learning.event, float(1 << plan.cover.encoding.fraction_bits), plan.dimension
    if isinstance(event, DistributedDiscreteGaussian):
        spread = float(event.deviation) * math.sqrt(size + 2 * math.sqrt(size * TAIL) + 2 * TAIL)
        return Longest(float(event.longest), (event.sensitivity + spread) * FLOATS)
    entry, l2 = (each * grid * FLOATS for each in _moved(plan.learning, size))
    sums, weights = plan.sharing.sums, upload_of(plan.sharing).weights(size)
    entry = max(entry, grid if weights else 0.0) + 1  # a weight is at most 1
    l2 = math.sqrt(sums * l2 * l2 + weights * grid * grid) + math.sqrt(size)
    top = float((1 << (plan.cover.encoding.value_bits - 1)) - 1)
    entry = min(entry, top + 1)
    return Longest(entry, min(l2, entry * math.sqrt(size)))


def _moved(learning: Learning, size: int) -> tuple[float, float]:
    """Return how far a round's steps move one value, and all: before the grid."""
    rate, steps = float(learning.learning_rate), learning.event.steps
    if learning.optimizer != "sgd":
        moved = rate * steps * ADAM[learning.optimizer]
        return moved, moved * math.sqrt(size)
    clip, noise = float(learning.clip_l2), float(learning.event.noise_multiplier)
    if isinstance(learning.clipping, Quantile):  # the gradient has the noise that the count leaves it
        noise /= math.sqrt(1 - float(learning.clipping.count_share(learning.event.noise_multiplier)) ** 2)
    spread = noise * math.sqrt(steps) / learning.divisor
    far = math.sqrt(2 * TAIL)
    signal = float(steps * MOST)
    return rate * clip * (signal + spread * far), rate * clip * (signal + spread * (math.sqrt(size) + far))


def check_sum(plan: Plan, aggregate: Aggregate) -> None:
    """Return if honest members' vectors can add up to this.

    Raises:
        Forged: some member sent more than training under this plan gives.
    """
    total = aggregate.total.astype("<f8")
    largest, norm = float(abs(total).max(initial=0.0)), math.sqrt(float(total.dot(total)))
    check_size(plan, largest, norm, len(aggregate.survivors))


def check_size(plan: Plan, largest: float, norm: float, members: int) -> None:
    """As ``check_sum``, of a vector of so many members by its largest value and its norm, in grid units.

    Raises:
        Forged: as there.
    """
    most, grid = longest(plan), float(Fraction(1, 1 << plan.cover.encoding.fraction_bits))
    for what, found, limit in (("a value", largest, members * most.entry), ("a norm", norm, members * most.l2)):
        if not found <= limit * FLOATS:
            over = f"a sum with {what} of {found * grid:.4g}"
            raise Forged(
                f"{over}, beyond {members} times the longest honest update, {limit * grid:.4g}", "protocol.poisoned-sum"
            )
