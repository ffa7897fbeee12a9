"""A run's folder: which run it is of, what was left in it, and whether that is what its coordinator wrote down.

The folder names its run; nobody's ledger chooses it. When all of a run stands, its coordinator's ledger gets one entry
more, ``Reported``: the digest of every file, and how long each ledger was when the report was computed from it. Where
ledgers say that there was a report, and the folder has none, it is not verified.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from securefl import merkle
from securefl.audit import adapter_files, figures, json_files, report_entry
from securefl.audit.ledger_files import Ledger
from securefl.errors import Tampered
from securefl.terms import Closed, FileLeft, Hash, Head, MemberId, Released, Reported, RunId, RunJoined
from securefl.terms.names import NAME_FORM

RUN, REPORT, KEYS, ADAPTER = "run.json", "report.json", "keys.json", "adapter"
COORDINATED = "coordinated.json"  # in place of a report, where a coordinator has its own ledger alone
SUITE, TASKS, BELOW = "suite.json", "tasks", "below"
STATE = f"{ADAPTER}/released.f32"  # the state itself: its SHA-256 is what every ledger calls the release
INSIDE = (KEYS, "measured.jsonl")  # all that a run leaves of its own in the folder of a federation below
OF_RUN = ("ledger", BELOW)  # folders in a run's that are checked by themselves
OF_SUITE = (*OF_RUN, TASKS)  # and in the folder of a run with tasks
WORD = "the coordinator's word, bound as written, not computed"
ALONE = (
    "ledgers alone: no report, page or adapter is here; that nothing was cut off their ends which nobody else saw is"
    " not verified"
)
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
                found[name] = RunId(bytes.fromhex(json_files.mapping(run / name)["run"]))
            except (KeyError, ValueError, TypeError) as fault:
                raise Tampered(name, f"it does not say which run it is of: {fault}") from fault
    if len(set(found.values())) > 1:
        raise Tampered(REPORT, f"of run {found[REPORT].hex()}, in the folder of run {found[RUN].hex()}")
    return next(iter(found.values()), None)


def files(
    run: Path, *, instead: Mapping[str, bytes] = {}, apart: Collection[str] = OF_RUN
) -> tuple[FileLeft, ...]:  # fmt: skip
    """Every file that is this folder's own, with its digest; ``instead`` is what some are about to hold."""
    found = {str(path.relative_to(run)): path for path in own(run, apart)}
    digests = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in found.items() if name not in instead}
    digests |= {name: hashlib.sha256(data).digest() for name, data in instead.items()}
    return tuple(FileLeft(name, Hash(digest)) for name, digest in sorted(digests.items()))


def own(run: Path, apart: Collection[str] = OF_RUN) -> Iterator[Path]:
    """The files that are this folder's own: neither ledgers, nor of a federation below or a task of a suite.

    Args:
        run: the folder.
        apart: what is not its own: ``OF_RUN`` or ``OF_SUITE``. The caller knows which; nothing in the folder says so.
    """
    for path in sorted(run.iterdir()):
        if (path.name in WORKING and path.is_file()) or (path.name in apart and path.is_dir()):
            continue
        yield from (each for each in (path, *path.rglob("*")) if each.is_file())


def check_kinds(run: Path) -> None:
    """Check that all that is in this folder, however deep, is a file or a folder that stands there itself.

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


def stands(run: Path, entry: Reported, apart: Collection[str] = OF_RUN) -> bool:
    """Return whether every file is there as it was written down, but for the mark that a run is over."""
    here = {each.path: each.digest for each in files(run, apart=apart)}
    return all(here.get(each.path) == each.digest for each in entry.files if each.path != RUN)


def check(run: Path, ledgers: Mapping[MemberId, Ledger], run_id: RunId) -> tuple[str, ...]:
    """What is not verified of this folder, if all else in it is what its coordinator wrote down and what ledgers give.

    Raises:
        Tampered: a file is another, or missing, or of a later run; a figure is none that these ledgers give.
    """
    coordinator, word, notes = check_ended(run, ledgers, run_id)
    index, entry = word
    report = json_files.mapping(run / REPORT)
    then = report_entry.as_of(ledgers, coordinator, word, (run_id,))
    figures.check(report, then, run_id)
    check_adapter(report, coordinator, run_id, entry)
    words = figures.words(report, then, run_id)
    return (
        *notes, *not_verified(run, REPORT, words, report, then, word), *longer(ledgers, entry, coordinator, index)
    )  # fmt: skip


def check_ended(
    run: Path, ledgers: Mapping[MemberId, Ledger], run_id: RunId
) -> tuple[Ledger, tuple[int, Reported], tuple[str, ...]]:
    """The coordinator of a run that is over, its word on what the run left, and what is not verified of the files.

    Raises:
        Tampered: the run does not end, another one does behind it, or a file is not as it was written down.
    """
    coordinator = figures.coordinator_of(ledgers, run_id)
    ended = next((entry for _, entry in coordinator.each(Closed) if entry.run == run_id), None)
    if ended is None:
        raise coordinator.wrong(f"run {run_id.hex()}, which this folder is of, does not end", len(coordinator.leaves))
    word = index, entry = report_entry.the_one(coordinator, run_id)
    _check_last(coordinator, index)
    notes = check_files(run, coordinator, entry)
    mark = json_files.mapping(run / RUN)
    if mark.get("outcome") != ended.outcome:
        raise Tampered(RUN, f"not the outcome that {coordinator.owner} ended the run with, {ended.outcome!r}")
    return coordinator, word, notes


def not_verified(
    run: Path, form: str, words: Collection[str], told: Mapping[str, Any], ledgers: Mapping[MemberId, Ledger],
    word: tuple[int, Reported],
) -> tuple[str, ...]:  # fmt: skip
    """What the coordinator alone says, by name: fields of what it tells of the run, and files that nothing else gives.

    Args:
        form: the file in which it tells of the run.
        words: the fields of that file that no ledger gives.

    Raises:
        Tampered: the adapter's folder holds something else than plan and state give.
    """
    _, entry = word
    checked = {RUN, form, STATE}
    notes: tuple[str, ...] = ()
    if (run / ADAPTER).exists():
        plan = figures.first_plan(ledgers, entry.run)
        if plan is None or told["adapter"] is None:
            raise Tampered(ADAPTER, "weights of a run that released none")
        state = (run / STATE).read_bytes()
        if form == REPORT:
            same, notes = adapter_files.check(run / ADAPTER, state, plan)
        else:
            same = adapter_files.check_alone(run / ADAPTER, state, plan)
        checked |= {f"{ADAPTER}/{name}" for name in same}
    files = sorted(each.path for each in entry.files if each.path not in checked)
    more = sorted(set(json_files.mapping(run / RUN)) - {"run", "outcome"})
    return (
        f"{form}: {', '.join(words)}: {WORD}",
        *((f"{RUN}: {', '.join(more)}: {WORD}",) if more else ()),
        *notes,
        *((f"{', '.join(files)}: {WORD}",) if files else ()),
    )


def longer(ledgers: Mapping[MemberId, Ledger], entry: Reported, coordinator: Ledger, index: int) -> tuple[str, ...]:
    """Ledgers that are longer than the report was computed from: what they say behind that is no part of it."""
    ends = {head.owner: head.size for head in entry.ledgers} | {coordinator.owner: index + 1}
    return tuple(
        f"{ledger.name}: {len(ledger.hashes) - ends[ledger.owner]} entries behind those of the report"
        for ledger in ledgers.values()
        if len(ledger.hashes) > ends.get(ledger.owner, len(ledger.hashes))
    )


def _check_last(coordinator: Ledger, index: int) -> None:
    """No run began after this report was written, and ended: its folder would be the one to show these ledgers."""
    after = {entry.run for at, entry in coordinator.each(RunJoined) if at > index}
    for at, ended in coordinator.each(Closed):
        if ended.run in after:
            what = f"run {ended.run.hex()} began and ended after this folder's report: these are ledgers of that one"
            raise coordinator.wrong(what, at)


def check_latest(ledgers: Mapping[MemberId, Ledger], run: RunId | None) -> None:
    """Refuse a folder of a later run: one that began after this one and wrote its report.

    Raises:
        Tampered: it names an earlier run than its ledgers do.
    """
    if run is None:
        return
    coordinator = figures.coordinator_of(ledgers, run)
    began = max(at for at, entry in coordinator.each(RunJoined) if entry.run == run)
    after = {entry.run for at, entry in coordinator.each(RunJoined) if at > began}
    for at, entry in coordinator.each(Reported):
        if entry.run in after:
            what = f"run {entry.run.hex()} began and ended after the one that this folder names: these are its ledgers"
            raise coordinator.wrong(what, at)


def check_files(
    run: Path, coordinator: Ledger, entry: Reported, apart: Collection[str] = OF_RUN
) -> tuple[str, ...]:  # fmt: skip
    """Files beside what was written down, if that is all there as it was.

    Raises:
        Tampered: it is not; or a file was put into a folder of what the run left.
    """
    due = {each.path: each.digest for each in entry.files}
    here = {each.path: each.digest for each in files(run, apart=apart)}
    for name in sorted(due):
        if here.get(name) != due[name]:
            what = "missing, and" if name not in here else "another file than"
            raise Tampered(name, f"{what} {coordinator.owner} wrote it down when the run ended")
    beside = sorted(set(here) - set(due))
    for name in beside:
        if "/" in name:
            raise Tampered(name, "a file that the run did not leave, among those that it left")
    return tuple(f"{name}: a file that the run did not leave" for name in beside)


def check_adapter(report: Mapping[str, Any], coordinator: Ledger, run_id: RunId, entry: Reported) -> None:
    """Check that the folder holds the state that was released last, and that the report names it.

    Raises:
        Tampered: it does not.
    """
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
        tasks = json_files.mapping(run / SUITE).get(TASKS)
        if tasks is not None:
            return frozenset(named(run / TASKS / task_name(name)) or _unnamed(name) for name in tasks)
    own = named(run)
    return None if own is None else frozenset((own,))


def task_name(name: str) -> str:
    """The name of a task, which is its folder's too: no way to another folder.

    Raises:
        Tampered: it is none.
    """
    if not re.fullmatch(NAME_FORM, name):
        raise Tampered(SUITE, f"no name of a task: {name!r}")
    return name


def _unnamed(task: str) -> RunId:
    raise Tampered(f"{TASKS}/{task}", "no run of this task is here")


def root_of(ledgers: Mapping[MemberId, Ledger], runs: Collection[RunId]) -> RunId | None:
    """The run above all that this folder was left for, by the last word of its coordinator; None if it is of none.

    A coordinator's last word is on a run of its own, unless its federation is below another one.
    """
    for owner in dict.fromkeys(figures.coordinator_of(ledgers, each).owner for each in runs):
        said = [entry.run for _, entry in ledgers[owner].each(Reported)]
        if said and ledgers[owner].opened(said[-1]) is None:
            return said[-1]
    return None


def check_below(
    run: Path, ledgers: Mapping[MemberId, Ledger], root: RunId, runs: Collection[RunId]
) -> tuple[str, ...]:  # fmt: skip
    """Return what is not verified of a sub-federation's folder, if its coordinator wrote down all that is in it.

    Args:
        root: the run of the federation above all, for which the folder was left.
        runs: this federation's own, which the results that it passed on are of.

    Raises:
        Tampered: nothing says what the folder holds, or it is said twice; or a file is not here, or not as it was.
    """
    said = [
        (ledger, word)
        for ledger in dict.fromkeys(figures.coordinator_of(ledgers, each).owner for each in runs)
        for word in report_entry.words(ledgers[ledger], root)
    ]
    if not said:
        what = f"nothing says what was left below run {root.hex()}, and it has ended: no file here is evidence"
        raise Tampered(f"{report_entry.COORDINATES}.ledger", what)
    owner, word = said[0]
    if len(said) > 1:  # which of them the files are held against is nobody's to choose
        again, (index, _) = said[1]
        raise ledgers[again].wrong("a second word on what was left below this run", index)
    notes = check_files(run, ledgers[owner], word[1])
    more = sorted(each.path for each in word[1].files if each.path not in INSIDE)
    if more:
        raise Tampered(more[0], "no file of a federation below: what a run leaves stands in the folder above all")
    report_entry.as_of(ledgers, ledgers[owner], word, runs)
    files_ = sorted(each.path for each in word[1].files)
    return (*notes, *((f"{', '.join(files_)}: {WORD}",) if files_ else ()))


def alone(ledgers: Iterable[MemberId]) -> tuple[str, ...]:
    """Return what is said of ledgers, by name, that nothing bears out but each other."""
    return (f"{', '.join(f'{owner}.ledger' for owner in sorted(ledgers))}: {ALONE}",)


def check_alone(run: Path, ledgers: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """What is not verified of a folder that names no run: it holds ledgers, and nothing that they could bear out.

    Raises:
        Tampered: a file stands beside the ledgers; or a coordinator says that there was a report.
    """
    beside = next(own(run), None)
    if beside is not None:
        what = f"missing, and {beside.relative_to(run)} stands here: nothing says which run it is of"
        raise Tampered(RUN, what)
    for ledger in ledgers.values():
        for _, entry in ledger.each(Reported):
            raise Tampered(RUN, f"missing, and {ledger.owner} wrote down what run {entry.run.hex()} left here")
    return alone(ledgers)
