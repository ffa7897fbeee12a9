"""A COORDINATOR document: the federation that one coordinator runs, and where each party answers. It writes it alone.

It knows parties by name, key and socket: nothing of their records, homes or machines. Paths in it are relative to the
file itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from securefl.documents import strict
from securefl.documents.federation import RESERVED_NAMES, FederationFile, Key, Loaded, Name
from securefl.documents.offer import Offer
from securefl.documents.patience import PatiencePart
from securefl.documents.protection import ProtectionPart
from securefl.documents.site_parts import MADE_BY, ModelPart
from securefl.documents.strategy import StrategyPart
from securefl.documents.strict import Document, First, Part, Path_, or_name
from securefl.documents.task import AdapterPart, TaskPart
from securefl.documents.training import TrainingPart
from securefl.errors import OperatorFault
from securefl.terms.names import TaskName
from securefl.terms.parties import CUSTODIAN


class InvitedPart(Part):
    """One party, as its coordinator knows it."""

    model_config = ConfigDict(json_schema_extra=or_name)

    socket: str = Field(min_length=1, description="where it answers: the socket of its `securefl site serve`")
    key: Key | None = Field(None, description=f"its public key, if it is known without an answer; {MADE_BY}")
    region: str | None = Field(None, min_length=1, description="of a member: where it stands; else as it answers")

    @model_validator(mode="before")
    @classmethod
    def _socket_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"socket": raw} if isinstance(raw, str) else raw


class InvitingFile(Part):
    """Whom a coordinator invites to what, whatever is trained there."""

    securefl_coordinator: First
    name: Name = Field(description="of the federation, as its policy says")
    home: str = Field("home", min_length=1, description="folder of its key and ledger; made if missing")
    policy: str = Field(description="the policy's file")
    purpose: str = Field(min_length=1)
    model: ModelPart
    protection: ProtectionPart
    patience: PatiencePart | None = Field(None, description="how long answers are waited for")
    custodian: InvitedPart | None = Field(None, description="where updates are encrypted: who holds the key")
    members: dict[Name, InvitedPart] = Field(min_length=2, description="whom it invites")

    @property
    def parties(self) -> Mapping[str, InvitedPart]:
        """Everybody who is invited, by name."""
        return {**self.members, **({CUSTODIAN: self.custodian} if self.custodian else {})}


class CoordinatorFile(InvitingFile):
    """One coordinator's own document, as it is written down."""

    start: str | None = Field(
        None, description="the start file, made by `securefl start make`: neither the model nor torch is needed then"
    )
    task: TaskPart
    adapter: AdapterPart
    training: TrainingPart
    strategy: StrategyPart = Field(default_factory=lambda: StrategyPart.model_validate({}))

    @property
    def offer(self) -> Offer:
        """What its invitation says is trained."""
        return Offer(
            securefl_offer=1, model=self.model.name, task=self.task, adapter=self.adapter,
            max_tokens=self.training.max_tokens, probe=self.strategy.probe, protection=self.protection,
        )  # fmt: skip

    def federation(self, keys: Mapping[str, str], regions: Mapping[str, str]) -> FederationFile:
        """The document of a live federation that says the same.

        Raises:
            ValidationError: what it says together is none.
        """
        members = [{"name": each, "region": regions[each], "key": keys[each]} for each in self.members]
        fields = {name: getattr(self, name) for name in FIELDS}
        return FederationFile.model_validate(
            {
                "securefl_federation": 1, "model": self.model.name, "members": members, **fields,
                **({"custodian": keys[CUSTODIAN]} if self.custodian else {}),
                **({"start": self.start} if self.start else {}),
            }
        )  # fmt: skip


FIELDS = ("name", "policy", "purpose", "task", "adapter", "training", "protection", "strategy", "patience")


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A COORDINATOR document and where it came from; or the one that a task among several stands for."""

    file: CoordinatorFile
    path: Path
    text: bytes
    task: TaskName | None = None

    @property
    def folder(self) -> Path:
        """What the document's paths are relative to."""
        return self.path.parent

    @property
    def home(self) -> Path:
        """The folder of its key and ledger."""
        return self.folder / Path(self.file.home).expanduser()

    @property
    def policy(self) -> Path:
        """The policy's file."""
        return self.folder / self.file.policy

    def socket(self, name: str) -> Path:
        """Return where a party answers."""
        return self.folder / Path(self.file.parties[name].socket).expanduser()

    def loaded(self, keys: Mapping[str, str], regions: Mapping[str, str]) -> Loaded:
        """The live federation that it says, with these keys and regions of its parties."""
        file = self.file.federation(keys, regions)
        return Loaded(file=file, path=self.path, written=self.text, data={}, of_task=self.task)

    def whoever_answers(self) -> Loaded:
        """The same with made-up keys and regions where the document has none: what is trained depends on neither."""
        return self.loaded(*_made_up(self.file))


def load(path: Path) -> Coordinator:
    """The COORDINATOR document at ``path``.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line, field and what would do.
    """
    return of(strict.read(path), path)


def of(document: Document, path: Path) -> Coordinator:
    """The COORDINATOR document in ``document``; paths in it are relative to ``path``.

    Raises:
        OperatorFault: as for ``load``.
    """
    if isinstance(document.value, dict) and not document.has("securefl_coordinator"):
        others = sorted(key for key in document.value if str(key).startswith("securefl_"))
        what = (
            f"this document says {others[0]}, not securefl_coordinator" if others else "no `securefl_coordinator` in it"
        )
        remedy = "give a COORDINATOR document: its first line is `securefl_coordinator: 1`"
        raise OperatorFault(what, remedy, document.name)
    file = strict.validate(document, CoordinatorFile)
    found = tuple(
        f"{document.name}:{document.line_of(place)}: {'.'.join(map(str, place))}: {words}"
        for place, words in problems(file)
    )
    if found:
        raise OperatorFault(found)
    _check_together(file, document)
    return Coordinator(file, path.resolve(), document.text)


def problems(file: InvitingFile) -> Iterator[tuple[Path_, str]]:
    """Yield where the document contradicts itself, and what would do."""
    for name in RESERVED_NAMES:
        if name in file.members:
            yield ("members", name), f"no member can be called {name}: give it a name of its own"
    scheme = file.protection.scheme
    if scheme.has_custodian and file.custodian is None:
        yield ("protection",), f"found {scheme.value}, which needs a `custodian`: write where it answers"
    if file.custodian is not None and not scheme.has_custodian:
        yield ("custodian",), f"protection {scheme.value} has no custodian: leave it out"
    if file.custodian is not None and file.custodian.region is not None:
        yield ("custodian", "region"), "a custodian has no region: leave it out"
    seen: dict[tuple[str, str], str] = {}
    for name, each in file.parties.items():
        place: Path_ = ("custodian",) if name == CUSTODIAN else ("members", name)
        for field in ("socket", "key"):
            value = getattr(each, field)
            other = name if value is None else seen.setdefault((field, value), name)
            if other != name:
                yield (*place, field), f"found {value[:40]}, which is {other}'s: each party has its own"


def _check_together(file: CoordinatorFile, document: Document) -> None:
    """Check that a federation may be as this document says, whoever answers.

    Raises:
        OperatorFault: it may not.
    """
    try:
        file.federation(*_made_up(file))
    except ValidationError as fault:
        words = strict.problems(document.value, CoordinatorFile, fault)
        raise OperatorFault(words, "change one of them", document.name) from fault


def _made_up(file: CoordinatorFile) -> tuple[dict[str, str], dict[str, str]]:
    """Return a key and a region for everybody: the document's, or one that is nobody's."""
    keys = {name: each.key or f"{at:064x}" for at, (name, each) in enumerate(file.parties.items(), 1)}
    return keys, {name: each.region or "anywhere" for name, each in file.members.items()}
