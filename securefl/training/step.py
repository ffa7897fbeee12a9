"""One logical step of DP-SGD: its records, their gradients, clip, sum, noise, divide by a public constant.

Abadi et al. (2016), with the records that are priced: a Poisson sample, or every one. A step without a record happens
like any other: its noise is drawn and it is charged. A record whose gradient is not finite contributes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from securefl.seams import StepWatch
from securefl.terms import Learning
from securefl.terms.records import UNKNOWN
from securefl.training.clipping import PrivateGradient, Weigh, flat, read, summed, unit, weigh_by
from securefl.training.engines.engine import Engine, forget
from securefl.training.noise import ClippedSum, Entropy, noised, step_records
from securefl.training.optimizers import optimizer_of, tell_noise
from securefl.training.shapes import Shapes, by_row

if TYPE_CHECKING:
    from fractions import Fraction

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # ids, mask (batch, tokens); labels (batch,) or targets
Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits, labels -> one loss per record (batch,)


class Known(Protocol):
    """What a frozen part of the model gives for records, so that it need not be computed in every step."""

    def behind(self, indices: Sequence[int], rows: int) -> AbstractContextManager[None]:
        """Let the model compute these records behind that part, in a batch of so many rows, while the block runs."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Encoded:
    """Records as token ids, ready to be padded, and the shapes that they are computed in."""

    ids: tuple[tuple[int, ...], ...]  # none empty
    labels: tuple[int, ...]
    pad: int
    teacher: torch.Tensor | None = None  # (records, columns): what another model says; targets are then label and this
    shapes: Shapes = field(default_factory=Shapes)
    known: Known | None = None  # of these records, in this order

    def behind(self, indices: Sequence[int], rows: int | None = None) -> AbstractContextManager[None]:
        """While the block runs, a batch of these records is computed from what is known of them, if anything is.

        ``rows`` as the batch has; without, as ``filled`` gives it.
        """
        if self.known is None:
            return nullcontext()
        return self.known.behind(indices, self.shapes.filled(len(indices)) if rows is None else rows)

    def labelled(self) -> Encoded:
        """The records that have a label of their own; what is known of them is to be asked for anew."""
        found = [index for index, label in enumerate(self.labels) if label != UNKNOWN]
        ids, labels = tuple(self.ids[i] for i in found), tuple(self.labels[i] for i in found)
        return Encoded(ids, labels, self.pad, shapes=self.shapes)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These records, one a row, padded as the longest of them is; those of one part are all padded alike."""
        lengths = np.array([len(self.ids[i]) for i in indices])
        mask = np.arange(self.shapes.padded(int(lengths.max()))) < lengths[:, None]
        ids = np.full(mask.shape, self.pad, dtype=np.int64)
        ids[mask] = np.concatenate([self.ids[i] for i in indices])
        labels = np.array([self.labels[i] for i in indices], dtype=np.int64)
        targets = torch.from_numpy(labels)
        if self.teacher is not None:
            targets = torch.cat([targets.unsqueeze(1).to(torch.float32), self.teacher[list(indices)]], 1)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), targets

    def filled(self, indices: Sequence[int]) -> Batch:
        """These records of one part, and idle rows behind them, up to a number of rows that batches may have.

        An idle row is one token of padding; or as many as the records have, where those are not padded either.
        """
        ids, mask, targets = self.batch(indices)
        shape = (self.shapes.filled(len(indices)) - len(indices), ids.shape[1])
        shown = torch.ones(shape, dtype=torch.int64)
        if not bool(mask.all()):
            shown[:, 1:] = 0
        return (
            torch.cat([ids, torch.full(shape, self.pad)]),
            torch.cat([mask, shown]),
            torch.cat([targets, targets.new_zeros(shape[0], *targets.shape[1:])]),
        )


def micro_batches(
    encoded: Encoded, indices: Sequence[int], size: int, tokens: int | None = None
) -> Iterator[list[int]]:
    """The sample in parts whose records share their shapes, for ``filled``: how it is cut changes no record's result.

    A part has at most ``size`` rows and, once padded, at most ``tokens`` tokens, unless its shapes have a least number
    of rows above that.
    """
    alike: dict[tuple[int, bool], list[int]] = {}
    for index in indices:
        length = len(encoded.ids[index])
        padded = encoded.shapes.padded(length)
        alike.setdefault((padded, padded == length), []).append(index)
    for (padded, _), left in sorted(alike.items()):
        room = size if tokens is None else min(size, tokens // padded)
        done = 0
        while done < len(left):
            rows = encoded.shapes.rows(len(left) - done, padded, room)
            yield left[done : done + rows]
            done += rows


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
    found: list[Any] = model.gradients(parameters, lambda: by_row(losses, model(ids, mask), labels).sum())
    return found


def clipped(gradients: Sequence[torch.Tensor], clip_l2: float, weigh: Weigh = flat) -> torch.Tensor:
    """The sum of the records' gradients, each scaled to L2 norm at most ``clip_l2``: (dimension,), float64."""
    return summed(gradients, clip_l2, weigh).to(torch.float64) * unit(clip_l2)


class Units:
    """Whole units added up, however many records there are: each entry is two halves that an int64 holds."""

    LOW_BITS = 53  # of the lower half: what float64 holds exactly

    def __init__(self, entries: int) -> None:
        self._low = torch.zeros(entries, dtype=torch.int64)
        self._high = torch.zeros(entries, dtype=torch.int64)

    def add(self, part: torch.Tensor) -> None:
        """Add (entries,) int64, each entry below 2**62 in size."""
        self._low += part
        self._high += self._low >> self.LOW_BITS
        self._low &= (1 << self.LOW_BITS) - 1

    def as_float64(self) -> torch.Tensor:
        """Return the sum, rounded once: (entries,) float64."""
        return self._high.to(torch.float64) * 2.0**self.LOW_BITS + self._low.to(torch.float64)


def clipped_sum(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, sample: Sequence[int], micro_batch: int,
    clip_l2: Fraction, micro_tokens: int | None = None, weigh: Weigh = flat, losses: Losses = cross_entropy,
) -> ClippedSum:  # fmt: skip
    """The clipped gradients of a sample, summed; zero for an empty one.

    ``micro_batch`` and ``micro_tokens`` bound memory and change no bit of it, nor does the order of the sample. It is
    exact up to 2**11 clips in one entry; float64 rounds what is larger by 2**-53 of it.
    """
    _, counted = weigh(torch.zeros(0, dtype=torch.float64), float(clip_l2))
    entries = sum(parameter.numel() for parameter in parameters) + (counted is not None)
    total = Units(entries)
    for part in micro_batches(encoded, sample, micro_batch, micro_tokens):
        with encoded.behind(part):
            found = per_record_gradients(model, parameters, encoded.filled(part), losses)
        total.add(summed([each[: len(part)] for each in found], float(clip_l2), weigh).cpu())
    return ClippedSum(total.as_float64().numpy() * unit(float(clip_l2)), clip_l2)


def private_gradient(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, clip_l2: Fraction,
    rand: Entropy, losses: Losses = cross_entropy,
) -> PrivateGradient:  # fmt: skip
    """One step's gradient, noised and divided. Nothing else of the sample is kept, not even its size.

    ``clip_l2`` is this step's: the plan's or, where the clip follows a quantile, what the step before says.
    """
    chosen = [int(i) for i in step_records(rand, len(encoded.ids), learning.event)]
    summed = clipped_sum(
        model, parameters, encoded, chosen, learning.micro_batch, clip_l2, learning.micro_tokens, weigh_by(learning),
        losses,
    )  # fmt: skip
    return read(learning, clip_l2, noised(summed, learning.event, rand))


def descend(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradient: PrivateGradient) -> None:
    """The tensors have moved by one step of the optimizer."""
    values = torch.from_numpy(gradient.values).to(torch.float32)
    parts = torch.split(values, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.device)
    tell_noise(optimizer, gradient.deviation)
    optimizer.step()


def unwatched(done: int, steps: int) -> None:
    """Nobody is told how far training is."""


def run(
    model: nn.Module, parameters: Sequence[nn.Parameter], encoded: Encoded, learning: Learning, rand: Entropy,
    progress: StepWatch = unwatched, losses: Losses = cross_entropy,
) -> int:  # fmt: skip
    """``learning.event.steps`` private steps, whatever the samples hold; how many were done."""
    optimizer, clip_l2 = optimizer_of(parameters, learning), learning.clip_l2
    done = 0
    while done < learning.event.steps:
        gradient = private_gradient(model, parameters, encoded, learning, clip_l2, rand, losses)
        descend(optimizer, parameters, gradient)
        clip_l2 = gradient.next_clip_l2
        done += 1
        progress(done, learning.event.steps)
    forget(parameters)
    return done
