"""`securefl coordinate`: what a coordinator leaves that has its own ledger alone, and what an auditor makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from securefl.audit.verify import verify
from securefl.coordinator import evidence, run
from securefl.documents import coordinator_file, coordinator_suite, site_file
from securefl.errors import OperatorFault
from securefl.home import export, notices, rotation
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.site.build import Environment
from securefl.site.dispatch import built
from securefl.terms import MemberId
from tests.support.apart import COORDINATOR, Apart, everything


class Coordinated:
    """A federation whose coordinator has run it, with everybody's exported ledger laid beside its own."""

    def __init__(self, small, folder: Path, capsys) -> None:
        self.apart = Apart(small, folder, capsys)
        self.keys: dict[str, str] = {}

    def runtime(self) -> InProcess:
        apart = self.apart
        return InProcess(
            {MemberId(name): built(site_file.load(apart.document(name)), Environment()) for name in apart.parties}
        )

    def coordinate(self, out: Path) -> run.Result:
        return run.coordinate(coordinator_file.load(self.apart.document(COORDINATOR)), out, Silent(), self.runtime())


@pytest.fixture
def introduced(small, tmp_path, capsys) -> Coordinated:
    made = Coordinated(small, tmp_path / "world", capsys)
    made.keys = made.apart.found()
    made.apart.introduce()
    return made


def audited(world: Coordinated, out: Path, copy: Path) -> Path:
    shutil.copytree(out, copy)
    for name in world.apart.parties:
        export.one(export.home_of(world.apart.document(name)), copy / "ledger")
    return copy


def changed(path: Path, change: Callable[[dict], None]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def test_what_a_coordinator_leaves_verifies_with_the_others_exported_ledgers_and_not_when_it_is_changed(
    introduced: Coordinated, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = introduced.coordinate(out)
    assert result.outcome == "finished", result.why
    assert {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()} - {".lock"} == {
        "run.json", "coordinated.json", "keys.json", "ledger/coordinator.ledger", "adapter/released.f32", "adapter/layout.json",
    }  # fmt: skip
    alone = verify(out, introduced.keys)
    assert (alone.ok, "north.ledger" in alone.why) == (False, True), "the others' ledgers are needed, and named"
    copy = audited(introduced, out, tmp_path / "copy")
    found = verify(copy, introduced.keys)
    assert found.ok, found.why
    assert found.pinned
    assert any("coordinated.json" in each for each in found.unverified)
    for name, spoil in {
        "outcome": lambda: changed(copy / "coordinated.json", lambda told: told["outcome"].update(status="refused")),
        "rounds": lambda: changed(copy / "coordinated.json", lambda told: told["rounds"].pop()),
        "state": lambda: (copy / "adapter" / "released.f32").write_bytes(b"\0" * 4),
        "layout": lambda: changed(copy / "adapter" / "layout.json", lambda told: told["tensors"].pop()),
        "another": lambda: (copy / "adapter" / "adapter.safetensors").write_bytes(b""),
        "mark": lambda: changed(copy / "run.json", lambda told: told.update(outcome="aborted")),
    }.items():
        shutil.rmtree(copy)
        copy = audited(introduced, out, tmp_path / "copy")
        spoil()
        assert not verify(copy, introduced.keys).ok, name
    with pytest.raises(OperatorFault, match="a run that is over"):
        introduced.coordinate(out)
    again = introduced.coordinate(tmp_path / "again")
    assert again.outcome in ("finished", "refused"), again.why


def test_a_run_that_was_killed_behind_its_last_word_ends_as_it_was_bound_and_is_told_of_once(
    introduced: Coordinated, tmp_path: Path, monkeypatch
) -> None:
    out, real = tmp_path / "run", evidence.export_all

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "export_all", killed)
    with pytest.raises(KeyboardInterrupt):
        introduced.coordinate(out)
    monkeypatch.setattr(evidence, "export_all", real)
    for notice in rotation.rotate(export.home_of(introduced.apart.document("north")), 3600):
        notices.take(export.home_of(introduced.apart.document(COORDINATOR)), "small", notice)
    keys = (out / "keys.json").read_bytes()
    (out / "keys.json").write_text("{}")
    with pytest.raises(OperatorFault, match="a file here is another one since"):
        introduced.coordinate(out)
    (out / "keys.json").write_bytes(keys)
    assert introduced.coordinate(out).outcome == "finished"
    assert (out / "keys.json").read_bytes() == keys
    found = verify(audited(introduced, out, tmp_path / "copy"))
    assert found.ok, found.why


def test_a_site_evaluates_what_was_released_on_its_own_rows_and_nothing_else(
    introduced: Coordinated, tmp_path: Path
) -> None:
    out, apart = tmp_path / "run", introduced.apart
    assert introduced.coordinate(out).outcome == "finished"
    before = everything(apart.of("north"))
    told = apart.told("north", "site", "evaluate", apart.document("north"), out / "adapter" / "released.f32")
    assert (told["n"], told["round"], told["broadcast"], told["federation"]) == (15, 2, None, "small")
    assert 0 < told["majority"] < 1
    assert told["after"] != told["before"] or told["macro_f1"] is not None
    assert everything(apart.of("north")) == before, "nothing is written, and nothing leaves"
    (tmp_path / "another.f32").write_bytes((out / "adapter" / "released.f32").read_bytes()[:-4] + b"\0" * 4)
    code, said = apart.asked("north", "site", "evaluate", apart.document("north"), tmp_path / "another.f32")
    assert (code, "no run of small that this site took part in released this state" in said) == (2, True), said
    ledgers = tmp_path / "exported"
    for name in apart.parties:
        export.one(export.home_of(apart.document(name)), ledgers)
    report = apart.told(COORDINATOR, "report", out, "--ledgers", ledgers)["report"]
    assert {row["member"] for row in report["accounts"]} == set(apart.members)
    found = verify(out, introduced.keys)
    assert found.ok, found.why
    assert not [each for each in found.unverified if each.startswith("report.")]


def test_a_party_whose_key_nobody_knows_is_not_asked(small, tmp_path: Path, capsys) -> None:
    world = Coordinated(small, tmp_path / "world", capsys)
    world.apart.found()
    world.apart.invited()
    with pytest.raises(OperatorFault, match="no key of north, south, west is known"):
        run.coordinate(
            coordinator_file.load(world.apart.document(COORDINATOR)), tmp_path / "run", Silent(), InProcess({})
        )
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_document_is_not_gone_on_with(introduced: Coordinated, tmp_path: Path) -> None:
    out, document = tmp_path / "run", introduced.apart.document(COORDINATOR)
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"run": "00" * 16, "coordinator_file": "another", "outcome": None}))
    with pytest.raises(OperatorFault, match="an unfinished run of another"):
        introduced.coordinate(out)
    assert document.exists()


BAD = {
    "another document": ({"securefl_site": 1}, "says securefl_site, not securefl_coordinator"),
    "no document": ({"name": "small"}, "no `securefl_coordinator` in it"),
    "an unknown key": ({"polcy": "policy.yaml"}, "polcy: unknown key; did you mean `policy`?"),
    "a member called coordinator": ({"members": {"coordinator": "a", "north": "b"}}, "no member can be called coordinator"),
    "one member": ({"members": {"north": "a"}}, "members: found 1"),
    "one socket of two": ({"members": {"north": "a", "south": "a"}}, "south.socket: found a, which is north's"),
    "one key of two": (
        {"members": {"north": {"socket": "a", "key": "0" * 64}, "south": {"socket": "b", "key": "0" * 64}}},
        "south.key: found 0000",
    ),
    "encryption without a custodian": ({"protection": "ckks"}, "found ckks, which needs a `custodian`"),
    "a custodian without encryption": ({"custodian": "c"}, "protection masking has no custodian"),
    "what no federation may be": (
        {"strategy": {"kind": "fedavg", "momentum": 0.5}, "adapter": {"targets": ["query"], "rule": "alternating"}},
        "momentum with the rule alternating",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_coordinator_document_that_is_wrong_says_where_and_what_would_do(case: str, small, tmp_path, capsys) -> None:
    world = Coordinated(small, tmp_path / "world", capsys)
    world.apart.coordinates(start=False)
    document = world.apart.document(COORDINATOR)
    changes, told = BAD[case]
    good = yaml.safe_load(document.read_text())
    jsonschema.validate(json.loads(json.dumps(good)), json.loads(coordinator_suite.schema_text()))
    made = changes if case in ("another document", "no document") else {**good, **changes}
    document.write_text(yaml.safe_dump(made, sort_keys=False))
    code, said = world.apart.asked(COORDINATOR, "coordinator", "check", document)
    assert (code, told in said) == (2, True), said
    assert str(document) in said
