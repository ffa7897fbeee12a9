"""The rows of a table: each with its columns, and with its bytes as they stand in the file.

A line's ends and a column's quotes are ASCII, and every encoding of `documents.encodings` but UTF-16 leaves ASCII as it
is. So a file is cut into lines before it is decoded, and a row has the same bytes whatever it is read as. A file in
UTF-16 begins with its mark; one with the mark is read as nothing else, and one without it is not read as UTF-16.

Which columns a row has, and which lines are the row, follows from these lines and the header alone. A line of a .tsv is
one row, and a quotation mark in it is a character. In a .csv a quoted value ends in its line, unless the document says
`multiline: true`; else one mark too many would make one row of all lines up to the next. What ends a value in a .csv is
said by the document or by the header, which is no row.

A row is recognised whatever its file is called: it carries the rows that every reading makes of its lines (`Cuts`).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from securefl.documents.data_source import DataSource
from securefl.errors import Missing, OperatorFault
from securefl.training import columns, same_records
from securefl.training.foreign import words
from securefl.training.sources import PACKED, TABLES, TYPED

DELIMITERS: Final = (b",", b"\t", b";", b"|")  # those that a table with quoted values may have, whatever it is called
csv.field_size_limit((1 << 31) - 1)  # a text may have any length: the file is in memory already
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
    called: Mapping[str, str] = field(default_factory=dict)  # of columns with numbered classes: this row's class
    cuts: frozenset[bytes] = frozenset()  # forms of the rows that any reading makes of its lines


class Cuts:
    """A file's lines put together to rows in each way: by a delimiter and quotes, as `csv` does it, and one by one.

    They are the same whatever the file is called.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._starts = tuple(self._cut(delimiter) for delimiter in (*DELIMITERS, None))
        self._forms: dict[tuple[int, int], bytes] = {}

    def of(self, start: int, end: int) -> frozenset[bytes]:
        """The forms of all rows that have one of the file's bytes from ``start`` to ``end``."""
        found = set[bytes]()
        for starts in self._starts:
            first, behind = bisect_right(starts, start) - 1, bisect_left(starts, end)
            found.update(self._form(*starts[at : at + 2]) for at in range(max(0, first), behind))
        return frozenset(found - {b""})

    def _form(self, start: int, end: int | None = None) -> bytes:
        place = (start, len(self._raw) if end is None else end)
        if place not in self._forms:
            row = self._raw[slice(*place)].strip(b"\r\n")
            self._forms[place] = same_records.form(row) if row else b""
        return self._forms[place]

    def _cut(self, delimiter: bytes | None) -> list[int]:
        """Return where the rows begin: at each line that no quoted value goes on into; at each, without a delimiter."""
        starts, place, inside = list[int](), 0, False
        for line in self._raw.splitlines(keepends=True):
            if not inside:
                starts.append(place)
            if delimiter is not None:
                inside = (inside or QUOTE in line) and _goes_on(line, delimiter, inside=inside)
            place += len(line)
        return starts


def _goes_on(line: bytes, delimiter: bytes, *, inside: bool) -> bool:
    """Return whether a quoted value goes on behind this line; ``inside`` one it begins there, or not."""
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
    if isinstance(found, str):
        return _hub(found, source)
    if found.is_dir() or found.suffix.lower() in TYPED:
        return (Row(place, row, called=called) for place, row, called in columns.read(found, source))
    readers: Mapping[str, Callable[[bytes, str, Path, DataSource], Iterator[Row]]] = {
        ".csv": _comma_separated,
        ".tsv": _tab_separated,
        ".tab": _tab_separated,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
    }
    kind = _kind(found)
    reader = readers.get(kind)
    if reader is None:
        remedy = (
            f"one of {', '.join((*TABLES, *TYPED))} is expected, or one of the first {len(TABLES)} packed as {PACKED}"
        )
        raise OperatorFault(f"a file of kind '{kind}'", remedy, str(found))
    if source.delimiter is not None and kind != ".csv":
        raise OperatorFault(f"`delimiter`, and {kind} files have one of their own", "leave it out", str(found))
    raw, encoding = _narrow(_unpacked(found), source.encoding, str(found))
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if not raw.strip():
        raise OperatorFault("no rows", "the file is empty", str(found))
    return reader(raw, encoding, found, source)


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


def _comma_separated(raw: bytes, encoding: str, path: Path, source: DataSource) -> Iterator[Row]:
    lines = _Lines(raw, encoding, path, multiline=source.multiline)
    delimiter = source.delimiter or delimiter_of(raw, encoding, source)
    return _separated(lines, csv.DictReader(lines, restkey=SURPLUS, strict=True, delimiter=delimiter))


def delimiter_of(raw: bytes, encoding: str, source: DataSource) -> str:
    """What ends a value in this table, by its header alone: what makes the columns of it that are asked for.

    A comma, where none or several do. Records may have no label: then it is what makes the column of texts.
    """
    header = next(iter(raw.splitlines()), b"").decode(encoding, "replace")
    made = {each.decode(): set(next(csv.reader([header], delimiter=each.decode()), [])) for each in DELIMITERS}
    for wanted in ({source.text, source.label}, {source.text}):
        found = [delimiter for delimiter, names in made.items() if wanted <= names]
        if len(found) == 1:
            return found[0]
    return ","


def _tab_separated(raw: bytes, encoding: str, path: Path, source: DataSource) -> Iterator[Row]:
    del source  # a line is a row
    lines = _Lines(raw, encoding, path, multiline=False)
    return _separated(lines, csv.DictReader(lines, restkey=SURPLUS, delimiter="\t", quoting=csv.QUOTE_NONE))


class _Lines:
    """A file's lines for a reader, which asks for as many as it makes one row of."""

    def __init__(self, raw: bytes, encoding: str, path: Path, *, multiline: bool) -> None:
        self.raw, self.encoding, self.path, self._multiline = raw, encoding, path, multiline
        self.number, self._begun, self._taken = 0, 0, list[bytes]()
        self._lines = iter(raw.splitlines(keepends=True))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self._taken.append(line)
        if line.strip(b"\r\n"):  # a reader leaves empty lines out
            if self._begun and not self._multiline:
                what = "a quotation mark begins a value that does not end in this line"
                remedy = "take the mark away, or quote the value and double it; if this file's values are meant to"
                raise OperatorFault(what, f"{remedy} have several lines, set `multiline: true`", self.place)
            self._begun = self._begun or self.number
        return _decoded(line, self.encoding, f"{self.path}:{self.number}")

    @property
    def place(self) -> str:
        """Where the row begins that is being read."""
        return f"{self.path}:{self._begun or self.number}"

    def row(self) -> bytes:
        """The lines since the last row, which are one now."""
        found, self._taken, self._begun = b"".join(self._taken), [], 0
        return found


def _separated(lines: _Lines, reader: csv.DictReader[str]) -> Iterator[Row]:
    cuts = Cuts(lines.raw)
    try:
        names = reader.fieldnames or ()
        if len(set(names)) != len(names):
            raise OperatorFault("a column name stands twice", "name each column once", f"{lines.path}:1")
        place = len(lines.row())
        for row in reader:
            at, line = f"{lines.path}:{lines.number}", lines.row()
            if SURPLUS in row:
                what = f"more values than the {len(names)} columns"
                tabs = "a tab ends a value here, quoted or not: take it out of the text, or save the table as .csv"
                mark = reader.reader.dialect.delimiter
                remedy = tabs if mark == "\t" else f"quote what holds a `{mark}`"
                raise OperatorFault(what, remedy, at)
            found = cuts.of(place, place + len(line))
            yield Row(at, row, line.strip(b"\r\n"), lines.encoding, cuts=found)
            place += len(line)
    except csv.Error as fault:
        remedy = "quote each value that holds a comma or begins with a quotation mark, and double the marks in it"
        raise OperatorFault(f"no table: {fault}", remedy, lines.place) from None


def _json_lines(raw: bytes, encoding: str, path: Path, source: DataSource) -> Iterator[Row]:
    del source  # a line is a row
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


def _hub(found: str, source: DataSource) -> Iterator[Row]:
    """The rows of a data set by its Hugging Face name: from where the library keeps it already."""
    try:
        import datasets  # noqa: PLC0415
    except ImportError as fault:
        remedy = "pip install 'securefl-core[hub]', or name a CSV, TSV or JSON Lines file"
        raise Missing("a Hugging Face data set needs the library `datasets`", remedy, found) from fault
    try:
        rows = datasets.load_dataset(found, split=source.split)
    except (OSError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as fault:
        remedy = "fetch it first; nothing is fetched here"
        raise Missing("this data set is not on this machine", remedy, found) from fault
    except Exception as fault:  # of the library, whatever it raises
        remedy = "write a `split` that it has, or fetch it again; nothing is fetched here"
        raise OperatorFault(f"no data set that can be read: {words(fault)}", remedy, found) from fault
    classes = {name: each.int2str for name, each in (rows.features or {}).items() if hasattr(each, "int2str")}
    for number, row in enumerate(rows, start=1):
        called = {
            name: of(row[name]) for name, of in classes.items() if isinstance(row.get(name), int) and row[name] >= 0
        }
        yield Row(f"{found}, row {number}", row, called=called)


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(PACKED)).suffix
