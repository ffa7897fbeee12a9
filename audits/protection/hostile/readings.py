"""Is a row still itself, however the federation's file has it read, and whatever rows stand beside it?

One table of a site is read twice, from two columns: in two encodings, or by its file and by a library that makes
numbers, dates and classes of its words. Or a table gets one row more, and is read again.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.identity import brought_back, rows_of, tiny_model
from securefl.documents import federation_file
from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.simulation import parties
from securefl.site import charged_records
from securefl.terms import MemberId
from securefl.terms.records import Record
from securefl.training.data import load
from tests.support.small import FILLER, MEMBERS, Small

Reading = Mapping[str, Any]


def _table(drawn: random.Random, name: str) -> list[dict[str, str]]:
    """Rows with two columns of text; no two members have words in one order, nor a row's columns."""
    rows = rows_of(drawn, name)
    bodies = [f"{' '.join(drawn.sample(FILLER, 5))} {name} naïve {n}" for n in range(len(rows))]
    return [
        {"subject": text, "body": body, "score": f"{drawn.randint(1, 9)}.50", "day": f"2020-01-{n % 28 + 1:02}",
         "number": f"{n:04}", "label": label}
        for n, ((text, label), body) in enumerate(zip(rows, bodies, strict=True))
    ]  # fmt: skip


def _as_csv(rows: Sequence[Mapping[str, str]], path: Path, encoding: str, delimiter: str = ",") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


def _as_json(rows: Sequence[Mapping[str, str]], path: Path, encoding: str) -> None:
    """Each text with raw characters beside one that is written as an escape, and numbers as numbers."""
    lines = []
    for row in rows:
        values = {**row, "score": float(row["score"]), "number": int(row["number"])}
        lines.append(
            json.dumps(values, ensure_ascii=False).replace(" naïve", "\\u2028naïve").replace("café", "café\\u2028")
        )
    path.write_text("\n".join(lines), encoding)


def _as_parquet(rows: Sequence[Mapping[str, str]], path: Path, encoding: str, *, classes: bool = False) -> None:
    """Numbers, dates and, for a library that knows them, classes in place of words."""
    import datasets  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    del encoding
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("body", "subject", "label")}
    columns["score"] = pa.array([float(row["score"]) for row in rows], pa.float32())
    columns["day"] = pa.array([date.fromisoformat(row["day"]) for row in rows], pa.date32())
    made = datasets.Dataset(pa.table(columns))
    if classes:
        made = made.cast_column("label", datasets.ClassLabel(names=["bad", "good"]))
    made.to_parquet(path)


Writer = Callable[[Sequence[Mapping[str, str]], Path, str], None]
PREFIX = {"replace": [{"pattern": "^", "with": "flight flight "}]}
# how a site's file is written, its ending and encoding; and two ways to have it read
TWICE: Sequence[tuple[Writer, str, str, Reading, Reading]] = (
    (_as_csv, "csv", "utf-8", {"text": "subject"}, {"text": "body", "encoding": "utf-8-sig"}),
    (_as_json, "jsonl", "utf-8", {"text": "subject"}, {"text": "subject", **PREFIX, "encoding": "latin-1"}),
    (_as_csv, "csv", "utf-16", {"text": "subject", "encoding": "utf-16"}, {"text": "body", "encoding": "utf-16-le"}),
    (_as_json, "jsonl", "utf-8", {"text": "body", "encoding": "latin-1"}, {"text": "subject", "encoding": "koi8-r"}),
    (_as_csv, "csv", "cp1252", {"text": "subject", "encoding": "cp1252"}, {"text": "body", "encoding": "latin-1"}),
    (partial(_as_csv, delimiter="\t"), "tsv", "utf-8-sig", {"text": "body"}, {"text": "subject", "encoding": "cp1252"}),
    (_as_json, "jsonl", "utf-16", {"text": "body", "encoding": "utf-16"}, {"text": "subject", "encoding": "utf-16-le"}),
    (_as_csv, "csv", "gb18030", {"text": "subject", "encoding": "gb18030"}, {"text": "body", "encoding": "koi8-r"}),
)  # fmt: skip


def read_in_another_encoding(number: int, folder: Path) -> Outcome:
    """The federation's file has the same file of each site read twice, in two encodings and from two columns."""
    drawn = random.Random(f"encoding {number}")  # noqa: S311
    writer, kind, encoding, first, second = TWICE[number % len(TWICE)]
    made, packed = Small(folder), drawn.random() < 0.3
    for name in MEMBERS:
        path = folder / f"{name}.{kind}"
        writer(_table(drawn, name), path, encoding)
        if packed:  # in two members, which gzip reads as one
            whole = path.read_bytes()
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(whole[:999]) + gzip.compress(whole[999:]))
    ways = [first, second] if drawn.random() < 0.5 else [second, first]
    return _twice(made, *((f"{{}}.{kind}{'.gz' * packed}", way) for way in ways))


def read_by_a_library(number: int, folder: Path) -> Outcome:
    """A data set is named by its file, and by the folder that a library reads: numbers, dates and classes for words."""
    drawn = random.Random(f"folder {number}")  # noqa: S311
    beside = ("csv", "jsonl", "tsv")[number % 3]
    made = Small(folder)
    for name in MEMBERS:
        (folder / name).mkdir()
        rows = _table(drawn, name)
        _as_parquet(rows, folder / name / "train.parquet", "utf-8", classes=bool(number % 2))
        if beside == "jsonl":
            _as_json(rows, folder / f"{name}.jsonl", "utf-8")
        else:
            _as_csv(rows, folder / f"{name}.{beside}", "utf-8", "\t" if beside == "tsv" else ",")
    ways = [
        (f"{{}}.{beside}", {"text": "subject"}),
        ("./{}", {"text": "body", "labels": {"0": "bad", "1": "good"}}),
    ]
    if drawn.random() < 0.5:
        ways = [(ways[0][0], {"text": "body"}), ("./{}", {"text": "subject", "labels": {"0": "bad", "1": "good"}})][
            ::-1
        ]
    import datasets  # noqa: PLC0415

    kept, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
    try:
        return _twice(made, *ways)
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


def _twice(made: Small, first: tuple[str, Reading], second: tuple[str, Reading]) -> Outcome:
    """What a run on the second reading comes to, where the first was charged; ``{}`` in a path is a member."""
    sites = made.folder / "sites"

    def file(tag: str, path: str, told: Reading) -> Path:
        members = [
            {"name": name, "region": "here", "dataset": f"{name}{tag}", "data": {"file": path.format(name)}}
            for name in MEMBERS
        ]
        return made.file(f"federation{tag}.yaml", members=members, data={"label": "label", "heldout": 0, **told})

    loaded = federation_file.load(file("", *first))
    for name in MEMBERS:
        found, home = parties.records_of(loaded, name), Home.at(sites / name, MemberId(name), lambda: 0)
        charged_records.remember(home, name, found.forms | tiny_model().forms(found.train, 16))
        home.engine.dispose()
    return brought_back(made, sites, file("-new", *second))


HEAD = "id,text,label,x\tlabel\tmore"  # columns to a comma, and others to a tab


def read_by_another_delimiter(number: int, folder: Path) -> Outcome:
    """One file with texts of several lines is read as .csv, and as .tsv: whole texts, and then lines of them.

    Of these all, or those alone that are in the midst of a text.
    """
    drawn, site = random.Random(f"delimiter {number}"), folder / "site"  # noqa: S311
    lines = [HEAD]
    for place in range(drawn.randint(2, 6)):
        first, middle, last = (" ".join(drawn.sample(FILLER, 4)) for _ in range(3))
        inside = f"{first}\tgood\nmiddle {middle} {place}\tbad\n{last}\tgood\tend"
        lines.append(f'{place},"{inside}",good,z')
    if drawn.random() < 0.3:
        lines.insert(1, "0,one line,bad,z\tgood")
    for kind in ("csv", "tsv"):
        (folder / f"r.{kind}").write_text("\n".join(lines))
    by_comma = {"file": "r.csv", "text": "text", "label": "label", "multiline": True}
    by_tab = {"file": "r.tsv", "text": "id,text,label,x", "label": "label"}
    found = []
    for told in (by_comma, by_tab | drawn.choice(({}, {"contains": "middle"}))):
        source = DataSource.model_validate({**told, "heldout": 0})
        found.append(load(source, folder, ("bad", "good")))
    site.mkdir(mode=0o700)
    (first_forms, then_forms) = (each.forms for each in (found if drawn.random() < 0.5 else found[::-1]))
    with_home = Home.at(site, MemberId("a"), lambda: 0)
    charged_records.remember(with_home, "first", first_forms)
    with_home.engine.dispose()
    try:
        charged_records.check(site, "second", then_forms)
    except OperatorFault:
        return Outcome(succeeded=False, stopped_by="renamed records")
    return Outcome(succeeded=True, stopped_by="")


def _one_more(folder: Path, names: tuple[str, str], told: Reading) -> Outcome:
    """What two tables come to, of which one has a row more: are they one record apart, or is one refused?"""
    found: list[Counter[Record]] = []
    for name in names:
        try:
            source = DataSource.model_validate({**told, "file": name, "heldout": 0, "unlabelled": "keep"})
            found.append(Counter(load(source, folder, ("bad", "good")).train))
        except OperatorFault as fault:
            return Outcome(Path(name).name not in fault.place, "an error that names the file")
        except ValidationError:
            return Outcome(succeeded=False, stopped_by="an error that names the field")
    before, after = found
    return Outcome((before - after).total() + (after - before).total() > 1, "a row's part follows from this row")


def a_quotation_mark_more(number: int, folder: Path) -> Outcome:
    """Write messages by hand, one of which begins with a quotation mark: it swallows the lines up to the next."""
    drawn = random.Random(f"quotes {number}")  # noqa: S311
    kind, delimiter = (("tsv", "\t"), ("csv", ","))[number % 2]
    lines = [f"{drawn.choice(['bad', 'good'])}{delimiter}message {n} of the day" for n in range(drawn.randint(20, 60))]
    if drawn.random() < 0.5:  # where the next one stands
        lines.insert(drawn.randrange(len(lines) // 2, len(lines)), f'bad{delimiter}a screen of 15"')
    more = list(lines)
    more.insert(drawn.randrange(len(lines) // 2), f'good{delimiter}"late again{drawn.choice(["", " and again"])}')
    for name, rows in (("one", lines), ("more", more)):
        (folder / f"{name}.{kind}").write_text("\n".join([f"label{delimiter}text", *rows]))
    return _one_more(folder, (f"one.{kind}", f"more.{kind}"), {})


def a_row_of_another_type(number: int, folder: Path) -> Outcome:
    """Have a library read a folder, and choose rows by a column that one row more makes words of."""
    drawn = random.Random(f"types {number}")  # noqa: S311
    wards = drawn.choice((["07", "1", "3"], ["1.50", "2", "07"], ["2020-01-02", "2020-01-03"], ["true", "false"]))
    rows = [{"text": f"message {n}", "label": "bad", "ward": drawn.choice(wards)} for n in range(drawn.randint(20, 60))]
    odd = {"text": "one more", "label": "good", "ward": "A1"}
    kind = ("csv", "jsonl", "tsv")[number % 3]
    for name, held in (("one", rows), ("more", [*rows, odd])):
        (folder / name).mkdir()
        if kind == "jsonl":
            (folder / name / "train.jsonl").write_text("\n".join(map(json.dumps, held)))
        else:
            _as_csv(held, folder / name / f"train.{kind}", "utf-8", "\t" if kind == "tsv" else ",")
    import datasets  # noqa: PLC0415

    kept, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
    try:
        return _one_more(folder, ("./one", "./more"), {"where": {"ward": wards}})
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


def a_part_by_place(number: int, folder: Path) -> Outcome:
    """Name a part of a split, which takes rows by their place: one row more moves all behind it."""
    import datasets  # noqa: PLC0415

    rows = [{"text": f"message {n}", "label": "bad"} for n in range(20 + number % 9)]
    for name, held in (("one", rows), ("more", [{"text": "one more", "label": "good"}, *rows])):
        (folder / name).mkdir()
        datasets.Dataset.from_list(held).to_parquet(folder / name / "train.parquet")
    pieces = "+".join(f"train[{n}:{n + 1}]" for n in range(0, 20, 2))
    split = ("train[:50%]", pieces, "train[-5:]", "train[3:9]")[number % 4]
    kept, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
    try:
        return _one_more(folder, ("./one", "./more"), {"split": split})
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


ATTEMPTS = (
    Attempt("a text that begins with a quotation mark takes other rows with it", a_quotation_mark_more),
    Attempt("one row more changes how a library reads a column of all others", a_row_of_another_type),
    Attempt("a federation's file takes rows of a split by their place", a_part_by_place),
    Attempt("one file is read by a comma and by a tab, where its texts have several lines", read_by_another_delimiter),
    Attempt("a file of the federation has a table read in two encodings and columns", read_in_another_encoding),
    Attempt("a file of the federation has a table read by file and by a library", read_by_a_library),
)
