"""A COORDINATOR document with tasks: one document a task stands for, and what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from securefl.documents import coordinator_suite, offer
from securefl.documents.coordinator_suite import CoordinatorSuite
from securefl.documents.suite_file import seed_of
from securefl.errors import OperatorFault
from tests.support.small import FEDERATION


def document() -> dict:
    made = {
        "securefl_coordinator": 1, "name": "small", "home": "home", "policy": "policy.yaml", "purpose": "testing",
        "model": "./model", "protection": "masking", "task": FEDERATION["task"], "training": FEDERATION["training"],
        "adapter": {"targets": ["query"], "rank": 4},
        "members": {name: f"doors/{name}" for name in ("north", "south", "west", "east")},
        "tasks": {
            "tone": {"members": ["north", "south", "west"], "start": "tone.start"},
            "mood": {"members": ["south", "west", "east"], "adapter": {"rank": 2, "seed": 7},
                     "training": {"rounds": 1}, "task": {"labels": ["dull", "glad"]}},
        },
    }  # fmt: skip
    return json.loads(json.dumps(made))


def loaded(folder: Path, made: dict) -> CoordinatorSuite:
    (folder / "coordinator.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    found = coordinator_suite.load(folder / "coordinator.yaml")
    assert isinstance(found, CoordinatorSuite)
    return found


def test_a_task_goes_over_what_is_said_of_all_and_asks_its_own_members(tmp_path: Path) -> None:
    jsonschema.validate(document(), json.loads(coordinator_suite.schema_text()))
    found = loaded(tmp_path, document())
    tone, mood = found.tasks["tone"], found.tasks["mood"]
    assert (tone.task, list(tone.file.members), tone.file.start) == ("tone", ["north", "south", "west"], "tone.start")
    assert (mood.task, list(mood.file.members), mood.file.start) == ("mood", ["south", "west", "east"], None)
    assert (tone.file.adapter.rank, tone.file.adapter.seed) == (4, seed_of("tone"))
    assert (mood.file.adapter.rank, mood.file.adapter.seed) == (2, 7)
    assert (tone.file.training.rounds, mood.file.training.rounds, mood.file.task.labels) == (2, 1, ("dull", "glad"))
    assert tone.text != mood.text, "an unfinished run of one task is not gone on with as another's"
    offered = offer.read(offer.text_of(found.file.offer), "offer")
    assert {name: each.members for name, each in offered.tasks.items()} == {
        name: tuple(each.file.members) for name, each in found.tasks.items()
    }
    assert list(found.file.parties) == ["north", "south", "west", "east"]
    assert found.of_task("mood") is mood
    with pytest.raises(OperatorFault, match="2 tasks, and none was chosen.*tone, mood"):
        found.of_task(None)


def test_a_document_without_tasks_is_read_as_it_was(tmp_path: Path) -> None:
    alone = document()
    del alone["tasks"]
    (tmp_path / "coordinator.yaml").write_text(yaml.safe_dump(alone))
    found = coordinator_suite.load(tmp_path / "coordinator.yaml")
    assert not isinstance(found, CoordinatorSuite)
    assert found.task is None
    jsonschema.validate(alone, json.loads(coordinator_suite.schema_text()))


def task(made: dict, name: str = "tone") -> dict:
    return made["tasks"][name]


BAD: dict[str, tuple[Callable[[dict], object], str]] = {
    "a stranger": (lambda made: task(made)["members"].append("nobody"), "no member is called nobody"),
    "a member twice": (lambda made: task(made)["members"].append("north"), "north stands twice"),
    "one member": (lambda made: task(made).update(members=["north"]), "tasks.tone.members"),
    "no members": (lambda made: task(made).pop("members"), "tasks.tone.members"),
    "an idle member": (lambda made: task(made).update(members=["south", "west"]), "north takes part in no task"),
    "records, which are the sites'": (lambda made: task(made).update(data={}), "tasks.tone.data: unknown key"),
    "an unknown key": (lambda made: task(made).update(adaptor={}), "did you mean `adapter`?"),
    "an unknown field of a part": (lambda made: task(made).update(adapter={"rnak": 4}), "did you mean `rank`?"),
    "no tasks": (lambda made: made.update(tasks={}), "tasks: found 0"),
    "a task without labels": (lambda made: made.pop("task"), "task"),
    "a language model": (lambda made: task(made).update(task={"kind": "language", "labels": []}), "a language model"),
    "a path as a name": (lambda made: made["tasks"].update({"../tone": task(made)}), "../tone"),
    "a custodian without encryption": (lambda made: made.update(custodian="c"), "protection masking has no custodian"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_file_line_and_remedy(case: str, tmp_path: Path) -> None:
    change, told = BAD[case]
    made = document()
    change(made)
    with pytest.raises(OperatorFault) as caught:
        loaded(tmp_path, json.loads(json.dumps(made)))
    assert told in str(caught.value)
    assert f"{tmp_path / 'coordinator.yaml'}:" in str(caught.value)
