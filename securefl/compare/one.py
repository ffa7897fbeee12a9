"""One run of an experiment, from its own folder: a whole federation under policy, or the same without privacy.

``DIR/runs/<arm>-<epsilon>-<seed>/run`` is a run like any other, ``.../sites`` its homes: a budget of its own. A run is
over when its ``report.json`` is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import federation
from securefl.compare.experiment import Cell
from securefl.errors import Fault
from securefl.federation import Workbench

if TYPE_CHECKING:
    from securefl.federation_file import Loaded
    from securefl.training.data import Records, Whole
    from securefl.training.trainer import SharedModel

OPENLY = "without privacy: no clipping, noise, policy or protection; nothing was charged"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. What is no number here is not known, and is never counted as one."""

    cell: Cell
    status: str  # finished | refused | aborted | failed
    why: str
    accuracy: float | None = None
    macro_f1: float | None = None
    majority: float | None = None
    spent_epsilon: float | None = None
    seconds: float | None = None
    report: str | None = None  # relative to DIR
    exit_code: int = 0


@dataclass(slots=True)
class Kept:
    """What one process keeps from run to run: records and their token ids. Models are built anew, in a tenth second."""

    files: dict[str, Whole] = field(default_factory=dict)
    records: dict[str, Records] = field(default_factory=dict)
    tokens: dict[bytes, dict[Any, Any]] = field(default_factory=dict)

    def bench(self) -> Workbench:
        """A workbench that looks here first, and draws no pages."""
        return Workbench(self._model, self._records_of, page=False)

    def _model(self, loaded: Loaded) -> SharedModel:
        shared = federation.load_model(loaded)
        shared.share_tokens(self.tokens.setdefault(shared.model.digest, {}))
        return shared

    def _records_of(self, loaded: Loaded, name: str) -> Records:
        from securefl.training import data  # noqa: PLC0415

        source, labels = loaded.data[name], loaded.file.task.labels
        mine, all_ = (
            f"{loaded.folder} {labels} {each.model_dump_json(by_alias=True)}"
            for each in (source, source.model_copy(update={"partition": None}))
        )
        if mine not in self.records:
            if all_ not in self.files:
                self.files[all_] = data.whole(source, loaded.folder, labels)
            self.records[mine] = data.part(source, self.files[all_])
        return self.records[mine]


def folder_of(cell: Cell) -> Path:
    """Where a run is, relative to DIR."""
    return Path("runs") / cell.name


def perform(cell: Cell, loaded: Loaded, out: Path, kept: Kept, *, unsafe_unsigned: bool = False) -> Outcome:
    """The run, done now or continued; every fault becomes an outcome that says so."""
    home = out / folder_of(cell)
    try:
        if cell.epsilon is None:
            told = federation.run_without_privacy(loaded, cell.seed, kept.bench())
            _put(home / "run" / "report.json", {"privacy": OPENLY, "federation": loaded.file.name, **told})
        else:
            federation.run(
                loaded, home / "run", sites=home / "sites", workbench=kept.bench(), unsafe_unsigned=unsafe_unsigned
            )
    except Fault as fault:
        return Outcome(cell, "failed", str(fault), exit_code=fault.exit_code)
    found = finished(cell, out)
    assert found is not None, "a run that ended has its report"
    return found


def finished(cell: Cell, out: Path) -> Outcome | None:
    """How a run ended that is over; None if it is not."""
    path = folder_of(cell) / "run" / "report.json"
    if not (out / path).exists():
        return None
    report = json.loads((out / path).read_text())
    outcome = report.get("outcome", {"status": "finished", "why": OPENLY})
    seconds = report["seconds"]["total"]
    if outcome["status"] != "finished":
        code = 3 if outcome["status"] == "refused" else 5
        return Outcome(cell, outcome["status"], outcome["why"], seconds=seconds, report=str(path), exit_code=code)
    told = report["accuracy"]
    spent = None if cell.epsilon is None else report["epsilon"]["spent"]
    return Outcome(
        cell, "finished", outcome["why"], told["after"], told["macro_f1"], told["majority"], spent, seconds, str(path)
    )


def _put(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    beside.replace(path)
