"""What a custodian is asked, and what it answers: sealed inputs of one plan, and their sum or that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from securefl.terms import Envelope, MemberId, Plan, SignedReceipt


@dataclass(frozen=True, slots=True)
class Summation:
    """The question to the custodian: the sealed inputs of one plan, each as its member signed it.

    Under masks, also every enrolment of the cohort and what the survivors said of their shares.
    """

    plan: Plan
    inputs: tuple[Envelope, ...]
    enrolled: Mapping[str, bytes] = field(default_factory=dict)
    answers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summed:
    """The custodian's answer: grid integers, int64, little endian, and whose they are the sum of."""

    values: bytes
    members: tuple[MemberId, ...]


@dataclass(frozen=True, slots=True)
class Unopened:
    """The custodian's answer where what it decrypted is no sum: no value of it is told, and the round is over."""

    why: str  # the rule


FromCustodian = Summed | Unopened


def whole(sealed: Mapping[MemberId, Envelope | SignedReceipt]) -> tuple[Envelope, ...]:
    """The inputs as their members signed them, in order of names."""
    kept = tuple(each for _, each in sorted(sealed.items()) if isinstance(each, Envelope))
    assert len(kept) == len(sealed), "a coordinator that adds nothing keeps every input"
    return kept
