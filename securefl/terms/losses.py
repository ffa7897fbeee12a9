"""A record's loss."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """A record's loss is the cross-entropy of its own label."""


@dataclass(frozen=True, slots=True)
class NotTrueDistillation:
    """Plus ``beta * t**2 * KL(broadcast model || own model)`` at temperature t, on the same record.

    Over the labels the record does not have (FedNTD, Lee et al. 2022), or over all of them (FedLSD).
    """

    beta: Fraction  # (0, 1000]
    temperature: Fraction  # [1/100, 100]
    true_label: bool  # whether the record's own label is compared too

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1000:
            raise ValueError(f"beta={self.beta} is not in (0, 1000]")
        _temperate(self.temperature)


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """LP-FL-style: a record without a label learns from what the broadcast model says of it, once that is sure enough.

    Its loss is ``weight * KL(p || own model)`` if the largest of p = softmax(logits / temperature) reaches the round's
    threshold, and nothing otherwise: a function of this record, the broadcast and public constants alone.
    """

    weight: Fraction  # (0, 1000]
    temperature: Fraction  # [1/100, 100]
    first: Fraction  # [0, 1]: threshold of round 1
    last: Fraction  # [0, 1]: threshold of round ``rounds`` and later; between them it moves in equal steps
    rounds: int  # >= 1

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1000:
            raise ValueError(f"weight={self.weight} is not in (0, 1000]")
        _temperate(self.temperature)
        if not (0 <= self.first <= 1 and 0 <= self.last <= 1 and self.rounds >= 1):
            raise ValueError(f"no thresholds: {self.first} to {self.last} in {self.rounds} rounds")

    def threshold(self, round_: int) -> Fraction:
        """The public schedule, in place of a set that grows by what it holds."""
        return self.first + (self.last - self.first) * Fraction(min(round_, self.rounds) - 1, max(self.rounds - 1, 1))


class Scorer(StrEnum):
    """How unsure the broadcast model is of a record, from its logits for that record alone."""

    ENERGY = "energy"  # -T log sum_c exp(z_c / T) (Liu et al. 2020)
    ENTROPY = "entropy"  # of softmax(z / T)
    MARGIN = "margin"  # minus what the largest of z / T is above the second
    NONE = "none"  # of all records alike


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """FewFedWeight-style: ``loss(x, y) + weight * w(x) * loss(x, what the broadcast model answers)``, as one loss.

    w(x) = sigmoid((R - score(x)) / width), in (0, 1), where R is the median score on made-up public text: a function of
    this record, the broadcast and public constants alone. Under ``none`` it is 1.
    """

    weight: Fraction  # (0, 1000]
    scorer: Scorer
    temperature: Fraction  # [1/100, 100]
    width: Fraction  # [1/1000, 1000]: how gradual the change from trusted to not trusted is
    first: int  # >= 1: the round from which on the broadcast model is asked: at the start it knows nothing

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1000:
            raise ValueError(f"weight={self.weight} is not in (0, 1000]")
        _temperate(self.temperature)
        if not (Fraction(1, 1000) <= self.width <= 1000 and self.first >= 1):
            raise ValueError(f"no pseudo labels: width {self.width}, from round {self.first}")


def _temperate(temperature: Fraction) -> None:
    if not Fraction(1, 100) <= temperature <= 100:
        raise ValueError(f"temperature={temperature} is not in [1/100, 100]")


Loss = CrossEntropy | NotTrueDistillation | SoftLabels | PseudoLabels  # a closed list
