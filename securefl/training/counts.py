"""What became of the rows of a file: how many, by why. For the site's own eyes: no message and no ledger holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from securefl.documents.data_source import DataSource


@dataclass(slots=True)
class Tally:
    """The rows of a file so far, each counted once beside ``rows``."""

    rows: int = 0
    not_chosen: int = 0  # by `where`, `contains`, `first_of` or `share`
    without_text: int = 0
    without_label: int = 0  # and left out for it
    again: int = 0  # of a text that another row has
    tied: int = 0  # texts whose rows do not agree on a label


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a file's rows, and how many records are a member's own."""

    rows: int
    not_chosen: int
    without_text: int
    without_label: int
    again: int
    tied: int
    train: int
    heldout: int

    @classmethod
    def of(cls, tally: Tally, train: int, heldout: int) -> Counts:
        """The counts of one member's part."""
        return cls(**asdict(tally), train=train, heldout=heldout)

    def __str__(self) -> str:
        """One line for a person."""
        return f"{_of(self.rows, 'row')}: {', '.join(self._parts())}"

    def _parts(self) -> Iterator[str]:
        for count, what in (
            (self.not_chosen, "not asked for"), (self.without_text, "without a text"),
            (self.without_label, "without a label"),
            (self.again, "again of a text that is there"), (self.tied, "of texts whose labels tie"),
        ):  # fmt: skip
            if count:
                yield f"{count} {what}"
        yield f"{self.train} to train on"
        yield f"{self.heldout} held out"


def none_left(counts: Counts, source: DataSource) -> tuple[str, str]:
    """What to say where nothing is left to train on, and what would do: by the reason that most rows have."""
    wanted = f" with '{source.contains}'" if source.contains else ""
    if not counts.rows:
        return f"no rows{wanted} to train on", "the table has a header and no row: check the file"
    reasons = {
        f"set `heldout` lower than {source.heldout:g}; 0 holds nothing out": counts.heldout,
        f"check `{'`, `'.join(_asking(source))}`": counts.not_chosen,
        f"check the column `{source.text}`": counts.without_text,
        f"check the column `{source.label}`, or set `unlabelled: keep`": counts.without_label,
        "give each text one label": counts.tied,
    }
    return f"no rows{wanted} to train on, of {counts}", max(reasons, key=lambda each: reasons[each])


def _asking(source: DataSource) -> list[str]:
    """The fields that say which rows are asked for."""
    named = {
        "contains": source.contains, "first_of": source.first_of, "where": source.where, "share": source.share,
        "partition": source.partition,
    }  # fmt: skip
    return [name for name, value in named.items() if value] or ["file"]


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
