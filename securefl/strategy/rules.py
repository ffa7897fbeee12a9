"""FedAvg under a rule for LoRA's two factors: the sum moves what the round trained, and nothing else.

With one factor common to all members, the mean of the other gives the exact mean of the products BA. That holds for
``b-only``, ``alternating`` and ``svd``; ``both`` misses it by the members' covariance of B and A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from securefl.layout import Layout
from securefl.strategy.fedavg import FedAvg
from securefl.terms import AdapterRule, Aggregate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ruled:
    """``FedAvg`` on the tensors that a round trains; under ``svd``, both factors are then chosen anew.

    Momentum under ``svd`` is that of the product: the state before is first written in today's basis, which is exact,
    because all bases of a run span the same space.

    Raises:
        ValueError: momentum with ``alternating``: the state before last, which it needs, is not kept.
    """

    layout: Layout
    inner: FedAvg

    def __post_init__(self) -> None:
        if self.layout.rule is AdapterRule.ALTERNATING and self.inner.momentum:
            raise ValueError("momentum with the alternating rule")

    def dimension(self, round_: int, state: bytes) -> int:
        """As the layout says."""
        del state
        return self.layout.dimension(round_)

    def next(self, round_: int, state: bytes, previous: bytes, aggregate: Aggregate) -> bytes:
        """The state of the next round: what the round did not train is as it was, but for the new basis of ``svd``."""
        import numpy as np  # noqa: PLC0415

        if self.layout.rule is AdapterRule.SVD:
            previous = in_basis_of(self.layout, previous, state)
        parts = self.layout.trained(round_)
        now, before = np.frombuffer(state, "<f4"), np.frombuffer(previous, "<f4")
        trained, earlier = (np.concatenate([each[part] for part in parts]).tobytes() for each in (now, before))
        moved = np.frombuffer(self.inner.next(round_, trained, earlier, aggregate), "<f4")
        after, start = now.copy(), 0
        for part in parts:
            size = part.stop - part.start
            after[part] = moved[start : start + size]
            start += size
        made = after.astype("<f4").tobytes()
        return rebased(self.layout, made) if self.layout.rule is AdapterRule.SVD else made


def rebased(layout: Layout, state: bytes) -> bytes:
    """The same products BA: A's rows are the right singular vectors, orthonormal, and B is U S.

    Computed of the small factors alone, in float64: Q R of B and of A's transpose, and the SVD of a (rank, rank) core.
    It looks at nothing but a sum that is already private, so it costs nothing.
    """
    import numpy as np  # noqa: PLC0415

    values = np.frombuffer(state, "<f4").astype(np.float64)
    for a_at, b_at, a, b in _factors(layout, values):
        rows, rows_core = np.linalg.qr(a.T)  # (in, rank), (rank, rank)
        columns, columns_core = np.linalg.qr(b)  # (out, rank'), (rank', rank)
        left, sizes, right = np.linalg.svd(columns_core @ rows_core.T)
        new_a = right @ rows.T
        new_b = np.zeros_like(b)
        new_b[:, : len(sizes)] = columns @ left[:, : len(sizes)] * sizes
        signs = np.sign(new_a[np.arange(len(new_a)), np.abs(new_a).argmax(1)])  # the same on every machine
        values[a_at], values[b_at] = (new_a * signs[:, None]).ravel(), (new_b * signs).ravel()
    return values.astype("<f4").tobytes()


def in_basis_of(layout: Layout, state: bytes, other: bytes) -> bytes:
    """The state with ``other``'s A, and the B that gives the same products as far as they lie in its span."""
    import numpy as np  # noqa: PLC0415

    values, wanted = (np.frombuffer(each, "<f4").astype(np.float64) for each in (state, other))
    for (a_at, b_at, a, b), (_, _, basis, _) in zip(_factors(layout, values), _factors(layout, wanted), strict=True):
        values[a_at], values[b_at] = basis.ravel(), (b @ (a @ basis.T)).ravel()
    return values.astype("<f4").tobytes()


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
