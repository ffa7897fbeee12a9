"""One run of an experiment, from its own folder: a whole federation under policy, or the same without privacy.

``DIR/runs/<arm>-<epsilon>-<seed>/run`` is a run like any other, ``.../sites`` its homes: a budget of its own. A run is
over when its ``report.json`` is there, and is taken only if its ledgers, under the keys of these homes, bear it out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import key_files
from securefl.audit import folder
from securefl.audit.verify import verify
from securefl.documents.experiment import Cell
from securefl.errors import Fault, Tampered
from securefl.home import identity
from securefl.protocol import messages as m
from securefl.simulation import federation, layout, parties
from securefl.simulation.federation import ResourceCache

if TYPE_CHECKING:
    from securefl.documents.federation import Loaded
    from securefl.training.data import Records, Whole
    from securefl.training.shared_model import SharedModel

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

    def bench(self) -> ResourceCache:
        """A workbench that looks here first, and draws no pages."""
        return ResourceCache(self._model, self._records_of, page=False)

    def _model(self, loaded: Loaded) -> SharedModel:
        shared = parties.load_model(loaded)
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
    """Return where a run is, relative to DIR."""
    return Path("runs") / cell.name


def perform(cell: Cell, loaded: Loaded, out: Path, kept: Kept, *, unsafe_unsigned: bool = False) -> Outcome:
    """The run, done now or continued; every fault becomes an outcome that says so."""
    home = out / folder_of(cell)
    try:
        if cell.epsilon is None:
            digest = m.state_digest(loaded.whole).hex()
            told = federation.run_without_privacy(loaded, cell.seed, kept.bench())
            _put(
                home / "run" / "report.json",
                {"privacy": OPENLY, "federation": loaded.file.name, "federation_file": digest, **told},
            )
        else:
            federation.run(
                loaded, home / "run", sites=home / "sites", workbench=kept.bench(), unsafe_unsigned=unsafe_unsigned
            )
    except Fault as fault:
        return Outcome(cell, "failed", str(fault), exit_code=fault.exit_code)
    found = finished(cell, loaded, out)
    assert found is not None, "a run that ended has its report"
    return found


def finished(cell: Cell, loaded: Loaded, out: Path) -> Outcome | None:
    """Return how a run ended that is over; None if it is not.

    Raises:
        Tampered: what lies there is no run of this cell that its own ledgers bear out.
    """
    path = folder_of(cell) / "run" / folder.REPORT
    if not (out / path).exists():
        return None
    if cell.epsilon is not None and not _is_over((out / path).parent):
        return None  # killed after its report was written, and before that was written down: it is gone on with
    _check(cell, loaded, (out / path).parent)
    report = json.loads((out / path).read_text(encoding="utf-8"))
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


def _is_over(run: Path) -> bool:
    return (
        not (run / folder.RUN).exists()
        or json.loads((run / folder.RUN).read_text(encoding="utf-8")).get("outcome") is not None
    )


def _check(cell: Cell, loaded: Loaded, run: Path) -> None:
    """Check that this is a run of this very cell, by its own homes, and verified.

    A run without privacy has no ledger: it only says which file it is of, and results count it as not verified.
    """
    where, remedy = f"{folder_of(cell)}/run", "find out who put it there; remove the folder to make the run again"
    digest = m.state_digest(loaded.whole).hex()
    if cell.epsilon is None:
        if json.loads((run / folder.REPORT).read_text(encoding="utf-8")).get("federation_file") != digest:
            raise Tampered(where, f"a report of another federation's file than this cell's; {remedy}")
        return
    verdict = verify(run, _known(layout.SiteLayout(loaded, run.with_name("sites").resolve())))
    if not verdict.ok:
        raise Tampered(where, f"not verified: {verdict.why}; {remedy}")
    marked = json.loads((run / folder.RUN).read_text(encoding="utf-8")) if (run / folder.RUN).exists() else {}
    if marked.get("federation_file") != digest:
        raise Tampered(where, f"a run of another federation's file than this cell's; {remedy}")


def _known(places: layout.SiteLayout, way: str = "") -> dict[str, str]:
    """The key of every home of this cell, in a tree with the way to it; of a home that is not there, none.

    A run by whom nobody here knows is not this cell's, so a key that is missing is refused like one that is another.
    """
    homes = {f"{way}{name}": identity.place(places.of(name)) for name in places.parties}
    known = {name: key_files.load(path).public.hex() for name, path in homes.items() if path.exists()}
    for name, inside in places.insides.items():
        known |= _known(inside, f"{way}{name}/")
    return known


def _put(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    beside.replace(path)
