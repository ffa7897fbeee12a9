"""How a member trains: clipping, steps, rates."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from securefl.terms.events import Event
from securefl.terms.losses import CrossEntropy, Loss
from securefl.terms.names import Unit


@dataclass(frozen=True, slots=True)
class Flat:
    """A gradient g becomes g * min(1, C / |g|) (Abadi et al. 2016)."""


@dataclass(frozen=True, slots=True)
class Automatic:
    """A gradient g becomes g * C / (|g| + gamma), of norm below C whatever g is (Bu et al. 2022, AUTO-S)."""

    gamma: Fraction  # [1e-9, 1e9]

    def __post_init__(self) -> None:
        if not Fraction(1, 10**9) <= self.gamma <= 10**9:
            raise ValueError(f"gamma={self.gamma} is not in [1e-9, 1e9]")


MOST_SHARE = Fraction(99, 100)  # of an event's L2 bound that a count may take: half the noise alone would take it all


@dataclass(frozen=True, slots=True)
class Quantile:
    """Flat, with a C that follows a quantile of the norms, found by a noised count (Andrew et al. 2021).

    It starts each round at the plan's clip and is never above it. The count is paid for out of the event's own noise.
    """

    target: Fraction  # (0, 1): the share of gradients that should be below C
    rate: Fraction  # (0, 1]: C moves by exp(-rate * (noised share below C - target)) a step
    count_noise: Fraction  # >= noise_multiplier / 2 / MOST_SHARE: standard deviation of the noise on the count

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"target={self.target} is not in (0, 1)")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate={self.rate} is not in (0, 1]")
        if not self.count_noise > 0:
            raise ValueError(f"count_noise={self.count_noise} is not above 0")

    def count_share(self, noise_multiplier: Fraction) -> Fraction:
        """The part of the L2 bound that the count takes; the gradient is left sqrt(1 - count_share**2) of it.

        Raises:
            ValueError: the count alone would cost the whole event, or nearly.
        """
        share = noise_multiplier / (2 * self.count_noise)
        if not 0 < share <= MOST_SHARE:
            least = noise_multiplier / 2 / MOST_SHARE
            what = f"count_noise={self.count_noise} is too little beside noise_multiplier={noise_multiplier}"
            raise ValueError(f"{what}: raise it to {least}, or lower noise_multiplier")
        return share


Clipping = Flat | Automatic | Quantile  # a closed list


@dataclass(frozen=True, slots=True)
class Learning:
    """How a member trains. Every number is a public constant: none depends on how many records a member has."""

    event: Event
    clip_l2: Fraction  # > 0: L2 norm that one record's gradient (unit record) or the update (unit client) is clipped to
    divisor: int  # >= 1: what the noised sum of a step is divided by; 1 where steps have no noise
    learning_rate: Fraction
    optimizer: str  # "sgd" | "adamw" | "adamw-bc"
    max_tokens: int
    micro_batch: int  # >= 1: records that are in memory at once
    clipping: Clipping = Flat()
    micro_tokens: int | None = None  # >= max_tokens: tokens, padding included, that are in memory at once
    loss: Loss = CrossEntropy()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if isinstance(self.clipping, Quantile):
            self.clipping.count_share(self.event.noise_multiplier)
        if self.event.unit is Unit.CLIENT and not (isinstance(self.clipping, Flat) and self.optimizer != "adamw-bc"):
            raise ValueError("clipping by record and adamw-bc need noise in every step, which unit client has not")
