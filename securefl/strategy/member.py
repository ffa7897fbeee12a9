"""The member's half of every strategy: where training starts, and what of it leaves."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securefl.strategy import adapter_state, weights, worldlm
from securefl.strategy.fedper import at_home
from securefl.strategy.l2gd import pulled
from securefl.terms import Plan
from securefl.terms.layout import Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MemberStrategy:
    """A member's half, as the plan's ``sharing`` says."""

    layout: Layout
    origin: bytes = b""  # the public start, which attention counts changes from; empty: zeros

    def start(self, plan: Plan, base: bytes, kept: bytes) -> bytes:
        """The broadcast state, or as much of the member's own as the strategy leaves it."""
        sharing = plan.sharing
        if sharing.attention is not None:
            return worldlm.mixed(self.layout, sharing.attention, self.origin, base, kept)
        if not kept or not sharing.keeps:
            return base
        moved = base if sharing.pull is None else pulled(kept, base, sharing.pull)
        return at_home(self.layout, sharing, moved, kept)

    def moved(self, base: bytes, start: bytes, after: bytes) -> bytes:
        """The broadcast as this round's change moves it: what a weight is made of, and nothing that was kept."""
        return adapter_state.moved(base, start, after)

    def weights(self, plan: Plan, scores: tuple[float, ...], kept: bytes) -> tuple[float, ...]:
        """This member's weight in each sum of the round, from its scores and the weights it kept; none kept count 1."""
        weightings = plan.sharing.weightings
        fits = len(kept) == 8 * len(weightings)
        before = struct.unpack(f"<{len(weightings)}d", kept) if fits else (1.0,) * len(weightings)
        return tuple(map(weights.renewed, weightings, scores, before))

    def share(
        self, plan: Plan, base: bytes, start: bytes, after: bytes, own: tuple[float, ...]
    ) -> NDArray[np.float64]:  # fmt: skip
        """This round's change in what is shared, times each of its own weights: (plan.dimension,).

        It is the change from this member's own start: what it brought along of its own model does not leave again.
        """
        import numpy as np  # noqa: PLC0415

        if plan.sharing.attention is not None:
            return worldlm.sent(self.layout, plan.sharing.attention, self.origin, base, start, after)
        change = adapter_state.reals(after) - adapter_state.reals(start)
        sent = np.concatenate([change[part] for part in self.layout.sent(plan.round, plan.sharing)])
        return weights.weighted(own, sent)
