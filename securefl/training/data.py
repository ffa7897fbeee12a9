"""A member's records, read and checked. Errors name file, row and column, and never show a record's text."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl.errors import Missing, OperatorFault
from securefl.training.sources import DataSource, resolve


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One text and the index of its label."""

    text: str
    label: int


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """What a member holds. ``heldout`` is never trained on."""

    train: tuple[Record, ...]
    heldout: tuple[Record, ...]


def load(source: DataSource, folder: Path, labels: tuple[str, ...]) -> Records:
    """The records a source describes, split by a hash of their text: the same text is always on the same side.

    Raises:
        OperatorFault: bad bytes, a missing column, an unknown label, or nothing left: with file and row.
        Missing: the file or data set is not on this machine.
    """
    found = resolve(source.file, folder)
    rows = _table(found, source) if isinstance(found, Path) and found.is_file() else _hub(found, source)
    index = {label: number for number, label in enumerate(labels)}
    seen: set[str] = set()
    train: list[Record] = []
    heldout: list[Record] = []
    for place, row in rows:
        for column in (source.text, source.label):
            if row.get(column) is None:
                known = ", ".join(sorted(str(name) for name in row if name is not None))
                raise OperatorFault(f"no column `{column}`", f"the columns are {known}", place)
        text, label = str(row[source.text]), str(row[source.label])
        if label not in index:
            raise OperatorFault(f"the label {label[:40]!r}", f"one of {', '.join(labels)} is expected", place)
        if not _belongs(text, source):
            continue
        for change in source.replace:
            text = re.sub(change.pattern, change.with_, text)
        if source.deduplicate:
            if text in seen:
                continue
            seen.add(text)
        if not text.strip():
            continue
        (heldout if _held_out(text, source.heldout) else train).append(Record(text, index[label]))
    if not train:
        wanted = f" with {source.contains!r}" if source.contains else ""
        raise OperatorFault(f"no rows{wanted} to train on", "check the file and `contains`", str(found))
    return Records(tuple(train), tuple(heldout))


def _belongs(text: str, source: DataSource) -> bool:
    if source.contains is None:
        return True
    low, wanted = text.lower(), source.contains.lower()
    at = low.find(wanted)
    if at < 0:
        return False
    return all(low.find(other.lower()) in (-1, *range(at, len(low))) for other in source.first_of if other.lower() != wanted)


def _held_out(text: str, share: float) -> bool:
    drawn = int.from_bytes(hashlib.sha256(b"held out\0" + text.encode()).digest()[:8], "big")
    return drawn < int(share * 2**64)


def _table(path: Path, source: DataSource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    raw = path.read_bytes()
    try:
        text = raw.decode(source.encoding)
    except UnicodeDecodeError as fault:
        line = raw.count(b"\n", 0, fault.start) + 1
        what = f"byte {raw[fault.start]:#04x} is not {source.encoding}"
        raise OperatorFault(what, "set `encoding`, or mend the file", f"{path}:{line}") from fault
    except LookupError as fault:
        raise OperatorFault(f"no encoding {source.encoding!r}", "such as utf-8 or latin1", str(path)) from fault
    if not text.strip():
        raise OperatorFault("no rows", "the file is empty", str(path))
    if path.suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(text, path)
        return
    delimiter = "\t" if path.suffix in (".tsv", ".tab") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except csv.Error as fault:
        raise OperatorFault(f"no table: {fault}", "mend the row", f"{path}:{reader.line_num}") from fault


def _json_lines(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            raise OperatorFault(f"no JSON: {fault.msg}", "one object a line", f"{path}:{number}") from fault
        if not isinstance(row, dict):
            raise OperatorFault("no JSON object", "one object a line", f"{path}:{number}")
        yield f"{path}:{number}", row


def _hub(found: Path | str, source: DataSource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import datasets  # noqa: PLC0415
    except ImportError as fault:
        remedy = "pip install 'securefl[hub]', or name a CSV, TSV or JSON Lines file"
        raise Missing("a Hugging Face data set needs the library `datasets`", remedy, str(found)) from fault
    try:
        rows = datasets.load_dataset(str(found), split=source.split)
    except (OSError, ValueError, ConnectionError) as fault:
        raise Missing("this data set is not on this machine", "fetch it first; nothing is fetched here", str(found)) from fault
    for number, row in enumerate(rows, start=1):
        yield f"{found}, row {number}", row
