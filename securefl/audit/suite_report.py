"""The report of a run with tasks: one shape, and every figure of it that its tasks' own reports give.

It is made by the same function when it is written and when it is checked. What is left is the coordinator's word: who
owns a task's records, what its accounts are called, how large the base model is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from securefl.audit.report import Accuracy, Outcome, Part
from securefl.errors import Tampered

SUITE, MODULES = "suite.json", "modules"
SCHEMA = Path(__file__).with_name("suite.schema.json")
WORDS = (
    "file",
    "hide_ownership",
    "base.parameters",
    "tasks.*.owners",
    "tasks.*.account",
)  # what no task's report gives
ONE_FOR_EACH, OWN = "one for each name under `records`", "the member's own"


class BasePart(Part):
    """The base model that all tasks stand on."""

    name: str
    digest: str
    parameters: int


class Both(Part):
    """What travelled, over all tasks."""

    up: int
    down: int


class TaskBytes(Part):
    """What travelled for one task, and what whole updates of the base would have been."""

    up: int
    down: int
    full_update_each_way: int


class TaskEpsilon(Part):
    """What a task's run spent, at the data set where it is most."""

    spent: float
    limit: float
    delta: float
    unit: str


class TaskPart(Part):
    """One task: what its own report says, and who owns records of it."""

    outcome: Outcome
    run: str
    owners: list[str]
    members: int
    account: str
    trained_parameters: int
    accuracy: Accuracy
    epsilon: TaskEpsilon
    bytes: TaskBytes
    seconds: float


class SuiteReport(Part):
    """Everything a run with tasks tells."""

    file: str = Field(description="SHA-256 of the file that describes it")
    outcome: Outcome
    hide_ownership: bool = Field(description="whether everybody takes part in every task")
    base: BasePart
    bytes: Both
    tasks: dict[str, TaskPart] = Field(min_length=1)
    modules: str


def schema() -> dict[str, Any]:
    """The JSON Schema of ``suite.json``."""
    return SuiteReport.model_json_schema()


def task_figures(report: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """Return what a task's own report gives of it; ``parameters`` is the size of the base model."""
    took_part, rounds = len(report["members"]), max(len(report["rounds"]), 1)
    return {
        "outcome": report["outcome"],
        "run": report["run"],
        "members": took_part,
        "trained_parameters": report["model"]["trained_parameters"],
        "accuracy": report["accuracy"],
        "epsilon": {key: report["epsilon"][key] for key in ("spent", "limit", "delta", "unit")},
        "bytes": {**report["bytes"], "full_update_each_way": 4 * parameters * took_part * rounds},
        "seconds": report["seconds"]["total"],
    }


def figures(tasks: Mapping[str, Mapping[str, Any]], parameters: int) -> dict[str, Any]:
    """All that the tasks' own reports give of the suite's, in its shape."""
    worst = {each["outcome"]["status"]: (name, each["outcome"]["why"]) for name, each in tasks.items()}
    outcome = next((each for each in ("refused", "aborted") if each in worst), "finished")
    return {
        "outcome": {"status": outcome, "why": "" if outcome == "finished" else "task {}: {}".format(*worst[outcome])},
        "bytes": {way: sum(each["bytes"][way] for each in tasks.values()) for way in ("up", "down")},
        "tasks": {name: task_figures(each, parameters) for name, each in tasks.items()},
        "modules": MODULES,
    }


def read(value: Mapping[str, Any]) -> SuiteReport:
    """The report, whose every value is of its kind.

    Raises:
        Tampered: something stands in it that its schema does not name, or of another kind, or is missing.
    """
    try:
        return SuiteReport.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as fault:
        found = fault.errors()[0]
        raise Tampered(SUITE, f"{'.'.join(map(str, found['loc'])) or 'it'}: {found['msg']}") from fault
