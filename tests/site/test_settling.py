"""A training that ended with its process leaves its price reserved: the operator is told, and may settle it."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from securefl.audit import replay
from securefl.audit.verify import verify
from securefl.cli.main import main
from securefl.errors import OperatorFault
from securefl.home.export import copy_of
from securefl.ledger import export
from securefl.site import open_reservations, run_keys
from securefl.site.serve import LOCK, alone
from securefl.terms import Refused, Reserved, Settled
from tests.support.parties import NOW, Federation, in_process
from tests.support.rotating import Rotating

WHY = "the machine was replaced"


def ended_midway(folder: Path, name: str = "b") -> Federation:
    """A federation in which one party's process ended while it trained, and so did the run."""
    federation = Federation(folder, luck=((name, "leaves"),), priced=True)
    with in_process(federation) as runtime, pytest.raises(KeyboardInterrupt):
        federation.drive(runtime)
    return federation


def copies(federation: Federation, folder: Path) -> Path:
    folder.mkdir()
    for name in ("coordinator", *federation.parties):
        home = federation.home(name)
        file = copy_of(home)
        assert file is not None
        export.write(folder / f"{file.owner}{export.SUFFIX}", file)
        home.engine.dispose()
    return folder


def settle(federation: Federation, run: str = "", name: str = "b") -> open_reservations.SettledByOperator:
    return open_reservations.settle(federation.place(name), run or federation.run.hex(), WHY, lambda: NOW + 1)


def test_the_operator_is_told_and_what_is_settled_counts_as_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = ended_midway(tmp_path)
    run = federation.run.hex()
    assert f"b: the price of round 1 stays reserved until run {run} goes on" in capsys.readouterr().err
    before = copies(federation, tmp_path / "before")
    assert [each["member"] for each in replay.reserved(before)] == ["b"]
    main_said(["budget", "show", str(before)])
    assert f"securefl budget settle HOME {run[:12]} --reason TEXT" in capsys.readouterr().out
    main_said(["budget", "settle", str(federation.place("b")), run[:6], "--reason", WHY, "--json"])
    assert json.loads(capsys.readouterr().out)["reason"] == WHY
    after = copies(federation, tmp_path / "after")
    assert replay.reserved(after) == []
    (row,) = [each for each in replay.accounts(after) if (each["member"], each["level"]) == ("b", "dataset")]
    assert row["spent"] > 0 == row["reserved"]
    assert verify(after).ok
    charges = [each for each in federation.entries("b") if isinstance(each, Reserved | Settled)]
    assert [type(each) for each in charges] == [Reserved, Settled]
    assert charges[1].did == charges[0].plan.learning.event, "whole: nobody knows how far it came"
    (note,) = [
        each for each in federation.entries("b") if isinstance(each, Refused) and each.what == open_reservations.WHAT
    ]
    assert note.reasons[0].fix == WHY


def main_said(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def test_the_run_that_goes_on_after_all_is_told_so_and_charges_nothing_again(tmp_path: Path) -> None:
    federation = ended_midway(tmp_path)
    settle(federation)
    well = Federation(tmp_path, priced=True)
    with in_process(well) as runtime:
        end = well.drive(runtime)
    assert end.outcome == "finished"
    assert [type(each) for each in well.entries("b") if isinstance(each, Reserved | Settled)] == [Reserved, Settled]
    declined = [each for each in well.entries("coordinator") if isinstance(each, Refused) and "by b" in each.what]
    assert [each.rule for one in declined for each in one.reasons] == ["training.unfinished"]
    assert verify(copies(well, tmp_path / "copies")).ok


def test_what_a_party_settles_after_its_key_was_exchanged_is_said_under_the_runs_own(tmp_path: Path) -> None:
    federation = Rotating(tmp_path, luck=(("b", "leaves"),), priced=True).made()
    with in_process(federation) as runtime, pytest.raises(KeyboardInterrupt):
        federation.drive(runtime)
    invited = federation.seat("b")
    federation.taken(federation.rotated("b"))
    settle(federation)
    found = verify(copies(federation, tmp_path / "copies"))
    assert found.ok, found.why
    well = replace(federation, luck=()).inviting(invited)
    with in_process(well) as runtime:
        assert well.drive(runtime).outcome == "finished"
    declined = [each for each in well.entries("coordinator") if isinstance(each, Refused) and "by b" in each.what]
    assert [each.rule for one in declined for each in one.reasons] == ["training.unfinished"]
    found = verify(copies(well, tmp_path / "later"))
    assert found.ok, found.why


def test_a_sites_machines_move_by_nothing_but_the_key_that_their_run_began_with() -> None:
    """Whatever a site signs in a run, ``with_ledger`` says by which key."""
    found = dict[str, list[str]]()
    for path in Path(run_keys.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("member.step", "custodian.step"):
                found.setdefault(path.name, []).append(ast.unparse(call.args[-1]).partition("(")[0])
    assert set(found) == {"agent.py", "open_reservations.py"}
    assert {each for given in found.values() for each in given} == {"with_ledger"}


def test_what_is_not_reserved_is_not_settled(tmp_path: Path) -> None:
    federation = ended_midway(tmp_path)
    with pytest.raises(
        OperatorFault, match="no runs whose names begin with 'ff' have anything reserved; give one of: 0000"
    ):
        settle(federation, "ff")
    with pytest.raises(OperatorFault, match="nothing is left to settle"):
        settle(federation, name="c")
    settle(federation)
    with pytest.raises(OperatorFault, match="nothing is left to settle"):
        settle(federation)
    with pytest.raises(OperatorFault, match="no home with a ledger is here"):
        open_reservations.settle(tmp_path / "nowhere", "0", WHY, lambda: NOW)


def test_what_a_served_site_has_reserved_is_not_settled_beside_it(tmp_path: Path) -> None:
    federation = ended_midway(tmp_path)
    with alone(federation.place("b") / LOCK), pytest.raises(OperatorFault, match=r"process \d+ serves this site"):
        settle(federation)
    assert settle(federation).charge.round == 1
