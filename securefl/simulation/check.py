"""Try a federation's file before it runs: documents, policy, records, model, budget, grid, time. Nothing is made.

No home is made, nothing is reserved, no ledger is opened for writing. What is wrong is told all at once; what depends
on something that is wrong is left out. One person runs all of these sites: counts of records stand on that one's screen
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from securefl.documents import suite_file
from securefl.documents.finding import OK, REFUSED, WRONG, Finding
from securefl.simulation import check_course, check_records, suite
from securefl.simulation.check_documents import Part, read_all, tried
from securefl.simulation.layout import SiteLayout, check_homes

EXIT: Final = {WRONG: 2, REFUSED: 3}  # the first of these that was found


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, in order, and figures for programs."""

    findings: tuple[Finding, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if it would run, 2 if something is unusable, 3 if policy or budget say no."""
        found = {each.status for each in self.findings}
        return next((code for status, code in EXIT.items() if status in found), 0)


def examine(path: Path, sites: Path | None, policy: Path | None = None, *, unsafe_unsigned: bool = False) -> Checked:
    """Everything that a run of this file would trip over.

    Args:
        path: the federation's file, with tasks or without.
        sites: where the sites' homes are; else as the file says.
        policy: in place of the one that the file names.
        unsafe_unsigned: whether a policy will be used without the signatures that it needs.
    """
    told = list[Finding]()
    parts = read_all(path, policy, told, unsafe_unsigned=unsafe_unsigned)
    if not parts:
        return Checked(tuple(told))
    homes = None if parts[0].loaded.file.is_live else SiteLayout(parts[0].loaded, sites.resolve() if sites else None)
    if homes is not None:
        told += tried("homes", lambda: _homes(homes))
    records = dict[str, check_records.Held]()
    for part in parts:
        records[part.name] = check_records.look(part.loaded, part.called, _owners(part), told)
    if parts[0].task is not None:
        told += _apart(path, parts, records)
    figures = check_course.look(parts, homes, records, told)
    figures["data"] = {part.name or part.loaded.file.name: records[part.name].figures for part in parts}
    return Checked(tuple(told), figures)


def _owners(part: Part) -> tuple[str, ...] | None:
    return None if part.task is None else part.task.owners


def _apart(path: Path, parts: list[Part], held: Mapping[str, check_records.Held]) -> Iterator[Finding]:
    """Yield what is wrong where a member's tasks have accounts of their own: no record stands on two."""
    names = {part.name: [each.name for each in part.loaded.file.members] for part in parts}
    records = {task: {name: held[task].records.get(name, suite.NOTHING) for name in names[task]} for task in names}

    def look() -> Finding:
        suite.check_records_apart(suite_file.load(path), records)
        return Finding("accounts", OK, "no record stands on two of one member")

    yield from tried("accounts", look)


def _homes(homes: SiteLayout) -> Finding:
    def all_(layout: SiteLayout) -> Iterator[tuple[tuple[str, ...], str, Path]]:
        yield from ((layout.route, name, layout.of(name)) for name in layout.parties)
        for inside in layout.insides.values():
            yield from all_(inside)

    parties = list(all_(homes))
    check_homes(parties)
    made = [name for _, name, path in parties if path.exists()]
    where = (
        f"{len(made)} of {len(parties)} are there, with their accounts" if made else "none is there: a run makes them"
    )
    return Finding("homes", OK, where)
