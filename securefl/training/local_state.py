"""A member's weight in each sum, and the bytes that the next round reads where weights move by and by.

A weight leaves in a sum, and a coordinator may choose what is scored against what, round by round: enough sums over one
kept model would be solved for it. So the broadcast is scored as this round's change moves it, never what a member kept;
and a weight that is remembered goes on under the weightings and the grid that it was made under, or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from securefl.terms import Plan, Weighting
from securefl.wire import digest

if TYPE_CHECKING:
    from securefl.seams import MemberHalf

Score = Callable[[Weighting, bytes, bytes], float]  # of the broadcast, and of the broadcast as a change moves it


def own_weights(
    half: MemberHalf, plan: Plan, score: Score, base: bytes, start: bytes, after: bytes, kept: bytes
) -> tuple[tuple[float, ...], bytes]:  # fmt: skip
    """A member's weight in each sum of the round, and what to keep of them, or nothing.

    Kept is a digest of what they were made under, 32 bytes, and the weights: float64, little endian.

    Args:
        base: the broadcast; ``start`` and ``after``: this member's own state before and after its steps.
    """
    sharing = plan.sharing
    moved = half.moved(base, start, after) if sharing.weightings else b""
    scores = tuple(score(each, base, moved) for each in sharing.weightings)
    if not sharing.remembers:
        return half.weights(plan, scores, b""), b""
    under = digest("weightings", (sharing.weightings, plan.cover.encoding))
    own = half.weights(plan, scores, kept[len(under) :] if kept.startswith(under) else b"")
    return own, under + struct.pack(f"<{len(own)}d", *own)
