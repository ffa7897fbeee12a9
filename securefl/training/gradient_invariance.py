"""Is a record's gradient the same, bit for bit, wherever it stands in a batch and whatever stands beside it?

Asked at the state that a plan starts from, on this machine, in its precision and with its kernels, on synthetic tokens
of every length: before a record is read. The answer is a choice of shapes, never a refusal of the plan: many shapes
where all give the same bits as a record alone, else one shape, else one record at a time. So a state that somebody
chose to make rounding large changes how fast records are computed, and not what one of them does to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from securefl.errors import OperatorFault
from securefl.training import adapter_tensors
from securefl.training.built import Built
from securefl.training.engines.engine import Engine
from securefl.training.shapes import ALONE, ANY, SAME, Shapes
from securefl.training.step import Encoded, Losses, per_record_gradients

LADDER = (ANY, SAME, ALONE)
PROBES = 5  # records of each shape, from the shortest to the longest: no divisor of a number of rows
FEW = 2  # of them, where all were shown before at another state

Found = list[tuple[torch.Tensor, ...]]  # of each record: its gradient by tensor, then its answer


@dataclass(frozen=True, slots=True)
class Question:
    """What is computed for a record here: a model as it stands, its losses, and text to try them on."""

    built: Built
    wrapped: Engine
    encode: Callable[[tuple[tuple[int, ...], ...]], Encoded]  # synthetic ids -> records with labels and targets
    tokens: tuple[int, ...]  # public ones of this model, that synthetic ids are made of
    losses: Losses
    answers: bool  # whether a state is asked what it says of records, too

    def shapes(self, most: int, known: tuple[int, ...] | None = None, turn: int = 0) -> Shapes:
        """The first shapes of the ladder that give every record the same bits.

        Where ``known`` was found thoroughly at another state, the search starts there, with fewer records and one
        number of rows for each padded length, another at each ``turn``.

        Raises:
            OperatorFault: the same record alone gives other bits when it is computed again.
        """
        for counts in LADDER[0 if known is None else LADDER.index(known) :]:
            shapes = Shapes(most, counts)
            if all(self._alike(shapes, lengths, known is not None, turn) for lengths in shapes.lengths):
                return shapes
        what = "the same record gives other gradients when it is computed again"
        raise OperatorFault(what, "use kernels that repeat: torch.use_deterministic_algorithms, or the CPU")

    def _alike(self, shapes: Shapes, lengths: tuple[int, ...], brief: bool, turn: int) -> bool:  # noqa: FBT001
        ids = self.synthetic(lengths, FEW if brief else PROBES)
        encoded = replace(self.encode(ids), shapes=shapes)
        every = range(len(ids))
        alone = [found for record in every for found in self.found(encoded, [record])]
        counts = shapes.possible(shapes.padded(lengths[0]))
        if brief and len(counts) > 1:
            counts = (counts[1 + turn % (len(counts) - 1)],)
        for count in counts:
            orders = [[(row + shift) % len(ids) for row in range(count)] for shift in ((0,) if brief else (0, 1))]
            if shapes.counts == SAME:  # the reference has idle neighbours: others must not matter either
                orders += [[record] * count for record in every]
            for order in orders:
                found = self.found(encoded, order)
                if not all(same(alone[record], one) for record, one in zip(order, found, strict=True)):
                    return False
        return True

    def synthetic(self, lengths: tuple[int, ...], records: int) -> tuple[tuple[int, ...], ...]:
        """Return token ids of some records, from the shortest of these lengths to the longest."""
        chosen = _spread(lengths, records)
        return tuple(tuple(self._token(record, at) for at in range(length)) for record, length in enumerate(chosen))

    def _token(self, record: int, at: int) -> int:
        return self.tokens[(7 * record + 3 * at + at * at // 5) % len(self.tokens)]

    def found(self, encoded: Encoded, order: Sequence[int]) -> Found:
        """Compute a batch of these records, in this order: each one's gradient, and what the model says of it."""
        batch = encoded.filled(order)
        said = torch.zeros(len(batch[0]))
        with encoded.behind(order):
            made = per_record_gradients(self.wrapped, self.built.parameters, batch, self.losses)
            if self.answers:
                with torch.no_grad():
                    said = self.built.model(*(each.to(self.built.model.center.device) for each in batch[:2]))
        return [tuple(each[row] for each in (*made, said)) for row in range(len(order))]


class Shown:
    """What was found so far, for each kind of plan and state."""

    def __init__(self) -> None:
        self._thorough: dict[object, tuple[int, ...]] = {}
        self._at: dict[tuple[object, bytes], tuple[int, ...]] = {}

    def at(self, asked: Question, most: int, kind: object, states: Sequence[bytes]) -> Shapes:
        """Shapes that hold at each of these states, whichever of them is loaded afterwards; ``kind`` is all else."""
        found = []
        for each in states:
            key = (kind, hashlib.sha256(each).digest())
            if key not in self._at:
                adapter_tensors.load(asked.built, each)
                self._at[key] = asked.shapes(most, self._thorough.get(kind), key[1][0]).counts
                self._thorough.setdefault(kind, self._at[key])
            found.append(self._at[key])
        return Shapes(most, max(found, key=LADDER.index))


def _spread(lengths: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The shortest, the longest and some between; one length more than once where there are fewer."""
    return tuple(lengths[row * (len(lengths) - 1) // (most - 1)] for row in range(most))


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    """Whether two were found the same, bit for bit; gradients that are not finite are alike, as neither counts."""
    *gradient, answer = one
    *gradient_too, answer_too = other
    if all(map(torch.equal, one, other)):  # in this order: nearly always they are, and NaN is equal to nothing
        return True
    finite, finite_too = (all(bool(torch.isfinite(each).all()) for each in parts) for parts in (gradient, gradient_too))
    if finite != finite_too or not torch.equal(answer.nan_to_num(), answer_too.nan_to_num()):
        return False
    return not finite or all(map(torch.equal, gradient, gradient_too))
