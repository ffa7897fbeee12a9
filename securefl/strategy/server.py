"""The server's optimizer: what every one of them is, and the one that a document names.

What an optimizer does stands in the file of its name, as ``SERVER``; its name and its numbers, in ``documents``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from securefl.documents.strategy import StrategyPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Optimizer(Protocol):
    """A step along the members' mean change. States are float32, little endian, (entries,)."""

    def begin(self, state: bytes) -> bytes:
        """Return what it remembers before the first round."""
        ...

    def move(self, state: bytes, memory: bytes, change: NDArray[np.float64]) -> tuple[bytes, bytes]:
        """The next state and what is remembered, for a mean change: (entries,)."""
        ...


def optimizer(strategy: StrategyPart) -> Optimizer:
    """The server's optimizer, with the numbers that the document gives it."""
    numbers = {name: getattr(strategy, name) for name in ("learning_rate", *strategy.kind.numbers)}
    made: Optimizer = import_module(f"securefl.strategy.{strategy.kind.value}").SERVER(**numbers)
    return made
