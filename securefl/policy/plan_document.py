"""A plan as a person writes it, to ask a policy about it. Seats are made up: what counts is how many, and where."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from securefl import documents
from securefl.documents import Rational
from securefl.terms import (
    Adapter,
    Cover,
    FixedPoint,
    Hash,
    Learning,
    MemberId,
    Model,
    Plan,
    PoissonGaussian,
    PublicKey,
    RunId,
    Scheme,
    Seat,
    Task,
)

Positive = Annotated[Rational, Field(gt=0)]


class PlanDocument(BaseModel):
    """One round, in the words of the federation's file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    securefl_plan: int = Field(ge=1, le=1)
    federation: str
    purpose: str
    regions: tuple[str, ...] = Field(min_length=1, description="where the members stand, in turn")
    members: int = Field(ge=1, le=100_000)
    base_model: str
    model_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    labels: tuple[str, ...] = ("no", "yes")
    targets: tuple[str, ...]
    rank: int = 8
    alpha: int = 16
    sampling_rate: Annotated[Rational, Field(gt=0, le=1)]
    noise_multiplier: Positive
    steps: int = Field(ge=1)
    clip: Positive
    divisor: int = Field(1, ge=1)
    learning_rate: Positive = Field(1, validate_default=True)
    protection: Scheme
    min_cohort: int
    threshold: int
    colluding: int
    value_bits: int = 24
    fraction_bits: int = 20
    ring_bits: int = 32
    custodian: bool = True
    release: tuple[str, ...] = ("weights",)
    round: int = Field(1, ge=1)


def draft(document: documents.Document, policy: Hash) -> Plan:
    """The plan a document describes, under this policy.

    Raises:
        OperatorFault: with line and field.
    """
    return plan_of(documents.validate(document, PlanDocument), policy)


def plan_of(written: PlanDocument, policy: Hash) -> Plan:
    """The plan, complete: whatever a policy does not look at is zero."""

    def made_up(name: str) -> PublicKey:
        return PublicKey(hashlib.sha256(b"made-up seat\0" + name.encode()).digest())

    cohort = tuple(
        Seat(MemberId(f"member-{n + 1}"), made_up(str(n + 1)), written.regions[n % len(written.regions)])
        for n in range(written.members)
    )
    digest = bytes.fromhex(written.model_sha256) if written.model_sha256 else bytes(32)
    custodian = made_up("custodian") if written.protection is Scheme.CKKS and written.custodian else None
    return Plan(
        written.federation, policy, RunId(bytes(16)), written.round, written.purpose,
        Model(written.base_model, Hash(digest)), Task("classification", written.labels),
        Adapter(written.targets, written.rank, written.alpha, 0),
        Learning(
            PoissonGaussian(written.sampling_rate, written.noise_multiplier, written.steps), written.clip, written.divisor,
            written.learning_rate, "sgd", 64, 64,
        ),
        Cover(
            written.protection, written.min_cohort, written.threshold, written.colluding,
            FixedPoint(written.value_bits, written.fraction_bits, written.ring_bits), custodian,
        ),
        cohort, written.release, Hash(bytes(32)), 1,
    )  # fmt: skip
