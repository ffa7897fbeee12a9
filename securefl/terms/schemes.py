"""How an update is hidden: the scheme, the grid it is added on, and the numbers that make it safe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from securefl.terms.names import PublicKey

ENCRYPTED_BYTES: Final = 18  # of one value that has an integer of a ciphertext to itself: 16, and what is around it


@dataclass(frozen=True, slots=True)
class Promise:
    """What a scheme's name promises, whoever implements it."""

    hides: bool = True  # whether the coordinator sees no single update
    masks: bool = False  # whether members mask, so that a threshold of them opens a sum
    custodian: bool = False  # whether there is a decryption key, and somebody apart who holds it
    masked: str = ""  # the same encryption with masks inside, where there is one
    value_bytes: int = 8  # of one value of an update as it is sent, at most


class Scheme(StrEnum):
    """How an update is hidden on its way. A scheme called ``a-b`` is the file ``securefl/protection/a_b.py``."""

    promise: Promise

    def __new__(cls, name: str, promise: Promise = Promise()) -> Self:
        """A name that documents, plans and ledgers know it by, and what it promises."""
        self = str.__new__(cls, name)
        self._value_, self.promise = name, promise
        return self

    CLEAR = "clear", Promise(hides=False)
    MASKING = "masking", Promise(masks=True)
    CKKS = "ckks", Promise(custodian=True, masked="masked-ckks", value_bytes=ENCRYPTED_BYTES)
    BFV = "bfv", Promise(custodian=True, masked="masked-bfv", value_bytes=ENCRYPTED_BYTES)
    MASKED_CKKS = "masked-ckks", Promise(masks=True, custodian=True, value_bytes=ENCRYPTED_BYTES)
    MASKED_BFV = "masked-bfv", Promise(masks=True, custodian=True, value_bytes=ENCRYPTED_BYTES)

    @property
    def hides(self) -> bool:
        """Whether the coordinator sees no single update."""
        return self.promise.hides

    @property
    def has_masks(self) -> bool:
        """Whether members mask, so that a threshold of them opens a sum."""
        return self.promise.masks

    @property
    def has_custodian(self) -> bool:
        """Whether there is a decryption key, and somebody apart who holds it."""
        return self.promise.custodian

    @property
    def trusts_custodian(self) -> bool:
        """Whether the custodian can open a single update, and must be trusted not to."""
        return self.has_custodian and not self.has_masks

    @property
    def masked(self) -> Scheme:
        """The same encryption with masks inside, where there is one: what takes the trust in the custodian away."""
        return Scheme(self.promise.masked) if self.promise.masked else self


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
class ProtectionSpec:
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
        return self.min_cohort - self.colluding if self.scheme.hides else 1
