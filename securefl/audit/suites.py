"""A run with tasks: which tasks it has, and whether its own report and modules are what its tasks' runs made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from securefl import wire
from securefl.audit import adapter_files, coordinated, figures, folder, json_files, report_entry, suite_report
from securefl.audit.ledger_files import Ledger, policy_in, read_all
from securefl.audit.suite_report import SuiteReport
from securefl.documents.module_manifest import MANIFEST, TENSORS, Manifest, manifest_of
from securefl.errors import Tampered
from securefl.terms import Level, MemberId, Released, Reported, RunId, SumOpened

Ledgers = Mapping[MemberId, Ledger]


def is_suite(run: Path) -> bool:
    """Return whether this is a run with tasks."""
    return (run / folder.SUITE).is_file()


def suite_id(file: bytes, runs: Mapping[str, RunId]) -> RunId:
    """Return what its coordinator's ledger calls a run with tasks: by the file's SHA-256 and its tasks' runs.

    So the same file may be run again by the same homes: its tasks are runs of their own then.
    """
    return RunId(wire.digest("run-with-tasks", (file, tuple(sorted(runs.items()))))[:16])


def id_in(run: Path) -> RunId:
    """Return what its coordinator's ledger calls the run with tasks in this folder, as the files in it say.

    Raises:
        Tampered: a report cannot be read.
        ValueError, KeyError: a report does not say which file or run it is of.
    """
    runs = {
        task: RunId(bytes.fromhex(json_files.mapping(path / _form(path))["run"])) for task, path in tasks(run).items()
    }
    return suite_id(bytes.fromhex(json_files.mapping(run / folder.SUITE)["file"]), runs)


def tasks(run: Path) -> Mapping[str, Path]:
    """The run of each task, by its name.

    Raises:
        Tampered: the suite's report cannot be read, or is not finished.
    """
    report = json_files.mapping(run / folder.SUITE)
    if report.get("outcome", ...) is None:
        raise Tampered(folder.SUITE, "the run with tasks has not ended")
    return {name: run / folder.TASKS / folder.task_name(name) for name in suite_report.read(report).tasks}


def _form(path: Path) -> str:
    """The file in which a task's coordinator told of its run."""
    return folder.COORDINATED if coordinated.is_one(path) else folder.REPORT


def is_coordinated(run: Path) -> bool:
    """Return whether a coordinator that has its own ledger alone left this folder: the others' are laid in `ledger`.

    Raises:
        Tampered: it left some tasks in this form, and others in another.
    """
    forms = {_form(path) for path in tasks(run).values()}
    if len(forms) > 1:
        raise Tampered(folder.TASKS, f"tasks that are told of in {' and in '.join(sorted(forms))}: of two runs")
    return forms == {folder.COORDINATED}


def check_tasks(run: Path, ledgers: Ledgers) -> tuple[Ledger, tuple[int, Reported]]:
    """The one who coordinated every task, and its word on what all of them left, which names this very report.

    Raises:
        Tampered: nobody says so of these tasks; or a folder stands among theirs that is no task's, or none of a task.
    """
    places = tasks(run)
    report = suite_report.read(json_files.mapping(run / folder.SUITE))
    runs: dict[str, RunId] = {}
    for task, path in places.items():
        run_id = folder.named(path)
        if run_id is None or run_id.hex() != report.tasks[task].run:
            raise Tampered(f"{folder.TASKS}/{task}", f"not the run that {folder.SUITE} names")
        runs[task] = run_id
    coordinator, word = _word(report, runs, ledgers)
    for task, run_id in runs.items():
        opened = coordinator.opened(run_id)
        if opened is None or opened.task != task:
            what = f"run {run_id.hex()[:12]} is of {(opened and opened.task) or 'no task'}, by {coordinator.name}"
            raise Tampered(f"{folder.TASKS}/{task}", what)
    digest = hashlib.sha256((run / folder.SUITE).read_bytes()).digest()
    if not any((each.path, each.digest) == (folder.SUITE, digest) for each in word[1].files):
        raise Tampered(folder.SUITE, f"another file than {coordinator.owner} wrote it down when the run ended")
    beside = sorted(path.name for path in (run / folder.TASKS).iterdir() if path.name not in places)
    if beside:
        raise Tampered(f"{folder.TASKS}/{beside[0]}", "no task of this run, and it stands among them")
    return coordinator, word


def check(run: Path, ledgers: Ledgers) -> tuple[str, ...]:
    """What is not verified, if report and modules are what the coordinator wrote down, and what the tasks' runs made.

    The tasks' own folders were verified before.

    Raises:
        Tampered: otherwise.
    """
    written = json_files.mapping(run / folder.SUITE)
    report, places = suite_report.read(written), tasks(run)
    own = {task: json_files.mapping(path / _form(path), f"{folder.TASKS}/{task}") for task, path in places.items()}
    runs = {task: RunId(bytes.fromhex(each["run"])) for task, each in own.items()}
    coordinator, word = check_tasks(run, ledgers)
    notes = folder.check_files(run, coordinator, word[1], folder.OF_SUITE)
    laid = report_entry.beside(ledgers, word[1]) if is_coordinated(run) else ()
    report_entry.as_of(ledgers, coordinator, word, frozenset(runs.values()), beside=laid)
    for place in (run, *(places.values() if is_coordinated(run) else ())):
        if (place / folder.BELOW).exists():
            what = "no federation is below a task, and nobody wrote down what stands here"
            raise Tampered(str((place / folder.BELOW).relative_to(run)), what)
    for name in (folder.RUN, folder.REPORT, folder.COORDINATED):
        if (run / name).exists():
            raise Tampered(name, "a run's, in the folder of a run with tasks: each task has its own")
    for task, path in places.items():
        _check_same(task, read_all(path), ledgers)
    figures.compare(folder.SUITE, suite_report.figures(own, report.base.parameters), written)
    for task, part in report.tasks.items():
        _check_task(task, part.owners, own[task], report)
    modules = _check_modules(run, runs, {} if is_coordinated(run) else own)
    checked = {folder.SUITE, *modules}
    bound = sorted(each.path for each in word[1].files if each.path not in checked)
    return (
        *notes,
        f"{folder.SUITE}: {', '.join(suite_report.WORDS)}: {folder.WORD}",
        *((f"{', '.join(bound)}: {folder.WORD}",) if bound else ()),
        *((f"{', '.join(ledgers[owner].name for owner in laid)}: {coordinated.BESIDE}",) if laid else ()),
    )


def _word(
    report: SuiteReport, runs: Mapping[str, RunId], ledgers: Ledgers
) -> tuple[Ledger, tuple[int, Reported]]:  # fmt: skip
    """The one who coordinated every task, and its word on what all of them left."""
    try:
        name = suite_id(bytes.fromhex(report.file), runs)
    except ValueError as fault:
        raise Tampered(folder.SUITE, f"it does not say of which file it is: {fault}") from fault
    owners = {figures.coordinator_of(ledgers, run).owner for run in runs.values()}
    if len(owners) > 1:
        raise Tampered(folder.SUITE, f"tasks of several coordinators: {', '.join(sorted(owners))}")
    coordinator = ledgers[owners.pop()]
    return coordinator, report_entry.the_one(coordinator, name)


def _check_same(task: str, then: Ledgers, now: Ledgers) -> None:
    """Each ledger in a task's folder is the beginning of the one that all tasks ended with, under whichever key."""
    for owner, ledger in then.items():
        whole = now.get(owner)
        if whole is None or ledger.key not in whole.keys or whole.hashes[: len(ledger.hashes)] != ledger.hashes:
            where = f"{folder.TASKS}/{task}/{ledger.name}"
            raise Tampered(where, "not the beginning of the ledger that stands beside all tasks")


def _check_task(task: str, owners: list[str], own: Mapping[str, Any], report: SuiteReport) -> None:
    """Owners take part; where ownership is not hidden, nobody else does. The base is the one that was trained on."""
    took_part = {row["name"] for row in own["members"]}
    alone = set(owners) == took_part if not report.hide_ownership else set(owners) <= took_part
    if not owners or len(set(owners)) < len(owners) or not alone:
        raise Tampered(
            folder.SUITE, f"tasks.{task}.owners: {', '.join(owners)}; {', '.join(sorted(took_part))} took part"
        )
    base = (report.base.name, report.base.digest)
    if base != (own["model"]["name"], own["model"]["digest"]):
        raise Tampered(folder.SUITE, f"base: not the model that {task} was trained on")


def _check_modules(run: Path, runs: Mapping[str, RunId], reports: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """The modules' files, if there is one module for each task that finished, and it is what the task's run made."""
    store, due = run / suite_report.MODULES, set[str]()
    for task, report in reports.items():
        if report["outcome"]["status"] == "finished":
            _check_module(store, task, run / folder.TASKS / task, runs[task], report)
            due |= {f"{task}{TENSORS}", f"{task}{MANIFEST}"}
    for path in sorted(store.iterdir()) if store.is_dir() else ():
        if path.name not in due:
            raise Tampered(f"{store.name}/{path.name}", "of no task that finished, and it stands among the modules")
    return frozenset(f"{store.name}/{name}" for name in due)


def _check_module(store: Path, task: str, folder_: Path, run: RunId, report: Mapping[str, Any]) -> None:
    """Manifest and tensors are what the task's ledgers give."""
    ledgers = read_all(folder_)
    coordinator = figures.coordinator_of(ledgers, run)
    released = [entry for _, entry in coordinator.each(Released) if entry.run == run]
    openings = [entry.plan for _, entry in coordinator.each(SumOpened) if entry.run == run]
    plans = figures.plans(ledgers, run)
    opened = coordinator.opened(run)
    if not released or not openings or openings[-1] not in plans or opened is None:
        raise Tampered(f"{store.name}/{task}{MANIFEST}", "of a run whose ledgers hold no release, or not its plan")
    last, plan = max(released, key=lambda each: each.round), plans[openings[-1]]
    path, state = store / f"{task}{TENSORS}", (folder_ / folder.STATE).read_bytes()
    layout = adapter_files.layout_of(folder_ / folder.ADAPTER / adapter_files.LAYOUT, plan)
    adapter_files.check_module(path, state, layout, f"{store.name}/{path.name}")
    rows = [row for row in report["accounts"] if (row["level"], row["name"]) == (Level.RUN, run.hex())]
    due = manifest_of(
        task, plan, openings[-1], last.round, max(row["spent"] + row["reserved"] for row in rows),
        policy_in(opened.policy, coordinator.name).budget.delta,
    ).model_copy(update={"tensors": hashlib.sha256(path.read_bytes()).hexdigest()})  # fmt: skip
    _check_manifest(store / f"{task}{MANIFEST}", due)


def _check_manifest(path: Path, due: Manifest) -> None:
    name = f"{path.parent.name}/{path.name}"
    written = json_files.mapping(path, name)
    try:
        Manifest.model_validate(written)
    except ValidationError as fault:
        raise Tampered(name, f"no manifest of a module: {fault.errors()[0]['msg']}") from fault
    figures.compare(name, due.model_dump(mode="json"), written)
