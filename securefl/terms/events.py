"""What a round costs: events of noise, and epsilon in whole units."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, NewType

from securefl.terms.names import Unit

MicroEpsilon = NewType("MicroEpsilon", int)  # millionths of epsilon, rounded up
LEAST_NOISE, MOST_NOISE = Fraction(1, 2**32), Fraction(2**32)  # no noise, and noise that no float holds, are no events


def _check_noisy(noise_multiplier: object, steps: int) -> None:
    """Every step has noise, and there is one. An inf, a True or a "1" is no fraction, whatever it compares like."""
    if not (isinstance(noise_multiplier, Fraction) and LEAST_NOISE <= noise_multiplier <= MOST_NOISE):
        raise ValueError(f"noise_multiplier={noise_multiplier!r} is not a fraction in [2**-32, 2**32]")
    if steps < 1:
        raise ValueError(f"steps={steps} is not at least 1")


@dataclass(frozen=True, slots=True)
class PoissonGaussian:
    """``steps`` sums, each over a Poisson sample, clipped per record, with Gaussian noise.

    The sampled Gaussian mechanism of Mironov, Talwar and Zhang (2019). A value of this type always
    has noise: a multiplier that is missing, zero, negative or no finite fraction cannot be constructed.
    """

    unit: ClassVar[Unit] = Unit.RECORD

    sampling_rate: Fraction  # (0, 1]: each record's independent chance to be in one step
    noise_multiplier: Fraction  # [2**-32, 2**32]: standard deviation of the noise / clip_l2
    steps: int  # >= 1

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate={self.sampling_rate} is not in (0, 1]")
        _check_noisy(self.noise_multiplier, self.steps)


@dataclass(frozen=True, slots=True)
class FullBatchGaussian:
    """``steps`` sums, each over every record that a member has, clipped per record, with Gaussian noise.

    The Gaussian mechanism: nothing is sampled, so nothing is amplified, and there is no rate that a price could be
    lowered by. A value of this type always has noise, as above.
    """

    unit: ClassVar[Unit] = Unit.RECORD
    sampling_rate: ClassVar[Fraction] = Fraction(1)  # no field: it cannot be another

    noise_multiplier: Fraction  # [2**-32, 2**32]: standard deviation of the noise / clip_l2
    steps: int  # >= 1

    def __post_init__(self) -> None:
        _check_noisy(self.noise_multiplier, self.steps)


@dataclass(frozen=True, slots=True)
class DistributedDiscreteGaussian:
    """One sum of whole updates on a grid, each clipped, each with a share of discrete Gaussian noise by its member.

    The mechanism of Kairouz, Liu and Steinke (2021). Priced for ``honest`` shares: more are more noise, and independent
    of these, so they cost nothing. Neighbours differ in one member's update, which is replaced by zero; that the member
    took part is not hidden. A value of this type always has noise.
    """

    unit: ClassVar[Unit] = Unit.CLIENT

    clip_l2: Fraction  # > 0: L2 norm of a whole update
    noise_multiplier: Fraction  # > 0: standard deviation of the sum of ``honest`` shares / clip_l2
    honest: int  # >= 1: shares in a sum that nobody who pools with others knows
    dimension: int  # >= 1: entries of an update
    fraction_bits: int  # >= 0: the grid is 2**-fraction_bits
    sampling_rate: Fraction  # (0, 1]: each record's chance to be in one of ...
    steps: int  # >= 1: ... so many local steps; neither has a part in the cost

    def __post_init__(self) -> None:
        for name in ("clip_l2", "noise_multiplier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0")
        for name in ("honest", "dimension", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        if not 0 <= self.fraction_bits <= 64:
            raise ValueError(f"fraction_bits={self.fraction_bits} is not in 0..64")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate={self.sampling_rate} is not in (0, 1]")
        if self.deviation < 1:
            raise ValueError(
                f"a share of deviation {float(self.deviation):.3g} grid units is below 1: use a finer grid"
            )

    @property
    def sensitivity(self) -> int:
        """L2 norm of a clipped update in grid units, rounded up.

        Rounding to the nearest grid point adds at most sqrt(dimension) / 2, and float64's own error is far below the
        share of 2**-30 that is counted for it.
        """
        clipped = self.clip_l2 * (1 << self.fraction_bits) * (1 + Fraction(1, 1 << 30))
        root = math.isqrt(4 * self.dimension - 1) + 1  # 2 * sqrt(dimension), rounded up
        return math.ceil(clipped) + (root + 3) // 4

    @property
    def deviation(self) -> Fraction:
        """Parameter of one share, about its standard deviation, in grid units: rounded up to a 256th."""
        variance = (self.noise_multiplier * self.clip_l2 * (256 << self.fraction_bits)) ** 2 / self.honest
        return Fraction(math.isqrt(math.ceil(variance) - 1) + 1, 256)

    @property
    def reach(self) -> int:
        """No entry of a share is further from 0: 14 deviations, beyond which a discrete Gaussian has mass 2**-145."""
        return math.ceil(14 * self.deviation) + 1

    @property
    def longest(self) -> int:
        """No entry of a clipped update with its share is further from 0: grid units."""
        return math.ceil(self.clip_l2 * (1 << self.fraction_bits)) + 1 + self.reach

    @property
    def defect(self) -> Fraction:
        """Total variation between all honest shares as drawn and ideal ones: reach times 2**-128 for each entry."""
        return Fraction(self.honest * self.dimension * (self.reach + 1), 1 << 128)


# A closed list: a new mechanism is a new type, and a type never changes its meaning.
Event = PoissonGaussian | FullBatchGaussian | DistributedDiscreteGaussian


def covering(priced: Event, did: Event) -> Event:
    """An event that costs at least what either does: ``priced`` itself, where ``did`` is no more than it.

    What ran is never charged for less than was set aside, and for more if it was more.
    """
    if isinstance(priced, PoissonGaussian) and isinstance(did, PoissonGaussian):
        return replace(
            priced,
            sampling_rate=max(priced.sampling_rate, did.sampling_rate),
            noise_multiplier=min(priced.noise_multiplier, did.noise_multiplier),
            steps=max(priced.steps, did.steps),
        )
    if priced.unit is did.unit is Unit.RECORD:  # one of them, or both, had every record in every step
        least = min(priced.noise_multiplier, did.noise_multiplier)
        return FullBatchGaussian(least, max(priced.steps, did.steps))
    if isinstance(priced, DistributedDiscreteGaussian) and isinstance(did, DistributedDiscreteGaussian):
        return replace(priced, noise_multiplier=min(priced.noise_multiplier, did.noise_multiplier))
    return priced


class Unbounded(ValueError):
    """No finite cost describes this, so no budget can pay for it."""


class MixedUnits(Unbounded):
    """Events that hide records and events that hide members: no one epsilon describes both."""


def micro_epsilon(epsilon: float) -> MicroEpsilon:
    """Epsilon in millionths, rounded up: a cost is never understated.

    Raises:
        Unbounded: epsilon is infinite, negative or not a number.
    """
    if not 0 <= epsilon < math.inf:  # NaN fails every comparison, so it is refused here too
        raise Unbounded(f"epsilon={epsilon}")
    return MicroEpsilon(math.ceil(Fraction(epsilon) * 1_000_000))
