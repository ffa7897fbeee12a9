"""Training without noise: for an update whose noise is added where it leaves, and for a bench to compare with.

Under client-level privacy a member's records have no protection from each other, and need none: what leaves is the
whole update, clipped to a public norm whatever the records were.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from securefl.training import optimizers, step
from securefl.training.clipping import SHRINK
from securefl.training.engines.engine import backward, forget
from securefl.training.noise import Entropy, poisson_sample
from securefl.training.step import Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from securefl.seams import StepWatch
    from securefl.terms import Learning


def run(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, rand: Entropy,
    progress: StepWatch = step.unwatched, losses: step.Losses = step.cross_entropy,
) -> int:  # fmt: skip
    """``learning.event.steps`` steps, each along the mean loss of a Poisson sample's records; how many were done.

    A step with an empty sample changes nothing.
    """
    optimizer = optimizers.optimizer_of(parameters, learning)
    done = 0
    while done < learning.event.steps:
        chosen = [int(i) for i in poisson_sample(rand, len(encoded.ids), learning.event.sampling_rate)]
        optimizer.zero_grad()
        for part in step.micro_batches(encoded, chosen, learning.micro_batch, learning.micro_tokens):
            ids, mask, labels = (each.to(parameters[0].device) for each in encoded.batch(part))
            with encoded.behind(part, len(part)):
                backward(losses(model(ids, mask), labels).sum() / len(chosen))
        optimizer.step()
        done += 1
        progress(done, learning.event.steps)
    forget(parameters)
    return done


def clipped(change: NDArray[np.float64], clip_l2: Fraction) -> NDArray[np.float64]:
    """The change, scaled down to L2 norm at most ``clip_l2``; zero if it is not finite: (dimension,)."""
    with np.errstate(over="ignore"):
        norm = float(np.sqrt(np.sum(np.square(change))))
    if not np.isfinite(norm):
        return np.zeros_like(change)
    return change * min(1.0, float(clip_l2) / max(norm, 1e-300) * SHRINK)
