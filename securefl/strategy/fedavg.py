"""FedAvg on adapters: the next state is this one plus a step along the members' mean change.

McMahan et al. (2017), with equal weights: weights that depend on how many records a member has would be private
numbers in the clear. With a frozen, shared A the mean of B is the exact mean of the products BA (FFA-LoRA, Sun et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from securefl.terms import Aggregate


@dataclass(frozen=True, slots=True)
class FedAvg:
    """``state + learning_rate * mean(change)``; float32, little endian, (dimension,)."""

    learning_rate: Fraction = Fraction(1)

    def next(self, state: bytes, aggregate: Aggregate) -> bytes:
        """The state of the next round. The arithmetic is float64, rounded once to float32."""
        import numpy as np  # noqa: PLC0415 - the only line of this layer that needs it

        before = np.frombuffer(state, dtype="<f4").astype(np.float64)
        after = before + float(self.learning_rate) * aggregate.mean()
        return after.astype("<f4").tobytes()
