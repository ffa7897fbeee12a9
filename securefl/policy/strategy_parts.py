"""A record's loss, members' weights and attention as a person writes them, in a federation's file and in a plan."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from securefl.documents import Rational, Whole
from securefl.policy.limits import LossName
from securefl.terms import Attention, Hash, Loss, NotForgotten, OwnLabel, PseudoLabels, Scorer, SoftLabels, Weighting


class Part(BaseModel):
    """A part of a document: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossPart(Part):
    """A record's loss."""

    kind: LossName = Field(
        "own-label",
        description="fedntd, fedlsd: do not forget the broadcast; soft-labels: learn from it without labels; "
        "pseudo-labels: learn its answers beside the labels",
    )
    weight: Rational = Field(Fraction(1), gt=0, le=1000, description="of what the broadcast model says")
    temperature: Rational = Field(Fraction(1), ge=Fraction(1, 100), le=100, description="of the broadcast model")
    threshold: Rational = Field(Fraction(0), ge=0, le=1, description="soft-labels: how sure it must be in round 1")
    threshold_end: Rational | None = Field(None, ge=0, le=1, description="soft-labels: in the last round")
    scorer: Scorer = Field(Scorer.ENERGY, description="pseudo-labels: which of them are trusted; none: all alike")
    width: Rational = Field(Fraction(1), ge=Fraction(1, 1000), le=1000, description="pseudo-labels: of the change")
    first_round: Whole = Field(2, ge=1, description="pseudo-labels: from here on the broadcast model is asked")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"kind": raw} if isinstance(raw, str) else raw

    def loss(self, rounds: int) -> Loss:
        """As plans name it."""
        match self.kind:
            case "fedntd" | "fedlsd":
                return NotForgotten(self.weight, self.temperature, self.kind == "fedlsd")
            case "soft-labels":
                end = self.threshold if self.threshold_end is None else self.threshold_end
                return SoftLabels(self.weight, self.temperature, self.threshold, end, rounds)
            case "pseudo-labels":
                return PseudoLabels(self.weight, self.scorer, self.temperature, self.width, self.first_round)
        return OwnLabel()


def named(loss: Loss) -> LossName:
    """What a person calls a loss."""
    match loss:
        case OwnLabel():
            return "own-label"
        case NotForgotten():
            return "fedlsd" if loss.true_label else "fedntd"
        case SoftLabels():
            return "soft-labels"
        case PseudoLabels():
            return "pseudo-labels"


class WeightPart(Part):
    """How much members count, by a score that each computes for itself."""

    kind: Literal["agreement", "probe"] = Field(
        "agreement",
        description="agreement with the broadcast on public text; probe: minus the mean loss on strategy.probe",
    )
    sharpness: Rational = Field(ge=-1000, le=1000, description="a member counts exp(sharpness * score) times")
    clip: Rational = Field(Fraction(2), gt=0, le=4, description="of sharpness * score, on either side")
    share: Rational = Field(Fraction(1), ge=-10, le=10, description="of this mean in the step")
    renewal: Rational = Field(Fraction(1), gt=0, le=1, description="how far a weight moves each round; it begins at 1")

    def weighting(self, probe: Hash | None) -> Weighting:
        """As plans name it; ``probe`` is the digest of the public text that members are weighed by."""
        of = probe if self.kind == "probe" else None
        return Weighting(self.sharpness, self.clip, self.share, self.renewal, of)


class AttentionPart(Part):
    """WorldLM-style: key tensors meet by attention, the others form a backbone that is averaged plainly."""

    keys: tuple[str, ...] = Field(
        min_length=1, description="parts of names of tensors, such as the last 30 % of blocks"
    )
    sharpness: Rational = Field(Fraction(5), ge=0, le=100, description="times the cosine of two changes; 0: a mean")
    clip: Rational = Field(Fraction(4), gt=0, le=4, description="of sharpness * cosine, on either side")
    residual: bool = Field(default=False, description="a second sum, of what is least alike, is shown to all")

    def attention(self) -> Attention:
        """As plans name it."""
        return Attention(self.keys, self.sharpness, self.clip, self.residual)
