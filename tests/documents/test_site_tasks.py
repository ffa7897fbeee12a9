"""A SITE document with tasks: which this site takes part in, on which records, and what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from securefl.documents import offer, site_file
from securefl.errors import OperatorFault
from securefl.site.check import MISSING, examine
from tests.support.small import FEDERATION

KEYS = {name: f"{at:064x}" for at, name in enumerate(("coordinator", "custodian", "north", "south", "west"), 1)}
DATA = {"file": "north.csv", "text": "text", "label": "label"}


def document() -> dict:
    """North is in two of three tasks: ``tone`` on its own account, ``mood`` on one that is named."""
    task = {"task": FEDERATION["task"], "adapter": FEDERATION["adapter"], "max_tokens": 16}
    among = {"tone": ["north", "south"], "mood": ["north", "south", "west"], "wish": ["south", "west"]}
    return {
        "securefl_site": 1, "name": "north", "region": "here", "home": "home", "model": "./model", "dataset": "letters",
        "tasks": {"small": {"tone": {"data": DATA}, "mood": {"data": {**DATA, "file": "mood.csv"}, "dataset": "moods"}}},
        "federations": {
            "small": {
                "coordinator": KEYS["coordinator"],
                "members": {name: {"key": KEYS[name], "region": "here"} for name in ("north", "south", "west")},
                "tasks": {name: {**task, "members": members} for name, members in among.items()},
            }
        },
    }  # fmt: skip


def plain(made: dict) -> dict:
    """The same, with nothing in it twice: YAML would name it, and no alias is read."""
    return json.loads(json.dumps(made))


def written(folder: Path, change: Callable[[dict], object] = lambda _: None) -> Path:
    made = plain(document())
    change(made)
    (folder / "site.yaml").write_text(yaml.safe_dump(plain(made), sort_keys=False))
    return folder / "site.yaml"


def test_each_task_is_as_a_document_of_its_own(tmp_path: Path) -> None:
    jsonschema.validate(document(), json.loads(site_file.schema_text()))
    site = site_file.load(written(tmp_path))
    assert [(each.task, each.account, each.file.data.file) for each in site.views] == [
        ("tone", "letters", "north.csv"), ("mood", "moods", "mood.csv"),
    ]  # fmt: skip
    tone, mood = site.views
    assert [sorted(each.file.federations["small"].members) for each in (tone, mood)] == [
        ["north", "south"], ["north", "south", "west"],
    ]  # fmt: skip
    assert (site.view("small", "mood"), mood.view(), mood.view("small")) == (mood, mood, mood)
    assert (tone.file.federations["small"].adapter.rank, tone.file.federations["small"].tasks) == (4, {})
    with pytest.raises(OperatorFault, match="2 tasks, and none was chosen.*tone, mood"):
        site.view()
    with pytest.raises(OperatorFault, match="no task wish.*tone, mood"):
        site.view("small", "wish")


def test_a_site_may_be_in_a_federation_with_tasks_and_in_one_without(tmp_path: Path) -> None:
    def both(made: dict) -> None:
        tone = task(made, "tone")
        alone = {**made["federations"]["small"], **{name: tone[name] for name in ("task", "adapter", "max_tokens")}}
        made["federations"]["plain"] = {name: part for name, part in alone.items() if name != "tasks"}
        made["data"] = {**DATA, "file": "plain.csv"}

    site = site_file.load(written(tmp_path, both))
    assert [(each.task, each.file.data.file, each.account) for each in site.views] == [
        ("tone", "north.csv", "letters"), ("mood", "mood.csv", "moods"), (None, "plain.csv", "letters"),
    ]  # fmt: skip
    assert site.view("plain").task is None
    assert [each.source[0] for each in site.views] == ["tasks", "tasks", "data"]

    def without_data(made: dict) -> None:
        both(made)
        del made["data"]

    with pytest.raises(OperatorFault, match="missing, and plain has no tasks; add `data`"):
        site_file.load(written(tmp_path, without_data))


def test_a_custodian_has_a_part_in_every_task_and_names_no_records(tmp_path: Path) -> None:
    def custodian(made: dict) -> None:
        for name in ("region", "model", "dataset", "tasks"):
            del made[name]
        made["name"] = "custodian"
        made["federations"]["small"] |= {"custodian": KEYS["custodian"], "protection": "ckks"}

    site = site_file.load(written(tmp_path, custodian))
    assert [each.task for each in site.views] == ["tone", "mood", "wish"]
    assert all(each.file.federations["small"].task is None for each in site.views)
    assert list(site.view("small", "wish").file.federations["small"].members) == ["south", "west"]


def test_a_task_that_asks_for_this_site_and_stands_nowhere_in_its_document_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, lambda made: made["tasks"]["small"].pop("mood"))
    found = [each for each in examine(site_file.load(path)) if each.what == "task mood of small"]
    assert [(each.status, "tasks.small.mood" in each.remedy) for each in found] == [(MISSING, True)]


def task(made: dict, name: str) -> dict:
    return made["federations"]["small"]["tasks"][name]


BAD: dict[str, tuple[Callable[[dict], object], str]] = {
    "no such task": (lambda made: made["tasks"]["small"].update(mod={"data": DATA}), "no task of small is called mod"),
    "not asked": (lambda made: made["tasks"]["small"].update(wish={"data": DATA}), "north takes no part in it, but south"),
    "no records": (lambda made: made["tasks"]["small"].update(tone={}), "write one of `data` and `without_records: true`"),
    "two sources": (
        lambda made: made["tasks"]["small"]["tone"].update(without_records=True),
        "write one of `data` and `without_records: true`",
    ),
    "an unknown key": (lambda made: made["tasks"]["small"]["tone"].update(recrods="x"), "recrods: unknown key"),
    "a federation without tasks": (
        lambda made: made["federations"]["small"].update({**task(made, "tone"), "tasks": {}, "members": {
            name: {"key": KEYS[name], "region": "here"} for name in ("north", "south")}}),
        "small has no tasks",
    ),
    "a task beside tasks": (
        lambda made: made["federations"]["small"].update(max_tokens=16),
        "federations.small.max_tokens: beside `tasks`: each has its own",
    ),
    "a stranger": (lambda made: task(made, "tone").update(members=["north", "east"]), "east is no member here"),
    "a member twice": (lambda made: task(made, "tone").update(members=["north", "north"]), "north stands twice"),
    "one member": (lambda made: task(made, "tone").update(members=["north"]), "tone.members"),
    "a language model": (
        lambda made: task(made, "tone").update(task={"kind": "language"}),
        "a language model among tasks: it has a federation of its own",
    ),
    "a name that is a path": (
        lambda made: made["tasks"]["small"].update({"../tone": {"data": DATA}}), "../tone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_tasks_is_said_with_file_line_and_remedy(case: str, tmp_path: Path) -> None:
    change, told = BAD[case]
    path = written(tmp_path, change)
    with pytest.raises(OperatorFault) as caught:
        site_file.load(path)
    assert told in str(caught.value)
    assert f"{path}:" in str(caught.value)


def test_an_offer_has_tasks_or_one_task(tmp_path: Path) -> None:
    tasks = document()["federations"]["small"]["tasks"]
    first = {"securefl_offer": 1, "model": "./model", "protection": "masking"}
    alone = {name: part for name, part in tasks["tone"].items() if name != "members"}
    for good in ({**first, "tasks": tasks}, {**first, **alone}):
        made = offer.Offer.model_validate(good)
        assert offer.read(offer.text_of(made), "offer") == made
    for bad in (first, {**first, **alone, "tasks": tasks}, {**first, "tasks": tasks, "max_tokens": 16}):
        with pytest.raises(ValueError, match=r"`task` is missing|beside `tasks`"):
            offer.Offer.model_validate(bad)
