"""The document that describes a federation: its policy, model, task, members, and how they train.

Paths in it are relative to the file itself.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from securefl import below, documents
from securefl.documents import Document, First, Rational, Whole
from securefl.errors import OperatorFault
from securefl.policy.clipping import FLAT, ClippingPart
from securefl.policy.limits import OptimizerName
from securefl.policy.strategy_parts import AttentionPart, LossPart, Part, WeightPart
from securefl.strategy.fedadam import FedAdam
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.fednesterov import FedNesterov
from securefl.strategy.rules import Optimizer
from securefl.terms import (
    Adapter,
    AdapterKind,
    AdapterRule,
    Prompt,
    Scheme,
    Sharing,
    Task,
    Unit,
)
from securefl.training.data import Record
from securefl.training.sources import DataSource
from securefl.wire import digest

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
RESERVED_NAMES = ("coordinator", "custodian")


UNPRICED = {
    "random-allocation": "dp-accounting 0.6 has no event for balls in bins, so nothing here can price it",
    "shuffle": "a shuffled pass is not a Poisson sample, and pricing it as one would understate it",
}


def _sampler(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if isinstance(raw, str) and raw in UNPRICED:
        raise ValueError(f"{UNPRICED[raw]}: write `sampler: poisson`")
    return raw


class TaskPart(Part):
    """What the adapter is for."""

    kind: Literal["classification", "prompt", "language"] = Field(
        description="prompt: by the words a masked language model expects in a pattern's gap, without an own head; "
        "language: the next token of a causal one"
    )
    labels: tuple[str, ...] = Field((), description="the labels, in the order of the head's outputs; none for language")
    pattern: str | None = Field(None, description="prompt: a sentence with {text} for the text and [MASK] for the gap")
    verbalizer: dict[str, str | tuple[str, ...]] | None = Field(
        None, description="prompt: each label's word in the gap, or several, whose scores are averaged"
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> TaskPart:
        if self.kind == "language" and self.labels:
            raise ValueError("a language model has no labels: leave them out")
        if self.kind != "language" and len(self.labels) < 2:
            raise ValueError("two labels or more")
        for field in ("pattern", "verbalizer"):
            if (getattr(self, field) is None) == (self.kind == "prompt"):
                raise ValueError(f"kind {self.kind} {'needs' if self.kind == 'prompt' else 'has no'} `{field}`")
        for part in ("{text}", "[MASK]"):
            if self.pattern is not None and self.pattern.count(part) != 1:
                raise ValueError(f"pattern: {part} stands in it once")
        if self.verbalizer is not None and set(self.verbalizer) != set(self.labels):
            raise ValueError(f"verbalizer: a word for each of {', '.join(self.labels)}, and no other")
        for label, words in (self.verbalizer or {}).items():
            if not words or not all(word.strip() for word in words):
                raise ValueError(f"verbalizer.{label}: a word, or several")
        return self

    def task(self) -> Task:
        """As plans name it."""
        if self.pattern is None or self.verbalizer is None:
            return Task(self.kind, self.labels)
        words = (self.verbalizer[label] for label in self.labels)
        each = tuple((word,) if isinstance(word, str) else word for word in words)
        return Task(self.kind, self.labels, Prompt(self.pattern, each))


class AdapterPart(Part):
    """What is trained on the frozen model, beside a linear head."""

    kind: AdapterKind = Field(AdapterKind.LORA, description="what is put on the model")
    rule: AdapterRule = Field(AdapterRule.B_ONLY, description="which factor of LoRA a round trains")
    targets: tuple[str, ...] = Field((), description="names of linear layers, as PEFT matches them")
    rank: Whole = Field(8, ge=1, le=1024, description="of LoRA; width of a bottleneck; vectors of a prompt or prefix")
    alpha: Whole = Field(16, ge=1, description="LoRA's scale is alpha / rank; rsLoRA's alpha / sqrt(rank)")
    seed: Whole = Field(0, ge=0, lt=2**63, description="what starts at random is drawn from it; public")

    @model_validator(mode="after")
    def _of_its_kind(self) -> AdapterPart:
        if self.kind.has_targets and not self.targets:
            raise ValueError(f"kind {self.kind.value} sits on layers: name them in `targets`")
        if self.targets and not self.kind.has_targets:
            raise ValueError(f"kind {self.kind.value} sits on no layer: leave `targets` out")
        if not self.kind.has_factors and self.rule is not AdapterRule.B_ONLY:
            raise ValueError(f"kind {self.kind.value} has no factors A and B: leave `rule` out")
        return self

    def adapter(self) -> Adapter:
        """As plans name it."""
        return Adapter(self.targets, self.rank, self.alpha, self.seed, self.kind, self.rule)


class TrainingPart(Part):
    """Training at each member. Every number is public and the same for all members.

    Under unit record every step has noise (DP-SGD). Under unit client steps have none: the whole update is clipped, and
    each member adds a share of the noise to it before it is hidden.
    """

    unit: Unit = Field(Unit.RECORD, description="what the noise hides: one record, or one client's update")
    rounds: Whole = Field(ge=1, le=10_000)
    steps: Whole = Field(ge=1, description="steps in a round: noisy ones under unit record")
    sampler: Annotated[Literal["poisson"], BeforeValidator(_sampler)] = Field(
        "poisson", description="how a step's records are drawn: each by itself, at the sampling rate"
    )
    sampling_rate: Rational = Field(description="each record's chance to be in a step, such as 1/20")
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
        if not 0 < self.sampling_rate <= 1:
            raise ValueError("sampling_rate is in (0, 1]")
        for name in ("clip", "update_clip", "learning_rate", "learning_rate_end", "noise_multiplier", "epsilon"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is above 0")
        if self.micro_tokens is not None and self.micro_tokens < self.max_tokens:
            raise ValueError(f"micro_tokens is at least max_tokens, {self.max_tokens}: a record is not cut in two")
        self.clipping.meant(self.divisor or 1, self.noise_multiplier)
        return self


class ProtectionPart(Part):
    """How updates are hidden. What is not given follows from the policy and the number of members.

    `ckks` and `bfv` have masks inside, unless the policy trusts the custodian not to open single updates.
    """

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


ADAM = ("first", "second", "floor")


class ProbePart(Part):
    """One public text with its label. It must be nobody's record."""

    text: str = Field(min_length=1, max_length=1000)
    label: str


class StrategyPart(Part):
    """What becomes of the sum, and what members add to their loss, send and keep."""

    kind: Literal["fedavg", "fedadam", "fednesterov"] = Field("fedavg", description="the server's optimizer")
    learning_rate: Rational = Field(default=Fraction(1), gt=0, description="step along the members' mean change")
    momentum: Rational = Field(
        0, validate_default=True, ge=0, lt=1,
        description="fedavg: share of the last step that is taken again; fednesterov: of the velocity",
    )  # fmt: skip
    first: Rational = Field(Fraction(9, 10), ge=0, lt=1, description="fedadam: share of the mean that is kept")
    second: Rational = Field(Fraction(99, 100), ge=0, lt=1, description="fedadam: share of the square that is kept")
    floor: Rational = Field(Fraction(1, 1000), gt=0, description="fedadam: added to the root of the square")
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
        for field, kinds in (("momentum", ("fedavg", "fednesterov")), *((f, ("fedadam",)) for f in ADAM)):
            if field in given and self.kind not in kinds:
                raise ValueError(f"`{field}` is of {' and '.join(kinds)}: leave it out")
        if any(each.kind == "probe" for each in self.weights) != bool(self.probe):
            raise ValueError("weights by probe and `probe` belong together: give both or neither")
        return self

    def optimizer(self) -> Optimizer:
        """The server's."""
        match self.kind:
            case "fedadam":
                return FedAdam(self.learning_rate, self.first, self.second, self.floor)
            case "fednesterov":
                return FedNesterov(self.learning_rate, self.momentum)
        return FedAvg(self.learning_rate, self.momentum)

    def sharing(self, labels: tuple[str, ...]) -> Sharing:
        """The members' half, as plans name it."""
        probe = digest("probe", self.probe_records(labels)) if self.probe else None
        weightings = tuple(each.weighting(probe) for each in self.weights)
        attention = None if self.attention is None else self.attention.attention()
        return Sharing(weightings, self.home, self.pull, attention)

    def probe_records(self, labels: tuple[str, ...]) -> tuple[Record, ...]:
        """The probe, with the task's labels by number."""
        return tuple(Record(each.text, labels.index(each.label)) for each in self.probe)


class MemberPart(Part):
    """One member: its name, where it stands, and what differs in its data; or the federation that it stands for."""

    name: Name
    region: str = Field(min_length=1)
    dataset: str | None = Field(None, description="the account its budget is kept under; the name if not given")
    site: str | None = Field(None, description="its home: keys, ledger, account")
    data: dict[str, Any] = Field(default_factory=dict, description="added to the federation's own `data`")
    federation: str | dict[str, Any] | None = Field(
        None, description="a federation as a member: its file, or what differs there from this one"
    )
    rounds: Whole = Field(1, ge=1, description="of a federation as a member: its own rounds for each one of this one")

    @model_validator(mode="after")
    def _of_its_kind(self) -> MemberPart:
        if self.federation is not None and self.data:
            raise ValueError("a federation's data are its members': leave `data` out here")
        if self.federation is None and self.rounds != 1:
            raise ValueError("`rounds` are those of a federation as a member: leave it out")
        return self


class FederationFile(Part):
    """A whole federation, as it is written down."""

    securefl_federation: First
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
        if self.adapter.rule is AdapterRule.ALTERNATING and self.strategy.momentum:
            raise ValueError(
                "momentum with the rule alternating needs the state before last, which is not kept: "
                "set strategy.momentum to 0, or use another rule"
            )
        rests = self.adapter.kind.has_factors and self.adapter.rule in (AdapterRule.ALTERNATING, AdapterRule.SVD)
        if rests and (self.strategy.kind != "fedavg" or self.strategy.sharing(self.task.labels).keeps):
            raise ValueError(
                f"adapter.rule {self.adapter.rule.value} changes what its numbers mean from round to round: use b-only "
                f"with {self.strategy.kind} and with own models"
            )
        if self.strategy.loss.kind == "fedntd" and len(self.task.labels) < 3:
            raise ValueError(
                "strategy.loss fedntd compares the labels a record does not have: use fedlsd for two labels"
            )
        if self.task.kind == "prompt" and not self.adapter.kind.has_targets:
            raise ValueError(
                f"task.kind prompt trains no head and reads a fixed gap, which kind {self.adapter.kind.value} has not: "
                "use lora, rslora or bottleneck"
            )
        if len(set(self.task.labels)) != len(self.task.labels):
            raise ValueError("a label stands twice")
        return self

    @model_validator(mode="after")
    def _probe_of_its_labels(self) -> FederationFile:
        strange = [each.label for each in self.strategy.probe if each.label not in self.task.labels]
        if strange:
            raise ValueError(
                f"strategy.probe has the label {strange[0]}, which is none of {', '.join(self.task.labels)}"
            )
        return self

    @model_validator(mode="after")
    def _as_language(self) -> FederationFile:
        if self.task.kind != "language":
            return self
        if self.adapter.kind not in (AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.FULL):
            raise ValueError(f"adapter.kind {self.adapter.kind.value} is for classifiers: use lora, rslora or full")
        if self.strategy.loss.kind != "own-label" or self.strategy.weights:
            raise ValueError("a language model has no labels to compare: leave strategy.loss and weights out")
        return self


class Loaded(Part):
    """A federation file and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    file: FederationFile
    path: Path
    written: bytes  # the document itself, with whatever was put in place of its fields
    data: dict[str, DataSource]  # of each member that is a site
    below: dict[str, Loaded] = Field(default_factory=dict)  # of each member that is a federation

    @property
    def whole(self) -> bytes:
        """The document, and those of all federations below."""
        return b"\0".join((self.written, *(each.whole for each in self.below.values())))

    @property
    def folder(self) -> Path:
        """What the document's paths are relative to."""
        return self.path.parent


def load(path: Path) -> Loaded:
    """The federation at ``path``, with each member's data source complete.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line and field.
    """
    return of(documents.read(path), path)


def of(document: Document, path: Path, above: tuple[Path, ...] = ()) -> Loaded:
    """The federation in ``document``, with those below it; the paths in it are relative to ``path``.

    Raises:
        OperatorFault: as for ``load``; or federations stand below each other in a circle, or too deep.
    """
    return with_data(documents.validate(document, FederationFile), document, path, above)


def with_data(file: FederationFile, document: Document, path: Path, above: tuple[Path, ...] = ()) -> Loaded:
    """The federation with its members' data sources complete; ``document`` is what ``file`` was made of.

    Raises:
        OperatorFault: a source is not as it must be, or a federation below is not.
    """
    written = [each.get("name") for each in document.value["members"]]
    sources = {}
    for index, member in enumerate(file.members):
        line = written.index(member.name)
        place = f"{document.name}:{document.line_of(('members', line))}: members.{line}.data"
        if member.federation is not None:
            continue
        sources[member.name] = _source(_merged(file, index, place), place)
        if sources[member.name].has_unlabelled and file.strategy.loss.kind != "soft-labels":
            what = f"records without a label, and the loss {file.strategy.loss.kind} needs one"
            raise OperatorFault(what, "set strategy.loss to soft-labels, or `unlabelled` to drop", place)
    loaded = Loaded(file=file, path=path.resolve(), written=document.text, data=sources)
    for member in file.members:
        if member.federation is None:
            continue
        index = written.index(member.name)
        place = f"{document.name}:{document.line_of(('members', index))}: members.{index}.federation"
        if len(above) == below.DEEPEST:
            raise OperatorFault(f"more than {below.DEEPEST} levels below each other", "flatten the tree", place)
        inner, where = below.document_of(document, path, index)
        if isinstance(member.federation, str) and where.resolve() in (*above, path.resolve()):
            raise OperatorFault(
                "federations below each other in a circle", "let each name others than those above", place
            )
        loaded.below[member.name] = of(inner, where, (*above, path.resolve()))
        below.check(loaded, loaded.below[member.name], member.rounds, place)
    return loaded


def _merged(file: FederationFile, index: int, place: str) -> dict[str, Any]:
    """A member's data: its own fields over the federation's, or its part of what all of them share."""
    own, shared = file.members[index].data, file.data.get("partition")
    if "partition" in own or (shared is not None and own):
        what = "a member's own data where the members share one file in parts"
        raise OperatorFault(what, "leave the member's data out, or the federation's `partition`", place)
    if not isinstance(shared, dict):
        return {**file.data, **own}
    if not shared.keys().isdisjoint({"members", "index"}):
        raise OperatorFault(
            "`members` or `index` in the federation's `partition`", "leave it out: each has a part", place
        )
    return {**file.data, "partition": {**shared, "members": len(file.members), "index": index}}


def _source(merged: dict[str, Any], place: str) -> DataSource:
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        return DataSource.model_validate(merged)
    except ValidationError as fault:
        wrong = documents.problems(merged, DataSource, fault)
        raise OperatorFault(wrong, "see the federation's `data` and this member's", place) from fault
