"""A federation's file with `tasks`: many adapters over one base model, each owned by some of the members.

It stands for one federation file a task. What a task says of `task`, `adapter`, `data`, `training` and `strategy` goes
over what the file says of them for all; an adapter's seed follows from the task's name where none is given.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from securefl.documents import federation_file, strict
from securefl.documents.federation import FederationFile, Loaded, Name
from securefl.documents.strict import Document, Flag, Part, Path_
from securefl.errors import OperatorFault
from securefl.terms.names import TaskName

OWN = ("task", "adapter", "data", "training", "strategy")  # what a task may say for itself


class TaskOfSuite(Part):
    """One task: who owns it, and what differs from the others."""

    members: tuple[Name, ...] | dict[Name, dict[str, Any]] = Field(
        description="who owns records of it: names, or names with what differs in their data"
    )
    records: Name | None = Field(
        None,
        description="the records it trains on, by a name: tasks of one name, or of none, add up on one account; no "
        "record stands under two names; under unit client all tasks add up",
    )
    task: dict[str, Any] = Field(default_factory=dict)
    adapter: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    strategy: dict[str, Any] = Field(default_factory=dict)


class SuitePart(Part):
    """What a suite says beside what every federation's file says."""

    tasks: dict[Name, TaskOfSuite] = Field(min_length=1, description="the tasks, by name")
    hide_ownership: Flag = Field(
        False, description="every member takes part in every task: with no records where it owns none"
    )


@dataclass(frozen=True, slots=True)
class OwnedTask:
    """One task as a federation of its own."""

    name: str
    loaded: Loaded  # its members are who takes part; `data` holds the owners' alone
    owners: tuple[str, ...]
    records: str | None

    def owned(self) -> Loaded:
        """The same federation with its owners alone: what the cohort's floor is held against."""
        members = tuple(each for each in self.loaded.file.members if each.name in self.owners)
        return _with(self.loaded, members=members)


@dataclass(frozen=True, slots=True)
class Suite:
    """All tasks of a file, in its order."""

    path: Path
    written: bytes
    tasks: Mapping[str, OwnedTask]
    hidden: bool  # whether everybody takes part in everything

    def under(self, policy: Path) -> Suite:
        """The same tasks under another policy."""
        moved = {
            name: replace(each, loaded=_with(each.loaded, policy=str(policy.resolve())))
            for name, each in self.tasks.items()
        }
        return replace(self, tasks=moved)


def _with(loaded: Loaded, **fields: Any) -> Loaded:  # noqa: ANN401 - fields of a federation's file
    return loaded.model_copy(update={"file": loaded.file.model_copy(update=fields)})


def is_suite(document: Document) -> bool:
    """Return whether a document describes several tasks."""
    return document.has("tasks")


def load(path: Path) -> Suite:
    """The suite at ``path``: every task in it is a valid federation.

    Raises:
        OperatorFault: anything in it is not as it must be, with file and line.
    """
    document = strict.read(path)
    own = {key: document.value[key] for key in SuitePart.model_fields if key in document.value}
    part = strict.validate(replace(document, value=own), SuitePart)
    if document.value.get("runtime", "inprocess") != "inprocess":
        place = f"{document.name}:{document.line_of(('runtime',))}: runtime"
        raise OperatorFault("tasks share a base model in one process", "leave `runtime` out", place)
    for index, member in enumerate(document.value.get("members") or ()):
        if isinstance(member, dict) and "federation" in member:
            place = f"{document.name}:{document.line_of(('members', index))}: members.{index}.federation"
            raise OperatorFault("a federation as a member owns no tasks here", "write one tree for each task", place)
    tasks = {name: _task(document, path, name, part) for name in part.tasks}
    return Suite(path.resolve(), document.text, tasks, part.hide_ownership)


def seed_of(name: str) -> int:
    """The seed of a task's adapter, where none is given: the same for every member, another for every task."""
    return int.from_bytes(hashlib.sha256(b"task\0" + name.encode()).digest()[:8]) >> 1


def _task(document: Document, path: Path, name: str, part: SuitePart) -> OwnedTask:
    given = part.tasks[name]
    owners = tuple(given.members)
    own_data = given.members if isinstance(given.members, dict) else {}
    made = document_of(document, name, OWN, tuple(SuitePart.model_fields))
    for member in made.value.get("members") or ():
        if isinstance(member, dict) and member.get("name") in own_data:
            member["data"] = {**(member.get("data") or {}), **own_data[member["name"]]}
    file = strict.validate(made, FederationFile)
    known = [each.name for each in file.members]
    if file.task.kind == "language":
        place = f"{document.name}:{document.line_of(('tasks', name, 'task'))}: tasks.{name}.task"
        raise OperatorFault("a language model among tasks", "give it a file of its own", place)
    place = f"{document.name}:{document.line_of(('tasks', name, 'members'))}: tasks.{name}.members"
    for each in owners:
        if each not in known or owners.count(each) > 1:
            what = f"{each} stands twice" if each in known else f"no member is called {each}"
            raise OperatorFault(what, f"name some of {', '.join(known)}, each once", place)
    if not owners:
        raise OperatorFault("nobody owns it", f"name some of {', '.join(known)}", place)
    everybody = tuple(
        each.model_copy(update={"dataset": _account(each.dataset or each.name, given.records)})
        for each in file.members
    )  # fmt: skip
    mine = tuple(each for each in everybody if each.name in owners)
    loaded = federation_file.with_data(file.model_copy(update={"members": mine}), made, path)
    taking_part = everybody if part.hide_ownership else mine
    loaded = _with(loaded, members=taking_part).model_copy(update={"of_task": TaskName(name)})
    return OwnedTask(name, loaded, owners, given.records)


def _account(dataset: str, records: str | None) -> str:
    return dataset if records is None else f"{dataset}.{records}"


def document_of(document: Document, name: str, may_say: tuple[str, ...], left_out: tuple[str, ...]) -> Document:
    """The document that one of ``tasks`` stands for; each field has the line it was written on.

    Args:
        document: with `tasks`.
        name: of the task.
        may_say: fields that a task may have for itself, over what the document says of all.
        left_out: fields of the document that speak of all tasks.
    """
    value = copy.deepcopy({key: each for key, each in document.value.items() if key not in left_out})
    given = document.value["tasks"][name]
    lines: dict[Path_, int] = {place: line for place, line in document.lines.items() if place[:1] != ("tasks",)}
    for key in may_say:
        if key in given:
            both = isinstance(value.get(key), dict) and isinstance(given[key], dict)
            value[key] = {**value[key], **given[key]} if both else copy.deepcopy(given[key])
    start: Path_ = ("tasks", name)
    lines |= {place[2:]: line for place, line in document.lines.items() if place[:2] == start and len(place) > 2}
    if isinstance(value.get("adapter"), dict):
        value["adapter"].setdefault("seed", seed_of(name))
    return Document(document.name, document.text + b"\ntask " + name.encode(), value, lines)
