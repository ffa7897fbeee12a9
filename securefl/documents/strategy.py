"""The strategy as a person writes it: optimizer, loss, members' weights, what they keep."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from securefl.documents.strict import Part, Rational, Whole, or_name
from securefl.terms import (
    Attention,
    CrossEntropy,
    Hash,
    Loss,
    NotTrueDistillation,
    PseudoLabels,
    Scorer,
    Sharing,
    SoftLabels,
    Weighting,
)
from securefl.terms.records import Record
from securefl.wire import digest

LossName = Literal["own-label", "fedntd", "fedlsd", "soft-labels", "pseudo-labels"]
WITHOUT_LABELS: Final[tuple[LossName, ...]] = ("soft-labels",)  # losses that a record without a label has


class ServerOptimizer(StrEnum):
    """A server's optimizer. One called ``name`` is the file ``securefl/strategy/name.py``."""

    numbers: tuple[str, ...]  # fields of `strategy` that it takes, besides the learning rate

    def __new__(cls, name: str, *numbers: str) -> Self:
        """A name that documents know it by, and its numbers."""
        self = str.__new__(cls, name)
        self._value_, self.numbers = name, numbers
        return self

    FEDAVG = "fedavg", "momentum"
    FEDADAM = "fedadam", "first", "second", "floor"
    FEDNESTEROV = "fednesterov", "momentum"


class LossPart(Part):
    """A record's loss."""

    model_config = ConfigDict(json_schema_extra=or_name)

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
                return NotTrueDistillation(self.weight, self.temperature, self.kind == "fedlsd")
            case "soft-labels":
                end = self.threshold if self.threshold_end is None else self.threshold_end
                return SoftLabels(self.weight, self.temperature, self.threshold, end, rounds)
            case "pseudo-labels":
                return PseudoLabels(self.weight, self.scorer, self.temperature, self.width, self.first_round)
        return CrossEntropy()


def named(loss: Loss) -> LossName:
    """Return what a person calls a loss."""
    match loss:
        case CrossEntropy():
            return "own-label"
        case NotTrueDistillation():
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


class ProbePart(Part):
    """One public text with its label. It must be nobody's record."""

    text: str = Field(min_length=1, max_length=1000)
    label: str


class StrategyPart(Part):
    """What becomes of the sum, and what members add to their loss, send and keep."""

    kind: ServerOptimizer = Field(ServerOptimizer.FEDAVG, description="the server's optimizer")
    learning_rate: Rational = Field(default=Fraction(1), gt=0, description="step along the members' mean change")
    momentum: Rational = Field(
        0, validate_default=True, ge=0, lt=1,
        description="fedavg: share of the last step that is taken again; fednesterov: of the velocity",
    )  # fmt: skip
    first: Rational = Field(Fraction(9, 10), ge=0, lt=1, description="fedadam: share of the mean that is kept")
    second: Rational = Field(Fraction(99, 100), ge=0, lt=1, description="fedadam: share of the square that is kept")
    floor: Rational = Field(Fraction(1, 1000), gt=0, description="fedadam: added to the root of the square")
    average_last: Whole = Field(
        1, ge=1, description="what the last round releases is the mean of the states after so many last rounds"
    )
    loss: LossPart = Field(default_factory=lambda: LossPart.model_validate({}), description="of a record")
    weights: tuple[WeightPart, ...] = Field((), max_length=4, description="none: members count alike")
    probe: tuple[ProbePart, ...] = Field((), max_length=256, description="public labelled text, for weights by probe")
    home: tuple[str, ...] = Field((), description="fedper: parts of names of tensors that stay with a member")
    pull: Rational | None = Field(None, ge=0, le=1, description="l2gd: how far own models move to the mean each round")

    attention: AttentionPart | None = Field(None, description="worldlm: own key tensors, which meet by attention")

    @model_validator(mode="after")
    def _of_its_kind(self) -> StrategyPart:
        given = self.model_fields_set
        if self.attention is not None and (self.weights or self.home or self.pull is not None):
            raise ValueError("attention with weights, home or pull: leave these out, it has its own")
        if self.average_last > 1 and self.keeps:
            raise ValueError(
                "average_last with home, pull or attention: members keep models of their own, leave it out"
            )
        for field in (number for kind in ServerOptimizer for number in kind.numbers):
            if field in given and field not in self.kind.numbers:
                kinds = " and ".join(kind.value for kind in ServerOptimizer if field in kind.numbers)
                raise ValueError(f"`{field}` is of {kinds}: leave it out")
        if any(each.kind == "probe" for each in self.weights) != bool(self.probe):
            raise ValueError("weights by probe and `probe` belong together: give both or neither")
        return self

    @property
    def keeps(self) -> bool:
        """Whether members keep a model of their own from round to round."""
        return bool(self.home) or self.pull is not None or self.attention is not None

    def sharing(self, labels: tuple[str, ...]) -> Sharing:
        """The members' half, as plans name it."""
        probe = digest("probe", self.probe_records(labels)) if self.probe else None
        weightings = tuple(each.weighting(probe) for each in self.weights)
        attention = None if self.attention is None else self.attention.attention()
        return Sharing(weightings, self.home, self.pull, attention)

    def not_below(self, labels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Yield what rounds inside another federation's round cannot have, and what would do."""
        if self.kind != "fedavg" or self.momentum:
            named = f"{self.kind}{' with momentum' if self.momentum else ''}"
            what = f"strategy {named} remembers rounds, and a run inside begins anew"
            yield what, "use it in the root, and fedavg without momentum below"
        if self.average_last > 1:
            what = "strategy.average_last is of all rounds of a run, and rounds inside are runs of their own"
            yield what, "use it in the root"
        sharing = self.sharing(labels)
        if sharing.keeps or sharing.remembers:
            what = "strategy.home, pull, renewal and attention keep something, and rounds inside are runs of their own"
            yield what, "use them in the federation above: then this federation keeps a model of its own"

    def probe_records(self, labels: tuple[str, ...]) -> tuple[Record, ...]:
        """The probe, with the task's labels by number."""
        return tuple(Record(each.text, labels.index(each.label)) for each in self.probe)
