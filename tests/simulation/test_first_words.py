"""What a run says before it begins, and that a start that failed is in nobody's way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from securefl.errors import OperatorFault
from securefl.progress import Silent
from securefl.simulation import federation
from tests.support.small import MEMBERS, Small


class Begun(Exception):
    """Everything was prepared."""


@dataclass
class Heard(Silent):
    said: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.said.append(line)


def begins(*_: object) -> None:
    raise Begun


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("first words"))


def test_rows_and_new_accounts_are_told_and_an_account_that_is_there_is_not_new(
    own: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (own.folder / "west.csv").read_text().splitlines()
    (own.folder / "gaps.csv").write_text("\n".join([*rows, ",good", rows[1], "later,"]))
    data = [{"name": n, "region": "here", "data": {"file": f"{n}.csv"}} for n in MEMBERS[:2]]
    west = {"name": "west", "region": "here", "data": {"file": "gaps.csv", "unlabelled": "drop"}}
    file = own.file("told.yaml", members=[*data, west])
    monkeypatch.setattr(federation, "drive", begins)
    told = []
    for name in ("first", "second"):
        heard = Heard()
        with pytest.raises(Begun):
            own.run(tmp_path / name, tmp_path / "sites", file, progress=heard)
        told.append([line for line in heard.said if line.startswith(MEMBERS)])
    assert len(told[0]) == len(told[1]) == 3
    west_told = told[0][2]
    assert west_told.startswith("west: 64 rows: 1 without a text, 1 without a label, 1 again of a text that is there, ")
    assert all(
        f"; a new account, in {tmp_path / 'sites' / n}" in line for n, line in zip(MEMBERS, told[0], strict=True)
    )
    assert not any("new account" in line for line in told[1])


@pytest.mark.parametrize("spoiled", ["model", "data"])
def test_a_start_that_failed_leaves_the_folder_to_a_file_that_was_mended(
    own: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    wrong = {"model": "./absent"} if spoiled == "model" else {"data": {"text": "txt", "label": "label"}}
    with pytest.raises(OperatorFault, match="absent|txt"):
        own.run(tmp_path / "run", tmp_path / "sites", own.file("spoiled.yaml", **wrong))
    assert not (tmp_path / "sites").exists()
    monkeypatch.setattr(federation, "drive", begins)
    for _ in range(2):  # and one that had begun goes on with its own file alone
        with pytest.raises(Begun):
            own.run(tmp_path / "run", tmp_path / "sites", own.file("mended.yaml"))
    with pytest.raises(OperatorFault, match="an unfinished run of another federation file"):
        own.run(tmp_path / "run", tmp_path / "sites", own.file("another.yaml", training__rounds=3))
