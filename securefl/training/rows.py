"""The rows of a table: each with its columns, and with its bytes as they stand in the file.

A line's ends and a column's quotes are ASCII, and every encoding of `documents.encodings` but UTF-16 leaves ASCII as it
is. So a file is cut into lines before it is decoded, and a row has the same bytes whatever it is read as. A file in
UTF-16 begins with its mark; one with the mark is read as nothing else, and one without it is not read as UTF-16.

Which lines are one row depends on the delimiter. A row is recognised whatever its file is called: it carries the rows
that every delimiter makes of its lines (`Cuts`).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from securefl.documents.data_source import DataSource
from securefl.errors import Missing, OperatorFault
from securefl.training import sameness
from securefl.training.sources import PACKED, TABLES

DELIMITERS: Final = (b",", b"\t")  # those that a table may have, whatever it is called
QUOTE: Final = b'"'
CLOSED: Final = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')  # a quoted value, to its end
SURPLUS: Final = "\0surplus"  # no column is called so: csv refuses the character
WIDE: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}  # by the mark in front


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """One row of a table."""

    place: str  # where it stands, for a message
    columns: Mapping[str, Any]
    raw: bytes = b""  # as it stands in the file; empty where a library read it
    encoding: str = "utf-8"  # what ``raw`` was read as
    names: tuple[str, ...] = field(default=())  # what a library calls the classes it reads as numbers
    cuts: frozenset[bytes] = frozenset()  # forms of the rows that any delimiter makes of its lines


class Cuts:
    """A file's lines put together to rows by each delimiter, as `csv` does it: the same whatever the file is called."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._starts = tuple(self._cut(delimiter) for delimiter in DELIMITERS)
        self._forms: dict[tuple[int, int], bytes] = {}

    def of(self, start: int, end: int) -> frozenset[bytes]:
        """The forms of all rows that have one of the file's bytes from ``start`` to ``end``."""
        found = set[bytes]()
        for starts in self._starts:
            first, behind = bisect_right(starts, start) - 1, bisect_left(starts, end)
            found.update(self._form(*starts[at : at + 2]) for at in range(max(0, first), behind))
        return frozenset(found - {b""})

    def apart(self) -> frozenset[bytes]:
        """The forms of all rows that not every delimiter makes."""
        end, found = len(self._raw), Counter[tuple[int, int]]()
        for starts in self._starts:
            found.update(zip(starts, (*starts[1:], end), strict=True))
        return frozenset(self._form(*span) for span, made in found.items() if made < len(DELIMITERS)) - {b""}

    def _form(self, start: int, end: int | None = None) -> bytes:
        place = (start, len(self._raw) if end is None else end)
        if place not in self._forms:
            row = self._raw[slice(*place)].strip(b"\r\n")
            self._forms[place] = sameness.form(row) if row else b""
        return self._forms[place]

    def _cut(self, delimiter: bytes) -> list[int]:
        """Where the rows begin: at each line that no quoted value goes on into."""
        starts, place, inside = list[int](), 0, False
        for line in self._raw.splitlines(keepends=True):
            if not inside:
                starts.append(place)
            inside = (inside or QUOTE in line) and _goes_on(line, delimiter, inside=inside)
            place += len(line)
        return starts


def _goes_on(line: bytes, delimiter: bytes, *, inside: bool) -> bool:
    """Whether a quoted value goes on behind this line; ``inside`` one it begins there, or not."""
    place, opens = 0, delimiter + QUOTE
    if not inside and line.startswith(QUOTE):
        place, inside = 1, True
    while True:
        if inside:
            closed = CLOSED.match(line, place)
            if closed is None:
                return True
            place = closed.end()
        found = line.find(opens, place)
        if found < 0:
            return False
        place, inside = found + len(opens), True


def read(found: Path | str, source: DataSource) -> Iterator[Row]:
    """The rows of a file, or of a data set that the library `datasets` reads.

    Raises:
        OperatorFault: bad bytes, no table, or no rows: with file and line.
        Missing: the data set, or the library for it, is not on this machine.
    """
    if isinstance(found, str) or found.is_dir():
        return _hub(found, source)
    readers: Mapping[str, Callable[[bytes, str, Path], Iterator[Row]]] = {
        ".csv": _comma_separated,
        ".tsv": _tab_separated,
        ".tab": _tab_separated,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
    }
    kind = Path(found.name.lower().removesuffix(PACKED)).suffix
    reader = readers.get(kind)
    if reader is None:
        remedy = f"one of {', '.join(TABLES)} is expected, or one of them packed as {PACKED}"
        raise OperatorFault(f"a file of kind {kind!r}", remedy, str(found))
    raw, encoding = _narrow(_unpacked(found), source.encoding, str(found))
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if not raw.strip():
        raise OperatorFault("no rows", "the file is empty", str(found))
    return reader(raw, encoding, found)


def _unpacked(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix.lower() != PACKED:
        return raw
    try:
        return gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as fault:
        raise OperatorFault(f"no whole gzip file: {fault}", "copy the file again", str(path)) from None


def _narrow(raw: bytes, name: str, place: str) -> tuple[bytes, str]:
    """Bytes in which ASCII is itself, and their encoding: those of UTF-16 as UTF-8, the others as they are."""
    encoding, marked = codecs.lookup(name).name, WIDE.get(raw[:2])
    wide = encoding.startswith("utf-16")
    if marked is None:
        if wide:
            raise OperatorFault("no mark of UTF-16 in front", "set `encoding`, or save the file as utf-8", place)
        return raw, "utf-8" if encoding == "utf-8-sig" else encoding
    if encoding not in ("utf-16", marked):
        raise OperatorFault(f"this is UTF-16 by its mark, and is read as {name}", "set `encoding: utf-16`", place)
    try:
        return raw[2:].decode(marked).encode(), "utf-8"
    except UnicodeDecodeError as fault:
        line = raw[2:].decode(marked, "replace").count("\n", 0, fault.start // 2) + 1
        raise OperatorFault("bytes that are not UTF-16", "mend the file", f"{place}:{line}") from None


def _decoded(line: bytes, encoding: str, place: str) -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as fault:
        what = f"byte {line[fault.start]:#04x} is not {encoding}"
        raise OperatorFault(what, "set `encoding`, or mend the file", place) from None


def _comma_separated(raw: bytes, encoding: str, path: Path) -> Iterator[Row]:
    return _separated(raw, encoding, path, ",")


def _tab_separated(raw: bytes, encoding: str, path: Path) -> Iterator[Row]:
    return _separated(raw, encoding, path, "\t")


def _separated(raw: bytes, encoding: str, path: Path, delimiter: str) -> Iterator[Row]:
    cuts, taken, place = Cuts(raw), list[bytes](), 0  # the lines of the row that is being read, and where it begins

    def lines() -> Iterator[str]:
        for number, line in enumerate(raw.splitlines(keepends=True), start=1):
            taken.append(line)
            yield _decoded(line, encoding, f"{path}:{number}")

    reader = csv.DictReader(lines(), restkey=SURPLUS, delimiter=delimiter)
    try:
        names = reader.fieldnames or ()
        if len(set(names)) != len(names):
            raise OperatorFault("a column name stands twice", "name each column once", f"{path}:1")
        place = sum(map(len, taken))
        taken.clear()
        for row in reader:
            line = b"".join(taken)
            if SURPLUS in row:
                what = f"more values than the {len(names)} columns"
                raise OperatorFault(what, "quote what holds the delimiter", f"{path}:{reader.line_num}")
            found = cuts.of(place, place + len(line))
            yield Row(f"{path}:{reader.line_num}", row, line.strip(b"\r\n"), encoding, cuts=found)
            place += len(line)
            taken.clear()
    except csv.Error as fault:
        raise OperatorFault(f"no table: {fault}", "mend the row", f"{path}:{reader.line_num}") from None


def _json_lines(raw: bytes, encoding: str, path: Path) -> Iterator[Row]:
    cuts, start, end = Cuts(raw), 0, -1
    for number, line in enumerate(raw.split(b"\n"), start=1):  # not splitlines: a row may hold a carriage return
        start, end = end + 1, end + 1 + len(line)
        place = f"{path}:{number}"
        text = _decoded(line, encoding, place)
        if not text.strip():
            continue
        try:
            row = json.loads(text, object_pairs_hook=_each_once)
        except json.JSONDecodeError as fault:  # its chain would show the line
            raise OperatorFault(f"no JSON: {fault.msg}", "one object a line", place) from None
        except (ValueError, RecursionError):
            what = "a name stands twice, or a number or structure is out of bounds"
            raise OperatorFault(what, "name each value of an object once", place) from None
        if not isinstance(row, dict):
            raise OperatorFault("no JSON object", "one object a line", place)
        yield Row(place, row, line.strip(), encoding, cuts=cuts.of(start, end))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object of a row: readers differ in which of two values with one name they take."""
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError
    return found


def _hub(found: Path | str, source: DataSource) -> Iterator[Row]:
    try:
        import datasets  # noqa: PLC0415
    except ImportError as fault:
        remedy = "pip install 'securefl-core[hub]', or name a CSV, TSV or JSON Lines file"
        raise Missing("a Hugging Face data set needs the library `datasets`", remedy, str(found)) from fault
    try:
        rows = datasets.load_dataset(str(found), split=source.split)
    except (OSError, ValueError, ConnectionError) as fault:
        remedy = "fetch it first; nothing is fetched here"
        raise Missing("this data set is not on this machine", remedy, str(found)) from fault
    cuts = _apart_in(Path(found)) if not isinstance(found, str) else frozenset()
    classes = {name: each.int2str for name, each in (rows.features or {}).items() if hasattr(each, "int2str")}
    for number, row in enumerate(rows, start=1):
        named = tuple(
            of(row[name]) for name, of in classes.items() if isinstance(row.get(name), int) and row[name] >= 0
        )
        yield Row(f"{found}, row {number}", row, names=named, cuts=cuts)


def _apart_in(folder: Path) -> frozenset[bytes]:
    """Of a folder's tables, the rows that not every delimiter makes: a library's row does not say where it stood."""
    found = set[bytes]()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and Path(path.name.lower().removesuffix(PACKED)).suffix in TABLES:
            raw = _unpacked(path)
            marked = WIDE.get(raw[:2])
            found |= Cuts(
                raw[2:].decode(marked, "replace").encode() if marked else raw.removeprefix(codecs.BOM_UTF8)
            ).apart()
    return frozenset(found)
