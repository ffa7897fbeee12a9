"""What a stem gives for a site's records, in memory up to a limit: computed once for a record that there is room for.

It is a function of the record and of public constants: the base model's files, how far the model is used, the longest
record, and the shapes that `gradient_invariance` found for it here, on synthetic tokens. So neither company in a batch,
nor the order of records, nor whether there was room changes a bit of what is trained, and a record that comes or goes
changes nothing of another's. It is in memory alone, and gone with the process; a model of another digest is another
object with nothing kept. How many records are computed ahead follows from a plan's sampling rate and steps, never from
a sample, so how long a step takes does not tell who was sampled before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from securefl.documents.site_parts import KEPT
from securefl.errors import OperatorFault
from securefl.terms import Learning
from securefl.training import adapter_tensors, stem
from securefl.training.foreign import others_code
from securefl.training.gradient_invariance import LADDER, Question, same
from securefl.training.shapes import Shapes
from securefl.training.step import Encoded, micro_batches

ROOM = KEPT  # bytes for one set of records, where a site says nothing else
ROWS = 64  # records at once, where no plan says how many
BATCHED = 5  # synthetic records of each shape that are computed together: no divisor of a number of rows
PROBES = 3  # synthetic records of each shape whose gradients behind the stem are compared with those through all


class Kept:
    """What a stem gives for some records, by their place in ``encoded``, whose shapes are the stem's own."""

    def __init__(self, of: stem.Stem, encoded: Encoded, room: int) -> None:
        self.stem, self.encoded, self.room = of, encoded, room
        self.bytes = 0  # that are taken
        self._found: dict[int, torch.Tensor] = {}
        self._next = 0  # the first record that nothing was computed of ahead
        self._full = room == 0

    def ahead(self, records: int, rows: int = ROWS, tokens: int | None = None) -> None:
        """Compute so many records more, in their order, until there is no room; ``rows`` and ``tokens`` at once."""
        upto = min(len(self.encoded.ids), self._next + records)
        for part in micro_batches(self.encoded, range(self._next, upto), rows, tokens):
            if not self._full:
                self._keep(part, self.computed(part))
        self._next = upto

    def ahead_of(self, learning: Learning) -> None:
        """Compute as many records more as this training's samples have on average, whoever they are going to be.

        So a training costs at most about twice what its own samples do, and once each record was computed, nothing.
        """
        share = learning.event.sampling_rate * learning.event.steps
        more = math.ceil(min(Fraction(1), share) * len(self.encoded.ids))
        self.ahead(more, learning.micro_batch, learning.micro_tokens)

    @contextmanager
    def behind(self, indices: Sequence[int], rows: int) -> Iterator[None]:
        """Let the model compute these records, of one padded length, behind the stem; idle rows are zero."""
        values = self.values(indices)
        if rows > len(values):
            values = torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])
        with self.stem.behind(values):
            yield

    def values(self, indices: Sequence[int]) -> torch.Tensor:
        """Return what the stem gives for these records, of one padded length: (records, ...)."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._found]
        again: dict[int, torch.Tensor] = {}
        for part in micro_batches(self.encoded, missing, ROWS):
            again |= dict(zip(part, self.computed(part), strict=True))
        return torch.stack([again[index] if index in again else self._found[index] for index in indices])

    def computed(self, part: Sequence[int]) -> torch.Tensor:
        """Compute it for one batch of records of one padded length: (records, ...). Nothing of it is kept."""
        ids, mask, _ = self.encoded.filled(part)
        where = self.stem.model.center.device
        return self.stem.values(ids.to(where), mask.to(where))[: len(part)]

    def _keep(self, part: Sequence[int], values: torch.Tensor) -> None:
        for index, value in zip(part, values, strict=True):
            if self.bytes + value.nbytes > self.room:
                self._full = True
                return
            self._found[index] = value.clone()  # not a view, which would hold its whole batch
            self.bytes += value.nbytes


@dataclass(slots=True)
class Room:
    """The memory that a site gives to one set of its records, and what is kept in it."""

    most: int = ROOM  # bytes; none: everything is computed again
    kept: Kept | None = None


class Stems:
    """One model's stem, and whether it can be entered behind it."""

    def __init__(self, of: stem.Stem | None) -> None:
        self.stem = of
        self._shown: dict[int, Shapes | str] = {}
        self._synthetic: dict[tuple[int, tuple[tuple[int, ...], ...]], Kept] = {}

    def told(self, most: int) -> str:
        """Return whether and what is kept of records of at most so many tokens, as a person reads it."""
        if self.stem is None:
            return "nothing is kept: no block is frozen before the first trained tensor"
        found = self._shown.get(most, "it was not tried")
        return self.stem.name if isinstance(found, Shapes) else f"nothing is kept: {found}"

    def taking(self, encoded: Encoded) -> int:
        """Return the bytes that all of these records would take; 0 where there is no stem."""
        if self.stem is None:
            return 0
        rows = 1 if self.stem.entered is None else None
        return sum(rows or encoded.shapes.padded(len(ids)) for ids in encoded.ids) * self.stem.row

    def show(self, most: int, asked: Question, states: tuple[bytes, bytes]) -> None:
        """Find out, once for each length, in which shapes the stem is a record's own, and whether all behind it is."""
        if self.stem is not None and most not in self._shown:
            self._shown[most] = _shown(self.stem, asked, most, states)

    def synthetic(self, encoded: Encoded, most: int) -> Encoded:
        """Return them with what the stem gives for them, which is the same at every state: it is computed once."""
        shapes, key = self._shown.get(most), (most, encoded.ids)
        if self.stem is None or not isinstance(shapes, Shapes):
            return encoded
        if key not in self._synthetic:
            self._synthetic[key] = Kept(self.stem, _bare(encoded, shapes), ROOM)
            self._synthetic[key].ahead(len(encoded.ids))
        return replace(encoded, known=self._synthetic[key])

    def within(self, room: Room | None, encoded: Encoded, learning: Learning) -> Encoded:
        """Return the records with what is kept of them, and with more of it than before this training.

        What was kept serves where model, records, tokens and shapes are the same ones; else it is dropped. Without room
        the stem is computed each time, and the model is entered behind it all the same: so it was shown at the state.
        """
        shapes, room = self._shown.get(learning.max_tokens), Room(0) if room is None else room
        if self.stem is None or not isinstance(shapes, Shapes):
            return encoded
        old = room.kept
        if old is None or old.stem is not self.stem or (old.encoded.ids, old.encoded.shapes) != (encoded.ids, shapes):
            room.kept = old = Kept(self.stem, _bare(encoded, shapes), room.most)
        old.ahead_of(learning)
        return replace(encoded, known=old)


def off_zero(state: bytes) -> bytes:
    """Return a state near this one in which no tensor is zero: at zero, gradients hide what is wrong with others."""
    values = np.frombuffer(state, "<f4")
    moved: bytes = (values + 0.05 * np.sin(np.arange(1.0, 1 + len(values)))).astype("<f4").tobytes()
    return moved


def _bare(encoded: Encoded, shapes: Shapes) -> Encoded:
    """The token ids alone, in a stem's own shapes."""
    return Encoded(encoded.ids, (0,) * len(encoded.ids), encoded.pad, shapes=shapes)


def _shown(of: stem.Stem, asked: Question, most: int, states: tuple[bytes, bytes]) -> Shapes | str:
    """Return the stem's shapes, or why it is not entered behind. Asked of synthetic records, before one is read.

    Args:
        of: the stem.
        asked: what is computed for a record behind it.
        most: tokens of the longest record.
        states: of the adapter; what is kept at the first one must serve the other.
    """
    first, other = states
    try:
        with others_code("it cannot be entered", "", ""):
            adapter_tensors.load(asked.built, first)
            ladder = (Shapes(most, counts) for counts in LADDER)
            shapes = next((found for found in ladder if _alike(of, asked, found)), None)
            if shapes is None:
                return f"{of.name} are other bits when they are computed again"
            for lengths in shapes.lengths:
                if not _as_through_all(of, asked, shapes, lengths, first, other):
                    return f"behind {of.name} its gradient is other bits than through the whole model"
    except OperatorFault as fault:
        return f"{of.name}: {fault.what}"
    return shapes


def _as_through_all(
    of: stem.Stem,
    asked: Question,
    shapes: Shapes,
    lengths: tuple[int, ...],
    first: bytes,
    other: bytes,
) -> bool:
    """Whether records' gradients behind what was kept at one state are those through the whole model at the other."""
    plain = replace(asked.encode(asked.synthetic(lengths, PROBES)), shapes=shapes, known=None)
    kept = Kept(of, _bare(plain, shapes), ROOM)
    adapter_tensors.load(asked.built, first)
    kept.ahead(PROBES)
    adapter_tensors.load(asked.built, other)
    whole = [asked.found(plain, [record])[0] for record in range(PROBES)]
    behind = replace(plain, known=kept)  # in another order: what one record leaves is not what the next one finds
    return all(same(whole[record], asked.found(behind, [record])[0]) for record in reversed(range(PROBES)))


def _alike(of: stem.Stem, asked: Question, shapes: Shapes) -> bool:
    """Whether it gives each record the same bits alone and in every batch of these shapes."""
    for lengths in shapes.lengths:
        kept = Kept(of, _bare(asked.encode(asked.synthetic(lengths, BATCHED)), shapes), 0)
        alone = [kept.computed([record]) for record in range(BATCHED)]
        for count in shapes.possible(shapes.padded(lengths[0])):
            order = [(row + 1) % BATCHED for row in range(count)]
            found = kept.computed(order)
            if not all(torch.equal(alone[record][0], one) for record, one in zip(order, found, strict=True)):
                return False
    return True
