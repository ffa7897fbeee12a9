"""Four parties in folders of their own, one federation, two tasks: two of the parties take part in one of them alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from tests.support.apart import COORDINATOR, CUSTODIAN, Apart
from tests.support.ground import Ground
from tests.support.small import FEDERATION, POLICY, Small, rows, sign

TASKS = {"tone": ("north", "south", "west"), "mood": ("south", "west", "east")}
MEMBERS = ("north", "south", "west", "east")
APART = "west"  # it trains each task on records, and an account, of its own; south trains both on the same
WIDE = POLICY.replace("epsilon: 20", "epsilon: 60")


def records(small: Small) -> None:
    """The members' files, and a policy under which two tasks fit one account."""
    for name in ("east", *(f"{APART}-{task}" for task in TASKS)):
        lines = ["text,label", *(f"{text},{label}" for text, label in rows(name))]
        (small.folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (small.folder / "wide.yaml").write_text(WIDE)
    sign(small.folder / "wide.yaml")


def file_of(member: str, task: str) -> str:
    return f"{member}-{task}.csv" if member == APART else f"{member}.csv"


def files_of(member: str) -> dict[str, str]:
    """The file of each task that a member takes part in."""
    return {task: file_of(member, task) for task, members in TASKS.items() if member in members}


class InTasks(Apart):
    """The same parties, with tasks."""

    def __init__(self, small: Small, folder: Path, capsys, protection: str = "masking") -> None:  # noqa: ANN001
        records(small)
        super().__init__(small, folder, capsys, protection, MEMBERS, "wide")

    def records_of(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(files_of(name).values()))

    def made(self, name: str) -> None:
        self.write(name, files_of(name))

    def write(self, name: str, files: dict[str, str]) -> None:
        """Its document says what it trains in each task, in the place of ``data``."""
        document = yaml.safe_load(self.document(name).read_text())
        source = {**document.pop("data")}
        own = {task: {"data": {**source, "file": file}} for task, file in files.items()}
        if name == APART:
            own = {task: {**part, "dataset": f"{name}.{task}"} for task, part in own.items()}
        document["tasks"] = {"small": own}
        self.document(name).write_text(yaml.safe_dump(document, sort_keys=False))

    def coordinates(self, start: bool = True, **changes: object) -> str:
        del start
        home = self.place(COORDINATOR, "parties")
        self.given(COORDINATOR, "wide.yaml", "wide.approvals.json", "model")
        invited = [part for member in self.members for part in ("--member", member)]
        path = home / "coordinator.yaml"
        key = self.told(COORDINATOR, "coordinator", "init", path, "--policy", home / "wide.yaml",
                        "--model", "./model", *invited)["key"]  # fmt: skip
        document = yaml.safe_load(path.read_text())
        adapter = {name: part for name, part in FEDERATION["adapter"].items() if name != "seed"}
        document |= {"purpose": FEDERATION["purpose"], "task": FEDERATION["task"], "adapter": adapter}
        document |= {"training": {**FEDERATION["training"], "rounds": 1}, "protection": self.protection, **changes}
        document["members"] = {name: {"socket": str(self.door(name))} for name in self.members}
        if self.protection != "masking":
            document["custodian"] = str(self.door(CUSTODIAN))
        tasks = {task: {"members": list(members)} for task, members in TASKS.items()}
        tasks["mood"]["adapter"] = {"rank": 2}
        document["tasks"] = tasks
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        for task in TASKS:  # somebody who has the model makes the start files
            self.told(COORDINATOR, "start", "make", path, home / f"{task}.start", "--task", task)
            tasks[task]["start"] = f"{task}.start"
        shutil.rmtree(home / "model")
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return key


class GroundInTasks(InTasks, Ground):
    """The same, each another user."""

    def write(self, name: str, files: dict[str, str]) -> None:
        super().write(name, files)
        self.own(name)

    def coordinates(self, start: bool = True, **changes: object) -> str:
        key = super().coordinates(start, **changes)
        self.own(COORDINATOR)
        return key
