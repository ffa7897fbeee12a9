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
AT_SITES = "as each member's own document says"


class BasePart(Part):
    """The base model that all tasks stand on."""

    name: str
    digest: str
    parameters: int | None = Field(description="None where a coordinator does not have the model")


class Both(Part):
    """What travelled, over all tasks."""

    up: int
    down: int


class TaskBytes(Part):
    """What travelled for one task, and what whole updates of the base would have been."""

    up: int
    down: int
    full_update_each_way: int | None


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
    accuracy: Accuracy | None = Field(description="None where held-out rows stay at their sites")
    epsilon: TaskEpsilon | None = Field(description="None where it stands in the members' ledgers alone")
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
    modules: str | None = Field(description="the folder of modules; None where their prices are at the members'")


def schema() -> dict[str, Any]:
    """The JSON Schema of ``suite.json``."""
    return SuiteReport.model_json_schema()


def task_figures(report: Mapping[str, Any], parameters: int | None) -> dict[str, Any]:
    """Return what a task's own report gives of it, or what its coordinator alone tells.

    ``parameters`` is the size of the base model, where it is known.
    """
    took_part, rounds, spent = len(report["members"]), max(len(report["rounds"]), 1), report.get("epsilon")
    seconds = report["seconds"]
    whole = None if parameters is None else 4 * parameters * took_part * rounds
    return {
        "outcome": report["outcome"],
        "run": report["run"],
        "members": took_part,
        "trained_parameters": report["model"]["trained_parameters"],
        "accuracy": report.get("accuracy"),
        "epsilon": spent and {key: spent[key] for key in ("spent", "limit", "delta", "unit")},
        "bytes": {**report["bytes"], "full_update_each_way": whole},
        "seconds": seconds["total"] if isinstance(seconds, Mapping) else seconds,
    }


def figures(tasks: Mapping[str, Mapping[str, Any]], parameters: int | None) -> dict[str, Any]:
    """All that the tasks' own reports give of the suite's, in its shape."""
    worst = {each["outcome"]["status"]: (name, each["outcome"]["why"]) for name, each in tasks.items()}
    outcome = next((each for each in ("refused", "aborted") if each in worst), "finished")
    return {
        "outcome": {"status": outcome, "why": "" if outcome == "finished" else "task {}: {}".format(*worst[outcome])},
        "bytes": {way: sum(each["bytes"][way] for each in tasks.values()) for way in ("up", "down")},
        "tasks": {name: task_figures(each, parameters) for name, each in tasks.items()},
        "modules": MODULES if all("epsilon" in each for each in tasks.values()) else None,
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
