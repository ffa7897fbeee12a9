"""How many honest, fresh inputs stand behind whatever is seen of a round: what a sum must hold before it may be opened.

Three things make a sum say more of one member than their number suggests, and each is bounded here.
*Weights*: an input that counts a hundred times as much as the others is nearly the sum, so the honest count is divided
by the largest ratio of two honest weights. *Stale inputs*: what was sent before with the same value is solved for from
two sums over cohorts that differ by one, or from as many over one cohort as a coordinator finds ways to ask for it. So
what leaves is the change since a member's own start, whose noise is this round's, and weights are made of it and the
broadcast alone (`training.local_state`). Where they are moved from round to round, or the start was kept, every sum of
the run is over one and the same cohort.
*Vanishing noise*: noise far below the grid rounds to nothing, so it is at least one grid step.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from securefl.errors import Unsafe
from securefl.terms import Plan, Sharing, Unit
from securefl.terms.uploads import upload_of


def few(plan: Plan) -> str:
    """Return what is wrong with the honest count; empty if it is above the sums of a round.

    It is floor((min_cohort - colluding) / r), where no two honest weights of one sum differ by more than the factor r.
    """
    cover, ratio = plan.cover, weight_ratio(plan)
    honest = cover.min_cohort - cover.colluding
    if ratio is None:
        return "weights that the grid can round to nothing"
    counted = max(0, honest) // ratio
    if counted > plan.sharing.sums:
        return ""
    over = f"{cover.min_cohort}, {cover.colluding} colluding"
    by = f" weights up to {float(ratio):.4g} : 1," if ratio > 1 else ""
    return f"sums released over {over}: {plan.sharing.sums},{by} too many for its honest inputs"


def weight_ratio(plan: Plan) -> Fraction | None:
    """The largest ratio of two honest weights in one sum, rounded up, on the plan's grid; None if there is no bound."""
    ratio = largest_ratio(plan.sharing)
    if ratio == 1:
        return ratio
    one = Fraction(1 << plan.cover.encoding.fraction_bits)
    least = one / ratio - Fraction(1, 2)  # each is rounded to the grid
    return (one + Fraction(1, 2)) / least if least > 0 else None


def largest_ratio(sharing: Sharing) -> Fraction:
    """The largest factor between two honest weights of one sum, before the grid, rounded up; 1 where all are equal."""
    return exponential(upload_of(sharing).exponent)


@lru_cache(maxsize=256)
def exponential(exponent: Fraction) -> Fraction:
    """E to the ``exponent``, in [0, 16], in millionths and rounded up.

    The rest of the series after n terms is below twice the next term once n is above twice the exponent.
    """
    if not exponent:
        return Fraction(1)
    total, term = Fraction(0), Fraction(1)
    for n in range(1, 64):
        total, term = total + term, term * exponent / n
    return Fraction(math.ceil((total + 2 * term) * 10**6), 10**6)


def stale(plan: Plan, members: int | None = None) -> str:
    """Return what is wrong with a cohort whose inputs are not all fresh; empty if nothing is.

    Args:
        members: how many the cohort will have, where the plan does not name it yet.
    """
    members = len(plan.cohort) if members is None else members
    if upload_of(plan.sharing).is_fresh or plan.cover.min_cohort >= members:
        return ""
    return f"weights that members keep, over any {plan.cover.min_cohort} of {members} members"


def faint(plan: Plan) -> str:
    """Return what is wrong with the noise on the grid; empty if a value that leaves has at least one grid step of it.

    Under unit client the event itself cannot be made with less.
    """
    learning = plan.learning
    if learning.event.unit is not Unit.RECORD or learning.learning_rate >= least_rate(plan):
        return ""
    grid = f"the grid's 2**-{plan.cover.encoding.fraction_bits}"
    return f"noise that may be below {grid} at learning rate {float(learning.learning_rate):.4g}"


def least_rate(plan: Plan) -> Fraction:
    """The learning rate at which noise has one grid step, by the least weight, rounded up."""
    learning, event = plan.learning, plan.learning.event
    least = largest_ratio(plan.sharing) / (1 << max(0, plan.cover.encoding.fraction_bits))
    if learning.optimizer == "sgd":  # the steps' noise adds up to sqrt(steps) times a step's
        root = Fraction(math.isqrt(event.steps * 10**12), 10**6)
        least *= learning.divisor / (event.noise_multiplier * learning.clip_l2 * root)
    return least  # Adam's first step is the learning rate, whatever the gradient's size


def check(plan: Plan, members: int | None = None) -> None:
    """Return if a sum under this plan holds enough honest, fresh inputs.

    Args:
        members: as for ``stale``.

    Raises:
        Unsafe: it does not.
    """
    for rule, wrong in (
        ("protocol.few-honest", few(plan)),
        ("protocol.stale-input", stale(plan, members)),
        ("protocol.faint-noise", faint(plan)),
    ):
        if wrong:
            raise Unsafe(wrong, rule)
