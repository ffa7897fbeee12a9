"""The page on parties with machines of their own is run, command by command, each party as another user."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.docs.test_docs_tour import BLOCK, ROOT, matches
from tests.support.apart import COORDINATOR, Apart
from tests.support.ground import Ground, preload

AUDITOR = "auditor"
PRINT = re.compile(r"fingerprint  (\S+)")


class Page(Ground):
    """Runs what the page shows; fingerprints are read out by whoever wrote the document."""

    def prepare(self) -> None:
        self.read_out: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.serving = {}
        for name in self.names:
            self.place(name, "parties")
        for name in self.members:
            self.given(name, "model", f"{name}.csv")
        self.given(COORDINATOR, "model", "policy.yaml", "policy.approvals.json")

    def run(self, name: str, command: str) -> str:
        """What a command of the page says, here."""
        here = command.replace("/srv/", f"{self.folder}/").replace(
            "--let-in coordinator", f"--let-in {self.users[COORDINATOR]}"
        )
        words = shlex.split(here.removesuffix("&"))
        if words[0] == "cp":
            shutil.copy(self.of(name) / words[1], words[2])
            return ""
        assert words[0] == "securefl"
        typed = next(
            (f"{said}\n" for path, said in self.read_out.items() if path in words[1:-1] or path == words[-1]), ""
        )
        self.start(name, *words[1:], typed=typed if words[1:3] == ["site", "join"] else "")
        if command.endswith("&"):
            heard = self.hear(name, "kill ").replace(str(self.folder), "/srv")
            self.serving[name] = self.running.pop(name)
            return heard
        code, said = self.end(name)
        assert code == 0, f"{name}$ {command}\n{said}"
        if "--out" in words and (found := PRINT.search(said)):
            self.read_out[words[words.index("--out") + 1]] = found[1]
        if (key := re.search(r"^key  (\w{64})$", said, re.MULTILINE)) is not None:
            self.keys[name] = key[1]
        return said.replace(str(self.folder), "/srv")

    def audited(self) -> Path:
        """What the auditor is given: the coordinator's folder, everybody's exported ledger, and the keys."""
        place = self.folder / AUDITOR
        if not place.exists():
            shutil.copytree(self.of(COORDINATOR) / "run", place / "run")
            (place / "ledgers").mkdir()
            for name in self.members:
                shutil.copy(self.sent(name, f"{name}.ledger"), place / "ledgers")
            (place / "keys.json").write_text(json.dumps(self.keys))
        return place


def test_every_command_of_the_page_prints_what_it_shows(small, tmp_path: Path, capsys, monkeypatch) -> None:
    preload(Apart(small, tmp_path / "preload", capsys))
    with TemporaryDirectory(dir="/tmp") as folder:
        page = Page(small, Path(folder), capsys)
        page.prepare()
        commands = 0
        for kind, file, body in BLOCK.findall((ROOT / "docs" / "apart.md").read_text()):
            if kind == "yaml":
                (page.of(COORDINATOR) / file).write_text(body.replace("/srv/", f"{folder}/"))
            for name, command, shown in re.findall(
                r"^(\w+)\$ (.*)\n((?:(?!^\w+\$ ).*\n)*)", body if kind == "console" else "", re.MULTILINE
            ):
                if name == AUDITOR:
                    monkeypatch.chdir(page.audited())
                    found = Apart.asked(page, name, *shlex.split(command)[1:])[1]
                else:
                    found = page.run(name, command)
                assert matches(shown, found), f"{name}$ {command}\n{found}\nThe page shows:\n{shown}"
                commands += 1
                if "north" in name + command and "south" not in command:  # the others do the same
                    for other in page.members[1:]:
                        page.run(name.replace("north", other), command.replace("north", other))
        assert commands > 12
        page.running = page.serving
        for name in page.members:
            os.kill(page.running[name][0].pid, signal.SIGTERM)
            assert page.end(name)[0] == 0
