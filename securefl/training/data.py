"""A member's records, read and checked. Errors name file, row and column, and never show a record's text.

A record is a distinct text as it is trained on, so it counts once in every step. Whether a row is used, held out, has a
label, and whose it is, follows from this row alone. So one row more or less in the file changes the training set by at
most one record (`same_records`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from securefl.documents.data_source import DataSource, Span
from securefl.errors import OperatorFault
from securefl.terms.records import UNKNOWN, Record
from securefl.training import rows, same_records, values
from securefl.training.counts import Counts, Tally, none_left
from securefl.training.partition import Card, deal
from securefl.training.sources import resolve


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """What a member holds. ``heldout`` is never trained on."""

    train: tuple[Record, ...]
    heldout: tuple[Record, ...]
    forms: frozenset[bytes] = frozenset()  # what the rows are recognised by that decided what is trained
    counts: Counts | None = None  # what became of the file's rows: for the site alone


@dataclass(frozen=True, slots=True, repr=False)
class Whole:
    """All records of a source, before a member's part is taken: ``cards[i]`` is what dealing sees of ``records[i]``."""

    found: Path | str
    cards: tuple[Card, ...]
    records: tuple[Record, ...]
    forms: tuple[frozenset[bytes], ...]  # of the rows of ``records[i]``
    undecided: frozenset[bytes]  # of rows that are no record, because their labels tie
    labels: int  # of the task, at least 1
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True, repr=False)
class _Group:
    """The rows so far with one trained text."""

    held: bool
    votes: Counter[int]
    forms: set[bytes]


def load(source: DataSource, folder: Path, labels: tuple[str, ...]) -> Records:
    """The records a source describes, in the file's order, split by a hash of their text.

    The same text is always on the same side, at every member. Rows with one text are one record, whose label is the one
    most of them have; where labels tie, it is none. Blank texts are left out. With ``first_of``, each row belongs to
    exactly one of the handles: the one mentioned first, the longer one where two begin at the same place. A record
    without a label is trained on, and never held out. ``share`` and ``partition`` take some of these records, each by
    its own text and label alone.

    Raises:
        OperatorFault: bad bytes, a missing column, an unknown label, or nothing left: with file and row.
        Missing: the file or data set is not on this machine.
    """
    return part(source, whole(source, folder, labels))


def whole(source: DataSource, folder: Path, labels: tuple[str, ...]) -> Whole:
    """All the records of a source, whatever its ``partition``: reading once serves every part.

    Raises:
        OperatorFault, Missing: as for ``load``.
    """
    found = resolve(source.file, folder)
    index, tally = {label: number for number, label in enumerate(labels)}, Tally()
    groups: dict[str, _Group] = {}
    for each in rows.read(found, source):
        tally.rows += 1
        row, place = each.columns, each.place
        if not _chosen(row, source, place):
            tally.not_chosen += 1
            continue
        text = _text(row, source, place)
        if text is None:
            tally.without_text += 1
            continue
        if not _belongs(text, source):
            tally.not_chosen += 1
            continue
        label = _label(each, source, index) if labels else 0
        if label is None:
            tally.without_label += 1
            continue
        trained = tokenizable(text)
        for change in source.replace:
            trained = re.sub(change.pattern, change.with_, trained)
        held = _held_out(trained, source.heldout)
        if not trained.strip():
            tally.without_text += 1
            continue
        if not _below(b"share\0", trained, source.share):
            tally.not_chosen += 1
            continue
        if held and label == UNKNOWN:  # nothing to compare a guess with
            tally.without_label += 1
            continue
        group = groups.setdefault(trained, _Group(held, Counter(), set()))
        group.votes[label] += 1
        group.forms |= each.cuts
        group.forms |= same_records.forms(
            (*row.values(), *each.called.values()), each.raw, text, trained, each.encoding
        )
    return _settled(found, groups, source, max(1, len(labels)), tally)


def _settled(
    found: Path | str, groups: Mapping[str, _Group], source: DataSource, labels: int, tally: Tally
) -> Whole:  # fmt: skip
    cards, records, forms = [], [], []
    undecided: set[bytes] = set()
    for text, group in groups.items():
        label = same_records.plurality(group.votes)
        tally.again += group.votes.total() - 1
        if label is None:
            undecided |= group.forms
            tally.tied += 1
            continue
        known = group.held or _below(b"labelled\0", text, source.labelled)
        cards.append(Card(text, label, group.held))
        records.append(Record(text, label if known else UNKNOWN))
        forms.append(frozenset(group.forms))
    return Whole(found, tuple(cards), tuple(records), tuple(forms), frozenset(undecided), labels, tally)


def tokenizable(text: str) -> str:
    """The text as every tokenizer takes it: half of a surrogate pair, which JSON can write, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def texts(path: Path, column: str) -> list[str]:
    """The texts in one column of a table, in its order.

    Raises:
        OperatorFault: bad bytes, no such column, or a value that is no text: with file and row.
    """
    source = DataSource.model_validate({"file": str(path), "text": column, "label": f"{column} ", "multiline": True})
    if not path.exists():
        raise OperatorFault("there is no such file", "check the path", str(path))
    return [_text(row.columns, source, row.place) or "" for row in rows.read(path, source)]


def part(source: DataSource, all_: Whole) -> Records:
    """One member's part of a source's records: all of them where it has no ``partition``.

    That nothing is held out ends nothing: it depends on each record, and others see whether a site takes part.

    Raises:
        OperatorFault: nothing left to train on.
    """
    mine = list(range(len(all_.cards)))
    if source.partition is not None and mine:
        owners = deal(all_.cards, source.partition, all_.labels)
        mine = [i for i in mine if owners[i] == source.partition.index]
    train = [all_.records[i] for i in mine if not all_.cards[i].held]
    heldout = [all_.records[i] for i in mine if all_.cards[i].held]
    counts = Counts.of(all_.tally, len(train), len(heldout))
    if not train:
        raise OperatorFault(*none_left(counts, source), str(all_.found))
    met = all_.undecided.union(*(all_.forms[i] for i in mine if not all_.cards[i].held))
    return Records(tuple(train), tuple(heldout), met, counts)


def _text(row: Mapping[str, Any], source: DataSource, place: str) -> str | None:
    """The row's text; None where it has none and is left out."""
    text = row.get(source.text)
    if values.is_missing(text, source.missing):
        _check_column(
            row, source.text, place, missing=source.on_missing == "refuse", remedy="or set `on_missing: drop`"
        )
        return None
    if not isinstance(text, str):
        raise OperatorFault(f"`{source.text}` is {values.kind(text)}", "a text is expected", place)
    return text


def _label(row: rows.Row, source: DataSource, index: Mapping[str, int]) -> int | None:
    """The label's index; without a label ``UNKNOWN``, or None where such rows are left out."""
    found, place, refused = row.columns.get(source.label), row.place, source.unlabelled == "refuse"
    if not values.is_missing(found, source.missing):
        raw = values.written(found, source.label, place)
        ways = (*values.forms(raw), *(() if source.label not in row.called else (row.called[source.label],)))
        mapped = next((source.labels[each] for each in ways if each in source.labels), None)
        if mapped is None:
            mapped = next((each for each in ways if each in index), raw)
        if mapped in index:
            return index[mapped]
        if refused or not values.is_missing(mapped):
            shown, near = values.label_shown(raw, (*index, *source.labels))
            remedy = near or f"one of {', '.join(index)} is expected; `labels` can map it to one of them"
            raise OperatorFault(f"`{source.label}` is {shown}", remedy, place)
    elif refused:
        _check_column(row.columns, source.label, place, missing=True, remedy="or set `unlabelled` to drop or keep")
    return UNKNOWN if source.unlabelled == "keep" else None


def _check_column(row: Mapping[str, Any], name: str, place: str, *, missing: bool, remedy: str) -> None:
    """Check that a row may have no value in this column: that another row of its table can have one.

    Raises:
        OperatorFault: its table has no such column; or ``missing`` values are refused.
    """
    if missing or name not in row:
        if name in row:
            raise OperatorFault(f"no value in the column `{name}`", f"mend the row, {remedy}", place)
        raise OperatorFault(f"no column `{name}`", f"the columns are {', '.join(sorted(row))}", place)


def _chosen(row: Mapping[str, Any], source: DataSource, place: str) -> bool:
    """Return whether the row's columns are what `where` asks for; a column without a value is not."""
    for name, wanted in source.where.items():
        if values.is_missing(found := row.get(name), source.missing):
            _check_column(row, name, place, missing=False, remedy="")
            return False
        ways = values.forms(values.written(found, name, place))
        if not isinstance(wanted, Span):
            chosen = any(each in ((wanted,) if isinstance(wanted, str) else wanted) for each in ways)
        elif re.fullmatch(r"-?\d{1,18}", ways[-1]):
            chosen = wanted.holds(int(ways[-1]))
        else:
            raise OperatorFault(f"`{name}` is no whole number, and `where` asks for a span", "give its values", place)
        if not chosen:
            return False
    return True


def _belongs(text: str, source: DataSource) -> bool:
    low = text.lower()
    if source.contains is None:
        return not source.first_of or any(each.lower() in low for each in source.first_of)
    wanted = source.contains.lower()
    if not source.first_of:
        return wanted in low
    mentioned = [(low.find(each), -len(each), each) for each in map(str.lower, source.first_of) if each in low]
    return bool(mentioned) and min(mentioned)[2] == wanted


def _held_out(text: str, share: float) -> bool:
    return _below(b"held out\0", text, Fraction(share))


def _below(use: bytes, text: str, share: Fraction | None) -> bool:
    """Whether a text is among a share of all texts, by its own hash alone; every text is where there is no share."""
    drawn = int.from_bytes(hashlib.sha256(use + text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return share is None or drawn < int(share * 2**64)
