"""A run's folder is evidence: what was left in it is what was written down, computed or released; or it exits 4."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from securefl import key_files
from securefl.audit import folder, pins
from securefl.audit.verify import read_all, verify
from securefl.coordinator import evidence
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from securefl.keys import fingerprint
from securefl.simulation import federation
from securefl.terms import MemberId, Reported
from tests.simulation.test_run import run_cli
from tests.support.small import MEMBERS, Small

PARTIES = (*MEMBERS, "coordinator")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def known(finished: Path, tmp_path: Path) -> Path:
    """What an auditor knows of the parties, not from the run."""
    path = tmp_path / "known.json"
    path.write_text(
        json.dumps({n: key_files.load(finished / "sites" / n / "identity.key").public.hex() for n in PARTIES})
    )
    return path


def test_with_keys_a_run_is_verified_and_without_it_is_said_to_be_consistent(
    copy: Path, known: Path, finished: Path, capsys
) -> None:
    code, text, _ = run_cli(capsys, "audit", "verify", copy, "--keys", known)
    assert (code, text.startswith("verified: ")) == (0, True)
    code, text, _ = run_cli(capsys, "audit", "verify", copy)
    assert (code, text.startswith("consistent: "), "keys NOT pinned" in text) == (0, True, True)
    for name in PARTIES:
        assert fingerprint(key_files.load(finished / "sites" / name / "identity.key").public) in text
    _, text, _ = run_cli(capsys, "audit", "verify", copy, "--json")
    told = json.loads(text)
    assert (told["ok"], told["pinned"], set(told["keys"])) == (True, False, set(PARTIES))
    (tmp := known.with_name("prints.json")).write_text(json.dumps(told["keys"]))
    assert run_cli(capsys, "audit", "verify", copy, "--keys", tmp)[0] == 0, "fingerprints are keys enough"
    assert run_cli(capsys, "audit", "verify", copy, "--keys", copy / "keys.json")[0] == 0
    assert run_cli(capsys, "audit", "verify", copy, "--keys", finished / "sites/north/peers/small.json")[0] == 0


def test_a_key_that_is_another_or_not_pinned_exits_4(copy: Path, known: Path, capsys) -> None:
    given = json.loads(known.read_text())
    known.write_text(json.dumps(given | {"west": "00" * 32}))
    code, text, _ = run_cli(capsys, "audit", "verify", copy, "--keys", known)
    assert (code, "west.ledger: signed with another key than the pinned one" in text) == (4, True)
    known.write_text(json.dumps({name: key for name, key in given.items() if name != "coordinator"}))
    code, text, _ = run_cli(capsys, "audit", "verify", copy, "--keys", known)
    assert (code, "no key is pinned for coordinator" in text) == (4, True)
    for wrong in ("[]", "{}", "not json", '{"north": "0x12"}', '{"north": 7}'):
        known.write_text(wrong)
        assert run_cli(capsys, "audit", "verify", copy, "--keys", known)[0] == 2
    with pytest.raises(OperatorFault, match="given two keys"):
        known.write_text(json.dumps(given))
        (two := known.with_name("two.json")).write_text(json.dumps({"west": "00" * 32}))
        pins.read([known, two])


def test_every_file_of_a_run_is_bound_and_each_that_is_replaced_or_missing_exits_4(copy: Path, capsys) -> None:
    names = [path for path in copy.rglob("*") if path.is_file() and "ledger" not in path.parts]
    loose = {".lock", "timings.json"}
    assert len(names) > 10
    for path in names:
        whole = path.read_bytes()
        if path.name in loose:
            continue
        path.write_bytes(whole[:-1] + bytes([(whole or b"x")[-1] ^ 1]))
        assert not verify(copy).ok, path
        path.unlink()
        assert not verify(copy).ok, path
        path.write_bytes(whole)
    assert verify(copy).ok
    (copy / "adapter" / "pytorch_model.bin").write_bytes(b"loaded first")
    assert "that the run did not leave" in verify(copy).why
    (copy / "adapter" / "pytorch_model.bin").unlink()
    (copy / "notes.txt").write_text("mine")
    assert "notes.txt: a file that the run did not leave" in verify(copy).unverified


def test_the_released_state_is_in_the_adapters_folder_and_is_what_the_ledgers_name(copy: Path, small: Small) -> None:
    from securefl.protocol import messages as m
    from securefl.terms import Released

    ledger = read_all(copy)[MemberId("north")]
    *_, (_, released) = ledger.each(Released)
    assert m.state_digest((copy / folder.STATE).read_bytes()) == released.digest


def test_a_folder_without_its_mark_or_of_two_runs_is_not_verified(copy: Path) -> None:
    (copy / "run.json").unlink()
    assert "run.json" in verify(copy).why
    report = json.loads((copy / "report.json").read_text())
    (copy / "run.json").write_text(json.dumps({"run": "00" * 16, "outcome": "finished"}))
    assert report["run"] in verify(copy).why
    shutil.rmtree(copy / "ledger")
    assert not verify(copy).ok


def test_ledgers_alone_are_checked_and_said_to_be_alone(copy: Path) -> None:
    verdict = verify(copy / "ledger")
    assert verdict.ok
    assert any(each.endswith(folder.ALONE) for each in verdict.unverified)


def test_a_run_killed_between_its_last_word_and_its_mark_goes_on_to_be_over(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(federation, "finish", killed)
    with pytest.raises(Killed):
        small.run(tmp_path / "run", tmp_path / "sites")
    monkeypatch.undo()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outcome"] is None
    before = (tmp_path / "run" / "report.json").read_bytes()
    result = small.run(tmp_path / "run", tmp_path / "sites")
    assert (result.outcome, (tmp_path / "run" / "report.json").read_bytes()) == ("finished", before)
    assert result.report == evidence.report_of(tmp_path / "run")
    verdict = verify(tmp_path / "run")
    assert verdict.ok, verdict.why
    words = [e for _, e in read_all(tmp_path / "run")[MemberId("coordinator")].each(Reported)]
    assert len(words) == 1


def test_a_second_run_of_the_same_homes_leaves_the_first_ones_folder_verified(small: Small, tmp_path: Path) -> None:
    cheap = small.file("cheap.yaml", training__noise_multiplier=2.0, training__rounds=1)
    for name in ("one", "two"):
        result = small.run(tmp_path / name, tmp_path / "sites", file=cheap)
        assert result.outcome == "finished", result.why
    for name in ("one", "two"):
        assert verify(tmp_path / name).ok, verify(tmp_path / name).why
    for path in (tmp_path / "two" / "ledger").iterdir():
        shutil.copy(path, tmp_path / "one" / "ledger")
    assert "began and ended after this folder's report" in verify(tmp_path / "one").why


def test_a_run_that_was_refused_is_evidence_too(small: Small, tmp_path: Path) -> None:
    document = yaml.safe_load((small.folder / "federation.yaml").read_text())
    document["training"]["noise_multiplier"] = 0.1
    path = small.folder / "loud.yaml"
    path.write_text(yaml.safe_dump(document))
    result = federation.run(federation_file.load(path), tmp_path / "run", sites=tmp_path / "sites")
    assert result.outcome == "refused"
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    report["outcome"]["status"] = "finished"
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    assert not verify(tmp_path / "run").ok
