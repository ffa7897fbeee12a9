"""`securefl coordinate` of a federation with tasks: sites that know it by documents alone, and an audit of what is left."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from securefl.audit import suite_report, suites
from securefl.audit.verify import EARLIER, verify
from securefl.coordinator import evidence, suite, suite_folder
from securefl.documents import coordinator_suite, site_file
from securefl.errors import OperatorFault
from securefl.home import export, notices, rotation
from securefl.ledger import export as ledgers
from securefl.progress import Progress, Silent
from securefl.runtime.inprocess import InProcess
from securefl.site.build import Environment
from securefl.site.dispatch import Dispatcher, built
from securefl.terms import MemberId, Refused, Reported, Reserved, RunId, RunJoined
from tests.support.apart import COORDINATOR, everything
from tests.support.tasks_apart import APART, TASKS, InTasks


def sites_of(apart: InTasks) -> dict[MemberId, Dispatcher]:
    return {MemberId(name): built(site_file.load(apart.document(name)), Environment()) for name in apart.parties}


def coordinate(
    apart: InTasks, out: Path, sites: dict[MemberId, Dispatcher], shown: Progress = Silent()
) -> suite.Result:
    document = coordinator_suite.load(apart.document(COORDINATOR))
    assert isinstance(document, coordinator_suite.CoordinatorSuite)
    return suite.coordinate(document, out, shown, InProcess(sites))


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


class Twice(Silent):
    """Somebody starts the same command once more each time that something is said."""

    def __init__(self, apart: InTasks, out: Path) -> None:
        self.apart, self.out, self.refused = apart, out, 0

    def say(self, text: str) -> None:
        del text
        with pytest.raises(OperatorFault, match="another process is running there"):
            coordinate(self.apart, self.out, {})
        self.refused += 1


def exchanged(apart: InTasks, name: str) -> None:
    """A member's key is another one, and its coordinator took that in."""
    for notice in rotation.rotate(export.home_of(apart.document(name)), 3600):
        notices.take(export.home_of(apart.document(COORDINATOR)), "small", notice)


def words(apart: InTasks, run: RunId) -> int:
    """How often its coordinator's own ledger says what a run left."""
    home = export.home_of(apart.document(COORDINATOR))
    with home.transaction() as conn:
        return sum(isinstance(entry, Reported) for entry in home.told(conn, run))


def test_the_command_of_a_suite_that_is_over_or_running_is_refused_and_what_was_left_stays_evidence(
    small, tmp_path: Path, capsys
) -> None:
    apart = InTasks(small, tmp_path / "world", capsys)
    apart.found()
    apart.introduce()
    out, sites = tmp_path / "run", sites_of(apart)
    twice = Twice(apart, out)
    assert coordinate(apart, out, sites, twice).outcome == "finished"
    assert twice.refused > len(TASKS)
    audited(apart, out, tmp_path)
    assert verify(out).ok, verify(out).why
    assert coordinate(apart, tmp_path / "second", sites).outcome == "finished", "its ledger is longer now"
    exchanged(apart, "north")
    before = everything(out)
    with pytest.raises(OperatorFault, match="a suite that is over"):
        coordinate(apart, out, sites)
    assert everything(out) == before
    assert verify(out).ok, verify(out).why
    away = (out / "tasks" / "tone").rename(tmp_path / "away")  # whoever may edit the folder takes a run from it
    with pytest.raises(OperatorFault, match="a suite that is over, and not the runs that it tells of: tone"):
        coordinate(apart, out, sites)
    shutil.copytree(next(path for path in (out / "tasks").iterdir()), out / "tasks" / "tone")  # or lays in another
    with pytest.raises(OperatorFault, match="a suite that is over, and not the runs that it tells of: tone"):
        coordinate(apart, out, sites)
    shutil.rmtree(out / "tasks" / "tone")
    away.rename(out / "tasks" / "tone")
    assert everything(out) == before, "no task ran again"
    changed(out / "keys.json", lambda told: told.clear())  # whether or not its files stand
    with pytest.raises(OperatorFault, match="a suite that is over"):
        coordinate(apart, out, sites)
    document = coordinator_suite.load(apart.document(COORDINATOR))
    tasks = {name: json.loads((out / "tasks" / name / "coordinated.json").read_text()) for name in TASKS}
    home = export.home_of(apart.document(COORDINATOR))
    with pytest.raises(OperatorFault, match="was written down before"):
        suite_folder.bind((home,), document.text, tasks, out, {})
    assert words(apart, suites.id_in(out)) == 1
    assert json.loads((out / "keys.json").read_text()) == {}, "nothing is written"


def test_a_suite_that_was_killed_around_its_last_word_ends_by_the_same_command_although_a_key_is_another(
    small, tmp_path: Path, capsys, monkeypatch
) -> None:
    apart = InTasks(small, tmp_path / "world", capsys)
    apart.found()
    apart.introduce()
    out, sites, real = tmp_path / "run", sites_of(apart), evidence.export_all

    def killed(homes, folder: Path) -> None:
        if folder == out / "ledger":
            raise KeyboardInterrupt
        real(homes, folder)

    with monkeypatch.context() as before_it, pytest.raises(KeyboardInterrupt):  # everything stands, and no word on it
        before_it.setattr(suite_folder, "bind", lambda *_: killed((), out / "ledger"))
        coordinate(apart, out, sites)
    assert json.loads((out / "suite.json").read_text())["outcome"] is not None
    monkeypatch.setattr(evidence, "export_all", killed)
    with pytest.raises(KeyboardInterrupt):
        coordinate(apart, out, sites)
    monkeypatch.setattr(evidence, "export_all", real)
    keys = (out / "keys.json").read_bytes()
    exchanged(apart, "north")
    result = coordinate(apart, out, sites)
    assert (result.outcome, set(result.told["tasks"])) == ("finished", set(TASKS))
    assert ((out / "keys.json").read_bytes(), words(apart, suites.id_in(out))) == (keys, 1)
    audited(apart, out, tmp_path)
    assert verify(out).ok, verify(out).why
    with pytest.raises(OperatorFault, match="a suite that is over"):
        coordinate(apart, out, sites)


def test_a_coordinator_that_asks_more_into_a_task_than_it_offered_is_refused_and_the_other_task_runs(
    small, tmp_path: Path, capsys
) -> None:
    apart = InTasks(small, tmp_path / "world", capsys)
    apart.found()
    apart.introduce()
    path = apart.document(COORDINATOR)
    document = yaml.safe_load(path.read_text())
    document["tasks"]["mood"]["members"].append("north")
    path.write_text(yaml.safe_dump(document))
    out = tmp_path / "run"
    result = coordinate(apart, out, sites_of(apart))
    outcomes = {name: each["outcome"]["status"] for name, each in result.told["tasks"].items()}
    assert outcomes.pop("tone") == "finished"
    assert outcomes.pop("mood") != "finished"
    for name, rule in {"north": "protocol.another-task", "east": "protocol.stranger"}.items():
        export.one(export.home_of(apart.document(name)), out / "ledger")
        refused = [entry for entry in entries(out, name) if isinstance(entry, Refused)]
        assert {reason.rule for entry in refused for reason in entry.reasons} == {rule}, name
    assert [entry.task for entry in entries(out, "north") if isinstance(entry, RunJoined)] == ["tone"]


def test_a_coordinator_that_calls_its_tasks_otherwise_than_the_ledgers_do_is_found(
    small, tmp_path: Path, capsys
) -> None:
    apart = InTasks(small, tmp_path / "world", capsys)
    apart.found()
    apart.introduce()
    document = coordinator_suite.load(apart.document(COORDINATOR))
    otherwise = dict(zip(document.tasks, reversed(document.tasks.values()), strict=True))
    out = tmp_path / "run"
    sites = InProcess(sites_of(apart))
    assert suite.coordinate(replace(document, tasks=otherwise), out, Silent(), sites).outcome == "finished"
    for name in apart.parties:
        export.one(export.home_of(apart.document(name)), out / "ledger")
    found = verify(out)
    assert (found.ok, "tasks/tone" in found.why, "is of mood" in found.why) == (False, True, True), found.why


def test_a_record_on_two_accounts_keeps_a_site_from_starting_and_its_check_says_which(
    small, tmp_path: Path, capsys
) -> None:
    apart = InTasks(small, tmp_path / "world", capsys)
    apart.found()
    apart.introduce()
    path = apart.document(APART)
    document = yaml.safe_load(path.read_text())
    document["tasks"]["small"]["mood"]["data"]["file"] = document["tasks"]["small"]["tone"]["data"]["file"]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(OperatorFault, match="has a record of the task tone in the task mood too, on another account"):
        built(site_file.load(path), Environment())
    code, said = apart.asked(APART, "site", "check", path, "--load")
    assert (code, "small, task tone in the task small, task mood too, on another account" in said) == (2, True), said
    document["tasks"]["small"]["mood"]["dataset"] = document["tasks"]["small"]["tone"]["dataset"]
    path.write_text(yaml.safe_dump(document))
    assert apart.asked(APART, "site", "check", path, "--load")[0] == 0


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
        "a file below": lambda copy: ((copy / "below" / "x").mkdir(parents=True), (copy / "below" / "x" / "y").touch()),
        "a tree in a task": lambda copy: planted(copy / "tasks" / "tone", marked=False),
        "a tree in a task that is called a suite": lambda copy: planted(copy / "tasks" / "tone", marked=True),
        "a file that calls a task a suite": lambda copy: shutil.copy(copy / "suite.json", copy / "tasks" / "tone" / "suite.json"),
        "a file below a task": lambda copy: (copy / "tasks" / "mood" / "below").mkdir(),
        "a ledger away": lambda copy: (copy / "ledger" / "east.ledger").unlink(),
    }.items():  # fmt: skip
        copy = folder / "copy"
        shutil.copytree(out, copy)
        spoil(copy)
        assert not verify(copy, keys).ok, name
        shutil.rmtree(copy)
    shutil.copytree(out, copy)
    shutil.copy(copy / "ledger" / "east.ledger", copy / "tasks" / "tone" / "ledger" / "east.ledger")
    (copy / "timings.json").write_text("anything")
    found = verify(copy, keys)
    assert found.ok, found.why
    assert {"timings.json: not bound", f"tasks/tone: east.ledger: {EARLIER}"} <= set(found.unverified), found.unverified


def planted(task: Path, *, marked: bool) -> None:
    """Files that no run left are where a suite's tasks stand; a mark says that it is one."""
    (task / "tasks" / "tone").mkdir(parents=True)
    (task / "tasks" / "tone" / "report.json").write_text("{}")
    if marked:
        (task / "suite.json").write_text("anything")


def changed(path: Path, change) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
