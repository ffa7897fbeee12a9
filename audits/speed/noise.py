"""What noise costs to draw: exactly rounded, beside Box-Muller in float64 over 53 bits, which is not exact.

python -m audits.speed.noise [--quick] [--json]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from audits.figures import figure, report
from securefl.terms import PoissonGaussian
from securefl.training.noise import ClippedSum, grid, keystream, noised

VALUES, REPEATS = 1_000_000, 15
MULTIPLIERS = (Fraction(1, 2), Fraction(1), Fraction(8))
CLIP = Fraction(1, 2)
MOST = 1.5  # times the inexact one


def inexact(summed: ClippedSum, event: PoissonGaussian) -> None:
    """53-bit Box-Muller in float64, rounded to the same grid."""
    size, step = len(summed.values), grid(summed.clip_l2)
    words = keystream(os.urandom, size) >> np.uint64(11)
    radius = np.sqrt(-2.0 * np.log((words[: size // 2].astype(np.float64) + 1.0) * 2.0**-53))
    angle = words[size // 2 :].astype(np.float64) * (2.0 * math.pi * 2.0**-53)
    drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    np.rint((summed.values + float(event.noise_multiplier * summed.clip_l2) * drawn) / step)


def milliseconds(repeats: int, call: Callable[[], object]) -> float:
    """The median CPU time of a call."""
    taken = []
    for _ in range(repeats):
        before = time.process_time_ns()
        call()
        taken.append((time.process_time_ns() - before) / 1e6)
    return statistics.median(taken)


def measured(repeats: int) -> list[dict[str, object]]:
    """A million values a draw, at three noise multipliers."""
    summed = ClippedSum(np.random.default_rng(0).normal(0, 3, VALUES), CLIP)
    figures: list[dict[str, object]] = []
    for noise in MULTIPLIERS:
        event = PoissonGaussian(Fraction(1, 8), noise, 1)
        exact = milliseconds(repeats, lambda event=event: noised(summed, event, os.urandom))
        before = milliseconds(repeats, lambda event=event: inexact(summed, event))
        name = f"exact noise, 1M values, multiplier {float(noise):g}"
        figures += [
            figure(f"{name} (ms)", round(exact, 1), "no bar", holds=True),
            figure(f"{name}, beside 53 bits", round(exact / before, 2), f"<= {MOST}", holds=exact / before <= MOST),
        ]
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    raise SystemExit(report(measured(3 if asked.quick else REPEATS), as_json=asked.json))
