"""How good is an adapter on records that were not trained on? Numbers for this bench; a real site keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from securefl.training.classifier import Classifier
from securefl.training.step import Encoded, micro_batches


@dataclass(frozen=True, slots=True)
class Scores:
    """A confusion matrix: ``counts[truth][guess]``."""

    counts: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Records scored."""
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float:
        """Share that is right; 0 for no records."""
        return sum(row[i] for i, row in enumerate(self.counts)) / max(self.n, 1)

    @property
    def majority(self) -> float:
        """Share of the most frequent label: what a constant answer would reach."""
        return max((sum(row) for row in self.counts), default=0) / max(self.n, 1)

    @property
    def macro_f1(self) -> float:
        """Mean over labels of the harmonic mean of precision and recall; a label nobody has or guesses counts 0."""
        scores = []
        for i, row in enumerate(self.counts):
            guessed = sum(other[i] for other in self.counts)
            scores.append(2 * row[i] / (sum(row) + guessed) if sum(row) + guessed else 0.0)
        return sum(scores) / max(len(scores), 1)


def score(model: Classifier, encoded: Encoded, labels: int) -> Scores:
    """The model's guesses against the truth."""
    counts = [[0] * labels for _ in range(labels)]
    with torch.no_grad():
        for part in micro_batches(encoded, range(len(encoded.ids)), 128):
            ids, mask, truth = (each.to(model.center.device) for each in encoded.batch(part))
            with encoded.behind(part, len(part)):
                guesses = model(ids, mask).argmax(1).tolist()
            for right, guess in zip(truth.tolist(), guesses, strict=True):
                counts[right][guess] += 1
    return Scores(tuple(map(tuple, counts)))


def pooled(parts: Iterable[Scores]) -> Scores:
    """All records together."""
    matrices = [part.counts for part in parts]
    size = len(matrices[0]) if matrices else 0
    return Scores(tuple(tuple(sum(m[i][j] for m in matrices) for j in range(size)) for i in range(size)))
