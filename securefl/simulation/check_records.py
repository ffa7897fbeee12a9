"""What each member of a file trains on, counted: for the screen of whoever runs all of these sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from securefl.documents.federation import Loaded
from securefl.documents.finding import OK, WARNING, WRONG, Finding
from securefl.errors import Fault
from securefl.simulation.parties import records_of
from securefl.terms.records import UNKNOWN

if TYPE_CHECKING:
    from securefl.training.data import Records


@dataclass(frozen=True, slots=True, repr=False)
class Held:
    """Each member's records that could be read, by the way to it, such as ``legacy/united``."""

    records: Mapping[str, Records] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> int:
        """How many words a typical record has."""
        counts = [len(each.text.split()) for part in self.records.values() for each in part.train]
        return max(1, round(median(counts))) if counts else 1


def look(
    loaded: Loaded, called: Callable[[str], str], owners: tuple[str, ...] | None, told: list[Finding], way: str = ""
) -> Held:
    """Read every member's records, and tell what became of the rows of each.

    Args:
        loaded: the federation.
        called: what findings are called.
        owners: of a task: those who have records.
        told: what was found so far.
        way: to this federation, from the root.
    """
    records, figures = dict[str, "Records"](), dict[str, Any]()
    for name in loaded.data if owners is None else owners:
        what = called(f"data of {way}{name}")
        try:
            found = records_of(loaded, name)
        except Fault as fault:
            told += [Finding(what, WRONG, line) for line in str(fault).splitlines()]
            continue
        records[way + name], figures[way + name] = found, _figures(found, loaded.file.task.labels)
        told.append(_finding(what, found, loaded, name, figures[way + name]))
    for name, child in loaded.below.items():
        inner = look(child, called, None, told, f"{way}{name}/")
        records |= inner.records
        figures |= inner.figures
    return Held(records, figures)


def _figures(records: Records, labels: tuple[str, ...]) -> dict[str, Any]:
    both = Counter(each.label for each in (*records.train, *records.heldout))
    by_label = {label: both[number] for number, label in enumerate(labels)}
    found: dict[str, Any] = {**asdict(records.counts), "labels": by_label} if records.counts else {}
    return found | ({"without_label": both[UNKNOWN]} if both[UNKNOWN] else {})


def _finding(what: str, records: Records, loaded: Loaded, name: str, figures: Mapping[str, Any]) -> Finding:
    share, rate = loaded.data[name].heldout, loaded.file.training.sampling_rate
    labels = ", ".join(f"{count} {label}" for label, count in figures["labels"].items())
    detail = str(records.counts)
    detail += f"; {labels}" if labels else ""
    absent = [label for label, count in figures["labels"].items() if not count]
    if rate is not None and rate * len(records.train) < 1:
        few = f"{detail}; at sampling_rate {rate} a step has less than one record on average"
        return Finding(what, WARNING, few, "raise sampling_rate, or give more rows")
    if share and not records.heldout:
        return Finding(what, WARNING, f"{detail} at heldout={share:g}: its accuracy says nothing", "raise `heldout`")
    if absent:
        return Finding(what, WARNING, f"{detail}: no record is {', '.join(absent)}", "check `label` and `labels`")
    return Finding(what, OK, detail)
