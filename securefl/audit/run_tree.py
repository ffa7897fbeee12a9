"""A folder's runs: of a suite one for each task, of a tree one for each federation in it.

None of them is left out in silence. Which tasks there were, the coordinator of all wrote down; which federations have
something below, the ledgers above say. What is not here was not measured, and that is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from securefl.audit import coordinated, cross_checks, folder, json_files, suites, tree
from securefl.audit import explain as e
from securefl.audit.explain import Explained, State
from securefl.audit.ledger_files import Ledger, read_all, read_below
from securefl.audit.tree import BELOW
from securefl.audit.verify import check
from securefl.errors import Tampered
from securefl.terms import MemberId

REPORT, TASKS = folder.SUITE, folder.TASKS  # what a run with tasks leaves


@dataclass(slots=True)
class Found:
    """The runs of a folder, by task or by the way to a federation below, and what was not measured of it."""

    runs: dict[str, Path] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def tasks(run: Path) -> Found:
    """The run of each task; none if this is no run with tasks.

    Raises:
        Tampered: its report cannot be read, is not the one that its coordinator wrote down, or names other tasks than
            there are.
    """
    places = sorted((run / TASKS).iterdir()) if (run / TASKS).is_dir() else []
    if not (run / REPORT).is_file():
        if places:
            raise Tampered(REPORT, f"missing, and {TASKS}/{places[0].name} stands here: nothing says which tasks ran")
        return Found()
    if json_files.mapping(run / REPORT, str(run / REPORT)).get("outcome", ...) is None:  # it goes on: what is over
        over = {path.name: path for path in places if (path / "ledger").is_dir()}
        rest = [f"{TASKS}/{path.name}: of a task that is not over" for path in places if path.name not in over]
        return Found(over, [*rest, "the run with tasks has not ended: nothing says which tasks are to come"])
    ledgers = read_all(run)
    coordinator, _ = suites.check_tasks(run, ledgers)
    shown = folder.wanted(run) or frozenset()
    own = [opened for opened, (owner, _) in cross_checks.covered(ledgers).items() if owner is coordinator]
    others = [f"run {each.hex()[:12]}: {coordinator.owner} began it, and it is of no task here" for each in own]
    return Found(dict(suites.tasks(run)), [note for each, note in zip(own, others, strict=True) if each not in shown])


def levels(run: Path, way: str = "") -> Iterator[tuple[str, Path | str]]:
    """Each federation below that left ledgers, by the way to it; and whatever is not here of one, in words.

    Raises:
        Tampered: ledgers below are not those that the ledgers above speak of.
    """
    ledgers = read_all(run)
    for note in (*tree.absent(run, ledgers), *tree.idle(run, ledgers)):
        yield way, f"{''.join(f'{BELOW}/{each}/' for each in way.split('/') if each)}{note}"
    for name, path in tree.folders(run, ledgers):
        place = f"{way}{name}"
        try:
            tree.check(name, ledgers.get(name), read_below(path))
        except Tampered as fault:
            raise Tampered(f"{BELOW}/{place}/{fault.where}", fault.why, fault.entry) from fault
        yield place, path
        yield from levels(path, f"{place}/")


def explain(run: Path) -> tuple[dict[str, Any], str, bool]:
    """Return what was on in each run here: for JSON, for a person, and whether a protection did not hold in any.

    Raises:
        Tampered: ledgers do not verify, or there are none; or runs were taken away, added or exchanged.
    """
    given = tasks(run)
    if given.runs:
        whole = _beside(run)
        found = {
            name: e.explain(path, whole and coordinated.of_task(path, whole, whole)[1])
            for name, path in given.runs.items()
        }
        ok = not any(each.breached for each in found.values())
        told = {"ok": ok, TASKS: {name: each.plain() for name, each in found.items()}}
        return _with(told, given.absent), "\n\n".join([_text("task", found), *_lines(given.absent)]), not ok
    root, below = e.explain(run), list(levels(run))
    inside = {name: e.explain(path) for name, path in below if isinstance(path, Path)}
    absent = [*given.absent, *(note for _, note in below if isinstance(note, str))]
    ok = not any(each.breached for each in (root, *inside.values()))
    told = root.plain() | {"ok": ok}
    if inside:
        told[BELOW] = {name: each.plain() for name, each in inside.items()}
    parts = [e.table(root), *([_text(BELOW, inside)] if inside else []), *_lines(absent)]
    return _with(told, absent), "\n\n".join(parts), not ok


def _beside(run: Path) -> Mapping[MemberId, Ledger] | None:
    """The ledgers beside all tasks, where tasks have none but their coordinator's; None of another run with tasks.

    Raises:
        Tampered: they do not verify.
    """
    if json_files.mapping(run / REPORT).get("outcome", ...) is None or not suites.is_coordinated(run):
        return None
    ledgers = read_all(run)
    check(ledgers, folder.wanted(run))
    return ledgers


def _with(told: dict[str, Any], absent: list[str]) -> dict[str, Any]:
    return told | ({"not_measured": absent} if absent else {})


def _lines(absent: list[str]) -> list[str]:
    return ["\n".join(f"{State.UNKNOWN.upper()}: {each}" for each in absent)] if absent else []


def _text(kind: str, found: Mapping[str, Explained]) -> str:
    return "\n\n".join(f"{kind} {name}: {e.table(each)}" for name, each in found.items())
