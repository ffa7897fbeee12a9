"""All runs of an experiment, in one folder that is this experiment's alone: done, or gone on with."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from securefl import files
from securefl.compare import plots, pool, results
from securefl.compare.composed_cost import together
from securefl.compare.results import Results
from securefl.compare.run_cell import Outcome, finished, folder_of
from securefl.documents.experiment import Experiment
from securefl.errors import OperatorFault
from securefl.policy import load as policies
from securefl.progress import Tally


def compare(
    experiment: Experiment, out: Path, jobs: int, shown: Tally, *, unsafe_unsigned: bool = False
) -> tuple[Results, str, int]:
    """Every run that was not over is; results, table and pictures are in ``out``.

    Returns:
        The results, the table, and the exit code: 0 if every run finished, else the gravest of theirs.

    Raises:
        OperatorFault: ``out`` holds something else, or is in use.
        Tampered: a run that lies there is not one of this experiment that its own ledgers bear out.
    """
    policy = policies.load(experiment.base.folder / experiment.base.file.policy)
    parts = {"experiment": experiment.text, "federation": experiment.base.written, "policy": policy.text}
    with _claimed(out, {name: hashlib.sha256(text).hexdigest() for name, text in parts.items()}):
        found = {cell: finished(cell, loaded, out) for cell, loaded in experiment.runs}
        outcomes = [outcome for outcome in found.values() if outcome is not None]
        work = [(cell, loaded) for cell, loaded in experiment.runs if found[cell] is None]
        if outcomes:
            shown.say(f"{len(outcomes)} of {len(experiment.runs)} runs are over already")
        began = time.monotonic()
        shown.count(len(outcomes), len(experiment.runs), None)
        try:
            for number, outcome in enumerate(pool.each(work, out, jobs, unsafe_unsigned=unsafe_unsigned), start=1):
                outcomes.append(outcome)
                left_s = (time.monotonic() - began) / number * (len(work) - number)
                shown.say(told(outcome))
                shown.count(len(outcomes), len(experiment.runs), left_s)
        finally:
            told_results = results.of(experiment, outcomes, together(_private(outcomes, out)))
            text = results.write(told_results, out)
            plots.draw(told_results, out)
    return told_results, text, max((outcome.exit_code for outcome in outcomes), default=0)


def _private(outcomes: Iterable[Outcome], out: Path) -> Iterator[Path]:
    """The folders of private runs that have ledgers."""
    for outcome in outcomes:
        folder = out / folder_of(outcome.cell) / "run"
        if outcome.cell.epsilon is not None and (folder / "ledger").is_dir():
            yield folder


def told(outcome: Outcome) -> str:
    """One line of one run."""
    cell = outcome.cell
    epsilon = "without privacy" if cell.epsilon is None else f"epsilon {float(cell.epsilon):g}"
    where = f"{cell.arm}, {epsilon}, seed {cell.seed}"
    if outcome.status != "finished":
        return f"{where}: {outcome.status}: {outcome.why}"
    return f"{where}: accuracy {outcome.accuracy:.3f}, {outcome.seconds:.0f} s"


@contextmanager
def _claimed(out: Path, digests: dict[str, str]) -> Iterator[None]:
    """The folder is this experiment's, and this process's while the block runs."""
    with files.alone_in(out, "comparing"):
        path = out / "experiment.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, digest in digests.items() if found.get(name) != digest]
            if changed:
                what = f"this folder holds runs of another experiment: the {' and the '.join(changed)} file differs"
                raise OperatorFault(what, "restore what it began with, or choose another --out", str(out))
        elif {each.name for each in out.iterdir()} - {files.LOCK, "experiment.json.new"}:
            raise OperatorFault("this folder is not empty and holds no experiment", "choose another --out", str(out))
        else:
            beside = path.with_name("experiment.json.new")
            beside.write_text(json.dumps(digests, indent=1), encoding="utf-8")
            beside.replace(path)
        yield
