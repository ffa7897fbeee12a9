"""FedAdam: each coordinate's step follows the size of the mean changes so far (Reddi et al. 2021, algorithm 2).

Both moments are made of sums that are private already, so they cost nothing. No bias is taken out, as in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from securefl.strategy import adapter_state

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FedAdam:
    """``state + learning_rate * m / (sqrt(v) + floor)``; memory is m and v, float64, little endian, (2 * entries,)."""

    learning_rate: Fraction = Fraction(1, 100)
    first: Fraction = Fraction(9, 10)  # [0, 1): of the mean
    second: Fraction = Fraction(99, 100)  # [0, 1): of the square
    floor: Fraction = Fraction(1, 1000)  # > 0: the source's tau, where v starts as its square

    def begin(self, state: bytes) -> bytes:
        """No mean, and the least square."""
        import numpy as np  # noqa: PLC0415

        entries = adapter_state.entries(state)
        return np.repeat([0.0, float(self.floor) ** 2], entries).astype("<f8").tobytes()

    def move(self, state: bytes, memory: bytes, change: NDArray[np.float64]) -> tuple[bytes, bytes]:
        """The next state and what is remembered, for a mean change: (entries,)."""
        import numpy as np  # noqa: PLC0415

        mean, square = np.split(np.frombuffer(memory, "<f8"), 2)
        mean = float(self.first) * mean + float(1 - self.first) * change
        square = float(self.second) * square + float(1 - self.second) * change**2
        step = mean / (np.sqrt(square) + float(self.floor))
        after = adapter_state.reals(state) + float(self.learning_rate) * step
        return adapter_state.stored(after), np.concatenate([mean, square]).astype("<f8").tobytes()


SERVER = FedAdam
