"""`securefl coordinate` of a federation with tasks: sites that know it by documents alone, and an audit of what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from securefl.audit import suite_report
from securefl.audit.verify import verify
from securefl.coordinator import suite
from securefl.documents import coordinator_suite, site_file
from securefl.home import export
from securefl.ledger import export as ledgers
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.site.build import Environment
from securefl.site.dispatch import Dispatcher, built
from securefl.terms import MemberId, Reserved, RunJoined
from tests.support.apart import COORDINATOR
from tests.support.tasks_apart import APART, TASKS, InTasks


def sites_of(apart: InTasks) -> dict[MemberId, Dispatcher]:
    return {MemberId(name): built(site_file.load(apart.document(name)), Environment()) for name in apart.parties}


def coordinate(apart: InTasks, out: Path, sites: dict[MemberId, Dispatcher]) -> suite.Result:
    document = coordinator_suite.load(apart.document(COORDINATOR))
    assert isinstance(document, coordinator_suite.CoordinatorSuite)
    return suite.coordinate(document, out, Silent(), InProcess(sites))


def audited(apart: InTasks, out: Path, folder: Path) -> Path:
    for name in apart.parties:
        export.one(export.home_of(apart.document(name)), folder / "exported")
    apart.told(COORDINATOR, "report", out, "--ledgers", folder / "exported")
    return out


@pytest.mark.parametrize("protection", ["masking", "ckks"])
def test_tasks_run_at_sites_that_take_part_in_some_and_what_is_left_verifies_until_it_is_changed(
    protection: str, small, tmp_path: Path, capsys
) -> None:
    apart = InTasks(small, tmp_path / "world", capsys, protection)
    keys = apart.found()
    apart.introduce()
    sites = sites_of(apart)
    agents = sites[MemberId("south")]._agents
    words = [
        part
        for agent in agents
        for name, part in agent.trainer._inner._shared._built.model.named_parameters()
        if name.endswith("word_embeddings.weight")
    ]
    assert (len(words), len({part.data_ptr() for part in words})) == (2, 1), "one base model is lent to both tasks"
    out = tmp_path / "run"
    result = coordinate(apart, out, sites)
    assert result.outcome == "finished", result.why
    told = json.loads((out / "suite.json").read_text())
    jsonschema.validate(told, json.loads(suite_report.SCHEMA.read_text()))
    assert {name: tuple(each["owners"]) for name, each in told["tasks"].items()} == TASKS
    assert not verify(out, keys).ok, "the others' ledgers are needed"
    audited(apart, out, tmp_path)
    found = verify(out, keys)
    assert found.ok, found.why
    assert found.pinned
    for task, members in TASKS.items():
        report = json.loads((out / "tasks" / task / "report.json").read_text())
        assert {row["name"] for row in report["members"]} == set(members)
    told = apart.told(COORDINATOR, "explain", out)
    assert (told["ok"], set(told["tasks"])) == (True, set(TASKS))
    charged = {
        name: [entry.dataset for entry in entries(out, name) if isinstance(entry, Reserved)] for name in apart.members
    }
    assert charged == {
        "north": ["north"], "east": ["east"], "south": ["south", "south"], APART: [f"{APART}.{task}" for task in TASKS],
    }  # fmt: skip
    for name in apart.parties:
        joined = [entry.task for entry in entries(out, name) if isinstance(entry, RunJoined)]
        assert joined == [task for task, members in TASKS.items() if name in members or name not in apart.members]
    spoilt(out, keys, tmp_path)


def entries(out: Path, name: str) -> list:
    return [leaf.entry for leaf in ledgers.leaves_of(ledgers.read(out / "ledger" / f"{name}.ledger"), name)]


def spoilt(out: Path, keys: dict, folder: Path) -> None:
    """Each file that somebody changed, exchanged, took away or added is found."""

    def swapped(copy: Path) -> None:
        (copy / "tasks" / "tone").rename(copy / "tasks" / "other")
        (copy / "tasks" / "mood").rename(copy / "tasks" / "tone")
        (copy / "tasks" / "other").rename(copy / "tasks" / "mood")

    for name, spoil in {
        "a figure": lambda copy: changed(copy / "suite.json", lambda told: told["tasks"]["tone"].update(members=4)),
        "an owner": lambda copy: changed(copy / "suite.json", lambda told: told["tasks"]["tone"]["owners"].pop()),
        "a state": lambda copy: (copy / "tasks" / "mood" / "adapter" / "released.f32").write_bytes(b"\0" * 4),
        "a report": lambda copy: changed(copy / "tasks" / "mood" / "report.json", lambda told: told["epsilon"].update(spent=0.1)),
        "what was told": lambda copy: (copy / "tasks" / "mood" / "coordinated.json").unlink(),
        "a task away": lambda copy: shutil.rmtree(copy / "tasks" / "mood"),
        "tasks exchanged": swapped,
        "a task more": lambda copy: shutil.copytree(copy / "tasks" / "mood", copy / "tasks" / "more"),
        "modules": lambda copy: ((copy / "modules").mkdir(), (copy / "modules" / "tone.safetensors").write_bytes(b"")),
        "a ledger away": lambda copy: (copy / "ledger" / "east.ledger").unlink(),
    }.items():  # fmt: skip
        copy = folder / "copy"
        shutil.copytree(out, copy)
        spoil(copy)
        assert not verify(copy, keys).ok, name
        shutil.rmtree(copy)


def changed(path: Path, change) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
