"""The document that describes a federation: its policy, model, task, members, and how they train.

Paths in it are relative to the file itself.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from securefl import documents
from securefl.documents import Rational
from securefl.errors import OperatorFault
from securefl.terms import Scheme, Unit
from securefl.training.sources import DataSource

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
RESERVED_NAMES = ("coordinator", "custodian")


class Part(BaseModel):
    """A part of the document: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskPart(Part):
    """What the adapter is for."""

    kind: Literal["classification"] = Field(description="the kind of task")
    labels: tuple[str, ...] = Field(min_length=2, description="the labels, in the order of the head's outputs")


class AdapterPart(Part):
    """LoRA: A is frozen and the same for all, B is trained."""

    targets: tuple[str, ...] = Field(min_length=1, description="names of linear layers, as PEFT matches them")
    rank: int = Field(8, ge=1, le=1024)
    alpha: int = Field(16, ge=1)
    seed: int = Field(0, ge=0, lt=2**63, description="A is drawn from it; public")


class TrainingPart(Part):
    """Training at each member. Every number is public and the same for all members.

    Under unit record every step has noise (DP-SGD). Under unit client steps have none: the whole update is clipped, and
    each member adds a share of the noise to it before it is hidden.
    """

    unit: Unit = Field(Unit.RECORD, description="what the noise hides: one record, or one client's update")
    rounds: int = Field(ge=1, le=10_000)
    steps: int = Field(ge=1, description="steps in a round: noisy ones under unit record")
    sampling_rate: Rational = Field(description="each record's chance to be in a step, such as 1/20")
    noise_multiplier: Rational | None = Field(
        None,
        description="standard deviation of the noise / clip; under unit client, of all shares sure to be honest",
    )
    epsilon: Rational | None = Field(None, description="instead of noise_multiplier: what all rounds together may cost")
    clip: Rational | None = Field(None, description="unit record: L2 norm that one record's gradient is clipped to")
    divisor: int | None = Field(
        None, ge=1, description="unit record: what the noised sum of a step is divided by, a public constant"
    )
    update_clip: Rational | None = Field(None, description="unit client: L2 norm that a whole update is clipped to")
    learning_rate: Rational
    learning_rate_end: Rational | None = Field(
        None, description="of the last round, reached in equal steps; the same if not given"
    )
    optimizer: Literal["sgd", "adamw"] = "adamw"
    max_tokens: int = Field(64, ge=4, le=8192)
    micro_batch: int = Field(64, ge=1)

    def rates(self) -> tuple[Fraction, ...]:
        """The learning rate of each round."""
        end = self.learning_rate if self.learning_rate_end is None else self.learning_rate_end
        steps = max(self.rounds - 1, 1)
        return tuple(self.learning_rate + (end - self.learning_rate) * Fraction(n, steps) for n in range(self.rounds))

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
        return self

    @model_validator(mode="after")
    def _one_of_two(self) -> TrainingPart:
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("give either noise_multiplier or epsilon")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError("sampling_rate is in (0, 1]")
        for name in ("clip", "update_clip", "learning_rate", "learning_rate_end", "noise_multiplier", "epsilon"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is above 0")
        return self


class ProtectionPart(Part):
    """How updates are hidden. What is not given follows from the policy and the number of members."""

    scheme: Scheme
    min_cohort: int | None = Field(None, ge=1)
    threshold: int | None = Field(None, ge=1)
    colluding: int | None = Field(None, ge=0)
    value_bits: int = Field(24, ge=8, le=48)
    fraction_bits: int = Field(20, ge=0, le=40)
    ring_bits: Literal[32, 64] = 32

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"scheme": raw} if isinstance(raw, str) else raw


class StrategyPart(Part):
    """What becomes of the sum."""

    kind: Literal["fedavg"] = "fedavg"
    learning_rate: Rational = Field(default=Fraction(1), description="step along the members' mean change")
    momentum: Rational = Field(
        0, validate_default=True, ge=0, lt=1, description="share of the last step that is taken again"
    )


class MemberPart(Part):
    """One member: its name, where it stands, and what differs in its data."""

    name: Name
    region: str = Field(min_length=1)
    dataset: str | None = Field(None, description="the account its budget is kept under; the name if not given")
    site: str | None = Field(None, description="its home: keys, ledger, account")
    data: dict[str, Any] = Field(default_factory=dict, description="added to the federation's own `data`")


class FederationFile(Part):
    """A whole federation, as it is written down."""

    securefl_federation: Literal[1]
    name: Name
    policy: str = Field(description="the policy's file")
    purpose: str = Field(min_length=1)
    model: str = Field(description="a Hugging Face name, a folder, or distribution:NAME/PATH")
    task: TaskPart
    adapter: AdapterPart
    data: dict[str, Any] = Field(default_factory=dict, description="what all members' data have in common")
    training: TrainingPart
    protection: ProtectionPart
    strategy: StrategyPart = Field(default_factory=lambda: StrategyPart.model_validate({}))
    runtime: Literal["inprocess", "processes"] = "inprocess"
    sites: str = Field("sites", description="folder of the homes that are not named")
    members: tuple[MemberPart, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _names_once(self) -> FederationFile:
        names = [member.name for member in self.members]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two members are called {name}")
            if name in RESERVED_NAMES:
                raise ValueError(f"no member can be called {name}")
        if len(set(self.task.labels)) != len(self.task.labels):
            raise ValueError("a label stands twice")
        return self


class Loaded(Part):
    """A federation file and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    file: FederationFile
    path: Path
    data: dict[str, DataSource]

    @property
    def folder(self) -> Path:
        """What the document's paths are relative to."""
        return self.path.parent


def load(path: Path) -> Loaded:
    """The federation at ``path``, with each member's data source complete.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line and field.
    """
    document = documents.read(path)
    file = documents.validate(document, FederationFile)
    sources = {}
    for index, member in enumerate(file.members):
        merged = {**file.data, **member.data}
        place = f"{path}:{document.line_of(('members', index))}: members.{index}.data"
        sources[member.name] = _source(merged, place)
    return Loaded(file=file, path=path.resolve(), data=sources)


def _source(merged: dict[str, Any], place: str) -> DataSource:
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        return DataSource.model_validate(merged)
    except ValidationError as fault:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors())
        raise OperatorFault(wrong, "see the federation's `data` and this member's", place) from fault
