"""What a member learned, and the sum over a cohort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from securefl.terms.entries import Gathered
from securefl.terms.events import Event
from securefl.terms.names import MemberId
from securefl.terms.schemes import FixedPoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Update:
    """The change of the trainable tensors, and what training really did."""

    values: NDArray[np.float64]  # (dimension,)
    did: Event
    below: Gathered | None = None  # how a federation that is a member came to it

    def __repr__(self) -> str:
        return f"Update({len(self.values)} values, not shown)"

    def __reduce__(self) -> Any:  # noqa: ANN401 - the signature of object.__reduce__
        raise TypeError("an Update stays at its member: it has no serial form")


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """A sum over the survivors. Made by ``Protection.open`` alone."""

    total: NDArray[np.int64]  # (dimension,), in grid units
    survivors: tuple[MemberId, ...]
    encoding: FixedPoint

    def mean(self) -> NDArray[np.float64]:
        """The survivors' mean, as reals: (dimension,)."""
        return self.total / (len(self.survivors) * float(1 << self.encoding.fraction_bits))
