"""What members keep to themselves, and how they count."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from securefl.terms.names import Hash


@dataclass(frozen=True, slots=True)
class Weighting:
    """Each member's update counts exp(s) times, s = ``sharpness`` * score, clipped to +-``clip``.

    Scored is the broadcast as this round's change moves it, never a model that the member keeps: by its agreement with
    the broadcast, in (0, 1], on public text; or by minus its mean loss on public labelled text, the probe. Either is a
    function of what is private already, so it costs nothing. Over members it is a softmax. A member remembers its
    weight and moves it by ``renewal`` a round.
    """

    sharpness: Fraction  # [-1000, 1000]
    clip: Fraction  # (0, 4]: two honest weights differ by a factor of exp(2 clip) at most
    share: Fraction = Fraction(1)  # [-10, 10]: of this mean in the step
    renewal: Fraction = Fraction(1)  # (0, 1]: of the new weight; the rest is the one before, which is 1 at first and
    # where the weightings or the grid were others
    probe: Hash | None = None  # of the probe; None: the score is the agreement

    def __post_init__(self) -> None:
        if not (-1000 <= self.sharpness <= 1000 and 0 < self.clip <= 4 and -10 <= self.share <= 10):
            raise ValueError(f"no weighting: sharpness {self.sharpness}, clip {self.clip}, share {self.share}")
        if not 0 < self.renewal <= 1:
            raise ValueError(f"renewal={self.renewal} is not in (0, 1]")


@dataclass(frozen=True, slots=True)
class Attention:
    """WorldLM-style: key tensors meet the more, the more alike what became of them; the rest is averaged plainly.

    A member's tensor counts exp(s) times, s = ``sharpness`` * cos(a, b) within +-``clip``: b is the broadcast's change
    from the public start, a is b and this round's change. Both are private already, so it costs nothing.
    """

    keys: tuple[str, ...]  # tensors with such a part in their name; at least one
    sharpness: Fraction  # [0, 100]; 0 is a plain mean
    clip: Fraction  # (0, 4]: two honest weights differ by a factor of exp(2 clip) at most
    residual: bool = False  # a second sum, with exp(-s): what is least alike is shown to all, to be taken by its like

    def __post_init__(self) -> None:
        if not (self.keys and 0 <= self.sharpness <= 100 and 0 < self.clip <= 4):
            raise ValueError(f"no attention: keys {self.keys}, sharpness {self.sharpness}, clip {self.clip}")


@dataclass(frozen=True, slots=True)
class Sharing:
    """What of a member's training leaves it, and what its next round starts from: its half of a strategy."""

    weightings: tuple[Weighting, ...] = ()  # each is one more sum over the same updates; none: one sum, equal weights
    home: tuple[str, ...] = ()  # tensors with such a part in their name stay with the member (FedPer)
    pull: Fraction | None = (
        None  # [0, 1]: how far a member's own model moves to the broadcast (L2GD); None: all the way
    )
    attention: Attention | None = None  # members keep their own key tensors, and mix them with the broadcast's

    def __post_init__(self) -> None:
        if self.attention is not None and (self.weightings or self.home or self.pull is not None):
            raise ValueError("attention with weights, home or pull: it has its own")
        if self.pull is not None and not 0 <= self.pull <= 1:
            raise ValueError(f"pull={self.pull} is not in [0, 1]")

    @property
    def sums(self) -> int:
        """Sums over the same updates that a round opens."""
        return 1 + self.attention.residual if self.attention else max(1, len(self.weightings))

    @property
    def keeps(self) -> bool:
        """Whether members keep a model of their own from round to round."""
        return bool(self.home) or self.pull is not None or self.attention is not None

    @property
    def remembers(self) -> bool:
        """Whether members keep their weights from round to round."""
        return any(each.renewal < 1 for each in self.weightings)
