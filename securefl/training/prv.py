"""Opacus' own accountant, for whoever audits: a third opinion on what events cost, and never the one that decides.

Privacy loss as a random variable, composed by FFT (Gopi, Lee and Wutschitz 2021): other code and another method than
the accountant that prices are held by. It lives here since it comes with Opacus, and Opacus with torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from importlib.util import find_spec

from securefl.terms import Event, Unit

MOST_SQUARES, MOST_STEPS = 100, 50_000  # of steps * (rate / noise)**2, and of steps: beyond, its grid fills the memory


def is_here() -> bool:
    """Return whether Opacus is installed."""
    return find_spec("opacus") is not None


def epsilon_prv(events: Iterable[Event], delta: float) -> float | None:
    """Opacus' upper bound for all events together, to 0.01 of epsilon; 0 for none.

    None where it has no finite one, or would take too long; and for what hides members, which it does not know.
    """
    from opacus.accountants import PRVAccountant  # noqa: PLC0415

    steps: dict[tuple[float, float], int] = {}
    squares = 0.0
    for event in events:
        if event.unit is not Unit.RECORD:
            return None
        mechanism = (float(event.noise_multiplier), float(event.sampling_rate))
        steps[mechanism] = steps.get(mechanism, 0) + event.steps
        squares += event.steps * float(event.sampling_rate / event.noise_multiplier) ** 2
    if not steps:
        return 0.0
    if squares > MOST_SQUARES or sum(steps.values()) > MOST_STEPS:
        return None
    accountant = PRVAccountant()
    accountant.history = [(*mechanism, count) for mechanism, count in sorted(steps.items())]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # at the ends of its grid, and of log(1 - q) for q = 1
            found = float(accountant.get_epsilon(delta))
    except (ValueError, RuntimeError, OverflowError):
        return None
    return found if 0 <= found < math.inf else None
