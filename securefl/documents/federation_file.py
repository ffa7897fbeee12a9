"""Read a federation's file: each member's data source is completed, and each sub-federation read with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from securefl.documents import inherit, strict
from securefl.documents.data_source import DataSource
from securefl.documents.federation import FederationFile, Loaded
from securefl.documents.strict import Document
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
    written = [each.get("name") for each in document.value["members"]]
    sources = {}
    for index, member in enumerate(file.members):
        line = written.index(member.name)
        place = f"{document.name}:{document.line_of(('members', line))}: members.{line}.data"
        if member.federation is not None or member.key is not None:
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
        wrong = strict.problems(merged, DataSource, fault)
        raise OperatorFault(wrong, "see the federation's `data` and this member's", place) from fault
