"""A folder's runs: of a suite one for each task, of a tree one for each federation in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from securefl.audit import explain as e
from securefl.audit import json_files
from securefl.audit.explain import Explained
from securefl.audit.tree import BELOW

REPORT, TASKS = "suite.json", "tasks"  # what a run with tasks leaves


def tasks(run: Path) -> Mapping[str, Path]:
    """The run of each task, by its name; none if this is no suite.

    Raises:
        Tampered: the suite's report cannot be read.
    """
    report = run / REPORT
    if not report.is_file():
        return {}
    named = json_files.mapping(report, str(report)).get(TASKS)
    if named is None:  # it was interrupted: those that are over
        return {path.parent.name: path.parent for path in sorted((run / TASKS).glob("*/ledger"))}
    return {name: run / TASKS / name for name in named}


def levels(run: Path, way: str = "") -> Iterator[tuple[str, Path]]:
    """Each federation below that has ledgers, by the way to it."""
    for path in sorted((run / BELOW).glob("*/ledger")):
        name = f"{way}{path.parent.name}"
        yield name, path.parent
        yield from levels(path.parent, f"{name}/")


def explain(run: Path) -> tuple[dict[str, Any], str, bool]:
    """Return what was on in each run here: for JSON, for a person, and whether a protection did not hold in any.

    Raises:
        Tampered: ledgers do not verify, or there are none.
    """
    found = {name: e.explain(path) for name, path in tasks(run).items()}
    if found:
        ok = not any(each.breached for each in found.values())
        return {"ok": ok, TASKS: {name: each.plain() for name, each in found.items()}}, _text("task", found), not ok
    root, inside = e.explain(run), {name: e.explain(path) for name, path in levels(run)}
    ok = not any(each.breached for each in (root, *inside.values()))
    told = root.plain() | {"ok": ok}
    if inside:
        told[BELOW] = {name: each.plain() for name, each in inside.items()}
    return told, "\n\n".join([e.table(root), *([_text(BELOW, inside)] if inside else [])]), not ok


def _text(kind: str, found: Mapping[str, Explained]) -> str:
    return "\n\n".join(f"{kind} {name}: {e.table(each)}" for name, each in found.items())
