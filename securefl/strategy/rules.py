"""FedAvg under a rule for LoRA's two factors: the sum moves what the round trained, and nothing else.

With one factor common to all members, the mean of the other gives the exact mean of the products BA. That holds for
``b-only``, ``alternating`` and ``svd``; ``both`` misses it by the members' covariance of B and A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from securefl.strategy import adapter_state, weights
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.server import Optimizer
from securefl.terms import AdapterRule, Aggregate, Sharing
from securefl.terms.layout import ALL, Layout, stays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FactorServer:
    """A server optimizer on what a round trains and shares; under ``svd``, both factors are then chosen anew.

    ``FedAvg``'s momentum under ``svd`` is that of the product: the state before is first written in today's basis,
    which is exact, because all bases of a run span the same space.

    Raises:
        ValueError: momentum with ``alternating``, whose state before last is not kept; moments or own models with a
            basis that changes; a tensor at home that there is not; or nothing that is shared.
    """

    layout: Layout
    inner: Optimizer
    sharing: Sharing = ALL

    def __post_init__(self) -> None:
        fixed = self.layout.rule in (AdapterRule.B_ONLY, AdapterRule.BOTH)
        if self.layout.rule is AdapterRule.ALTERNATING and isinstance(self.inner, FedAvg) and self.inner.momentum:
            raise ValueError("momentum with the alternating rule")
        if not fixed and not isinstance(self.inner, FedAvg):
            raise ValueError(f"{type(self.inner).__name__} with the rule {self.layout.rule.value}: its moments rest")
        if not fixed and self.sharing.keeps:
            raise ValueError(f"own models with the rule {self.layout.rule.value}: use b-only")
        names = [tensor.name for tensor in self.layout.tensors]
        for each in self.sharing.home:
            if not any(stays(name, Sharing(home=(each,))) for name in names):
                raise ValueError(f"no tensor has {each} in its name: {', '.join(names)}")
        if not self.layout.sent(1, self.sharing):
            raise ValueError("every tensor stays at home")

    def begin(self, state: bytes) -> bytes:
        """Return what the optimizer remembers at first: of the whole state for ``FedAvg``, else of what is shared."""
        if isinstance(self.inner, FedAvg):
            return self.inner.begin(state)
        return self.inner.begin(adapter_state.cut(state, self.layout.sent(1, self.sharing)))

    def broadcast(self, state: bytes) -> bytes:
        """The first state that goes out: the model's."""
        return state

    def dimension(self, round_: int, state: bytes) -> int:
        """As the layout says."""
        del state
        return self.layout.dimension(round_, self.sharing)

    def advance(self, round_: int, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        """The state of the next round: what the round did not share is as it was, but for the new basis of ``svd``.

        Remembered is this round's whole state for ``FedAvg``, else the optimizer's moments.

        Raises:
            Forged: weights that no honest members have.
        """
        moved, moments = self._move(round_, state, memory, aggregate)
        after = adapter_state.put(state, self.layout.sent(round_, self.sharing), moved)
        if self.layout.rule is AdapterRule.SVD:
            after = rebased(self.layout, after)
        return after, state if isinstance(self.inner, FedAvg) else moments

    def _move(self, round_: int, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        parts = self.layout.sent(round_, self.sharing)
        if isinstance(self.inner, FedAvg):
            before = in_basis_of(self.layout, memory, state) if self.layout.rule is AdapterRule.SVD else memory
            memory = adapter_state.cut(before, parts)
        return self.inner.move(
            adapter_state.cut(state, parts), memory, weights.mean(self.sharing.weightings, aggregate)
        )


def rebased(layout: Layout, state: bytes) -> bytes:
    """The same products BA: A's rows are the right singular vectors, orthonormal, and B is U S.

    Computed of the small factors alone, in float64: Q R of B and of A's transpose, and the SVD of a (rank, rank) core.
    It looks at nothing but a sum that is already private, so it costs nothing.
    """
    import numpy as np  # noqa: PLC0415

    values = adapter_state.reals(state)
    for a_at, b_at, a, b in _factors(layout, values):
        rows, rows_core = np.linalg.qr(a.T)  # (in, rank), (rank, rank)
        columns, columns_core = np.linalg.qr(b)  # (out, rank'), (rank', rank)
        left, sizes, right = np.linalg.svd(columns_core @ rows_core.T)
        new_a = right @ rows.T
        new_b = np.zeros_like(b)
        new_b[:, : len(sizes)] = columns @ left[:, : len(sizes)] * sizes
        signs = np.sign(new_a[np.arange(len(new_a)), np.abs(new_a).argmax(1)])  # the same on every machine
        values[a_at], values[b_at] = (new_a * signs[:, None]).ravel(), (new_b * signs).ravel()
    return adapter_state.stored(values)


def in_basis_of(layout: Layout, state: bytes, other: bytes) -> bytes:
    """The state with ``other``'s A, and the B that gives the same products as far as they lie in its span."""
    values, wanted = adapter_state.reals(state), adapter_state.reals(other)
    for (a_at, b_at, a, b), (_, _, basis, _) in zip(_factors(layout, values), _factors(layout, wanted), strict=True):
        values[a_at], values[b_at] = basis.ravel(), (b @ (a @ basis.T)).ravel()
    return adapter_state.stored(values)


Factors = tuple[slice, slice, "NDArray[np.float64]", "NDArray[np.float64]"]


def _factors(layout: Layout, values: NDArray[np.float64]) -> list[Factors]:
    """Per layer: where A and B stand, A (rank, in) and B (out, rank)."""
    places = layout.places()
    return [
        (
            places[a.name],
            places[b.name],
            values[places[a.name]].reshape(a.shape),
            values[places[b.name]].reshape(b.shape),
        )
        for a, b in layout.products()
    ]
