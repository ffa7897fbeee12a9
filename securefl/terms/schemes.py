"""How an update is hidden: the scheme, the grid it is added on, and the numbers that make it safe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from securefl.terms.names import PublicKey


class Scheme(StrEnum):
    """How an update is hidden on its way."""

    CLEAR = "clear"
    MASKING = "masking"
    CKKS = "ckks"
    BFV = "bfv"
    MASKED_CKKS = "masked-ckks"
    MASKED_BFV = "masked-bfv"

    @property
    def has_masks(self) -> bool:
        """Whether members mask, so that a threshold of them opens a sum."""
        return self in (Scheme.MASKING, Scheme.MASKED_CKKS, Scheme.MASKED_BFV)

    @property
    def has_custodian(self) -> bool:
        """Whether there is a decryption key, and somebody apart who holds it."""
        return self in (Scheme.CKKS, Scheme.BFV, Scheme.MASKED_CKKS, Scheme.MASKED_BFV)

    @property
    def trusts_custodian(self) -> bool:
        """Whether the custodian can open a single update, and must be trusted not to."""
        return self.has_custodian and not self.has_masks

    @property
    def masked(self) -> Scheme:
        """The same encryption with masks inside, where there is one: what takes the trust in the custodian away."""
        return {Scheme.CKKS: Scheme.MASKED_CKKS, Scheme.BFV: Scheme.MASKED_BFV}.get(self, self)


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Reals as integers on the grid 2**-fraction_bits, ``value_bits`` wide with sign, added modulo 2**ring_bits."""

    value_bits: int
    fraction_bits: int
    ring_bits: int

    def capacity(self) -> int:
        """The largest number of values whose sum cannot wrap around."""
        return 1 << (self.ring_bits - self.value_bits) if self.ring_bits >= self.value_bits else 0


@dataclass(frozen=True, slots=True)
class Cover:
    """How updates are hidden, and from whom at the least."""

    scheme: Scheme
    min_cohort: int  # a sum over fewer members is never opened
    threshold: int  # shares needed to open a mask, where there are masks
    colluding: int  # members assumed to pool what they know with the coordinator
    encoding: FixedPoint
    custodian: PublicKey | None  # who holds the decryption key, where there is one

    @property
    def honest(self) -> int:
        """How many inputs that nobody else knows stand in whatever is seen: 1 where each is seen alone."""
        return 1 if self.scheme is Scheme.CLEAR else self.min_cohort - self.colluding
