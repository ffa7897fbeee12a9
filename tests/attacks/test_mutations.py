"""A slice of the audit of mutated runs: all found, none called bad that is good. The whole is in `audits/protection`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audits.protection import mutations
from securefl.audit import folder, verify


def test_every_mutated_run_is_found_and_no_good_one_is_called_bad() -> None:
    told = mutations.run(8, 12, with_real=False)
    assert told["alarms"] == []
    assert told["missed"] == []
    assert (told["good_runs"], told["mutated_runs"], told["found"]) == (8, 96, 96)


def test_an_auditor_that_does_not_look_at_files_is_seen_to_miss_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "check", lambda *_: ())
    told = mutations.run(2, 12, with_real=False)
    assert told["missed"]
    assert not mutations.holds(told)


def test_an_auditor_that_sees_ghosts_is_seen_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify.tree, "absent", lambda *_: 1 / 0)
    told = mutations.run(2, 1, with_real=False)
    assert told["false_alarms"] == 2
    assert not mutations.holds(told)


def test_the_bars_hold_for_the_runs_that_were_told() -> None:
    told = json.loads((Path(mutations.__file__).with_name("mutations.json")).read_text())
    assert mutations.holds(told)
    assert told["mutated_runs"] >= 10_000
    assert told["good_runs"] >= 1_000
