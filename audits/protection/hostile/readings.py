"""Is a row still itself, however the federation's file has it read?

One table of a site is read twice, from two columns: in two encodings, or by its file and by a library that makes
numbers, dates and classes of its words.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.identity import brought_back, rows_of, tiny_model
from securefl.documents import federation_file
from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.simulation import parties
from securefl.site import charged_records
from securefl.terms import MemberId
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


def _as_parquet(rows: Sequence[Mapping[str, str]], path: Path, encoding: str) -> None:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    del encoding
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("body", "subject", "label")}
    columns["score"] = pa.array([float(row["score"]) for row in rows], pa.float32())
    columns["day"] = pa.array([date.fromisoformat(row["day"]) for row in rows], pa.date32())
    parquet.write_table(pa.table(columns), path)


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
    kinds: Sequence[tuple[Writer, str, str]] = (
        (_as_csv, "train.csv", "csv"), (_as_parquet, "train.parquet", "csv"), (_as_json, "train.jsonl", "jsonl"),
    )  # fmt: skip
    writer, inside, beside = kinds[number % len(kinds)]
    made = Small(folder)
    for name in MEMBERS:
        (folder / name).mkdir()
        rows = _table(drawn, name)
        writer(rows, folder / name / inside, "utf-8")
        (_as_json if beside == "jsonl" else _as_csv)(rows, folder / f"{name}.{beside}", "utf-8")
        if number % 2 and inside == "train.csv":  # labels are numbers to the library
            (folder / name / "README.md").write_text(CLASSES)
    file = "{}/train.csv" if inside == "train.csv" and not number % 2 else f"{{}}.{beside}"
    ways = [(file, {"text": "subject"}), ("./{}", {"text": "body", "labels": {"0": "bad", "1": "good"}})]
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


CLASSES = """---
dataset_info:
  features:
  - {name: subject, dtype: string}
  - {name: body, dtype: string}
  - {name: score, dtype: float32}
  - {name: day, dtype: string}
  - {name: number, dtype: int64}
  - name: label
    dtype:
      class_label:
        names: {'0': bad, '1': good}
---
"""


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

    Of these all, or those alone that are in the midst of a text; by its file, or a folder that a library reads.
    """
    drawn, site = random.Random(f"delimiter {number}"), folder / "site"  # noqa: S311
    lines = [HEAD]
    for place in range(drawn.randint(2, 6)):
        first, middle, last = (" ".join(drawn.sample(FILLER, 4)) for _ in range(3))
        inside = f"{first}\tgood\nmiddle {middle} {place}\tbad\n{last}\tgood\tend"
        lines.append(f'{place},"{inside}",good,z')
    if drawn.random() < 0.3:
        lines.insert(1, "0,one line,bad,z\tgood")
    (folder / "f").mkdir()
    paths = {"csv": folder / "r.csv", "tsv": folder / "r.tsv", "library": folder / "f" / "r.tsv"}
    for path in paths.values():
        path.write_text("\n".join(lines))
    by_comma = {"file": "r.csv", "text": "text", "label": "label"}
    by_tab = {"file": "./f" if number % 3 == 0 else "r.tsv", "text": "id,text,label,x", "label": "label"}
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


ATTEMPTS = (
    Attempt("one file is read by a comma and by a tab, where its texts have several lines", read_by_another_delimiter),
    Attempt("a file of the federation has a table read in two encodings and columns", read_in_another_encoding),
    Attempt("a file of the federation has a table read by file and by a library", read_by_a_library),
)
