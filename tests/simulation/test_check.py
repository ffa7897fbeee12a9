"""A dry run says what the run then does, tells all that is wrong at once, and leaves everything as it was."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from securefl.cli.main import main
from securefl.documents import federation_file
from securefl.documents.finding import OK, REFUSED, WRONG
from securefl.home.looked_at import account_at
from securefl.planning import rounds
from securefl.planning.plan import FirstState
from securefl.policy import load as policies
from securefl.privacy.account import Account
from securefl.simulation.check import examine
from securefl.terms import Hash, Model
from tests.support.small import MEMBERS, POLICY


def by(found, what: str):
    return [each for each in found.findings if each.what == what]


def everything_in(folder: Path) -> dict[str, str]:
    """All files and what is in them; of a ledger each row: SQLite moves rows between its files as it likes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(held(path)).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if not path.name.endswith((".db-wal", ".db-shm"))
    }


def held(path: Path) -> bytes:
    if path.suffix != ".db":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        return "\n".join(database.iterdump()).encode()


def test_what_is_said_of_a_runs_budget_is_what_the_run_then_spends(small, finished, tmp_path) -> None:
    file = small.folder / "federation.yaml"
    before = everything_in(small.folder)
    found = examine(file, tmp_path / "sites")
    assert everything_in(small.folder) == before and not (tmp_path / "sites").exists()
    assert found.exit_code == 0, found.findings
    foretold = found.figures["trainings"]["small"]["budget"]
    report = json.loads((finished / "run" / "report.json").read_text())
    spent = {row["member"]: row["spent"] for row in report["accounts"] if row["level"] == "dataset"}
    assert set(foretold) == set(spent) == set(MEMBERS)
    for name, each in foretold.items():
        assert each["granted"] == each["asked"] == 2 and each["spent"] == 0
        assert each["rounds"][-1]["after"] == pytest.approx(spent[name], abs=2e-6)
    data = found.figures["data"]["small"]
    assert data["north"]["train"] + data["north"]["heldout"] == sum(data["north"]["labels"].values()) == 61
    told = {each.what for each in found.findings}
    assert {"documents", "policy", "homes", "model", "plan", "budget", "grid", "time", "memory"} <= told


def test_an_account_is_looked_at_as_it_stands_and_nothing_there_changes(small, finished) -> None:
    before = everything_in(finished)
    found = examine(small.folder / "federation.yaml", finished / "sites")
    assert everything_in(finished) == before
    budget = found.figures["trainings"]["small"]["budget"]["north"]
    report = json.loads((finished / "run" / "report.json").read_text())
    (spent,) = {r["spent"] for r in report["accounts"] if (r["member"], r["level"]) == ("north", "dataset")}
    assert budget["spent"] == pytest.approx(spent, abs=2e-6)
    assert budget["left"] == pytest.approx(20 - spent, abs=2e-6)
    assert len(account_at(finished / "sites" / "north").charges) == 2
    assert account_at(finished / "nobody").charges == ()


def test_records_that_another_account_paid_for_are_told(small, finished) -> None:
    members = [{"name": n, "region": "here", "data": {"file": f"{n}.csv"}, "dataset": f"{n}-new"} for n in MEMBERS]
    before = everything_in(finished)
    found = examine(small.file("renamed.yaml", members=members), finished / "sites")
    assert everything_in(finished) == before
    (wrong,) = [each for each in by(found, "data of north") if each.status == WRONG]
    assert "charged to 'north'" in wrong.detail and found.exit_code == 2


def test_each_task_of_a_file_is_asked_for_on_what_the_ones_before_leave(small) -> None:
    tasks = {
        "one": {"members": list(MEMBERS)},
        "two": {"members": list(MEMBERS), "adapter": {"rank": 2}, "training": {"rounds": 1}},
    }
    found = examine(small.file("tasks.yaml", tasks=tasks, training__rounds=1), None)
    assert found.exit_code == 0, found.findings
    first, second = (found.figures["trainings"][name]["budget"]["north"] for name in ("one", "two"))
    assert second["spent"] == pytest.approx(first["rounds"][-1]["after"], abs=2e-6)
    assert by(found, "accounts")[0].status == OK and by(found, "plan of two")


def test_all_that_is_wrong_is_told_at_once_with_file_and_line(small, tmp_path, capsys) -> None:
    bad = (small.folder / "bad.csv").write_text("text,label\nfine,good\nodd,ugly\n")
    assert bad
    file = small.file("wrong.yaml", model="./nowhere", members=[
        {"name": "north", "region": "here", "data": {"file": "north.csv"}},
        {"name": "south", "region": "here", "data": {"file": "bad.csv"}},
        {"name": "west", "region": "here", "data": {"file": "absent.csv"}},
    ], policy="loose.yaml")  # fmt: skip
    (small.folder / "loose.yaml").write_text(POLICY.replace("overlap: 1", "overlapp: 1"))
    file.write_text(file.read_text().replace("wrong.yaml.policy.yaml", "loose.yaml"))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(file), "--json"])
    assert ended.value.code == 2
    told = json.loads(capsys.readouterr().out)
    wrong = [each["detail"] for each in told["findings"] if each["status"] == WRONG]
    assert any("loose.yaml:5" in each and "overlapp" in each for each in wrong)
    assert any("bad.csv:3" in each and "ugly" in each for each in wrong)
    assert any("absent.csv" in each for each in wrong)
    assert any("nowhere" in each for each in wrong)
    assert any(each["what"] == "data of north" and each["status"] == OK for each in told["findings"])
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2 and not (tmp_path / "run").exists()
    said = capsys.readouterr().err
    assert "overlapp" in said and "absent.csv" in said and "nowhere" in said, "a run looks at documents and names first"


def test_every_members_wrong_data_is_told_by_one_reading(small) -> None:
    file = small.file("odd.yaml", members=[
        {"name": name, "region": "here", "data": {"file": f"{name}.csv", "heldout": 2}} for name in MEMBERS
    ])  # fmt: skip
    found = examine(file, None)
    assert [each.status for each in by(found, "documents")] == [WRONG] * 3
    assert [f"members.{number}.data.heldout" for number in range(3)] == [
        each.detail.split(": ")[1] for each in by(found, "documents")
    ]


def test_a_refusal_names_a_remedy_that_was_tried(small) -> None:
    """By the decision itself: with the noise it names all is granted, with a little less it is not."""
    policy = POLICY.replace("epsilon: 20,", "epsilon: 6,", 1).replace(
        "per_dataset: {epsilon: 20}", "per_dataset: {epsilon: 6}"
    )

    def course(**changes) -> tuple[rounds.Course, str]:
        loaded = federation_file.load(small.file("tight.yaml", policy=policy, **changes))
        its = policies.load(loaded.folder / loaded.file.policy)
        plans = rounds.plans_of(loaded, its, FirstState(Model("./model", Hash(bytes(32))), 300))
        found = rounds.course(its, plans, Account(), "north")
        return found, rounds.remedy(its, plans, Account(), "north", found)

    refused, remedy = course()
    assert refused.granted == 1 and {each.rule for each in refused.reasons} == {
        "budget.epsilon",
        "budget.per_dataset.epsilon",
    }
    assert remedy.startswith("write rounds: 1; these are granted; or noise_multiplier: ")
    noise = float(remedy.split("noise_multiplier: ")[1].split()[0])
    assert not course(training__noise_multiplier=noise)[0].reasons
    assert course(training__noise_multiplier=noise * 0.9)[0].reasons
    assert not course(training__rounds=1)[0].reasons


def test_a_refusal_ends_the_check_with_its_exit_code(small) -> None:
    policy = POLICY.replace("purposes: [testing]", "purposes: [other]")
    found = examine(small.file("purpose.yaml", policy=policy), None)
    assert found.exit_code == 3
    (refused,) = by(found, "budget")
    assert refused.status == REFUSED and "round 1 of 2 is refused by context.purpose" in refused.detail


def test_an_update_that_the_grid_cuts_off_is_found_before_anything_is_spent(small) -> None:
    found = examine(small.file("steep.yaml", training__learning_rate=10_000), None)
    assert found.exit_code in (2, 3)
    wrong = " ".join(each.detail for each in found.findings if each.status != OK)
    assert "cut off" in wrong or "learning_rate" in wrong


def test_what_waits_for_others_is_not_wrong_and_a_refused_cohort_is(small) -> None:
    lonely = small.file(
        "two.yaml", members=[{"name": n, "region": "here", "data": {"file": f"{n}.csv"}} for n in MEMBERS[:2]]
    )
    found = examine(lonely, None)
    assert found.exit_code in (2, 3)
    assert any(
        "min_cohort" in f"{each.detail} {each.remedy}" or "cohort" in each.detail
        for each in found.findings
        if each.status in (REFUSED, WRONG)
    )
