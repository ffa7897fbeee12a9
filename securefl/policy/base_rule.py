"""The rule about the state a plan starts from: it is read from the proposal's bytes, for a plan names it by a hash."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from securefl.policy.checks import Check
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.policy.rule import Question, Rule

_ROUNDING = 1e-9  # the norm is added up in float64, and its rounding counts against the state


def norm_l2(state: bytes) -> float:
    """L2 norm of a whole adapter state, float32, little endian; infinite where it is no list of finite numbers."""
    if len(state) % 4:
        return math.inf
    values = np.frombuffer(state, "<f4").astype(np.float64)
    norm = float(np.sqrt(np.square(values).sum())) * (1 + _ROUNDING)
    return norm if math.isfinite(norm) else math.inf


def _base(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """Return whether a plan may start from its state; not asked where the state is not at hand."""
    if asked.base is None:
        return ()
    norm, most = norm_l2(asked.base), asked.policy.training.base.norm_at_most
    held = math.isfinite(norm) and Fraction(norm) <= most
    shown = f"L2 norm {norm:.6g}" if math.isfinite(norm) else "numbers that are not finite"
    return Check(rule, held, shown, f"at most {decimal(most)}", f"start from a state of norm at most {decimal(most)}")


BASE = (Rule("training.base", ("plan.base",), ("training.base.norm_at_most",), _base),)
