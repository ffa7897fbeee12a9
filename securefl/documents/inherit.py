"""What a sub-federation takes over from its parent's document, and what may differ.

What it leaves out is its parent's. What it says beside that must agree, for it trains what its parent proposes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securefl.documents import strict
from securefl.documents.federation import FederationFile, Loaded
from securefl.documents.strict import Document
from securefl.errors import OperatorFault
from securefl.terms import Unit

BELOW = "below"  # a node's folder for what it has of the federation it stands for
DEEPEST = 7  # levels below the root: policies go no deeper
TAKEN = ("purpose", "model", "task", "adapter", "training", "runtime")
ITS_OWN = ("rounds", "engine")  # of `training`: nothing of how a round trains


def document_of(parent: Document, path: Path, index: int) -> tuple[Document, Path]:
    """The document of the federation that member ``index`` is, completed from its parent's; and its path.

    Raises:
        OperatorFault: it cannot be read, or is no mapping.
    """
    place = ("members", index, "federation")
    member = parent.value["members"][index]
    inline = isinstance(member["federation"], dict)
    child = parent.under(*place) if inline else strict.read(path.parent / member["federation"])
    if not isinstance(child.value, dict):
        raise OperatorFault("no federation", "write its fields under it, one a line", child.name)
    taken = {name: parent.value[name] for name in TAKEN if name in parent.value}
    if inline:
        home = member.get("site") or f"{parent.value.get('sites', 'sites')}/{member['name']}"
        taken |= {"securefl_federation": 1, "name": member["name"], "sites": f"{home}/{BELOW}"}
        taken |= {"data": parent.value["data"]} if "data" in parent.value else {}
        if "policy" not in child.value:
            raise OperatorFault(
                "a federation without a policy of its own", "name its file under `policy`", _at(parent, place)
            )
        if "protection" not in child.value and "protection" in parent.value:
            taken |= {"protection": parent.value["protection"]}
        path_of_child = path
    else:
        path_of_child = path.parent / member["federation"]
        model = path.parent / str(taken.get("model", ""))
        if "model" in taken and model.is_dir():
            taken["model"] = str(model.resolve())
    return Document(
        child.name, child.text, {**taken, **_with_loss(parent.value, child.value)}, child.lines
    ), path_of_child


def _with_loss(above: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """A record's loss is part of how a plan trains: it is the parent's, where nothing else is said."""
    upper, own = above.get("strategy"), value.get("strategy", {})
    if not isinstance(upper, dict) or not isinstance(own, dict) or "loss" not in upper:
        return value
    return {**value, "strategy": {"loss": upper["loss"], **own}}


def _at(document: Document, place: strict.Path_) -> str:
    return f"{document.name}:{document.line_of(place)}: {'.'.join(map(str, place))}"


def check(parent: Loaded, child: Loaded, rounds: int, place: str) -> None:
    """Check that the child can train what its parent proposes.

    Raises:
        OperatorFault: it says otherwise than its parent, or uses what one run alone can hold.
    """
    above, below = parent.file, child.file
    for name in ("task", "adapter", "purpose"):
        _same(name, getattr(above, name), getattr(below, name), place)
    for name in type(above.training).model_fields:
        if name not in ITS_OWN:
            _same(f"training.{name}", getattr(above.training, name), getattr(below.training, name), place)
    if _model(parent) != _model(child):
        _same("model", above.model, below.model, place)
    if "loss" in below.strategy.model_fields_set:
        _same("strategy.loss", above.strategy.loss, below.strategy.loss, place)
    for held, what, remedy in _limits(above, below, rounds):
        if not held:
            raise OperatorFault(what, remedy, place)


def _limits(above: FederationFile, file: FederationFile, rounds: int) -> Iterator[tuple[bool, str, str]]:
    training = file.training
    yield (
        training.unit is Unit.RECORD,
        "unit client prices one member's update, and a federation's is of many members",
        "use unit record in a tree",
    )
    for what, remedy in (*file.adapter.rule_below(), *file.strategy.not_below(file.task.labels)):
        yield False, what, remedy
    yield (
        training.steps % rounds == 0,
        f"{training.steps} steps do not make {rounds} equal rounds inside, and no more are paid for above",
        "let `rounds` divide training.steps",
    )
    yield (
        "partition" not in file.data or file.data != above.data,
        "members of two federations would get the same parts of one file",
        "give each federation below, or each of its members, data of its own",
    )


def _model(loaded: Loaded) -> str:
    path = loaded.folder / loaded.file.model
    return str(path.resolve()) if path.exists() else loaded.file.model


def _same(name: str, above: Any, below: Any, place: str) -> None:  # noqa: ANN401 - any field's value
    if above != below:
        what = f"{name} is {_shown(below)} here and {_shown(above)} in the federation above"
        raise OperatorFault(
            what, f"leave `{name.split('.', maxsplit=1)[0]}` out: what is above is trained below", place
        )


def _shown(value: Any) -> str:  # noqa: ANN401
    return str(value.model_dump(mode="json") if hasattr(value, "model_dump") else value)
