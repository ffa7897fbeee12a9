"""The runbooks are run, command by command, each party as another user, and their counts are what happened."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.docs.test_apart_page import Reader
from tests.docs.test_docs_tour import ROOT
from tests.support.apart import CUSTODIAN, Apart
from tests.support.ground import preload

PAGE = ROOT / "docs" / "runbooks.md"
ALIKE = ("site check", "site serve", "ledger export")


class Runbooks(Reader):
    """Three members, a custodian and a coordinator, who have joined."""

    def prepare(self) -> None:
        self.ready()
        self.keys = self.found()
        self.introduce()

    def alike(self, name: str, command: str) -> list[tuple[str, str]]:
        if name != "north" or not command.startswith(tuple(f"securefl {each}" for each in ALIKE)):
            return [(name, command)]
        return [(other, command.replace("north", other)) for other in self.members]

    def ledgers(self, place: Path) -> None:
        super().ledgers(place)
        shutil.copy(self.sent(CUSTODIAN, f"{CUSTODIAN}.ledger"), place)


def numbers(path: Path) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"^(securefl_\S+) (\d+)$", path.read_text(), re.MULTILINE)}


def test_every_command_of_the_runbooks_prints_what_it_shows_and_is_counted(
    small, tmp_path: Path, capsys, monkeypatch
) -> None:
    preload(Apart(small, tmp_path / "preload", capsys, protection="masked-ckks"))
    with TemporaryDirectory(dir="/tmp") as folder:
        reader = Runbooks(small, Path(folder), capsys, protection="masked-ckks")
        reader.prepare()
        assert reader.all_of(PAGE.read_text(), monkeypatch) == 19
        for name in reader.members:
            counted = numbers(reader.sent(name, "site.prom"))
            assert counted['securefl_replies_total{kind="Submitted"}'] == 2
            assert counted["securefl_working"] == 0
        assert numbers(reader.sent(CUSTODIAN, "site.prom"))['securefl_replies_total{kind="Answered"}'] == 2
        run = numbers(reader.mail / "coordinator" / "run.prom")
        assert run['securefl_runs_total{outcome="finished"}'] == 1
        assert (run["securefl_sums_total"], run["securefl_survivors"], run["securefl_rounds"]) == (2, 3, 2)
