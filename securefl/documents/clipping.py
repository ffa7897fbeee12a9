"""Clipping as a person writes it, in a federation's file and in a plan: a word, or a word and its numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from securefl.documents.strict import Rational
from securefl.terms import Automatic, Clipping, Flat, Quantile

Positive = Annotated[Rational, Field(gt=0)]
OF = {"gamma": "automatic", "target": "quantile", "rate": "quantile", "count_noise": "quantile"}


class ClippingPart(BaseModel):
    """How a gradient is brought within the clip. What is not given is what the method's authors use."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["flat", "automatic", "quantile"] = Field(description="the method")
    gamma: Annotated[Rational, Field(ge=Fraction(1, 10**9), le=10**9)] | None = Field(
        None, description="automatic: added to each norm before dividing by it; 1/100 if not given"
    )
    target: Annotated[Rational, Field(gt=0, lt=1)] | None = Field(
        None, description="quantile: the share of gradients that should be below the clip; 1/2 if not given"
    )
    rate: Annotated[Rational, Field(gt=0, le=1)] | None = Field(
        None, description="quantile: how fast the clip follows; 1/5 if not given"
    )
    count_noise: Positive | None = Field(
        None, description="quantile: standard deviation of the noise on the count; divisor / 20 if not given"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"kind": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _its_own_numbers(self) -> ClippingPart:
        for name, kind in OF.items():
            if getattr(self, name) is not None and self.kind != kind:
                raise ValueError(f"{name} belongs to {kind} clipping, and kind is {self.kind}")
        return self

    def meant(self, divisor: int, noise_multiplier: Fraction | None = None) -> Clipping:
        """The rule, complete.

        Raises:
            ValueError: the count's noise is too little for this noise multiplier.
        """
        if self.kind == "automatic":
            return Automatic(self.gamma or Fraction(1, 100))
        if self.kind == "flat":
            return Flat()
        count_noise = self.count_noise or Fraction(divisor, 20)
        rule = Quantile(self.target or Fraction(1, 2), self.rate or Fraction(1, 5), count_noise)
        if noise_multiplier is not None:
            rule.count_share(noise_multiplier)
        return rule


FLAT = ClippingPart.model_validate("flat")
