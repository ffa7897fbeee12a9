"""How updates are hidden, as a person writes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from securefl.documents.strict import Part, Whole, or_name
from securefl.terms import Scheme


class ProtectionPart(Part):
    """How updates are hidden. What is not given follows from the policy and the number of members.

    `ckks` and `bfv` have masks inside, unless the policy trusts the custodian not to open single updates.
    """

    model_config = ConfigDict(json_schema_extra=or_name)

    scheme: Scheme
    min_cohort: Whole | None = Field(None, ge=1)
    threshold: Whole | None = Field(None, ge=1)
    colluding: Whole | None = Field(None, ge=0)
    value_bits: Whole = Field(24, ge=8, le=48)
    fraction_bits: Whole = Field(20, ge=0, le=40)
    ring_bits: Literal[32, 64] = 32

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"scheme": raw} if isinstance(raw, str) else raw
