"""One logical step of DP-SGD: Poisson sample, per-record gradients, clip, sum, noise, divide by a public constant.

Abadi et al. (2016), with the sampler the accountant assumes. A step with an empty sample happens like any other: its noise
is drawn and it is charged. A record whose gradient is not finite contributes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from securefl.terms import Learning
from securefl.training.noise import ClippedSum, Entropy, noised, poisson_sample

SHRINK = 1.0 - 2.0**-40  # rounding of a factor never lifts a clipped gradient above the clip


@dataclass(frozen=True, slots=True, repr=False)
class Encoded:
    """Records as token ids, ready to be padded."""

    ids: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    pad: int

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids, mask and labels: (batch, tokens), (batch, tokens), (batch,)."""
        width = max(len(self.ids[i]) for i in indices)
        ids = torch.full((len(indices), width), self.pad, dtype=torch.long)
        mask = torch.zeros((len(indices), width), dtype=torch.long)
        for row, i in enumerate(indices):
            ids[row, : len(self.ids[i])] = torch.tensor(self.ids[i])
            mask[row, : len(self.ids[i])] = 1
        return ids, mask, torch.tensor([self.labels[i] for i in indices])


def micro_batches(encoded: Encoded, indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """The sample in parts of records of like length: their order does not change a sum."""
    by_length = sorted(indices, key=lambda i: len(encoded.ids[i]))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def per_record_gradients(model: nn.Module, parameters: Sequence[nn.Parameter], batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Each record's gradient of its own loss, flat: (batch, dimension), float32.

    ``model`` is wrapped by Opacus; the losses are summed, so no record's gradient depends on how many there are.
    """
    ids, mask, labels = batch
    for parameter in parameters:
        parameter.grad = None
        parameter.grad_sample = None  # type: ignore[attr-defined]
    nn.functional.cross_entropy(model(ids, mask), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad_sample.reshape(len(labels), -1) for parameter in parameters], dim=1)  # type: ignore[attr-defined]


def clipped(gradients: torch.Tensor, clip: float) -> torch.Tensor:
    """The sum of the rows, each scaled down to L2 norm at most ``clip``: (batch, dimension) -> (dimension,), float64."""
    norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64)
    usable = torch.isfinite(norms)
    factors = torch.where(usable, (clip / norms.clamp(min=1e-30) * SHRINK).clamp(max=1.0), 0.0)
    rows = torch.where(usable.unsqueeze(1), gradients, 0.0).to(torch.float64)
    return factors @ rows


def private_gradient(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, rand: Entropy
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One step's gradient, noised and divided: (dimension,). Nothing else about the sample is kept."""
    sample = poisson_sample(rand, len(encoded.ids), learning.event.sampling_rate)
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    for part in micro_batches(encoded, [int(i) for i in sample], learning.micro_batch):
        total += clipped(per_record_gradients(model, parameters, encoded.batch(part)), float(learning.clip_l2))
    return noised(ClippedSum(total.numpy(), learning.clip_l2), learning.event, rand) / learning.divisor


def optimizer_of(parameters: Sequence[nn.Parameter], learning: Learning) -> torch.optim.Optimizer:
    """What turns gradients into steps: fresh, so nothing of one round is carried into the next."""
    rate = float(learning.learning_rate)
    if learning.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)


def run(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, rand: Entropy,
    progress: Callable[[int, int], None],
) -> int:  # fmt: skip
    """``learning.event.steps`` private steps; how many were done."""
    optimizer = optimizer_of(parameters, learning)
    for done in range(learning.event.steps):
        gradient = torch.from_numpy(private_gradient(model, parameters, encoded, learning, rand)).to(torch.float32)
        start = 0
        for parameter in parameters:
            parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        optimizer.step()
        progress(done + 1, learning.event.steps)
    return learning.event.steps
