"""A COORDINATOR document with `tasks`: several trainings over one base model, each by some of the federation's members.

It stands for one COORDINATOR document a task, as a federation's file with tasks does: what a task says goes over what
the document says of all. Who owns records is each site's own matter: here stands who is asked to take part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from securefl.documents import coordinator_file, schemas, strict, suite_file
from securefl.documents.coordinator_file import Coordinator, CoordinatorFile, InvitingFile
from securefl.documents.federation import Name
from securefl.documents.offer import Offer, OfferedTask
from securefl.documents.strict import Document, Part, Path_
from securefl.errors import OperatorFault
from securefl.terms.names import TaskName

OWN = ("task", "adapter", "training", "strategy", "start")  # what a task may say for itself


class TaskOfCoordinator(Part):
    """One task: who is asked to take part, and what differs from the others."""

    members: tuple[Name, ...] = Field(min_length=2, description="who takes part, some of the document's `members`")
    task: dict[str, Any] = Field(default_factory=dict)
    adapter: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    strategy: dict[str, Any] = Field(default_factory=dict)
    start: str | None = Field(None, description="its start file: `securefl start make --task NAME`")


class CoordinatorSuiteFile(InvitingFile):
    """One coordinator's own document of a federation with tasks, as it is written down."""

    task: dict[str, Any] = Field(default_factory=dict, description="of every task, unless it says otherwise")
    adapter: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    strategy: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[Name, TaskOfCoordinator] = Field(min_length=1, description="the tasks, by name")


@dataclass(frozen=True, slots=True)
class SuiteOffer:
    """What such a document says of its federation: of whom, and of what is trained in each task."""

    whole: CoordinatorSuiteFile
    offer: Offer

    @property
    def name(self) -> str:
        """As its policy says."""
        return self.whole.name

    @property
    def parties(self) -> Mapping[str, coordinator_file.InvitedPart]:
        """Everybody who is invited, by name."""
        return self.whole.parties

    @property
    def members(self) -> Mapping[str, coordinator_file.InvitedPart]:
        """Its members, by name."""
        return self.whole.members


@dataclass(frozen=True, slots=True)
class CoordinatorSuite:
    """A COORDINATOR document with tasks, and where it came from."""

    file: SuiteOffer
    path: Path
    text: bytes
    tasks: Mapping[str, Coordinator]  # in its order

    @property
    def folder(self) -> Path:
        """What the document's paths are relative to."""
        return self.path.parent

    @property
    def home(self) -> Path:
        """The folder of its key and ledger."""
        return self.folder / Path(self.file.whole.home).expanduser()

    @property
    def policy(self) -> Path:
        """The policy's file."""
        return self.folder / self.file.whole.policy

    def socket(self, name: str) -> Path:
        """Return where a party answers."""
        return self.folder / Path(self.file.parties[name].socket).expanduser()

    def of_task(self, name: str | None) -> Coordinator:
        """The document that a task stands for.

        Raises:
            OperatorFault: there is none of this name, or none was chosen.
        """
        if name is None or name not in self.tasks:
            what = f"no task {name}" if name else f"{len(self.tasks)} tasks, and none was chosen"
            raise OperatorFault(what, f"choose one of {', '.join(self.tasks)}", f"{self.path}: tasks")
        return self.tasks[name]


def load(path: Path) -> Coordinator | CoordinatorSuite:
    """The COORDINATOR document at ``path``, with tasks or without.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line, field and what would do.
    """
    return of(strict.read(path), path)


def of(document: Document, path: Path) -> Coordinator | CoordinatorSuite:
    """The COORDINATOR document in ``document``; paths in it are relative to ``path``.

    Raises:
        OperatorFault: as for ``load``.
    """
    if not document.has("tasks") or not document.has("securefl_coordinator"):
        return coordinator_file.of(document, path)
    file = strict.validate(document, CoordinatorSuiteFile)
    found = tuple(
        f"{document.name}:{document.line_of(place)}: {'.'.join(map(str, place))}: {words}"
        for place, words in (*coordinator_file.problems(file), *_problems(file))
    )
    if found:
        raise OperatorFault(found)
    tasks = {name: _task(document, path, name, part) for name, part in file.tasks.items()}
    all_of_them = {name: _offered(each.file) for name, each in tasks.items()}
    first = {"securefl_offer": 1, "model": file.model.name, "protection": file.protection}
    offered = Offer.model_validate({**first, "tasks": all_of_them})
    return CoordinatorSuite(SuiteOffer(file, offered), path.resolve(), document.text, tasks)


def schema_text() -> str:
    """The JSON Schema of COORDINATOR documents, with tasks or without, for editors."""
    return schemas.schema_text(schemas.of(CoordinatorFile, CoordinatorSuiteFile))


def _problems(file: CoordinatorSuiteFile) -> Iterator[tuple[Path_, str]]:
    for name, part in file.tasks.items():
        for member in part.members:
            if member not in file.members or part.members.count(member) > 1:
                what = f"{member} stands twice" if member in file.members else f"no member is called {member}"
                yield ("tasks", name, "members"), f"{what}; name some of {', '.join(file.members)}, each once"
    idle = sorted(set(file.members) - {member for part in file.tasks.values() for member in part.members})
    for member in idle:
        yield ("members", member), f"{member} takes part in no task: leave it out, or name it in one"


def _task(document: Document, path: Path, name: str, part: TaskOfCoordinator) -> Coordinator:
    """The document that one task stands for."""
    made = suite_file.document_of(document, name, OWN, ("tasks",))
    made.value["members"] = {member: made.value["members"][member] for member in part.members}
    found = coordinator_file.of(made, path)
    if found.file.task.kind == "language":
        place = f"{document.name}:{document.line_of(('tasks', name, 'task'))}: tasks.{name}.task"
        raise OperatorFault("a language model among tasks", "give it a document of its own", place)
    return replace(found, task=TaskName(name))


def _offered(file: CoordinatorFile) -> OfferedTask:
    return OfferedTask(
        members=tuple(file.members), task=file.task, adapter=file.adapter, max_tokens=file.training.max_tokens,
        probe=file.strategy.probe,
    )  # fmt: skip
