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
from tests.support.grove import TRAINING, Grove, GroveGround, preload_tree
from tests.support.trees import Tree

AUDITOR = "auditor"
PRINT = re.compile(r"fingerprint  (\S+)")


class Reader(Ground):
    """Runs what the page shows; fingerprints are read out by whoever wrote the document."""

    def ready(self) -> None:
        self.read_out: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.serving = {}

    def run(self, name: str, command: str) -> str:
        """What a command of the page says, here."""
        let_in = re.sub(r"--let-in (\w+)", lambda found: f"--let-in {self.users[found[1]]}", command)
        words = shlex.split(let_in.replace("/srv/", f"{self.folder}/").removesuffix("&"))
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
        for whose, key in re.findall(r"^(coordinator )?key  (\w{64})$", said, re.MULTILINE):
            self.keys[self.way(name, whose.strip())] = key
        return said.replace(str(self.folder), "/srv")

    def way(self, name: str, whose: str) -> str:
        """What an auditor calls a party."""
        return whose or name

    def ledgers(self, place: Path) -> None:
        """What the auditor is given of everybody's exported ledgers."""
        place.mkdir()
        for name in self.members:
            shutil.copy(self.sent(name, f"{name}.ledger"), place)

    def audited(self) -> Path:
        """What the auditor is given: the coordinator's folder, everybody's exported ledger, and the keys."""
        place = self.folder / AUDITOR
        if not place.exists():
            shutil.copytree(self.of(COORDINATOR) / "run", place / "run")
            self.ledgers(place / "ledgers")
            (place / "keys.json").write_text(json.dumps(self.keys))
        return place

    def alike(self, name: str, command: str) -> list[tuple[str, str]]:
        """The same for everybody who does the same, first as the page has it."""
        raise NotImplementedError

    def all_of(self, text: str, monkeypatch) -> int:
        """Run every command in a part of the page, and hold what it says against what is shown; how many there are."""
        commands = 0
        for kind, file, body in BLOCK.findall(text):
            if kind == "yaml":
                (self.of(COORDINATOR) / file).write_text(body.replace("/srv/", f"{self.folder}/"))
            for name, command, shown in re.findall(
                r"^(\w+)\$ (.*)\n((?:(?!^\w+\$ ).*\n)*)", body if kind == "console" else "", re.MULTILINE
            ):
                commands += 1
                if name == AUDITOR:
                    monkeypatch.chdir(self.audited())
                    found = Apart.asked(self, name, *shlex.split(command)[1:])[1]
                    assert matches(shown, found), f"{name}$ {command}\n{found}\nThe page shows:\n{shown}"
                    continue
                first, *others = self.alike(name, command)
                found = self.run(*first)
                assert matches(shown, found), f"{name}$ {command}\n{found}\nThe page shows:\n{shown}"
                for other in others:
                    self.run(*other)
        self.running = self.serving
        for name in self.parties:
            os.kill(self.running[name][0].pid, signal.SIGTERM)
            assert self.end(name)[0] == 0
        return commands


class Page(Reader):
    """Three members and a coordinator."""

    def prepare(self) -> None:
        self.ready()
        for name in self.names:
            self.place(name, "parties")
        for name in self.members:
            self.given(name, "model", f"{name}.csv")
        self.given(COORDINATOR, "model", "policy.yaml", "policy.approvals.json")

    def alike(self, name: str, command: str) -> list[tuple[str, str]]:
        if "north" not in name + command or "south" in command:
            return [(name, command)]
        return [(name.replace("north", other), command.replace("north", other)) for other in self.members]


class TreePage(GroveGround, Reader):
    """A coordinator, two nodes, and three sites below each."""

    def prepare(self) -> None:
        self.ready()
        for leaf in self.leaves:
            self.place(leaf, "parties")
            self.given(leaf, "model", f"{leaf}.csv")
        for node in self.small.nodes:
            self.place(node, "parties")
            policies = ("top.policy", f"{node}.policy")
            self.given(node, "model", *(f"{each}.{end}" for each in policies for end in ("yaml", "approvals.json")))
        self.keys[COORDINATOR] = self.coordinates(training=TRAINING)

    def alike(self, name: str, command: str) -> list[tuple[str, str]]:
        (nordic, (oslo, *rest)), *_ = self.small.nodes.items()
        told, found = f"{name}$ {command}", []
        for node, leaves in self.small.nodes.items():
            for leaf in leaves if oslo in told and rest[0] not in told else leaves[:1]:
                named = {nordic: node, oslo: leaf, **dict(zip(rest, leaves[1:], strict=True))}
                here = re.sub("|".join(named), lambda each: named[each[0]], told)
                found.append(tuple(here.split("$ ", 1)))
        return list(dict.fromkeys(found))

    def run(self, name: str, command: str) -> str:
        said = super().run(name, command)
        if (
            " site init " in command and name in self.small.nodes
        ):  # as the page says, its reader writes where they answer
            self.wire(name)
        return said

    def way(self, name: str, whose: str) -> str:
        return f"{name}/{whose}" if whose else f"{self.leaves[name]}/{name}" if name in self.leaves else name

    def ledgers(self, place: Path) -> None:
        for leaf, node in self.leaves.items():
            (place / "below" / node).mkdir(parents=True, exist_ok=True)
            shutil.copy(self.sent(leaf, f"{leaf}.ledger"), place / "below" / node)
        for node in self.small.nodes:
            shutil.copy(self.sent(node, f"{node}.ledger"), place)
            shutil.copy(self.sent(node, f"{COORDINATOR}.ledger"), place / "below" / node)


def page() -> tuple[str, str]:
    """The page, and its section on trees."""
    text = (ROOT / "docs" / "apart.md").read_text()
    at = text.index("## 5. ")
    return text[:at], text[at:]


def test_every_command_of_the_page_prints_what_it_shows(small, tmp_path: Path, capsys, monkeypatch) -> None:
    preload(Apart(small, tmp_path / "preload", capsys))
    with TemporaryDirectory(dir="/tmp") as folder:
        reader = Page(small, Path(folder), capsys)
        reader.prepare()
        assert reader.all_of(page()[0], monkeypatch) > 12


def test_every_command_of_the_section_on_trees_prints_what_it_shows(tmp_path: Path, capsys, monkeypatch) -> None:
    named = {"nordic": ("oslo", "bergen", "turku"), "iberia": ("lisbon", "porto", "madrid")}
    tree = Tree(tmp_path, named=named)
    capsys.readouterr()  # what making a model says
    preload_tree(Grove(tree, tmp_path / "preload", capsys), tmp_path / "preloaded")
    with TemporaryDirectory(dir="/tmp") as folder:
        reader = TreePage(tree, Path(folder), capsys)
        reader.prepare()
        assert reader.all_of(page()[1], monkeypatch) > 15
