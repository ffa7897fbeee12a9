"""FedAvg on adapters: the next state is this one plus a step along the members' mean change.

McMahan et al. (2017), with equal weights: weights that depend on how many records a member has would be private
numbers in the clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from securefl.strategy import adapter_state
from securefl.terms import Aggregate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FedAvg:
    """``state + learning_rate * mean(change) + momentum * (state - previous)``; float32, little endian, (entries,).

    Momentum is FedAvgM's (Hsu, Qi and Brown 2019), written with the previous state: two states and a sum replay it.
    """

    learning_rate: Fraction = Fraction(1)
    momentum: Fraction = Fraction(0)

    def dimension(self, round_: int, state: bytes) -> int:
        """Every round's update covers the whole state."""
        del round_
        return adapter_state.entries(state)

    def begin(self, state: bytes) -> bytes:
        """The state before the first is the first."""
        return state

    def advance(self, round_: int, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        """The state of the next round, and the state this round started from."""
        del round_
        return self.move(state, memory, aggregate.mean())

    def move(self, state: bytes, memory: bytes, change: NDArray[np.float64]) -> tuple[bytes, bytes]:
        """The next state and what is remembered, for a mean change: (entries,). Float64, rounded once to float32."""
        now, before = adapter_state.reals(state), adapter_state.reals(memory)
        after = now + float(self.learning_rate) * change + float(self.momentum) * (now - before)
        return adapter_state.stored(after), state


SERVER = FedAvg
