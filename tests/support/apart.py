"""Parties in folders of their own, introduced by commands and signed documents alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from securefl.cli.main import main
from tests.support.small import FEDERATION, MEMBERS, Small

CUSTODIAN = "custodian"


@dataclass
class Apart:
    """Three sites, a coordinator and a custodian, each in a folder; ``mail`` is what they send each other."""

    small: Small
    folder: Path
    capsys: pytest.CaptureFixture[str]
    protection: str = "masking"
    members: tuple[str, ...] = MEMBERS
    mail: Path = field(init=False)

    def __post_init__(self) -> None:
        self.mail = self.folder / "mail"
        self.mail.mkdir(parents=True)

    @property
    def parties(self) -> tuple[str, ...]:
        return (*self.members, *((CUSTODIAN,) if self.protection != "masking" else ()))

    def document(self, name: str) -> Path:
        return self.folder / name / ("coordinator.yaml" if name == "coordinator" else "site.yaml")

    def asked(self, *arguments: object) -> tuple[int, str]:
        """One command, here: its exit code and all that it said."""
        try:
            main([str(each) for each in arguments])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = self.capsys.readouterr()
        return code, said.out + said.err

    def told(self, *arguments: object) -> dict:
        """What a command that does it says in JSON."""
        code, said = self.asked(*arguments, "--json")
        assert code == 0, said
        return json.loads(said[said.index("{") :])

    def found(self, names: Iterable[str] | None = None) -> None:
        """Everybody makes a home, a key and a document of their own."""
        for name in self.parties if names is None else names:
            home = self.folder / name
            if name == CUSTODIAN:
                self.told("site", "init", home, "--custodian")
                continue
            home.mkdir()
            shutil.copytree(self.small.folder / "model", home / "model")
            shutil.copy(self.small.folder / f"{name}.csv", home)
            self.told("site", "init", home, "--name", name, "--region", "here", "--model", "./model",
                      "--data", f"{name}.csv")  # fmt: skip
        if names is None:
            self.coordinate()

    def coordinate(self, name: str = "coordinator", **changes: object) -> None:
        """The coordinator makes its own, and writes what is trained."""
        home = self.folder / name
        home.mkdir()
        shutil.copytree(self.small.folder / "model", home / "model")
        for each in ("policy.yaml", "policy.approvals.json"):
            shutil.copy(self.small.folder / each, home)
        invited = [part for member in self.members for part in ("--member", member)]
        self.told("coordinator", "init", home / "coordinator.yaml", "--policy", home / "policy.yaml", "--model", "./model",
                  *invited)  # fmt: skip
        document = yaml.safe_load((home / "coordinator.yaml").read_text())
        document |= {each: FEDERATION[each] for each in ("purpose", "task", "adapter", "training")}
        document |= {"protection": self.protection, **changes}
        if self.protection != "masking":
            document["custodian"] = "sockets/custodian"
        (home / "coordinator.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def invited(self, name: str = "coordinator") -> dict:
        return self.told(
            "site", "invite", self.folder / name / "coordinator.yaml", "--out", self.mail / f"{name}.invitation"
        )

    def answered(self, name: str, fingerprint: str) -> dict:
        return self.told("site", "join", self.document(name), self.mail / "coordinator.invitation", "--fingerprint", fingerprint,
                         "--out", self.mail / f"{name}.answer")  # fmt: skip

    def admitted(self, name: str, fingerprint: str) -> dict:
        return self.told(
            "site", "join", self.document("coordinator"), self.mail / f"{name}.answer", "--fingerprint", fingerprint
        )

    def introduce(self) -> None:
        """All of it: everybody is in, by what was sent and what was read out."""
        invitation = self.invited()
        for name in self.parties:
            self.admitted(name, self.answered(name, invitation["fingerprint"])["fingerprint"])
        roster = self.told("site", "roster", self.document("coordinator"), "--out", self.mail / "roster")
        for name in self.parties:
            self.told("site", "join", self.document(name), self.mail / "roster", "--fingerprint", roster["fingerprint"])


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what a database and its lock leave when they are opened and closed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("ledger.db", "ledger.head-turn"))
    }
