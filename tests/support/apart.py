"""Parties in folders of their own, introduced by commands and signed documents alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from securefl.cli.main import main
from tests.support.small import FEDERATION, MEMBERS, Small

COORDINATOR, CUSTODIAN = "coordinator", "custodian"


@dataclass
class Apart:
    """Three sites, a coordinator and a custodian, each in a folder; ``mail`` is what they send each other."""

    small: Small
    folder: Path
    capsys: pytest.CaptureFixture[str]
    protection: str = "masking"
    members: tuple[str, ...] = MEMBERS
    policy: str = "policy"  # its file, without what its names end in
    mail: Path = field(init=False)

    def __post_init__(self) -> None:
        self.mail = self.folder / "mail"
        for name in (*self.parties, COORDINATOR):
            self.place(name, "mail")

    @property
    def parties(self) -> tuple[str, ...]:
        return (*self.members, *((CUSTODIAN,) if self.protection != "masking" else ()))

    def place(self, name: str, kind: str) -> Path:
        """A folder of one party's: its home and documents (parties), or what it sends (mail)."""
        path = self.folder / kind / name
        path.mkdir(parents=True)
        return path

    def of(self, name: str) -> Path:
        return self.folder / "parties" / name

    def document(self, name: str) -> Path:
        return self.of(name) / ("coordinator.yaml" if name == COORDINATOR else "site.yaml")

    def asked(self, name: str, *arguments: object) -> tuple[int, str]:
        """One command of this party, here: its exit code and all that it said."""
        del name
        try:
            main([str(each) for each in arguments])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = self.capsys.readouterr()
        return code, said.out + said.err

    def told(self, name: str, *arguments: object) -> dict:
        """What a command that does it says in JSON."""
        code, said = self.asked(name, *arguments, "--json")
        assert code == 0, said
        return json.loads(said[said.index("{") :])

    def found(self) -> dict[str, str]:
        """Everybody makes a home, a key and a document of their own; the keys, as each knows its own."""
        keys = {}
        for name in self.parties:
            home = self.place(name, "parties")
            if name == CUSTODIAN:
                keys[name] = self.told(name, "site", "init", home, "--custodian")["key"]
                continue
            records = self.records_of(name)
            self.given(name, "model", *records)
            keys[name] = self.told(name, "site", "init", home, "--name", name, "--region", "here", "--model", "./model",
                                   "--data", records[0])["key"]  # fmt: skip
            self.made(name)
        return {**keys, COORDINATOR: self.coordinates()}

    def records_of(self, name: str) -> tuple[str, ...]:
        """The files of a member's records."""
        return (f"{name}.csv",)

    def made(self, name: str) -> None:
        """A member has a home and a document: what its document says beside is written now."""

    def given(self, name: str, *things: str) -> None:
        """What a party has of its own: a copy of a model, records, a policy."""
        for thing in things:
            source, copied = self.small.folder / thing, self.of(name) / thing
            shutil.copytree(source, copied) if source.is_dir() else shutil.copy(source, copied)

    def coordinates(self, start: bool = True, **changes: object) -> str:
        """The coordinator makes its own, and writes what is trained."""
        home = self.place(COORDINATOR, "parties")
        policy = f"{self.policy}.yaml"
        self.given(COORDINATOR, policy, f"{self.policy}.approvals.json")
        invited = [part for member in self.members for part in ("--member", member)]
        key = self.told(COORDINATOR, "coordinator", "init", home / "coordinator.yaml", "--policy", home / policy,
                        "--model", "./model", *invited)["key"]  # fmt: skip
        document = yaml.safe_load((home / "coordinator.yaml").read_text())
        document |= {each: FEDERATION[each] for each in ("purpose", "task", "adapter", "training")}
        document |= {"protection": self.protection, **changes}
        document["members"] = {name: {"socket": str(self.door(name))} for name in self.members}
        if self.protection != "masking":
            document["custodian"] = str(self.door(CUSTODIAN))
        (home / "coordinator.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        if not start:
            return key
        self.given(COORDINATOR, "model")  # for a moment: somebody who has it makes the start file
        self.told(COORDINATOR, "start", "make", home / "coordinator.yaml", home / "small.start")
        shutil.rmtree(home / "model")
        (home / "coordinator.yaml").write_text(yaml.safe_dump({**document, "start": "small.start"}, sort_keys=False))
        return key

    def door(self, name: str) -> Path:
        return self.of(name) / "home" / "door"

    def sent(self, name: str, what: str) -> Path:
        return self.mail / name / what

    def invited(self) -> dict:
        return self.told(
            COORDINATOR, "site", "invite", self.document(COORDINATOR), "--out", self.sent(COORDINATOR, "invitation")
        )

    def answered(self, name: str, fingerprint: str) -> dict:
        return self.told(name, "site", "join", self.document(name), self.sent(COORDINATOR, "invitation"),
                         "--fingerprint", fingerprint, "--out", self.sent(name, "answer"))  # fmt: skip

    def admitted(self, name: str, fingerprint: str) -> dict:
        return self.told(COORDINATOR, "site", "join", self.document(COORDINATOR), self.sent(name, "answer"),
                         "--fingerprint", fingerprint)  # fmt: skip

    def introduce(self) -> None:
        """All of it: everybody is in, by what was sent and what was read out."""
        invitation = self.invited()
        for name in self.parties:
            self.admitted(name, self.answered(name, invitation["fingerprint"])["fingerprint"])
        roster = self.told(
            COORDINATOR, "site", "roster", self.document(COORDINATOR), "--out", self.sent(COORDINATOR, "roster")
        )
        for name in self.parties:
            self.told(name, "site", "join", self.document(name), self.sent(COORDINATOR, "roster"),
                      "--fingerprint", roster["fingerprint"])  # fmt: skip


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what a database and its lock leave when they are opened and closed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("ledger.db", "ledger.head-turn"))
    }
