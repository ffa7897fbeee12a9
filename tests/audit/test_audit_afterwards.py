"""The report of a coordinator's run, made when the others' ledgers are there: every field is made again to be checked."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from securefl.audit import coordinated_report, report
from securefl.audit.verify import verify
from securefl.cli.main import main
from securefl.errors import OperatorFault, Tampered
from tests.support import audited
from tests.support.apart import everything


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What a coordinator left with its own ledger alone, and everybody's exports."""
    base = tmp_path_factory.mktemp("left")
    run = audited.told().leave_own(base / "run")
    shutil.move(run / "ledger", base / "exported")
    (run / "ledger").mkdir()
    shutil.copy(base / "exported" / "coordinator.ledger", run / "ledger")
    return run, base / "exported"


def test_parties_of_another_run_have_no_part_in_the_figures_of_this_one(tmp_path: Path) -> None:
    """Laid beside or left out, they change no figure, however much they spent."""
    others = ("zeta", "eta", "theta", "iota")
    limits = (("epsilon: 8", "epsilon: 60"), ("per_round: {epsilon: 4}", "per_round: {epsilon: 40}"))
    policy = audited.POLICY
    for before, after in limits:
        policy = policy.replace(before, after)
    story = audited.Story(cohort=others, names=(*audited.MEMBERS, *others), policy=policy)
    story.begin()
    for number in range(1, 4):
        story.round(number)
    story.close()
    story.cohort = audited.MEMBERS
    story.begin()
    story.round(1)
    story.close()
    story.leave_own(tmp_path / "run")
    exported = Path(shutil.move(tmp_path / "run" / "ledger", tmp_path / "exported"))
    (tmp_path / "run" / "ledger").mkdir()
    shutil.copy(exported / "coordinator.ledger", tmp_path / "run" / "ledger")
    alone = Path(shutil.copytree(tmp_path / "run", tmp_path / "alone"))
    told, found = coordinated_report.report(tmp_path / "run", exported)
    assert found.ok, found.why
    for name in others:
        (exported / f"{name}.ledger").unlink()
    assert coordinated_report.report(alone, exported)[0] == told
    assert {row["member"] for row in told["accounts"]} == set(audited.MEMBERS)
    assert told["epsilon"]["member"] in audited.MEMBERS


@pytest.fixture
def run(left: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(left[0], tmp_path / "run"))


@pytest.fixture(scope="module")
def made(left: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(left[0], tmp_path_factory.mktemp("made") / "run"))
    coordinated_report.report(run, left[1])
    return run


def test_a_report_is_made_of_exported_ledgers_and_verifies_with_nothing_on_anybodys_word(
    left: tuple[Path, Path], made: Path
) -> None:
    told = json.loads((made / "report.json").read_text())
    jsonschema.validate(told, json.loads(report.SCHEMA.read_text()))
    assert (told["accuracy"], {row["heldout"] for row in told["members"]}) == (None, {None})
    assert {row["member"] for row in told["accounts"]} == set(audited.MEMBERS)
    assert told["epsilon"]["spent"] > 0
    assert [row["epsilon_after"] is not None for row in told["rounds"]] == [True, True]
    found = verify(made)
    assert found.ok, found.why
    assert not [each for each in found.unverified if each.startswith("report.")], "made again, not taken on a word"
    page = (made / "report.html").read_text()
    assert "site evaluate" in page
    assert "<svg" not in page
    again = everything(made)
    coordinated_report.report(made, None)
    assert everything(made) == again


def test_the_command_says_what_was_spent_and_what_to_do_next(run: Path, left, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(run), "--ledgers", str(left[1]), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == json.loads((run / "report.json").read_text())
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(run)])
    said = capsys.readouterr().out
    assert "spent" in said
    assert "securefl site evaluate" in said


def _leaves(told: Any, way: tuple = ()) -> Iterator[tuple]:
    """The way to everything in the report that is no part of parts."""
    if isinstance(told, dict | list):
        for name, each in told.items() if isinstance(told, dict) else enumerate(told):
            yield from _leaves(each, (*way, name))
    else:
        yield way


def _changed(value: object) -> object:
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value or ''}x"


def test_every_field_of_the_report_that_says_something_else_is_found(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    told = json.loads((run / "report.json").read_text())
    ways = list(_leaves(told))
    assert len(ways) > 60
    for way in ways:
        changed = copy.deepcopy(told)
        part = changed
        for name in way[:-1]:
            part = part[name]
        part[way[-1]] = _changed(part[way[-1]])
        (run / "report.json").write_text(json.dumps(changed))
        assert not verify(run).ok, way
    for more in (("surprise",), ("versions", "another"), ("seconds", "training")):
        changed = copy.deepcopy(told)
        (changed if len(more) == 1 else changed[more[0]])[more[-1]] = "1" if more[0] == "versions" else 1.0
        (run / "report.json").write_text(json.dumps(changed))
        assert not verify(run).ok, more
    (run / "report.json").write_text(json.dumps(told))
    assert verify(run).ok


SPOILT = {
    "another page": lambda run: (run / "report.html").write_text("<h1>epsilon 0.01</h1>"),
    "no page": lambda run: (run / "report.html").unlink(),
    "a page alone": lambda run: (run / "report.json").unlink(),
    "another telling": lambda run: (run / "coordinated.json").unlink(),
    "a picture beside it": lambda run: (run / "adapter" / "epsilon.png").write_bytes(b"x"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_page_or_telling_that_was_replaced_or_taken_away_is_found(case: str, made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    SPOILT[case](run)
    assert not verify(run).ok


def test_ledgers_that_do_not_hold_leave_the_folder_as_it_was(run: Path, left, tmp_path: Path) -> None:
    others = Path(shutil.copytree(left[1], tmp_path / "others"))
    forged = others / f"{audited.MEMBERS[0]}.ledger"
    forged.write_bytes(forged.read_bytes()[:-1] + b"\0")
    before = everything(run)
    with pytest.raises(Tampered, match=audited.MEMBERS[0]):
        coordinated_report.report(run, others)
    forged.unlink()
    with pytest.raises(Tampered, match=audited.MEMBERS[0]):
        coordinated_report.report(run, others)
    with pytest.raises(OperatorFault, match="no ledger here"):
        coordinated_report.report(run, tmp_path / "nothing")
    assert {name: data for name, data in everything(run).items() if name != ".lock"} == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("whole", range(6))
def test_whoever_is_killed_while_a_report_is_made_makes_it_again(
    whole: int, run: Path, left: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as each file in turn is about to get its name: ledgers first, then the report, and then its page."""
    replace_, names = Path.replace, list[str]()

    def killed(path: Path, target: Path) -> Path:
        if str(target).startswith(str(run)):
            names.append(Path(target).name)
            if len(names) > whole:
                raise Killed
        return replace_(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(Killed):
        coordinated_report.report(run, left[1])
    monkeypatch.undo()
    assert names[-1] == [*(f"{name}.ledger" for name in sorted(audited.MEMBERS)), "report.json", "report.html"][whole]
    found = verify(run)
    assert found.ok or "again" in found.why, found.why
    coordinated_report.report(run, left[1])
    assert verify(run).ok
    assert not list(run.rglob("*.ledger.new"))


def test_a_folder_that_is_no_coordinators_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match="no coordinated.json here"):
        coordinated_report.report(tmp_path, None)
    benched = audited.told().leave(tmp_path / "bench")
    with pytest.raises(OperatorFault, match="this run has its report"):
        coordinated_report.report(benched, None)
