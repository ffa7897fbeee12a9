"""How members train, as a person writes it. Every number is public and the same for all members."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from securefl.documents.clipping import FLAT, ClippingPart
from securefl.documents.strict import Part, Rational, Whole
from securefl.terms import Unit

OptimizerName = Literal["sgd", "adamw", "adamw-bc"]

UNPRICED = {
    "random-allocation": "dp-accounting 0.6 has no event for balls in bins, so nothing here can price it",
    "shuffle": "a shuffled pass is not a Poisson sample, and pricing it as one would understate it",
}
SamplerName = Literal["poisson", "full"]


def _sampler(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if isinstance(raw, str) and raw in UNPRICED:
        raise ValueError(f"{UNPRICED[raw]}: write `sampler: poisson`")
    return raw


def check_rate(sampler: SamplerName, sampling_rate: Fraction | None) -> None:
    """Check that a rate is given where records are drawn, and nowhere else.

    Raises:
        ValueError: one is missing, is outside (0, 1], or means nothing.
    """
    if sampler == "full" and sampling_rate is not None:
        raise ValueError("sampling_rate means nothing under sampler full, whose steps have every record: leave it out")
    if sampler == "poisson" and sampling_rate is None:
        raise ValueError("sampler poisson needs sampling_rate, such as 1/20; or write `sampler: full`")
    if sampling_rate is not None and not 0 < sampling_rate <= 1:
        raise ValueError("sampling_rate is in (0, 1]")


class TrainingPart(Part):
    """Training at each member. Every number is public and the same for all members.

    Under unit record every step has noise (DP-SGD). Under unit client steps have none: the whole update is clipped, and
    each member adds a share of the noise to it before it is hidden.
    """

    unit: Unit = Field(Unit.RECORD, description="what the noise hides: one record, or one client's update")
    rounds: Whole = Field(ge=1, le=10_000)
    steps: Whole = Field(ge=1, description="steps in a round: noisy ones under unit record")
    sampler: Annotated[SamplerName, BeforeValidator(_sampler)] = Field(
        "poisson",
        description="which records are in a step. poisson: each by itself, at the sampling rate; full: every one",
    )
    sampling_rate: Rational | None = Field(
        None, description="sampler poisson: each record's chance to be in a step, such as 1/20"
    )
    noise_multiplier: Rational | None = Field(
        None,
        description="standard deviation of the noise / clip; under unit client, of all shares sure to be honest",
    )
    epsilon: Rational | None = Field(None, description="instead of noise_multiplier: what all rounds together may cost")
    clip: Rational | None = Field(None, description="unit record: L2 norm that one record's gradient is clipped to")
    clipping: ClippingPart = Field(FLAT, description="how a gradient is brought within the clip")
    divisor: Whole | None = Field(
        None, ge=1, description="unit record: what the noised sum of a step is divided by, a public constant"
    )
    update_clip: Rational | None = Field(None, description="unit client: L2 norm that a whole update is clipped to")
    learning_rate: Rational
    learning_rate_end: Rational | None = Field(
        None, description="of the last round, reached in equal steps; the same if not given"
    )
    optimizer: OptimizerName = Field(
        "adamw", description="adamw-bc takes the noise's own variance out of the second moment"
    )
    max_tokens: Whole = Field(64, ge=4, le=8192)
    micro_batch: Whole = Field(64, ge=1, description="records in memory at once; no result depends on it")
    micro_tokens: Whole | None = Field(
        None, ge=1, description="tokens in memory at once, padding included; at least max_tokens"
    )
    engine: Literal["auto", "fast", "opacus"] = Field(
        "auto", description="how each record gets its gradient here; no part of the plan"
    )

    def rates(self) -> tuple[Fraction, ...]:
        """The learning rate of each round."""
        end = self.learning_rate if self.learning_rate_end is None else self.learning_rate_end
        steps = max(self.rounds - 1, 1)
        return tuple(self.learning_rate + (end - self.learning_rate) * Fraction(n, steps) for n in range(self.rounds))

    @property
    def rate(self) -> Fraction:
        """Each record's chance to be in a step: 1 where every one is."""
        return Fraction(1) if self.sampling_rate is None else self.sampling_rate

    @property
    def clip_l2(self) -> Fraction:
        """The norm that is priced."""
        norm = self.clip if self.update_clip is None else self.update_clip
        assert norm is not None, "the document has the one that its unit asks for"
        return norm

    @model_validator(mode="after")
    def _of_its_unit(self) -> TrainingPart:
        of_records, of_clients = ("clip", "divisor"), ("update_clip",)
        needed, other = (of_records, of_clients) if self.unit is Unit.RECORD else (of_clients, of_records)
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"unit {self.unit.value} needs {name}")
        for name in other:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} means nothing under unit {self.unit.value}: leave it out")
        if self.unit is Unit.CLIENT and (self.clipping != FLAT or self.optimizer == "adamw-bc"):
            raise ValueError("clipping by record and adamw-bc need noise in every step, which unit client has not")
        return self

    @model_validator(mode="after")
    def _one_of_two(self) -> TrainingPart:
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("give either noise_multiplier or epsilon")
        check_rate(self.sampler, self.sampling_rate)
        for name in ("clip", "update_clip", "learning_rate", "learning_rate_end", "noise_multiplier", "epsilon"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is above 0")
        if self.micro_tokens is not None and self.micro_tokens < self.max_tokens:
            raise ValueError(f"micro_tokens is at least max_tokens, {self.max_tokens}: a record is not cut in two")
        self.clipping.meant(self.divisor or 1, self.noise_multiplier)
        return self
