"""A member's weight in each sum, and the bytes that the next round reads where weights move by and by."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from securefl.terms import Plan, Weighting

if TYPE_CHECKING:
    from securefl.seams import MemberHalf


def own_weights(
    half: MemberHalf, plan: Plan, score: Callable[[Weighting], float], kept: bytes
) -> tuple[tuple[float, ...], bytes]:
    """A member's weight in each sum of the round, and what to keep of them: float64, little endian, or nothing."""
    remembers = plan.sharing.remembers
    scores = tuple(map(score, plan.sharing.weightings))
    own = half.weights(plan, scores, kept if remembers else b"")
    return own, struct.pack(f"<{len(own)}d", *own) if remembers else b""
