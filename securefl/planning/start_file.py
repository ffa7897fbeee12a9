"""The start file: what whoever has the model writes once, for a coordinator that has neither model nor torch.

It is the canonical encoding of one ``Start``, so one digest names all of it. The plan names its parts by digest, and
each member compares them with what it computes itself, before anything is reserved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from securefl import files, wire
from securefl.documents.federation import Loaded
from securefl.documents.task import AdapterPart, TaskPart
from securefl.errors import Malformed, OperatorFault
from securefl.strategy import adapter_state
from securefl.terms import Hash
from securefl.terms.start import Start

REMEDY = "have whoever has the model make it: securefl start make DOCUMENT FILE"


def digest(start: Start) -> Hash:
    """SHA-256 of what a start file holds: what people compare."""
    return wire.digest("start", start)


def write(path: Path, start: Start) -> None:
    """Write the file, whole or not at all.

    Raises:
        OperatorFault: it is larger than a start file may be, or cannot be written.
    """
    data = wire.encode(start)
    if len(data) > wire.LIMIT_BYTES:
        what = f"{len(data)} bytes of first values; messages carry at most {wire.LIMIT_BYTES}"
        raise OperatorFault(what, "train a smaller adapter", str(path))
    try:
        files.write(path, data)
    except OSError as fault:
        what = f"cannot be written: {fault.strerror}"
        raise OperatorFault(what, "choose a folder you may write", str(path)) from fault


def read(path: Path) -> Start:
    """Read a start file.

    Raises:
        OperatorFault: it is not there, or is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(wire.LIMIT_BYTES + 1)
    except OSError as fault:
        raise OperatorFault(f"no start file can be read: {fault.strerror}", REMEDY, str(path)) from fault
    try:
        start: Start = wire.decode(data, Start)
    except Malformed as fault:
        raise OperatorFault(f"no start file: {fault}", REMEDY, str(path)) from fault
    if not adapter_state.is_finite(start.state):
        raise OperatorFault("first values with NaN or infinity", REMEDY, str(path))
    return start


class Trained(Protocol):
    """What a document says is trained: of a federation or its coordinator."""

    @property
    def task(self) -> TaskPart:
        """What the adapter is for."""
        ...

    @property
    def adapter(self) -> AdapterPart:
        """What is put on the model."""
        ...


def of(loaded: Loaded) -> Start:
    """Read the start file that a federation's document names.

    Raises:
        OperatorFault: the document names none, it cannot be read, or it is of another federation.
    """
    file = loaded.file
    if file.start is None:
        raise OperatorFault("names no start file", f"write `start: FILE`; {REMEDY}", f"{loaded.path}: start")
    return checked(loaded.folder / file.start, file.model, file, loaded.path)


def checked(path: Path, model: str, trained: Trained, document: Path) -> Start:
    """Read a start file, and check that it is of what ``document`` says is trained.

    Raises:
        OperatorFault: it cannot be read, or is of another model, task or adapter.
    """
    start = read(path)
    for what, found, asked in (
        ("model", start.model.name, model),
        ("task", start.task, trained.task.task()),
        ("adapter", start.adapter, trained.adapter.adapter()),
    ):
        if found != asked:
            raise OperatorFault(f"made for the {what} {found}, and {document} says {asked}", REMEDY, str(path))
    return start
