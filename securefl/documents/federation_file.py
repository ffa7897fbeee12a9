"""Read a federation's file: each member's data source is completed, and each sub-federation read with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securefl.documents import inherit, strict
from securefl.documents.data_source import DataSource
from securefl.documents.federation import SIMULATION, FederationFile, Loaded
from securefl.documents.strategy import WITHOUT_LABELS
from securefl.documents.strict import Document, Path_
from securefl.errors import OperatorFault


def load(path: Path) -> Loaded:
    """The federation at ``path``, with each member's data source complete.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line and field.
    """
    return of(strict.read(path), path)


def of(document: Document, path: Path, above: tuple[Path, ...] = ()) -> Loaded:
    """The federation in ``document``, with those below it; the paths in it are relative to ``path``.

    Raises:
        OperatorFault: as for ``load``; or federations stand below each other in a circle, or too deep.
    """
    return with_data(strict.validate(document, FederationFile), document, path, above)


def with_data(file: FederationFile, document: Document, path: Path, above: tuple[Path, ...] = ()) -> Loaded:
    """The federation with its members' data sources complete; ``document`` is what ``file`` was made of.

    Raises:
        OperatorFault: a source is not as it must be, or a federation below is not.
    """
    live = tuple(
        f"{document.name}:{document.line_of(where)}: {'.'.join(map(str, where))}: {words}"
        for where, words in (_live(file) if file.is_live else _simulated(file))
    )
    if live:
        raise OperatorFault(live)
    written = [each.get("name") for each in document.value["members"]]
    sources = _sources(file, document, written)
    loaded = Loaded(file=file, path=path.resolve(), written=document.text, data=sources)
    for member in file.members:
        if member.federation is None:
            continue
        index = written.index(member.name)
        place = f"{document.name}:{document.line_of(('members', index))}: members.{index}.federation"
        if len(above) == inherit.DEEPEST:
            raise OperatorFault(f"more than {inherit.DEEPEST} levels below each other", "flatten the tree", place)
        inner, where = inherit.document_of(document, path, index)
        if isinstance(member.federation, str) and where.resolve() in (*above, path.resolve()):
            raise OperatorFault(
                "federations below each other in a circle", "let each name others than those above", place
            )
        loaded.below[member.name] = of(inner, where, (*above, path.resolve()))
        inherit.check(loaded, loaded.below[member.name], member.rounds, place)
    return loaded


def _sources(file: FederationFile, document: Document, written: list[Any]) -> dict[str, DataSource]:
    """Each member's data source, complete.

    Raises:
        OperatorFault: what is wrong with any of them, all at once.
    """
    sources, wrong = {}, list[OperatorFault]()
    for index, member in enumerate(file.members):
        line = written.index(member.name)
        if member.federation is not None or member.key is not None:
            continue
        try:
            sources[member.name] = _trained(file, index, document, line)
        except OperatorFault as fault:
            wrong.append(fault)
    told = tuple(dict.fromkeys(map(str, wrong)))  # what all share is wrong once
    if len(told) > 1:  # every member's at once
        raise OperatorFault(told)
    if wrong:
        raise wrong[0]
    return sources


def _live(file: FederationFile) -> Iterator[tuple[Path_, str]]:
    """Yield where a live federation's document is not one, and what would do."""
    for name in SIMULATION:
        if name in file.model_fields_set:
            yield (name,), f"`{name}` is the simulation's, and members are live: leave it out"
    seen = {file.coordinator: "coordinator"} if file.coordinator else {}
    named: list[tuple[Path_, str, str | None]] = [(("custodian",), "custodian", file.custodian)]
    named += [(("members", index), each.name, each.key) for index, each in enumerate(file.members)]
    for where, name, key in named:
        if key is None and where != ("custodian",):
            yield where, f"{name} has no `key`, and {file.members[0].name} is live: give every member its key, or none"
        elif key is not None and seen.setdefault(key, name) != name:
            yield where, f"{name} and {seen[key]} have one key: each party has its own"
    scheme = file.protection.scheme
    if scheme.has_custodian and file.custodian is None:
        yield ("protection",), f"found {scheme.value}, which needs a `custodian`: write its key"
    if file.custodian is not None and not scheme.has_custodian:
        yield ("custodian",), f"protection {scheme.value} has no custodian: leave it out"


def _simulated(file: FederationFile) -> Iterator[tuple[Path_, str]]:
    """Yield where a simulation's document names keys, and what would do."""
    for index, each in enumerate(file.members):
        if each.key is not None:
            words = f"{each.name} is live and {file.members[0].name} has no `key`: give every member its key, or none"
            yield ("members", index), words
    for name in ("coordinator", "custodian"):
        if getattr(file, name) is not None:
            yield (name,), f"`{name}` is a live one's key, and no member has a `key`: give each its own"
    if file.start is not None:
        yield ("start",), "`start` is a live one's, and a simulation writes its own: leave it out"


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


def _trained(file: FederationFile, index: int, document: Document, line: int) -> DataSource:
    """A member's data, whose records the federation's loss can train."""
    place = f"{document.name}:{document.line_of(('members', line))}: members.{line}.data"
    source = _source(_merged(file, index, place), document, line)
    if source.has_unlabelled and file.strategy.loss.kind not in WITHOUT_LABELS:
        what = f"records without a label, and the loss {file.strategy.loss.kind} needs one"
        remedy = f"set strategy.loss to {' or '.join(WITHOUT_LABELS)}, or `unlabelled` to drop"
        raise OperatorFault(what, remedy, place)
    return source


def _source(merged: dict[str, Any], document: Document, member: int) -> DataSource:
    """A member's source; what is wrong in it is told where it was written: in what all share, or at the member."""
    from pydantic import ValidationError  # noqa: PLC0415

    own, shared = ("members", member, "data"), ("data",)
    try:
        return DataSource.model_validate(merged)
    except ValidationError as fault:
        told = []
        for where, words in strict.each_problem(merged, DataSource, fault):
            of_all = (*shared, *where[:1]) in document.lines and (not where or (*own, *where) not in document.lines)
            at, said = shared if of_all else own, words.removeprefix("the document: found a mapping; ")
            name = ".".join(map(str, at)) + ("." if said == words else ": ")
            told.append(f"{document.name}:{document.line_of((*at, *where))}: {name}{said}")
        raise OperatorFault(tuple(dict.fromkeys(told))) from fault
