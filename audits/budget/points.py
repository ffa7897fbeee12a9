"""What we say a plan costs, against dp-accounting asked directly at a finer interval; and noise found for a target.

Points are drawn log-uniformly, with a fixed seed, from SIGMA, RATE, STEPS and DELTA; those whose epsilon lies outside
EPSILON are drawn again. We price at an interval of 1e-3, of 1e-4 where epsilon is small, of 1e-5 where tiny. Three
comparisons for each point: within 1 % of the PLD at a fifth or a tenth of our interval, not below the PLD at our
interval, and not below the optimistic PLD at the finer one, which is a lower bound (Doroshenko et al. 2022).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.metadata import version
from typing import Any

from dp_accounting.pld import privacy_loss_distribution as distribution

from securefl.privacy.accountant import INTERVAL, epsilon_pld, interval_of
from securefl.privacy.calibration import calibrate
from securefl.terms import PoissonGaussian, Unbounded

SIGMA, RATE, STEPS, DELTA, EPSILON = (0.4, 8.0), (1e-3, 1.0), (1, 5000), (1e-7, 1e-4), (0.05, 20.0)
TARGET = (0.1, 15.0)
SEED = 20261121
FINER = {INTERVAL: 1e-4, 1e-4: 2e-5, 1e-5: 2e-6}  # what a price at each interval is held against

Figure = dict[str, Any]


def drawn(rand: random.Random, low: float, high: float) -> float:
    """Log-uniform, to four significant digits."""
    return float(f"{math.exp(rand.uniform(math.log(low), math.log(high))):.4g}")


def library(event: PoissonGaussian, delta: float, interval: float, *, pessimistic: bool = True) -> float:
    """Epsilon as dp-accounting's own functions give it, without any code of ours."""
    one = distribution.from_gaussian_mechanism(
        float(event.noise_multiplier), sampling_prob=float(event.sampling_rate), use_connect_dots=pessimistic,
        value_discretization_interval=interval, pessimistic_estimate=pessimistic,
    )  # fmt: skip
    return float(one.self_compose(event.steps).get_epsilon_for_delta(delta))


def some_events(rand: random.Random) -> Iterator[tuple[PoissonGaussian, float]]:
    """Points without end."""
    while True:
        rate, noise = (Fraction(str(drawn(rand, *span))) for span in (RATE, SIGMA))
        steps, delta = round(drawn(rand, *STEPS)), drawn(rand, *DELTA)
        event = PoissonGaussian(min(rate, Fraction(1)), noise, steps)
        if EPSILON[0] <= library(event, delta, INTERVAL) <= EPSILON[1]:
            yield event, delta


def points(count: int, told: Callable[[int], None] = lambda _: None) -> list[Figure]:
    """The figures of ``count`` points."""
    rows = []
    for done, (event, delta) in enumerate(some_events(random.Random(SEED))):  # noqa: S311 - points, not keys
        if done == count:
            break
        ours = epsilon_pld((event,), delta)
        interval = interval_of((event,), delta)
        same, finer, lower = (
            library(event, delta, interval),
            library(event, delta, FINER[interval]),
            library(event, delta, FINER[interval], pessimistic=False),
        )
        rows.append((ours / finer - 1, ours - same, ours - lower))
        told(done + 1)
    apart, above_same, above_bound = (list(column) for column in zip(*rows, strict=True))
    return [
        at_most(f"largest relative distance to a finer PLD, {count} points", max(map(abs, apart)), 0.01),
        at_least("least distance above the PLD at the same interval", min(above_same), 0.0),
        at_least("least distance above the optimistic finer PLD", min(above_bound), 0.0),
    ]


def calibrations(count: int, told: Callable[[int], None] = lambda _: None) -> list[Figure]:
    """The figures of ``count`` targets: the noise found for each costs at most that, and hardly less."""
    rand, shares, idle, beyond = random.Random(SEED + 1), [], 0, 0  # noqa: S311 - points, not keys
    while len(shares) < count:
        rate, steps = Fraction(str(drawn(rand, *RATE))), round(drawn(rand, *STEPS))
        target, delta = drawn(rand, *TARGET), drawn(rand, *DELTA)
        try:
            noise = calibrate(target, delta, min(rate, Fraction(1)), steps)
        except Unbounded:
            beyond += 1  # no noise that the accountant can tell apart is enough
            continue
        event = PoissonGaussian(min(rate, Fraction(1)), noise, steps)
        if event.noise_multiplier <= Fraction(1001, 10_000):
            idle += 1  # the least noise that is ever given costs less than this target
            continue
        shares.append(epsilon_pld((event,), delta) / target)
        told(len(shares))
    return [
        at_most(f"largest share of the target spent, {count} calibrations", max(shares), 1.0),
        at_least("least share of the target spent", min(shares), 0.97),
        at_most("targets drawn again because the least noise ever given meets them", idle, count),
        at_most("targets drawn again because calibration refused them as out of reach", beyond, count / 10),
    ]


def at_most(name: str, value: float, bar: float) -> Figure:
    """A figure that holds at or below its bar."""
    return {"name": name, "value": value, "bar": f"<= {bar:g}", "holds": value <= bar}


def at_least(name: str, value: float, bar: float) -> Figure:
    """A figure that holds at or above its bar."""
    return {"name": name, "value": value, "bar": f">= {bar:g}", "holds": value >= bar}


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="10 points and 10 calibrations, not 200 and 500")
    options.add_argument("--points", type=int, help="so many points, and no calibrations")
    options.add_argument("--json", action="store_true", help="print figures as JSON")
    chosen = options.parse_args()
    began, (some, more) = time.perf_counter(), (10, 10) if chosen.quick else (200, 500)
    if chosen.points:
        some, more = chosen.points, 0

    def telling(what: str, of: int) -> Callable[[int], None]:
        return lambda done: print(f"\r{what} {done} of {of}  ", end="", file=sys.stderr, flush=True)

    figures = points(some, telling("point", some))
    figures += calibrations(more, telling("calibration", more)) if more else []
    print(file=sys.stderr)
    if chosen.json:
        about = {
            "command": " ".join(["python", "audits/budget/points.py", *sys.argv[1:]]),
            "versions": {name: version(name) for name in ("dp-accounting", "numpy", "scipy")},
            "drawn from": {
                "sigma": SIGMA, "rate": RATE, "steps": STEPS, "delta": DELTA, "epsilon": EPSILON, "target": TARGET,
            },
            "seconds": round(time.perf_counter() - began),
        }  # fmt: skip
        print(json.dumps({"figures": figures, **about}, indent=1))
    else:
        for figure in figures:
            held = "holds" if figure["holds"] else "FAILS"
            print(f"{held}  {figure['value']:.6g} ({figure['bar']})  {figure['name']}")
    return 0 if all(figure["holds"] for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
