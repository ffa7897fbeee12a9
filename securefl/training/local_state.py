"""A member's weight in each sum, and the bytes that the next round reads where weights move by and by."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from securefl.terms import Plan

if TYPE_CHECKING:
    from securefl.seams import MemberHalf


def own_weights(
    half: MemberHalf, plan: Plan, scores: tuple[float, ...], kept: bytes
) -> tuple[tuple[float, ...], bytes]:
    """A member's weight in each sum of the round, and what to keep of them: float64, little endian, or nothing.

    Args:
        scores: one for each of the plan's weightings.
    """
    remembers = plan.sharing.remembers
    own = half.weights(plan, scores, kept if remembers else b"")
    return own, struct.pack(f"<{len(own)}d", *own) if remembers else b""
