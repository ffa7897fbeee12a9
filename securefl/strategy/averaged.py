"""The mean of the states after the last rounds: what is released at the end, in the place of the last one.

Polyak and Juditsky (1992). Each state is made of sums that are private already, so their mean costs nothing; and each
of them but the last was sent to everybody, so it says nothing that they and the last one would not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from securefl.strategy import adapter_state
from securefl.terms import AdapterRule

if TYPE_CHECKING:
    from securefl.strategy.rules import FactorServer
    from securefl.terms import Aggregate

SUM_BYTES = 8  # of one entry of the sum: float64, little endian


@dataclass(frozen=True, slots=True)
class Averaged:
    """A strategy whose last round gives the mean of the states after the ``last`` rounds of ``rounds``.

    Memory is the sum of these so far, float64, (entries,), and behind it what the strategy itself remembers. Every
    round but the last is the strategy's own. The mean is of float64, rounded once to float32.

    Raises:
        ValueError: more rounds than there are; or a rule or sharing under which states cannot be averaged.
    """

    inner: FactorServer
    rounds: int
    last: int  # 2 or more

    def __post_init__(self) -> None:
        if not 2 <= self.last <= self.rounds:
            raise ValueError(f"average_last {self.last} is not in 2 to rounds, {self.rounds}")
        if self.inner.layout.rule is not AdapterRule.B_ONLY:
            raise ValueError(
                f"the mean of states under rule {self.inner.layout.rule.value} is not that of the products BA"
            )
        if self.inner.sharing.keeps:
            raise ValueError("members keep models of their own, which no mean of states is")

    def begin(self, state: bytes) -> bytes:
        """No sum yet, and what the strategy remembers."""
        return bytes(SUM_BYTES * adapter_state.entries(state)) + self.inner.begin(state)

    def broadcast(self, state: bytes) -> bytes:
        """The first state that goes out."""
        return self.inner.broadcast(state)

    def dimension(self, round_: int, state: bytes) -> int:
        """As the strategy says."""
        return self.inner.dimension(round_, state)

    def advance(self, round_: int, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        """The strategy's next state; after the last round, the mean.

        Raises:
            Forged: as for the strategy.
        """
        import numpy as np  # noqa: PLC0415

        cut = SUM_BYTES * adapter_state.entries(state)
        after, remembered = self.inner.advance(round_, state, memory[cut:], aggregate)
        total = np.frombuffer(memory[:cut], "<f8")
        if round_ > self.rounds - self.last:
            total = total + adapter_state.reals(after)
        if round_ == self.rounds:
            after = adapter_state.stored(total / self.last)
        return after, total.astype("<f8").tobytes() + remembered
