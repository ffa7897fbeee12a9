"""A member's records, read and checked. Errors name file, row and column, and never show a record's text.

A record is a distinct text as it is trained on, so it counts once in every step. Whether a row is used, held out, has a
label, and whose it is, follows from this row alone. So one row more or less in the file changes the training set by at
most one record (`sameness`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from securefl.documents.data_source import DataSource, Span
from securefl.errors import OperatorFault
from securefl.terms.records import UNKNOWN, Record
from securefl.training import rows, same_records
from securefl.training.partition import Card, deal
from securefl.training.sources import resolve

SHOWN = 24  # a longer value, or one with blanks, may be a text in the wrong column: it is not shown


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """What a member holds. ``heldout`` is never trained on."""

    train: tuple[Record, ...]
    heldout: tuple[Record, ...]
    forms: frozenset[bytes] = frozenset()  # what the rows are recognised by that decided what is trained


@dataclass(frozen=True, slots=True, repr=False)
class Whole:
    """All records of a source, before a member's part is taken: ``cards[i]`` is what dealing sees of ``records[i]``."""

    found: Path | str
    cards: tuple[Card, ...]
    records: tuple[Record, ...]
    forms: tuple[frozenset[bytes], ...]  # of the rows of ``records[i]``
    undecided: frozenset[bytes]  # of rows that are no record, because their labels tie
    labels: int  # of the task, at least 1


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
    index = {label: number for number, label in enumerate(labels)}
    groups: dict[str, _Group] = {}
    for each in rows.read(found, source):
        row, place = each.columns, each.place
        text = _text(row, source, place)
        label = _label(row, source, index, place) if labels else 0
        if label is None or not _chosen(row, source, place) or not _belongs(text, source) or not text.strip():
            continue
        trained = text
        for change in source.replace:
            trained = re.sub(change.pattern, change.with_, trained)
        held = _held_out(trained, source.heldout)
        if not trained.strip() or not _below(b"share\0", trained, source.share):
            continue
        if held and label == UNKNOWN:  # nothing to compare a guess with
            continue
        group = groups.setdefault(trained, _Group(held, Counter(), set()))
        group.votes[label] += 1
        group.forms |= each.cuts
        group.forms |= same_records.forms((*row.values(), *each.names), each.raw, text, trained, each.encoding)
    return _settled(found, groups, source, max(1, len(labels)))


def _settled(found: Path | str, groups: Mapping[str, _Group], source: DataSource, labels: int) -> Whole:
    cards, records, forms = [], [], []
    undecided: set[bytes] = set()
    for text, group in groups.items():
        label = same_records.plurality(group.votes)
        if label is None:
            undecided |= group.forms
            continue
        known = group.held or _below(b"labelled\0", text, source.labelled)
        cards.append(Card(text, label, group.held))
        records.append(Record(text, label if known else UNKNOWN))
        forms.append(frozenset(group.forms))
    return Whole(found, tuple(cards), tuple(records), tuple(forms), frozenset(undecided), labels)


def tokenizable(text: str) -> str:
    """The text as every tokenizer takes it: half of a surrogate pair, which JSON can write, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def texts(path: Path, column: str) -> list[str]:
    """The texts in one column of a table, in its order.

    Raises:
        OperatorFault: bad bytes, no such column, or a value that is no text: with file and row.
    """
    source = DataSource.model_validate({"file": str(path), "text": column, "label": f"{column} ", "multiline": True})
    if not path.is_file():
        raise OperatorFault("there is no such file", "check the path", str(path))
    return [_text(row.columns, source, row.place) for row in rows.read(path, source)]


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
    wanted = f" with {source.contains!r}" if source.contains else ""
    if not train:
        raise OperatorFault(f"no rows{wanted} to train on", "check the file and `contains`", str(all_.found))
    met = all_.undecided.union(*(all_.forms[i] for i in mine if not all_.cards[i].held))
    return Records(tuple(train), tuple(heldout), met)


def _text(row: Mapping[str, Any], source: DataSource, place: str) -> str:
    text = _column(row, source.text, place)
    if not isinstance(text, str):
        raise OperatorFault(f"`{source.text}` is a {type(text).__name__}", "a text is expected", place)
    return text


def _label(row: Mapping[str, Any], source: DataSource, index: Mapping[str, int], place: str) -> int | None:
    """The label's index; without a label ``UNKNOWN``, or None where such rows are left out."""
    absent = source.unlabelled != "refuse" and row.get(source.label) is None
    raw = "" if absent else str(_column(row, source.label, place))
    label = source.labels.get(raw, raw)
    if not label.strip() and source.unlabelled != "refuse":
        return UNKNOWN if source.unlabelled == "keep" else None
    if label not in index:
        shown = repr(raw) if len(raw) <= SHOWN and not re.search(r"\s", raw) else f"a value of {len(raw)} characters"
        remedy = f"one of {', '.join(index)} is expected; `labels` can map it to one of them"
        raise OperatorFault(f"`{source.label}` is {shown}", remedy, place)
    return index[label]


def _column(row: Mapping[str, Any], name: str, place: str) -> object:
    if name not in row:
        known = ", ".join(sorted(row))
        raise OperatorFault(f"no column `{name}`", f"the columns are {known}", place)
    if row[name] is None:
        raise OperatorFault(f"no value in the column `{name}`", "mend the row", place)
    return row[name]


def _chosen(row: Mapping[str, Any], source: DataSource, place: str) -> bool:
    """Return whether the row's columns are what `where` asks for."""
    for name, wanted in source.where.items():
        value = str(_column(row, name, place))
        if not isinstance(wanted, Span):
            found = value in ((wanted,) if isinstance(wanted, str) else wanted)
        elif re.fullmatch(r"-?\d{1,18}", value):
            found = wanted.holds(int(value))
        else:
            raise OperatorFault(f"`{name}` is no whole number, and `where` asks for a span", "give its values", place)
        if not found:
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
