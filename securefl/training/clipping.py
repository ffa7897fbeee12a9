"""How far one record may move a step: the factors that bound its gradient, and a clip that follows the norms.

By quantile, the count of gradients below the clip is a second sum (Andrew et al. 2021, "Differentially private learning
with adaptive clipping", algorithm 1 and theorem 1). A record gives it 1/2 or -1/2, so with deviation sigma_b it is a
Gaussian of multiplier 2 sigma_b; it and a gradient of multiplier z_g together are one of multiplier z where

    z^-2 = z_g^-2 + (2 sigma_b)^-2,  so  z_g = (z^-2 - (2 sigma_b)^-2)^(-1/2).

Here this is arithmetic on one vector: the gradient times sqrt(1 - s^2) and the count times 2 s C, s = z / (2 sigma_b),
stand behind each other, a record's part of both has norm at most C, and the event's noise, of deviation z C, is drawn
on it once. Divided out again, the gradient has noise z_g C and the count sigma_b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from securefl.terms import Automatic, Learning, Quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from securefl.training.noise import NoisedSum

SHRINK = 1.0 - 2.0**-40  # rounding of a factor never lifts a clipped gradient above the clip
UNIT_BITS = 42  # a sum is of whole units, this many bits below the clip: exact, in any order
COLUMNS = 1024  # that are squared at once: a constant, for it decides in which order squares are added
BLOCK = 1 << 13  # squares added one by one; with under 2**12 blocks, rounding stays below SHRINK
LOWEST = Fraction(1, 2**20)  # of the plan's clip: below this no quantile takes it

Weights = tuple[torch.Tensor, torch.Tensor | None]  # a factor for each gradient (batch,); what it counts for (batch,)
Weigh = Callable[[torch.Tensor, float], Weights]  # norms (batch,), all finite; the clip


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PrivateGradient:
    """One step's gradient, noised and divided, and what follows from public constants and noised sums alone."""

    values: NDArray[np.float64]  # (dimension,)
    deviation: float  # of the noise in each value
    next_clip_l2: Fraction  # (0, the plan's clip]: of the next step of this round


def flat(norms: torch.Tensor, clip_l2: float) -> Weights:
    """Factors that leave a gradient within the clip as it is, and bring any other onto it."""
    return (clip_l2 / norms.clamp(min=1e-300) * SHRINK).clamp(max=1.0), None


def unit(clip_l2: float) -> float:
    """Return what a sum is counted in: the power of two that lies ``UNIT_BITS`` bits below the clip's own."""
    return math.ldexp(1.0, math.frexp(clip_l2)[1] - 1 - UNIT_BITS)


def summed(gradients: Sequence[torch.Tensor], clip_l2: float, weigh: Weigh = flat) -> torch.Tensor:
    """The sum of the records' gradients, each scaled to L2 norm at most ``clip_l2``: (dimension,) int64, in units.

    The norm is over all tensors together. Where records are counted, one more entry holds the count. Each record's
    part is a function of its own row, bit for bit: only single additions, products and roots are used, which every
    processor rounds alike, in an order that no other row decides. Its entries are cut to whole units towards zero,
    which lengthens nothing, and whole numbers add up exactly: one record more changes a sum by its part and no more.
    A record whose gradient is not finite contributes nothing.
    """
    rows = [gradient.reshape(len(gradient), -1) for gradient in gradients]  # (batch, numel) each
    norms = torch.sqrt(_squares(rows))
    usable = torch.isfinite(norms)
    factors, counted = weigh(torch.where(usable, norms, 0.0), clip_l2)
    factors = torch.where(usable, factors, 0.0) / unit(clip_l2)
    if not bool(usable.all()):  # NaN * 0 is NaN: such rows are taken out, not scaled
        rows = [torch.where(usable.unsqueeze(1), row, 0.0) for row in rows]
    scale = factors.unsqueeze(1)
    parts = [
        part.to(torch.float64).mul_(scale).trunc_().sum(0) for row in rows for part in torch.split(row, COLUMNS, 1)
    ]
    if counted is not None:
        parts.append((torch.where(usable, counted, 0.0) / unit(clip_l2)).trunc().sum().unsqueeze(0))
    return torch.cat(parts).to(torch.int64)  # below 2**53 for 2**10 rows: whole numbers that float64 holds


def _squares(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each row's squares, added up over all tensors in one order: (batch,) float64.

    In each column at most ``BLOCK`` are added one by one, and then the blocks: a small one is not lost behind many.
    """
    total = torch.zeros(len(rows[0]), COLUMNS, dtype=torch.float64, device=rows[0].device)
    block, added = torch.zeros_like(total), 0
    for row in rows:
        for part in torch.split(row, COLUMNS, 1):
            block[:, : part.shape[1]].add_(part.to(torch.float64).square_())
            added += 1
            if added % BLOCK == 0:
                total.add_(block)
                block.zero_()
    total.add_(block)
    left = COLUMNS
    while left > 1:
        left //= 2
        total[:, :left].add_(total[:, left : 2 * left])
    return total[:, 0]


def weigh_by(learning: Learning) -> Weigh:
    """The plan's rule. The vector a record contributes, what it counts for included, has norm at most the clip."""
    rule = learning.clipping
    if isinstance(rule, Automatic):
        gamma = float(rule.gamma)
        return lambda norms, clip_l2: (clip_l2 / (norms + gamma) * SHRINK, None)
    if isinstance(rule, Quantile):
        count, rest = shares(learning)

        def both(norms: torch.Tensor, clip_l2: float) -> Weights:
            sign = torch.where(norms <= clip_l2, 1.0, -1.0).to(torch.float64)
            return flat(norms, clip_l2)[0] * rest, sign * (clip_l2 * count * SHRINK)

        return both
    return flat


def shares(learning: Learning) -> tuple[float, float]:
    """The parts of the L2 bound that the count and the gradient take; their squares add up to 1."""
    if not isinstance(learning.clipping, Quantile):
        return 0.0, 1.0
    share = learning.clipping.count_share(learning.event.noise_multiplier)
    return float(share), math.sqrt(1 - share * share)


def read(learning: Learning, clip_l2: Fraction, noised: NoisedSum) -> PrivateGradient:
    """Return what a noised sum says: post-processing, which no record is asked for."""
    count, rest = shares(learning)
    deviation = float(learning.event.noise_multiplier * clip_l2) / rest / learning.divisor
    rule = learning.clipping
    if not isinstance(rule, Quantile):
        return PrivateGradient(noised.values / learning.divisor, deviation, clip_l2)
    *_, centred = noised.values / (2 * float(clip_l2) * count)
    share = 0.5 + float(centred) / learning.divisor  # of the divisor: how large the sample was is not known here
    power = -float(rule.rate) * (share - float(rule.target))
    moved = Fraction(float(clip_l2) * math.exp(min(max(power, -50.0), 50.0)))
    return PrivateGradient(
        noised.values[:-1] / (rest * learning.divisor),
        deviation,
        min(max(moved, learning.clip_l2 * LOWEST), learning.clip_l2),
    )
