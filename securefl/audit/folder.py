"""A run's folder: which run it is of, what was left in it, and whether that is what its coordinator wrote down.

The folder names its run; nobody's ledger chooses it. When all of a run stands, its coordinator's ledger gets one entry
more, ``Reported``: the digest of every file, and how long each ledger was when the report was computed from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from securefl import merkle
from securefl.audit import figures, weights
from securefl.audit.ledger_files import Ledger
from securefl.errors import Tampered
from securefl.terms import Closed, FileLeft, Hash, Head, MemberId, Opened, Released, Reported, RunId

RUN, REPORT, KEYS, ADAPTER = "run.json", "report.json", "keys.json", "adapter"
SUITE, TASKS, BELOW = "suite.json", "tasks", "below"
STATE = f"{ADAPTER}/released.f32"  # the state itself: its SHA-256 is what every ledger calls the release
APART = ("ledger", BELOW, TASKS)  # folders that are checked by themselves
WORD = "the coordinator's word, bound as written, not computed"
ALONE = "ledgers alone: no report, page or adapter is here"
WORKING = (".lock", "timings.json")  # what a run that goes on needs, and nobody reads afterwards


def named(run: Path) -> RunId | None:
    """The run that this folder is of, by its own word; None for ledgers alone.

    Raises:
        Tampered: it names none, or two.
    """
    found = {}
    for name in (RUN, REPORT):
        if (run / name).is_file():
            try:
                found[name] = RunId(bytes.fromhex(_json(run / name)["run"]))
            except (KeyError, ValueError, TypeError) as fault:
                raise Tampered(name, f"it does not say which run it is of: {fault}") from fault
    if len(set(found.values())) > 1:
        raise Tampered(REPORT, f"of run {found[REPORT].hex()}, in the folder of run {found[RUN].hex()}")
    return next(iter(found.values()), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise Tampered(path.name, f"cannot be read: {fault}") from fault
    if not isinstance(value, dict):
        raise Tampered(path.name, "no mapping")
    return value


def files(run: Path, *, instead: Mapping[str, bytes] = {}) -> tuple[FileLeft, ...]:
    """Every file that is this folder's own, with its digest; ``instead`` is what some are about to hold."""
    found = {str(path.relative_to(run)): path for path in own(run)}
    digests = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in found.items() if name not in instead}
    digests |= {name: hashlib.sha256(data).digest() for name, data in instead.items()}
    return tuple(FileLeft(name, Hash(digest)) for name, digest in sorted(digests.items()))


def own(run: Path) -> Iterator[Path]:
    """The files that are this folder's own: neither ledgers, nor of a federation below or a task of a suite."""
    apart = APART if (run / SUITE).is_file() else tuple(name for name in APART if name != TASKS)
    for path in sorted(run.iterdir()):
        if (path.name in WORKING and path.is_file()) or (path.name in apart and path.is_dir()):
            continue
        yield from (each for each in (path, *path.rglob("*")) if each.is_file())


def check_kinds(run: Path) -> None:
    """Nothing happens if all that is in this folder, however deep, is a file or a folder that stands there itself.

    Raises:
        Tampered: it holds a link, which shows what stands elsewhere and may show another thing tomorrow.
    """
    for path in sorted(run.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Tampered(str(path.relative_to(run)), "a link or a device: neither a file nor a folder")


def working(run: Path) -> tuple[str, ...]:
    """Files that a run which goes on needs: nothing says what they should hold, so what they hold is not verified."""
    here = (run / name for name in WORKING)
    return tuple(f"{path.name}: not bound" for path in here if path.is_file() and path.stat().st_size)


def reported(run: RunId, ledgers: Mapping[MemberId, Ledger], files_: tuple[FileLeft, ...]) -> Reported:
    """The entry that binds these files, and a report that was computed from these ledgers."""
    heads = (Head(each.owner, len(each.hashes), merkle.root(each.hashes)) for _, each in sorted(ledgers.items()))
    return Reported(run, tuple(heads), files_)


def last(ledgers: Mapping[MemberId, Ledger], run: RunId | None) -> tuple[Ledger, int, Reported] | None:
    """The last word on what a run left, or where no run is named on whatever was left last; None if there is none."""
    found = [
        (ledger, index, entry)
        for ledger in ledgers.values()
        for index, entry in ledger.each(Reported)
        if run in (None, entry.run)
    ]
    return found[-1] if found else None


def stands(run: Path, entry: Reported) -> bool:
    """Whether every file is there as it was written down, but for the mark that a run is over."""
    here = {each.path: each.digest for each in files(run)}
    return all(here.get(each.path) == each.digest for each in entry.files if each.path != RUN)


def check(run: Path, ledgers: Mapping[MemberId, Ledger], run_id: RunId) -> tuple[str, ...]:
    """What is not verified of this folder, if all else in it is what its coordinator wrote down and what ledgers give.

    Raises:
        Tampered: a file is another, or missing, or of a later run; a figure is none that these ledgers give.
    """
    coordinator = figures.coordinator_of(ledgers, run_id)
    ended = next((entry for _, entry in coordinator.each(Closed) if entry.run == run_id), None)
    if ended is None:
        raise coordinator.wrong(f"run {run_id.hex()}, which this folder is of, does not end", len(coordinator.leaves))
    word = last({coordinator.owner: coordinator}, run_id)
    if word is None:
        what = "nothing says what the run left: no report, page or adapter in this folder is evidence"
        raise coordinator.wrong(what, len(coordinator.leaves))
    _, index, entry = word
    if sum(each.run == run_id for _, each in coordinator.each(Reported)) > 1:
        raise coordinator.wrong("a second word on what the run left", index)
    _check_last(coordinator, index)
    notes = check_files(run, coordinator, entry)
    if _json(run / RUN).get("outcome") != ended.outcome:
        raise Tampered(RUN, f"not the outcome that {coordinator.owner} ended the run with, {ended.outcome!r}")
    report = _json(run / REPORT)
    then = _as_of(ledgers, entry)
    figures.check(report, then, run_id)
    _check_adapter(report, coordinator, run_id, entry)
    return (*notes, *_words(run, report, then, run_id, entry), *_longer(ledgers, entry, coordinator, index))


def _words(
    run: Path, report: Mapping[str, Any], ledgers: Mapping[MemberId, Ledger], run_id: RunId, entry: Reported
) -> tuple[str, ...]:
    """What the coordinator alone says, by name: fields of its report, and files that nothing else gives.

    Raises:
        Tampered: the adapter's tensors are not those of the state.
    """
    checked = {RUN, REPORT, STATE}
    notes: tuple[str, ...] = ()
    if (run / STATE).is_file():
        same, notes = weights.check(run / ADAPTER, (run / STATE).read_bytes(), figures.first_plan(ledgers, run_id))
        checked |= {f"{ADAPTER}/{name}" for name in same}
    files = sorted(each.path for each in entry.files if each.path not in checked)
    more = sorted(set(_json(run / RUN)) - {"run", "outcome"})
    return (
        f"{REPORT}: {', '.join(figures.words(report, ledgers, run_id))}: {WORD}",
        *((f"{RUN}: {', '.join(more)}: {WORD}",) if more else ()),
        *notes,
        *((f"{', '.join(files)}: {WORD}",) if files else ()),
    )


def _longer(ledgers: Mapping[MemberId, Ledger], entry: Reported, coordinator: Ledger, index: int) -> tuple[str, ...]:
    """Ledgers that went on after the report: what they say since is no part of it."""
    ends = {head.owner: head.size for head in entry.ledgers} | {coordinator.owner: index + 1}
    return tuple(
        f"{ledger.name}: {len(ledger.hashes) - ends.get(ledger.owner, 0)} entries since the report"
        for ledger in ledgers.values()
        if len(ledger.hashes) > ends.get(ledger.owner, 0)
    )


def _check_last(coordinator: Ledger, index: int) -> None:
    """No run began after this report was written, and ended: its folder would be the one to show these ledgers."""
    after = {entry.run for at, entry in coordinator.each(Opened) if at > index}
    for at, ended in coordinator.each(Closed):
        if ended.run in after:
            what = f"run {ended.run.hex()} began and ended after this folder's report: these are ledgers of that one"
            raise coordinator.wrong(what, at)


def check_latest(ledgers: Mapping[MemberId, Ledger], run: RunId | None) -> None:
    """Nothing happens unless a run began after this one and its report was written: the folder is then of that one.

    Raises:
        Tampered: it names an earlier run than its ledgers do.
    """
    if run is None:
        return
    coordinator = figures.coordinator_of(ledgers, run)
    began = max(at for at, entry in coordinator.each(Opened) if entry.run == run)
    after = {entry.run for at, entry in coordinator.each(Opened) if at > began}
    for at, entry in coordinator.each(Reported):
        if entry.run in after:
            what = f"run {entry.run.hex()} began and ended after the one that this folder names: these are its ledgers"
            raise coordinator.wrong(what, at)


def check_files(run: Path, coordinator: Ledger, entry: Reported) -> tuple[str, ...]:
    """Files beside what was written down, if that is all there as it was.

    Raises:
        Tampered: it is not; or a file was put into a folder of what the run left.
    """
    due = {each.path: each.digest for each in entry.files}
    here = {each.path: each.digest for each in files(run)}
    for name in sorted(due):
        if here.get(name) != due[name]:
            what = "missing, and" if name not in here else "another file than"
            raise Tampered(name, f"{what} {coordinator.owner} wrote it down when the run ended")
    beside = sorted(set(here) - set(due))
    for name in beside:
        if "/" in name:
            raise Tampered(name, "a file that the run did not leave, among those that it left")
    return tuple(f"{name}: a file that the run did not leave" for name in beside)


def _as_of(ledgers: Mapping[MemberId, Ledger], entry: Reported) -> dict[MemberId, Ledger]:
    """The ledgers as they were when the report was computed."""
    found = {}
    for head in entry.ledgers:
        ledger = ledgers.get(head.owner)
        if ledger is None:
            raise Tampered(f"{head.owner}.ledger", "missing, and the report was computed from it")
        if len(ledger.hashes) < head.size or merkle.root(ledger.hashes[: head.size]) != head.root:
            raise ledger.wrong(f"its first {head.size} entries are not those that the report was computed from")
        found[head.owner] = replace(ledger, leaves=ledger.leaves[: head.size], hashes=ledger.hashes[: head.size])
    return found


def _check_adapter(report: Mapping[str, Any], coordinator: Ledger, run_id: RunId, entry: Reported) -> None:
    released = [each for _, each in coordinator.each(Released) if each.run == run_id]
    kept = {each.path: each.digest for each in entry.files}
    if report.get("adapter") != (ADAPTER if released else None):
        raise Tampered(REPORT, f"it names the adapter {report.get('adapter')!r}; {len(released)} rounds released one")
    if not released:
        return
    due = max(released, key=lambda each: each.round).digest
    if kept.get(STATE) != due:
        raise Tampered(STATE, f"not the state that was released: {due.hex()}")


def wanted(run: Path) -> frozenset[RunId] | None:
    """The runs that this folder is to show: its own, or those of its tasks; None for ledgers alone.

    Raises:
        Tampered: it does not say.
    """
    if (run / SUITE).is_file():
        tasks = _json(run / SUITE).get(TASKS)
        if tasks is not None:
            return frozenset(named(run / TASKS / name) or _unnamed(name) for name in tasks)
    own = named(run)
    return None if own is None else frozenset((own,))


def _unnamed(task: str) -> RunId:
    raise Tampered(f"{TASKS}/{task}", "no run of this task is here")


def check_loose(run: Path, ledgers: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """What is not verified of a folder that names no run: a federation's below another one, or one that says nothing.

    Raises:
        Tampered: what its coordinator wrote down is not here, or not as it was.
    """
    word = last(ledgers, None)
    if word is None:
        return (*(f"{each.path}: nothing says what it was" for each in files(run)), ALONE)
    coordinator, _, entry = word
    notes = check_files(run, coordinator, entry)
    _as_of(ledgers, entry)
    return notes
