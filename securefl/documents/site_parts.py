"""The parts of a SITE document: what one party owns, whom it trusts, and the most it lets a plan ask."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from securefl.documents.data_source import DataSource
from securefl.documents.federation import Key, Name
from securefl.documents.offer import OfferedTask
from securefl.documents.patience import PatiencePart
from securefl.documents.protection import ProtectionPart
from securefl.documents.strategy import LossName, ProbePart, StrategyPart
from securefl.documents.strict import First, Flag, Part, Rational, Whole, or_name
from securefl.documents.task import AdapterPart, TaskPart
from securefl.terms.parties import CUSTODIAN
from securefl.terms.records import Record

SharingName = Literal["weights", "home", "pull", "attention"]
KEPT: Final = 1 << 30  # bytes of memory for what frozen parts of a model give for a site's records
MADE_BY = "`securefl keys show HOME/identity.key` prints it"


class ModelPart(Part):
    """The base model: what plans and policies call it, and where it is here."""

    model_config = ConfigDict(json_schema_extra=or_name)

    name: str = Field(min_length=1, description="what plans and policies call it")
    at: str | None = Field(
        None, min_length=1, description="a folder, a Hugging Face name, or distribution:NAME/PATH; else its name"
    )
    engine: Literal["auto", "fast", "opacus"] = Field("auto", description="how each record gets its gradient here")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"name": raw} if isinstance(raw, str) else raw


class AtMost(Part):
    """A whole number that a plan may not go above."""

    at_most: Whole = Field(ge=1)


class UpTo(Part):
    """A whole number, 0 among them, that is not gone above."""

    at_most: Whole = Field(ge=0)


class Between(Part):
    """Two numbers that a plan stays between, both included."""

    at_least: Rational | None = Field(None, gt=0)
    at_most: Rational | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Between:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}: no number is between them")
        return self


class LimitsPart(Part):
    """The most a plan may ask of this site, whatever a policy allows; what is not given, the policy alone limits."""

    losses: tuple[LossName, ...] | None = Field(None, description="losses that may be trained")
    sharing: tuple[SharingName, ...] | None = Field(
        None, description="what a plan may ask beside one plain sum; []: nothing else"
    )
    learning_rate: Between | None = None
    micro_batch: AtMost | None = Field(None, description="records in memory at once")
    tokens: AtMost | None = Field(None, description="tokens in memory at once, padding included")
    memory: AtMost | None = Field(
        None, description="bytes beside the model: a gradient of each record in memory, and what an update takes"
    )
    kept: UpTo = Field(
        UpTo(at_most=KEPT),
        description="bytes of memory for what is frozen before the first trained tensor, computed once a record; "
        "beyond them it is computed in each step, to the same bits; no plan is refused by it",
    )
    patience: AtMost | None = Field(
        None,
        description="seconds that one round may take: a plan that waits longer is refused, and when they are over, "
        "counted here from its reservation, no step is trained and no question answered",
    )


class PeerPart(Part):
    """A member as its peers know it."""

    key: Key = Field(description=f"its public key; {MADE_BY}")
    region: str = Field(min_length=1)


class TrustPart(Part):
    """One federation that this site is in: who speaks there, under which keys, and what is trained."""

    coordinator: Key = Field(description=f"the coordinator's public key; {MADE_BY}")
    custodian: Key | None = Field(None, description="the custodian's public key, where updates are encrypted")
    members: dict[Name, PeerPart] = Field(min_length=2, description="every member, this site among them")
    task: TaskPart | None = Field(None, description="what the adapter is for: labels in the head's order")
    adapter: AdapterPart | None = Field(None, description="what is trained on the model")
    max_tokens: Whole | None = Field(None, ge=4, le=8192, description="how much of a record its plans read")
    probe: tuple[ProbePart, ...] = Field((), max_length=256, description="public labelled text for weights by probe")
    tasks: dict[Name, OfferedTask] = Field(
        default_factory=dict, description="in place of what is trained: the tasks of a federation that has several"
    )
    protection: ProtectionPart | None = Field(None, description="of a custodian: what it opens")

    def probe_records(self) -> tuple[Record, ...]:
        """The probe, with the task's labels by number."""
        labels = self.task.labels if self.task else ()
        return tuple(Record(each.text, labels.index(each.label)) for each in self.probe)

    def of_task(self, name: str, *, trains: bool) -> TrustPart:
        """The same federation with this task alone, among the members who take part in it.

        Args:
            name: of the task.
            trains: whether what is trained is of interest; a custodian opens sums, whatever they are of.
        """
        task = self.tasks[name]
        what = {"task": task.task, "adapter": task.adapter, "max_tokens": task.max_tokens, "probe": task.probe}
        members = {member: self.members[member] for member in task.members}
        return self.model_copy(update={"members": members, "tasks": {}, **(what if trains else {})})


class JoinedFile(TrustPart):
    """A federation that `securefl site join` joined: a document of its own, in the site's home."""

    securefl_joined: First
    federation: Name


class OwnTaskPart(Part):
    """A task that this site takes part in: the records that it trains, and the account that they are charged to."""

    data: DataSource | None = Field(None, description="its records for this task")
    without_records: Flag = Field(False, description="it takes part with noise alone, to hide who owns records")
    dataset: str | None = Field(
        None,
        min_length=1,
        description="the account, else the site's own: tasks of one account add up, and no record stands on two",
    )

    @model_validator(mode="after")
    def _one_source(self) -> OwnTaskPart:
        if (self.data is None) != self.without_records:
            raise ValueError("write one of `data` and `without_records: true`")
        return self


class ChildPart(Part):
    """One party of a sub-federation: its key comes with its answer, unless it is written here."""

    model_config = ConfigDict(json_schema_extra=or_name)

    key: Key | None = Field(None, description=f"its public key, if it is known without an answer; {MADE_BY}")
    region: str | None = Field(None, min_length=1, description="of a member: where it stands; else as it answers")
    socket: str | None = Field(None, min_length=1, description="where it answers; else as `site serve --member` says")

    @model_validator(mode="before")
    @classmethod
    def _key_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"key": raw} if isinstance(raw, str) else raw


class SubfederationPart(Part):
    """The federation that this site runs itself, in place of records: its members' sums are its training."""

    name: Name = Field(description="as its own policy says")
    home: str = Field(description="its coordinator's home")
    policy: str | None = Field(None, description="its own policy's file, under that of the federation above")
    rounds: Whole = Field(1, ge=1, description="its own rounds for each one of the federation above")
    custodian: ChildPart | None = Field(None, description="its custodian, or that one's key: of encrypted updates")
    members: dict[Name, ChildPart] = Field(min_length=2, description="whom it invites")
    protection: ProtectionPart
    patience: PatiencePart | None = Field(
        None, description="how long its members are waited for; else what the federation above leaves it"
    )
    strategy: StrategyPart = Field(default_factory=lambda: StrategyPart.model_validate({}))

    @property
    def parties(self) -> dict[str, ChildPart]:
        """Everybody who is invited, by name."""
        return {**self.members, **({CUSTODIAN: self.custodian} if self.custodian else {})}


class SiteFile(Part):
    """One party's own document, as it is written down."""

    securefl_site: First
    name: Name = Field(description="this party's name; `custodian` holds a decryption key, and has no records")
    region: str | None = Field(None, min_length=1, description="where it stands")
    home: str = Field("home", min_length=1, description="folder of its key, ledger and account; made if missing")
    store: str | None = Field(
        None, description="a PostgreSQL database for its ledger, as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
    )
    model: ModelPart | None = None
    dataset: str | None = Field(None, min_length=1, description="the account its budget is kept under; else its name")
    data: DataSource | None = Field(None, description="its records")
    subfederation: SubfederationPart | None = Field(None, description="in place of records: its own members")
    without_records: Flag = Field(False, description="it takes part with noise alone, to hide who owns records")
    tasks: dict[Name, dict[Name, OwnTaskPart]] = Field(
        default_factory=dict,
        description="of a federation with several tasks, by its name: those that this site takes part in, by theirs",
    )
    limits: LimitsPart = Field(default_factory=lambda: LimitsPart.model_validate({}))
    federations: dict[Name, TrustPart] = Field(default_factory=dict, description="by the name that its policy says")

    @property
    def is_custodian(self) -> bool:
        """Whether this party holds a decryption key, and no records."""
        return self.name == CUSTODIAN
