"""A policy as it is written down: every field, its unit, and what it means. The JSON Schema is made from this."""

from __future__ import annotations

import re
from datetime import date
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from securefl.documents import schemas
from securefl.documents.strict import First, Rational, Whole
from securefl.policy.limits import KeyLimits, Name, Positive, Protection, Section, Sharing, Training
from securefl.terms import Accountant, MicroEpsilon, Neighbours, Unit


def _date(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if isinstance(raw, date):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", raw):
        return date.fromisoformat(raw)
    raise ValueError("a date such as 2026-01-31 is expected")


def _short_parent(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    return {"policy": raw} if isinstance(raw, str) else raw


Day = Annotated[date, BeforeValidator(_date)]
SignerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
SignerKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Valid(Section):
    """When the policy holds, both days included, in UTC."""

    from_: Day = Field(alias="from", description="the first day")
    until: Day = Field(description="the last day")

    @model_validator(mode="after")
    def _in_order(self) -> Valid:
        if self.until < self.from_:
            raise ValueError(f"until {self.until} is before valid.from {self.from_}: no day is left")
        return self


class PerRound(Section):
    """What one round may cost."""

    epsilon: Positive = Field(description="for one record, in one round")


class PerRun(Section):
    """What one run may cost."""

    epsilon: Positive = Field(description="for one record, all rounds of the run together")


class PerDataset(Section):
    """What all rounds of all federations on one data set of one site may cost together."""

    epsilon: Positive = Field(
        description="for one record, for as long as the data set's account is kept; under unit client, for one member, "
        "over all its data sets"
    )


class Budget(Section):
    """What may be spent.

    Limits are compared with the cost times ``overlap``, at delta divided by it (basic composition).
    """

    unit: Unit = Field(description="what is hidden: one record, or all that one member (client) learned in a round")
    neighbours: Neighbours = Field(description="which two data sets the guarantee compares")
    epsilon: Positive = Field(
        description="what this federation and all below it may cost one data set, all rounds together"
    )
    delta: Annotated[Rational, Field(gt=0, lt=1)] = Field(description="the probability the guarantee leaves open")
    per_round: PerRound
    per_dataset: PerDataset
    overlap: Annotated[Whole, Field(ge=1)] = Field(
        description="how many data sets, of one member or of several, may hold the same record, 1 if none"
    )
    per_run: PerRun | None = Field(None, description="if given, what one run may cost")
    bound: Accountant = Field(
        Accountant.PLD,
        description="pld: noise, rates and models are chosen before results are seen; renyi-filter: they need not be",
    )

    @property
    def delta_share(self) -> Fraction:
        """Delta of one of the data sets that may hold the same record."""
        return self.delta / self.overlap

    def share(self, epsilon: Fraction) -> MicroEpsilon:
        """Return what a limit leaves to one of the data sets that may hold the same record; rounded down."""
        return MicroEpsilon(epsilon.numerator * 1_000_000 // epsilon.denominator // self.overlap)


class Release(Section):
    """What may leave a site besides protocol messages, and to whom."""

    fields: tuple[Name, ...] = Field(description="such as weights; a metric that is not listed does not leave")
    to: Literal["members"] = Field(description="who gets it")


class Context(Section):
    """What for, and where. An empty list allows nothing."""

    purposes: tuple[Name, ...] = Field(description="what the adapter may be for")
    regions: tuple[Name, ...] = Field(description="where members may stand")


class Parent(Section):
    """The policy above, which this one may only tighten."""

    policy: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="its file, as seen from this one's folder"
    )
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="its hash; if given, no other version of it will do"
    )


class Approvals(Section):
    """Whose signatures a version of this policy needs: its author's, and those of others."""

    required: Annotated[Whole, Field(ge=0, le=64)] = Field(description="how many besides the author must approve")
    keys: dict[SignerName, SignerKey] = Field(
        default_factory=dict, description="who may sign: names, and Ed25519 public keys in hexadecimal"
    )

    @model_validator(mode="after")
    def _enough_keys(self) -> Approvals:
        if len(set(self.keys.values())) != len(self.keys):
            raise ValueError("two names have one key: each person signs with a key of their own")
        if self.required and len(self.keys) <= self.required:
            raise ValueError(
                f"{self.required} must approve what one more wrote: name at least {self.required + 1} keys"
            )
        return self


class PolicyDocument(Section):
    """What a federation may learn, at what cost, by whom, protected how."""

    securefl_policy: First = Field(description="version of this format")
    federation: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] = Field(description="whose policy it is")
    version: Annotated[Whole, Field(ge=1)] = Field(description="raised with every change")
    valid: Valid
    budget: Budget
    training: Training
    sharing: Sharing = Field(default_factory=lambda: Sharing.model_validate({}))
    protection: Protection
    keys: KeyLimits = Field(default_factory=lambda: KeyLimits.model_validate({}))
    release: Release
    context: Context
    parent: Annotated[Parent | None, BeforeValidator(_short_parent)] = Field(
        None, description="the policy above this one; its file, or its file and hash"
    )
    approvals: Approvals = Field(
        default_factory=lambda: Approvals(required=0), description="who signs; without keys nobody can"
    )


def schema_text() -> str:
    """The JSON Schema of policies, as it stands beside the shipped ones."""
    return schemas.schema_text(schemas.of(PolicyDocument))
