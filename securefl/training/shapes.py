"""The shapes a model computes in: rows of a batch and padded tokens, of a record's own length and constants alone.

Rounding of floats depends on the shape of a computation. A record is therefore padded as its own length says, never to
the longest of its neighbours, and a batch has one of a few numbers of rows. Which of these does not matter where
`invariance` has shown it at the plan's own base; elsewhere it is always the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

ANY = (1, 4, 8, 12, 16, 24, 32, 48, 64)  # for kernels that give a row the same bits in a batch of any of these
SAME = (16,)  # for kernels that do so in one shape: missing rows are filled
ALONE = (1,)  # for all others
LEAST = 16  # tokens: with fewer, matrix products of one row take other kernels
TOKENS = 4096  # of a batch at most: more are no faster
IDLE = 4  # a batch is filled up with fewer rows than these; more are worth a second batch
COPIES = 32  # of one row: whole vectors of the widest processor, so no row is left to a loop's tail


@dataclass(frozen=True, slots=True)
class Shapes:
    """What shapes records are computed in. Public: a plan's ``max_tokens`` and what `invariance` found."""

    most: int | None = None  # no record has more tokens, and no row
    counts: tuple[int, ...] = ANY  # ascending: how many rows a batch may have

    def padded(self, length: int) -> int:
        """Return how many tokens a record of this length is padded to: about a quarter more at most, from ``LEAST`` on.

        At least one more than its own, but for a record that has as many as there may be: some models take another
        kernel where no row of a batch is padded, so whether one is must not be its neighbours' matter.
        """
        step = 8
        while length + 1 > 8 * step:
            step *= 2
        bucket = max(LEAST, (length // step + 1) * step)
        return bucket if self.most is None or self.most < length else min(bucket, self.most)

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """All lengths up to ``most``, those together that share their batches."""
        together: dict[tuple[int, bool], list[int]] = {}
        for length in range(1, (self.most or LEAST) + 1):
            together.setdefault((self.padded(length), self.padded(length) == length), []).append(length)
        return tuple(map(tuple, together.values()))

    def possible(self, padded: int, room: int | None = None) -> tuple[int, ...]:
        """Return how many rows a batch may have: as many as there is memory for, but at least the least."""
        room = TOKENS // padded if room is None else min(room, TOKENS // padded)
        return tuple(count for count in self.counts if count <= room) or self.counts[:1]

    def rows(self, records: int, padded: int, room: int) -> int:
        """Return how many rows the next batch has, of so many records that are left, with memory for ``room`` rows."""
        allowed = self.possible(padded, room)
        enough = next((count for count in allowed if count >= records), allowed[-1])
        if enough - records < IDLE:
            return enough
        return max((count for count in allowed if count <= records), default=enough)

    def filled(self, records: int) -> int:
        """Return how many rows a batch of so many records has."""
        return next((count for count in self.counts if count >= records), records)


def copied(rows: torch.Tensor) -> torch.Tensor:
    """Each row ``COPIES`` times: (batch, ...) -> (batch, COPIES, ...). Of what is made of it, [:, 0] is the row's.

    So every row begins where a vector begins, and a product of rows takes the same kernel for one as for many.
    """
    return rows.unsqueeze(1).expand(-1, COPIES, *rows.shape[1:])


def by_row(function: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
    """Return what ``function`` gives for each row, computed on copies of it: (batch, ...) each -> (batch, ...).

    ``function`` may treat (batch * COPIES, ...) in any way that keeps rows apart.
    """
    out = function(*(copied(each).flatten(0, 1) for each in given))
    return out.view(len(given[0]), COPIES, *out.shape[1:])[:, 0]
