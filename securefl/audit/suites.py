"""A run with tasks: which tasks it has, and whether its own report and modules are what its tasks' runs made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from securefl.audit import folder
from securefl.audit.ledger_files import Ledger
from securefl.errors import Tampered
from securefl.terms import Hash, MemberId, Released, RunId

MANIFEST, TENSORS, ORDER = ".json", ".safetensors", "order"
TOLD = ("outcome", "accuracy", "run")  # of a task's report, in the suite's


def is_suite(run: Path) -> bool:
    """Whether this is a run with tasks."""
    return (run / folder.SUITE).is_file()


def suite_id(text: bytes) -> RunId:
    """What its coordinator's ledger calls a run with tasks: of the file that describes it."""
    return RunId(hashlib.sha256(text).digest()[:16])


def tasks(run: Path) -> Mapping[str, Path]:
    """The run of each task, by its name.

    Raises:
        Tampered: the suite's report cannot be read, or is not finished.
    """
    named = _report(run).get(folder.TASKS)
    if not isinstance(named, dict) or not named:
        raise Tampered(folder.SUITE, "the run with tasks has not ended")
    return {name: run / folder.TASKS / name for name in named}


def _report(run: Path) -> dict[str, Any]:
    try:
        value = json.loads((run / folder.SUITE).read_bytes())
    except (OSError, ValueError) as fault:
        raise Tampered(folder.SUITE, f"cannot be read: {fault}") from fault
    if not isinstance(value, dict):
        raise Tampered(folder.SUITE, "not a suite's report")
    return value


def check(run: Path, ledgers: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """What is not verified, if report and modules are what the coordinator wrote down, and what the tasks' runs made.

    Raises:
        Tampered: otherwise.
    """
    report = _report(run)
    try:
        name = RunId(bytes.fromhex(report["file"])[:16])
    except (KeyError, ValueError, TypeError) as fault:
        raise Tampered(folder.SUITE, f"it does not say of which file it is: {fault}") from fault
    word = folder.last(ledgers, name)
    if word is None:
        raise Tampered(folder.SUITE, "no ledger here says what this run with tasks left")
    notes = folder.check_files(run, word[0], word[2])
    beside = sorted(path.name for path in (run / folder.TASKS).iterdir() if path.name not in report[folder.TASKS])
    if beside:
        raise Tampered(f"{folder.TASKS}/{beside[0]}", "no task of this run, and it stands among them")
    for task, path in tasks(run).items():
        told, own = report[folder.TASKS][task], json.loads((path / folder.REPORT).read_bytes())
        for field in TOLD:
            if told.get(field) != own[field]:
                raise Tampered(folder.SUITE, f"{task}: {field} is not what the task's own report says")
        _check_module(run / "modules", task, own, word[0])
    return notes


def _check_module(store: Path, task: str, report: Mapping[str, Any], coordinator: Ledger) -> None:
    """The tensors of a task's module are, in their order, the state that its run released last."""
    run = RunId(bytes.fromhex(report["run"]))
    released = [entry for _, entry in coordinator.each(Released) if entry.run == run]
    path = store / f"{task}{TENSORS}"
    if report["outcome"]["status"] != "finished" or not released:
        return
    if not path.is_file():
        raise Tampered(f"modules/{path.name}", "missing, and the task's run finished")
    if state_of(path.read_bytes()) != max(released, key=lambda each: each.round).digest:
        raise Tampered(f"modules/{path.name}", "not the tensors that the task's run released")


def state_of(data: bytes) -> Hash:
    """SHA-256 of the state that a file of tensors holds, in the order that it names.

    Raises:
        Tampered: it is no such file.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        order = json.loads(header.pop("__metadata__")[ORDER])
        places = [header[name]["data_offsets"] for name in order]
        parts = [data[8 + size + start : 8 + size + end] for start, end in places]
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise Tampered("modules", f"no tensors in a named order: {fault}") from fault
    if sorted(order) != sorted(header):
        raise Tampered("modules", "an order of other tensors than there are")
    return Hash(hashlib.sha256(b"".join(parts)).digest())
