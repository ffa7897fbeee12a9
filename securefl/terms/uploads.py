"""What one member sends in a round: how many numbers, how unequally weighted, and whether all of it is of this round.

Machines, rules and bounds ask a plan's ``Upload``, never for one strategy by its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from securefl.errors import Forged
from securefl.terms.sharing import Attention, Sharing, Weighting


class Tensors(Protocol):
    """Where the tensors of a state stand, as far as an upload asks: see ``layout.Layout``."""

    def sent(self, round_: int, sharing: Sharing) -> tuple[slice, ...]:
        """Those that a round trains and that do not stay at home."""
        ...

    def keys(self, attention: Attention) -> tuple[slice, ...]:
        """Those that attention mixes."""
        ...

    def backbone(self, attention: Attention) -> tuple[slice, ...]:
        """The others."""
        ...


class Upload(Protocol):
    """What one member sends in a round."""

    @property
    def exponent(self) -> Fraction:
        """Two honest weights of one sum differ by a factor of exp(``exponent``) at most; 0 where all are equal."""
        ...

    @property
    def is_fresh(self) -> bool:
        """Whether it may be added over cohorts that differ: nothing that a member keeps has a part in its weights."""
        ...

    def dimension(self, layout: Tensors, round_: int) -> int:
        """Return how many numbers it is, of an adapter state with these tensors."""
        ...

    def covers(self, dimension: int, entries: int, *, rests: bool) -> bool:
        """Whether so many numbers can be the upload of a state of ``entries``, some of which rest where ``rests``."""
        ...

    def weights(self, dimension: int) -> int:
        """Return how many of so many numbers are weights, each at most 1; more where the plan does not say."""
        ...

    def weighed(self, dimension: int) -> tuple[tuple[int, Fraction], ...]:
        """Return where weights stand, each with the clip of its exponent; none where the plan does not say."""
        ...


@dataclass(frozen=True, slots=True)
class Averaged:
    """The changes that are shared: once, or for each weighting once with the weight behind."""

    sharing: Sharing

    @property
    def exponent(self) -> Fraction:
        """Twice the widest that a weighting reaches."""
        return max((2 * _reach(each) for each in self.sharing.weightings), default=Fraction(0))

    @property
    def is_fresh(self) -> bool:
        """A weight may not, where it is moved from the one before or follows from a change of a model that was kept."""
        return not (self.sharing.weightings and (self.sharing.keeps or self.sharing.remembers))

    def dimension(self, layout: Tensors, round_: int) -> int:
        """The shared entries of this round."""
        return self._times(_entries(layout.sent(round_, self.sharing)))

    def covers(self, dimension: int, entries: int, *, rests: bool) -> bool:
        """All of the state, or less of it where tensors rest or stay at home."""
        copies = len(self.sharing.weightings)
        shared = dimension // copies - 1 if copies else dimension
        if self._times(shared) != dimension:
            return False
        return entries > shared if rests or self.sharing.home else entries == shared

    def weights(self, dimension: int) -> int:
        """One in each copy."""
        del dimension
        return len(self.sharing.weightings)

    def weighed(self, dimension: int) -> tuple[tuple[int, Fraction], ...]:
        """At the end of each copy."""
        weightings = self.sharing.weightings
        each = dimension // max(1, len(weightings))
        return tuple((each * copy - 1, weighting.clip) for copy, weighting in enumerate(weightings, 1))

    def _times(self, shared: int) -> int:
        copies = len(self.sharing.weightings)
        return copies * (shared + 1) if copies else shared


@dataclass(frozen=True, slots=True)
class Attended:
    """The backbone's changes, and the keys' for each sum, with a weight for each key behind them."""

    attention: Attention
    sums: int

    @property
    def exponent(self) -> Fraction:
        """Twice what a score reaches: a cosine is within 1."""
        return 2 * min(self.attention.clip, self.attention.sharpness)

    @property
    def is_fresh(self) -> bool:
        """A weight follows from a change of tensors that the member kept."""
        return False

    def dimension(self, layout: Tensors, round_: int) -> int:
        """Every round trains the whole state."""
        del round_
        keys = layout.keys(self.attention)
        return _entries(layout.backbone(self.attention)) + self.sums * (_entries(keys) + len(keys))

    def covers(self, dimension: int, entries: int, *, rests: bool) -> bool:
        """The state, its residuals among it, and for each sum as many weights as there are keys."""
        del rests
        weights = dimension - entries
        return weights >= self.sums and weights % self.sums == 0

    def weights(self, dimension: int) -> int:
        """As many as there are key tensors for each sum: how many these are, the plan does not say."""
        return dimension

    def weighed(self, dimension: int) -> tuple[tuple[int, Fraction], ...]:
        """The plan does not say."""
        del dimension
        return ()


def check_weight(clip: Fraction, found: float, members: int, grid: float) -> None:
    """Check what so many members' weights exp(s - ``clip``), s within +-``clip``, add up to: of one, or of a sum.

    Args:
        found: in units of 1; each weight was rounded to a multiple of 1 / ``grid``.

    Raises:
        Forged: no honest members' weights add up to it.
    """
    least, rounding = members * math.exp(-2 * float(clip)), members / grid
    if not least - rounding <= found <= members + rounding:
        raise Forged(f"weights of {members} members add up to {found:g}, outside [{least:g}, {members}]")


def upload_of(sharing: Sharing) -> Upload:
    """Return what a member sends under this sharing."""
    return Averaged(sharing) if sharing.attention is None else Attended(sharing.attention, sharing.sums)


def _entries(places: tuple[slice, ...]) -> int:
    sizes: list[int] = [place.stop - place.start for place in places]
    return sum(sizes)


def _reach(weighting: Weighting) -> Fraction:
    """Return how far from 1 a weight can be, in its exponent.

    An agreement is within 1; against a probe, or where a weight is moved from its top, the clip alone bounds it.
    """
    if weighting.probe is not None or weighting.renewal < 1:
        return weighting.clip
    return min(weighting.clip, abs(weighting.sharpness))
