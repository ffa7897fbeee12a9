"""A policy as it is written down: every field, its unit, and what it means. The JSON Schema is made from this."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from securefl.documents import Rational
from securefl.terms import Neighbours, Scheme, Unit


class Section(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _date(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if isinstance(raw, str):
        return date.fromisoformat(raw)
    if isinstance(raw, date):
        return raw
    raise ValueError("a date such as 2026-01-31 is expected")


Day = Annotated[date, BeforeValidator(_date)]
Positive = Annotated[Rational, Field(gt=0)]


class Valid(Section):
    """When the policy holds, both days included, in UTC."""

    from_: Day = Field(alias="from")
    until: Day


class PerRound(Section):
    """What one round may cost."""

    epsilon: Positive


class PerDataset(Section):
    """What all rounds of all federations on one data set of one site may cost together."""

    epsilon: Positive


class Budget(Section):
    """What may be spent. Limits are compared with the cost times ``overlap``."""

    unit: Unit = Field(description="whose presence is hidden: record or client")
    neighbours: Neighbours = Field(description="which data sets are compared")
    epsilon: Positive = Field(description="what this federation may cost one data set, all rounds together")
    delta: Annotated[Rational, Field(gt=0, lt=1)] = Field(description="the chance the guarantee does not cover")
    per_round: PerRound
    per_dataset: PerDataset
    overlap: Annotated[int, Field(ge=1)] = Field(description="how many members may hold the same record")


class AtMost(Section):
    """A largest value."""

    at_most: Annotated[int, Field(ge=1)]


class Clip(Section):
    """How large one record's gradient may be."""

    at_most: Positive
    norm: Literal["l2"]


class AtLeast(Section):
    """A least value."""

    at_least: Positive


class AtLeastMembers(Section):
    """A least number of members."""

    at_least: Annotated[int, Field(ge=1)]


class Training(Section):
    """How members may train."""

    mechanisms: tuple[str, ...]
    clip: Clip
    noise_multiplier: AtLeast
    modules: tuple[str, ...] = Field(description="linear layers that may get an adapter")
    rank: AtMost
    base_models: tuple[str, ...] = Field(description="names, or sha256:HEX of the content")


class Protection(Section):
    """How updates must be hidden."""

    schemes: tuple[Scheme, ...]
    min_cohort: Annotated[int, Field(ge=2)] = Field(description="a sum over fewer members is never opened")
    threshold: AtLeastMembers = Field(description="shares needed to open a mask")
    colluding: Annotated[int, Field(ge=0)] = Field(description="members assumed to pool what they know")


class Release(Section):
    """What may leave a site besides protocol messages, and to whom."""

    fields: tuple[str, ...]
    to: Literal["members"]


class Context(Section):
    """What for, and where."""

    purposes: tuple[str, ...]
    regions: tuple[str, ...]


class Approvals(Section):
    """Who signed; its place is kept, and anything but none is refused."""

    required: Literal[0]


class PolicyDocument(Section):
    """What a federation may learn, at what cost, by whom, protected how."""

    securefl_policy: Literal[1]
    federation: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    version: Annotated[int, Field(ge=1)]
    valid: Valid
    budget: Budget
    training: Training
    protection: Protection
    release: Release
    context: Context
    parent: None = Field(None, description="a federation above; its place is kept")
    approvals: Approvals = Approvals(required=0)

    @model_validator(mode="after")
    def _in_order(self) -> PolicyDocument:
        if self.valid.until < self.valid.from_:
            raise ValueError("valid.until is before valid.from")
        return self
