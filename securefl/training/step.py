"""One logical step of DP-SGD: Poisson sample, per-record gradients, clip, sum, noise, divide by a public constant.

Abadi et al. (2016), with the sampler the accountant assumes. A step with an empty sample happens like any other: its
noise is drawn and it is charged. A record whose gradient is not finite contributes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from securefl.terms import Learning
from securefl.training.engines.engine import Engine, forget
from securefl.training.noise import ClippedSum, Entropy, noised, poisson_sample

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

SHRINK = 1.0 - 2.0**-40  # rounding of a factor never lifts a clipped gradient above the clip
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # ids (batch, tokens), mask (batch, tokens), labels (batch,)
Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits, labels -> one loss per record (batch,)


@dataclass(frozen=True, slots=True, repr=False)
class Encoded:
    """Records as token ids, ready to be padded."""

    ids: tuple[tuple[int, ...], ...]  # none empty
    labels: tuple[int, ...]
    pad: int

    def batch(self, indices: Sequence[int]) -> Batch:
        """These records, padded to the longest of them."""
        lengths = np.array([len(self.ids[i]) for i in indices])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad, dtype=np.int64)
        ids[mask] = np.concatenate([self.ids[i] for i in indices])
        labels = np.array([self.labels[i] for i in indices], dtype=np.int64)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(labels)


def micro_batches(encoded: Encoded, indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """The sample in parts of records of like length: their order does not change a sum."""
    by_length = sorted(indices, key=lambda i: len(encoded.ids[i]))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One loss per record, each of its own logits alone: (batch,)."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def per_record_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch, losses: Losses = cross_entropy
) -> list[torch.Tensor]:
    """Each record's gradient of its own loss, per tensor: (batch, *shape), float32.

    ``model`` has an engine; the losses are summed, so no record's gradient depends on how many there are. A tensor
    without such a gradient has ``None``, which the preflight refuses.
    """
    assert isinstance(model, Engine), "only an engine keeps records apart"
    device = parameters[0].device
    ids, mask, labels = (each.to(device) for each in batch)
    found: list[Any] = model.gradients(parameters, lambda: losses(model(ids, mask), labels).sum())
    return found


def clipped(gradients: Sequence[torch.Tensor], clip_l2: float) -> torch.Tensor:
    """The sum of the records' gradients, each scaled down to L2 norm at most ``clip_l2``: (dimension,), float64.

    The norm is over all tensors together.
    """
    rows = [gradient.reshape(len(gradient), -1) for gradient in gradients]  # (batch, numel) each
    by_tensor = torch.stack([torch.linalg.vector_norm(row, dim=1, dtype=torch.float64) for row in rows])
    norms = torch.linalg.vector_norm(by_tensor, dim=0)
    usable = torch.isfinite(norms)
    factors = torch.where(usable, (clip_l2 / norms.clamp(min=1e-300) * SHRINK).clamp(max=1.0), 0.0)
    if not bool(usable.all()):  # NaN * 0 is NaN: such rows are taken out, not scaled
        rows = [torch.where(usable.unsqueeze(1), row, 0.0) for row in rows]
    return torch.cat([factors @ row.to(torch.float64) for row in rows])


def clipped_sum(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, sample: Sequence[int], micro_batch: int,
    clip_l2: Fraction,
) -> ClippedSum:  # fmt: skip
    """The clipped gradients of a sample, summed; zero for an empty one. How it is cut into batches does not matter."""
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    for part in micro_batches(encoded, sample, micro_batch):
        total += clipped(per_record_gradients(model, parameters, encoded.batch(part)), float(clip_l2)).cpu()
    return ClippedSum(total.numpy(), clip_l2)


def private_gradient(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, rand: Entropy
) -> NDArray[np.float64]:
    """One step's gradient, noised and divided: (dimension,). Nothing else of the sample is kept, not even its size."""
    sample = [int(i) for i in poisson_sample(rand, len(encoded.ids), learning.event.sampling_rate)]
    summed = clipped_sum(model, parameters, encoded, sample, learning.micro_batch, learning.clip_l2)
    return noised(summed, learning.event, rand).values / learning.divisor


def unwatched(done: int, steps: int) -> None:
    """Nobody is told how far training is."""


def optimizer_of(parameters: Sequence[nn.Parameter], learning: Learning) -> torch.optim.Optimizer:
    """What turns gradients into steps: fresh, so nothing of one round is carried into the next. No weight decay."""
    rate = float(learning.learning_rate)
    if learning.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    assert learning.optimizer == "adamw", "a plan's optimizer was checked when it was read"
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)


def run(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, rand: Entropy,
    progress: Callable[[int, int], None] = unwatched,
) -> int:  # fmt: skip
    """``learning.event.steps`` private steps, whatever the samples hold; how many were done."""
    optimizer = optimizer_of(parameters, learning)
    done = 0
    while done < learning.event.steps:
        gradient = torch.from_numpy(private_gradient(model, parameters, encoded, learning, rand)).to(torch.float32)
        parts = torch.split(gradient, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.device)
        optimizer.step()
        done += 1
        progress(done, learning.event.steps)
    forget(parameters)
    return done
