"""The least noise that keeps a cost: found by asking what noise costs, on a grid of multipliers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from securefl.privacy.accountant import bounded, epsilon
from securefl.terms import Event, FullBatchGaussian, PoissonGaussian, Unbounded

NOISE_GRID = 10_000  # calibrated noise multipliers are multiples of 1 / NOISE_GRID ...
MOST_NOISE = 1000  # ... up to this one


@lru_cache(maxsize=64)
def calibrate(target: float, delta: float, sampling_rate: Fraction | None, steps: int) -> Fraction:
    """The least noise multiplier above 0.1, on a grid of 1/10000, whose cost is at most ``target``: rounded up.

    Args:
        target: epsilon of all steps together.
        delta: at which it is priced.
        sampling_rate: None for steps over every record.
        steps: of all rounds together.

    Raises:
        Unbounded: the target is not positive and finite, or no noise up to 1000 reaches it.
    """

    def cost(noise: Fraction) -> float:
        return bounded((_steps(noise, sampling_rate, steps),), delta)

    over = "every record" if sampling_rate is None else f"rate {sampling_rate}"
    what = f"at delta {delta} over {steps} steps at {over},"
    return _least_noise(cost, target, what)


def cheapest(delta: float, sampling_rate: Fraction | None, steps: int) -> float:
    """Epsilon of the most noise that `calibrate` draws: the least target that it reaches; without a rate, of everybody.

    Raises:
        Unbounded: no noise has a finite epsilon at this delta.
    """
    return bounded((_steps(Fraction(MOST_NOISE), sampling_rate, steps),), delta)


def calibrate_shares(target: float, delta: float, event: Callable[[Fraction], Event], rounds: int) -> Fraction:
    """The same for ``rounds`` sums of updates, each the event that ``event`` makes of a noise multiplier.

    Raises:
        Unbounded: as for `calibrate`.
    """

    def cost(noise: Fraction) -> float:
        try:
            return epsilon((event(noise),) * rounds, delta)
        except ValueError:  # so little noise that it cannot be made, or not be priced
            return math.inf

    return _least_noise(cost, target, f"over {rounds} rounds")


def _steps(noise: Fraction, sampling_rate: Fraction | None, steps: int) -> Event:
    """Noisy steps over samples at this rate; without one, over every record."""
    if sampling_rate is None:
        return FullBatchGaussian(noise, steps)
    return PoissonGaussian(sampling_rate, noise, steps)


def _least_noise(cost: Callable[[Fraction], float], target: float, what: str) -> Fraction:
    if not 0 < target < math.inf:
        raise Unbounded(f"epsilon={target}")

    def over(ticks: int) -> float:
        return min(max(math.log(max(cost(Fraction(ticks, NOISE_GRID)), 1e-9) / target), -10.0), 10.0)

    low, high = NOISE_GRID // 10, NOISE_GRID  # below 0.1 the accountant has nothing useful to say
    above, below = 10.0, over(high)
    while below > 0:
        if high == MOST_NOISE * NOISE_GRID:
            raise Unbounded(f"epsilon {target} {what} needs noise above {MOST_NOISE}")
        low, above, high = high, below, min(high * 2, MOST_NOISE * NOISE_GRID)
        below = over(high)
    last = 0.0
    while high - low > 1:  # between the two by false position; an end that stays counts half (Illinois)
        share = above / (above - below)
        middle = min(max(low + round((high - low) * share), low + 1), high - 1)
        found = over(middle)
        if found > 0:
            low, above = middle, found
            below = below / 2 if last > 0 else below
        else:
            high, below = middle, found
            above = above / 2 if last < 0 else above
        last = found or -1.0
    return Fraction(high, NOISE_GRID)
