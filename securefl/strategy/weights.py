"""A mean over members with weights that nobody but each of them knows: a ratio of two sums.

Each member sends ``a * change`` and ``a`` behind it; sum by sum divided, that is the weighted mean. With
``a = exp(s - clip)`` and s within +-clip it is a softmax over members, and a is in [exp(-2 clip), 1]: it fits any grid.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from securefl.errors import Forged
from securefl.terms import Aggregate, Weighting
from securefl.terms.uploads import check_weight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def weight(weighting: Weighting, score: float) -> float:
    """A member's own weight, in [exp(-2 clip), 1]; a score that is no number counts as none."""
    clip = float(weighting.clip)
    raw = float(weighting.sharpness) * score
    return math.exp(min(max(raw if math.isfinite(raw) else 0.0, -clip), clip) - clip)


def renewed(weighting: Weighting, score: float, before: float = 1.0) -> float:
    """A member's weight after a round, from the one before and this round's score: it stays in [exp(-2 clip), 1]."""
    kept = min(max(before if math.isfinite(before) else 1.0, math.exp(-2 * float(weighting.clip))), 1.0)
    return kept + float(weighting.renewal) * (weight(weighting, score) - kept)


def weighted(own: tuple[float, ...], change: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a member sends, by its own weights: (entries,) -> (weights * (entries + 1),); without any, the change."""
    import numpy as np  # noqa: PLC0415

    if not own:
        return change
    return np.concatenate([each * np.append(change, 1.0) for each in own])


def mean(weightings: tuple[Weighting, ...], aggregate: Aggregate) -> NDArray[np.float64]:
    """The weighted means, each times its share, added up: (entries,); the plain mean where there are no weights.

    Raises:
        Forged: a sum of weights that no honest members' weights have: too small to divide by, or too large.
    """
    import numpy as np  # noqa: PLC0415

    if not weightings:
        return aggregate.mean()
    members, grid = len(aggregate.survivors), float(1 << aggregate.encoding.fraction_bits)
    parts = np.split(aggregate.total / grid, len(weightings))
    found = np.zeros(len(parts[0]) - 1)
    for weighting, part in zip(weightings, parts, strict=True):
        check_weight(weighting.clip, part[-1], members, grid)
        if part[-1] <= members / grid:
            raise Forged(f"weights of {members} members add up to {part[-1]:g}, too little to divide by")
        found += float(weighting.share) * part[:-1] / part[-1]
    return found
