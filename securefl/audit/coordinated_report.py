"""Make the report of a coordinator's folder: lay the others' ledgers beside its own, and verify all of it first."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from securefl.audit import afterwards, coordinated, figures, folder, json_files, pins, report_entry, suites
from securefl.audit.figures import coordinator_of
from securefl.audit.ledger_files import Ledger, read_all
from securefl.audit.verify import Verdict, verify
from securefl.errors import OperatorFault, Tampered
from securefl.files import alone_in
from securefl.ledger import export
from securefl.ledger.export import SUFFIX
from securefl.terms import MemberId, RunId

MADE = (folder.REPORT, afterwards.PAGE)


def report(run: Path, ledgers: Path | None, known: pins.Pins | None = None) -> tuple[dict[str, Any], Verdict]:
    """Write ``report.json`` and ``report.html`` into a coordinator's folder, and the ledgers that they are made of.

    All is tried in a copy first: what does not verify leaves the folder as it was.

    Args:
        run: what ``securefl coordinate`` left.
        ledgers: a folder with exported ledgers, those of a federation below in ``below/NAME``; None: they are laid.
        known: keys that the caller knows.

    Raises:
        OperatorFault: the folder is not a coordinator's, its run is not over, or nobody reserved a plan.
        Tampered: something in it, or in a ledger, does not hold.
    """
    _check_folder(run)
    with alone_in(run, "making its report"):
        with _verified(run, ledgers, known) as (copy, found):
            run_id = folder.named(copy)
            assert run_id is not None, "a folder that verified names its run"
            made = _facts(copy, run_id, read_all(copy))
        afterwards.write(made, run)
    return made, found


def suite_report(
    run: Path, ledgers: Path | None, known: pins.Pins | None = None
) -> tuple[dict[str, dict[str, Any]], Verdict]:
    """Write the two files into each task's folder of a run with tasks, and everybody's ledgers beside all tasks.

    A task of which nobody reserved a plan has nothing to report; its ``coordinated.json`` says how it ended.

    Raises:
        OperatorFault, Tampered: as for ``report``.
    """
    if not suites.is_coordinated(run):
        raise OperatorFault("its tasks have their reports", "read them, or `securefl audit verify` it", str(run))
    with alone_in(run, "making its report"):
        with _verified(run, ledgers, known) as (copy, found):
            whole = read_all(copy)
            given = {n: coordinated.of_task(path, read_all(path), whole) for n, path in suites.tasks(copy).items()}
            reserved = {name: each for name, each in given.items() if figures.first_plan(each[1], each[0]) is not None}
            made = {name: _facts(copy / folder.TASKS / name, *each) for name, each in reserved.items()}
        for name, each in made.items():
            afterwards.write(each, run / folder.TASKS / name)
    return made, found


@contextmanager
def _verified(run: Path, ledgers: Path | None, known: pins.Pins | None) -> Iterator[tuple[Path, Verdict]]:
    """A copy of the folder with all ledgers in it, which verified; they are laid in the folder itself behind that.

    Raises:
        OperatorFault, Tampered: as for ``report``.
    """
    for unfinished in run.rglob(f"*{export.UNFINISHED}"):
        unfinished.unlink()  # of a process that was killed while it laid them: this folder is this one's alone
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(run, copy, symlinks=True, ignore=lambda _, names: {name for name in names if name in MADE})
        laid = tuple(_lay(ledgers, copy)) if ledgers is not None else ()
        found = verify(copy, known)
        if not found.ok:
            first = found.first_bad or {"ledger": str(run), "entry": None}
            raise Tampered(str(first["ledger"]), found.why.removeprefix(f"{first['ledger']}: "))
        yield copy, found
        for path in laid:
            export.write(run / path, export.read(copy / path))


def _check_folder(run: Path) -> None:
    if coordinated.is_one(run):
        return
    if (run / folder.REPORT).is_file():
        raise OperatorFault("this run has its report", "read it, or `securefl audit verify` it", str(run))
    raise OperatorFault(
        f"no {folder.COORDINATED} here", "give the folder of a `securefl coordinate` that ended", str(run)
    )


def _lay(ledgers: Path, copy: Path) -> Iterator[Path]:
    """Lay ledgers beside those of a run's copy, each where ``audit verify`` looks for it; give their places in it.

    Raises:
        OperatorFault: there is none.
    """
    files = [path for path in sorted(ledgers.rglob(f"*{SUFFIX}")) if path.is_file() and not path.is_symlink()]
    if not files:
        raise OperatorFault(
            "no ledger here", "give the folder that holds what `securefl ledger export` wrote", str(ledgers)
        )
    for path in files:
        way = [part for part in path.parent.relative_to(ledgers).parts if part != "ledger"]
        place = Path(*way, "ledger", path.name)
        if place == Path("ledger", f"{report_entry.COORDINATES}{SUFFIX}"):
            continue  # the run's own, as it was bound
        if way and (len(way) % 2 or set(way[::2]) != {folder.BELOW}):
            what = f"{path.relative_to(ledgers)}: no place of a party"
            raise OperatorFault(what, "lay members' ledgers here, and those below NAME in below/NAME", str(ledgers))
        (copy / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy / place)
        yield place


def _facts(copy: Path, run_id: RunId, ledgers: Mapping[MemberId, Ledger]) -> dict[str, Any]:
    coordinator = coordinator_of(ledgers, run_id)
    word = report_entry.the_one(coordinator, run_id)
    then = report_entry.as_of(ledgers, coordinator, word, (run_id,), beside=report_entry.beside(ledgers, word[1]))
    return afterwards.facts(json_files.mapping(copy / folder.COORDINATED), then, run_id)
