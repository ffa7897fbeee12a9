"""Nesterov's momentum on the members' mean change; the coordinator keeps the velocity v = momentum * v + change."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from securefl.strategy import adapter_state

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FedNesterov:
    """``state + learning_rate * (change + momentum * v)``; memory is v, float64, little endian, (entries,)."""

    learning_rate: Fraction = Fraction(1)
    momentum: Fraction = Fraction(1, 2)  # [0, 1)

    def begin(self, state: bytes) -> bytes:
        """At rest."""
        return bytes(2 * len(state))

    def move(self, state: bytes, memory: bytes, change: NDArray[np.float64]) -> tuple[bytes, bytes]:
        """The next state and what is remembered, for a mean change: (entries,)."""
        import numpy as np  # noqa: PLC0415

        speed = float(self.momentum) * np.frombuffer(memory, "<f8") + change
        step = float(self.learning_rate) * (change + float(self.momentum) * speed)
        return adapter_state.stored(adapter_state.reals(state) + step), speed.astype("<f8").tobytes()


SERVER = FedNesterov
