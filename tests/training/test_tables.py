"""Tables as people have them: values that are none, labels as files write them, delimiters, long texts, Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.terms.records import UNKNOWN
from securefl.training import values
from securefl.training.data import Records, load, texts

LABELS = ("bad", "good")
SECRET = "my confirmation number is QX7"


def read(folder: Path, name: str, body: str | bytes, **told: Any) -> Records:
    (folder / name).write_bytes(body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"))
    return load(DataSource.model_validate({"file": f"./{name}", "heldout": 0, **told}), folder, LABELS)


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, rows))


def of(records: Records) -> list[tuple[str, int]]:
    return [(each.text, each.label) for each in records.train]


NONE = ['{"text": "x", "label": null}', '{"text": "x", "label": NaN}', '{"text": "x", "label": " "}', '{"text": "x"}', '{"text": "x", "label": "NA"}']  # fmt: skip


@pytest.mark.parametrize("row", NONE)
def test_a_label_that_is_none_is_one_rule_however_it_is_written(tmp_path: Path, row: str) -> None:
    body, told = f'{{"text": "kept", "label": "good"}}\n{row}', {"missing": ["NA"]}
    assert of(read(tmp_path, "r.jsonl", body, unlabelled="drop", **told)) == [("kept", 1)]
    assert of(read(tmp_path, "r.jsonl", body, unlabelled="keep", **told)) == [("kept", 1), ("x", UNKNOWN)]
    with pytest.raises(OperatorFault, match=r"r.jsonl:2: no (value in the )?column|r.jsonl:2: no value in the column"):
        read(tmp_path, "r.jsonl", body, **told)


@pytest.mark.parametrize(
    "row", [each.replace('"text": "x", ', "").replace("label", "text") for each in NONE if "label" in each]
)
def test_a_text_that_is_none_is_left_out_and_counted_or_refused_as_the_document_says(tmp_path: Path, row: str) -> None:
    body, told = f'{{"text": "kept", "label": "good"}}\n{row[:-1]}, "label": "bad"}}', {"missing": ["NA"]}
    records = read(tmp_path, "r.jsonl", body, **told)
    assert of(records) == [("kept", 1)]
    assert str(records.counts) == "2 rows: 1 without a text, 1 to train on, 0 held out"
    with pytest.raises(
        OperatorFault, match="r.jsonl:2: no value in the column `text`; mend the row, or set `on_missing: drop`"
    ):
        read(tmp_path, "r.jsonl", body, on_missing="refuse", **told)


def test_none_of_the_words_for_none_is_none_unless_the_document_says_so(tmp_path: Path) -> None:
    assert of(read(tmp_path, "r.csv", "text,label\nNA,good\nnull,good\nNaN,good")) == [
        ("NA", 1),
        ("null", 1),
        ("NaN", 1),
    ]


@given(st.one_of(st.none(), st.floats(), st.text(max_size=4), st.integers(), st.booleans()))
def test_every_value_is_none_or_has_words(value: object) -> None:
    assert values.is_missing(value) or values.written(value, "c", "p").strip()


@pytest.mark.parametrize(("label", "mapped"), [
    (True, {"true": "good"}), (False, {"false": "good"}), (1, {"1": "good"}), (1.0, {"1": "good"}), (1.0, {"1.0": "good"}), (-3.0, {"-3": "good"}),
])  # fmt: skip
def test_a_label_is_what_its_file_writes(tmp_path: Path, label: object, mapped: dict[str, str]) -> None:
    assert of(read(tmp_path, "r.jsonl", lines({"text": "x", "label": label}), labels=mapped)) == [("x", 1)]


@pytest.mark.parametrize(("label", "shown"), [
    (True, "`label` is 'true'; one of bad, good"), ([1], "`label` is a list; one value"), ({"a": 1}, "`label` is a structure"),
    ("good ", '`label` is "good "; it is good but for case, blanks'), ("Good", '`label` is "Good"; it is good but for case'),
    ("good\u200b", r'`label` is "good\\u200b"; it is good but for'), (SECRET, "`label` is a value of 29 characters"),
    ("a b", "`label` is a value of 3 characters"), ("\ud83d", "a value of 1 characters"),
])  # fmt: skip
def test_a_label_that_is_none_of_them_is_shown_as_it_stands_but_for_a_text(
    tmp_path: Path, label: object, shown: str
) -> None:
    with pytest.raises(OperatorFault, match=shown) as refused:
        read(tmp_path, "r.jsonl", lines({"text": "x", "label": label}))
    assert SECRET not in str(refused.value)


def test_half_of_a_character_in_a_text_is_the_sign_for_no_character(tmp_path: Path) -> None:
    body = '{"text": "so \\ud83d kind", "label": "good"}\n{"text": "so \\ud83e kind", "label": "good"}'
    assert of(read(tmp_path, "r.jsonl", body)) == [("so \ufffd kind", 1)]
    from securefl.simulation.leakage_probe import Marks

    Marks(each.text for each in read(tmp_path, "r.jsonl", body).train)


def test_a_row_that_is_not_asked_for_is_asked_nothing(tmp_path: Path) -> None:
    body = lines(
        {"text": "x", "label": "good", "part": 1.0},
        {"text": 5, "label": "strange", "part": 2},
        {"label": [], "part": None},
    )
    records = read(tmp_path, "r.jsonl", body, where={"part": "1"}, on_missing="refuse")
    assert of(records) == [("x", 1)]
    assert str(records.counts) == "3 rows: 2 not asked for, 1 to train on, 0 held out"


@pytest.mark.parametrize(("body", "told", "why"), [
    ("text,label\nx,good", {"heldout": 0.999999}, "of 1 row: 0 to train on, 1 held out; set `heldout` lower than 0.999999; 0 holds"),
    ("text,label\nx,good", {"contains": "@me"}, "no rows with '@me' to train on, of 1 row: 1 not asked for.*check `contains`"),
    ("text,label\nx,good", {"where": {"text": "y"}}, "1 not asked for.*check `where`"),
    ("text,label\n,good\n ,bad", {}, "2 rows: 2 without a text.*check the column `text`"),
    ("text,label\nx,", {"unlabelled": "drop"}, "1 without a label.*or set `unlabelled: keep`"),
    ("text,label\nx,good\nx,bad", {}, "1 again of a text that is there, 1 of texts whose labels tie.*give each text one label"),
    ("text,label\n", {}, "a header and no row"),
])  # fmt: skip
def test_where_nothing_is_left_the_reason_is_the_one_that_is_there(
    tmp_path: Path, body: str, told: Any, why: str
) -> None:
    with pytest.raises(OperatorFault, match=why):
        read(tmp_path, "r.csv", body, **told)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("columns", [["text", "label"], ["id", "label", "text"]])
def test_what_ends_a_value_is_what_makes_the_columns_of_the_header(
    tmp_path: Path, delimiter: str, columns: list[str]
) -> None:
    rows = [{"id": 1, "text": "a, b; c | d\te", "label": "good"}, {"id": 2, "text": "so; what", "label": "bad"}]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        made = csv.DictWriter(file, columns, delimiter=delimiter, extrasaction="ignore")
        made.writeheader()
        made.writerows(rows)
    body = (tmp_path / "r.csv").read_bytes()
    assert of(read(tmp_path, "r.csv", body)) == [("a, b; c | d\te", 1), ("so; what", 0)]
    assert of(read(tmp_path, "r.csv", body, delimiter=delimiter)) == [("a, b; c | d\te", 1), ("so; what", 0)]
    assert texts(tmp_path / "r.csv", "text") == ["a, b; c | d\te", "so; what"]


def test_a_delimiter_that_nothing_says_is_the_documents_or_a_comma(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match="no column `text`; the columns are text~label"):
        read(tmp_path, "r.csv", "text~label\nx~good")
    assert of(read(tmp_path, "r.csv", "text~label\nx~good", delimiter="~")) == [("x", 1)]
    for name in ("r.tsv", "r.jsonl"):
        with pytest.raises(OperatorFault, match="have one of their own; leave it out"):
            read(tmp_path, name, "text\tlabel\nx\tgood", delimiter=";")
    with pytest.raises(ValueError, match="a quotation mark or the end of a line"):
        DataSource.model_validate({"file": "r.csv", "delimiter": '"'})
    with pytest.raises(OperatorFault, match="more values than the 2 columns; quote what holds a `;`"):
        read(tmp_path, "r.csv", "text;label\nx;good;more")


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.jsonl"])
def test_a_text_may_have_any_length(tmp_path: Path, name: str) -> None:
    long = "word " * 60_000
    body = {"r.csv": f"text,label\n{long},good", "r.tsv": f"text\tlabel\n{long}\tgood"}.get(
        name, lines({"text": long, "label": "good"})
    )
    assert of(read(tmp_path, name, body)) == [(long, 1)]


ROWS = [{"text": "so kind", "label": 1, "part": "a"}, {"text": "lost, again", "label": 0, "part": "b"}]


@pytest.fixture
def parquet(tmp_path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import ipc
    from pyarrow import parquet as pq

    def write(name: str, rows: list[dict[str, Any]] = ROWS, classes: tuple[str, ...] = ()) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(rows)
        if classes:
            told = {
                "info": {"features": {"label": {"_type": "ClassLabel", "names": classes}, "text": {"dtype": "string"}}}
            }
            table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
        if name.endswith(".parquet"):
            pq.write_table(table, path)
        else:
            make = ipc.new_file if "random" in name else ipc.new_stream
            with make(str(path), table.schema) as out:
                out.write_table(table)
        return path

    return write


def own(folder: Path, file: str, **told: Any) -> list[tuple[str, int]]:
    source = DataSource.model_validate({"file": file, "heldout": 0, "labels": {"0": "bad", "1": "good"}, **told})
    return of(load(source, folder, LABELS))


READ = [("so kind", 1), ("lost, again", 0)]


@pytest.mark.parametrize("name", ["r.parquet", "r.arrow", "random.arrow"])
def test_a_file_that_says_its_types_is_read_where_it_lies(
    tmp_path: Path, parquet: Any, name: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    parquet(name)
    before = sorted(tmp_path.rglob("*"))
    assert own(tmp_path, name) == READ
    assert sorted(tmp_path.rglob("*")) == before, "no copy of a record is made"
    assert texts(tmp_path / name, "text") == ["so kind", "lost, again"]


def test_a_folders_splits_are_by_name_and_one_that_is_not_there_is_told(tmp_path: Path, parquet: Any) -> None:
    for name in ("d/data/train-00000-of-00002.parquet", "d/data/train-00001-of-00002.parquet"):
        parquet(name, ROWS if "00000" in name[13:24] else [{"text": "more", "label": 1, "part": "c"}])
    parquet("d/data/test-00000-of-00001.parquet", [{"text": "held", "label": 0, "part": "t"}])
    (tmp_path / "d/dataset_info.json").write_text("{}")
    assert own(tmp_path, "./d") == [*READ, ("more", 1)]
    assert own(tmp_path, "./d", split="test") == [("held", 0)]
    with pytest.raises(OperatorFault, match="no split `validation` of this data set; write one of test, train"):
        own(tmp_path, "./d", split="validation")
    (tmp_path / "d/more.csv").write_text("text,label\nx,good")
    with pytest.raises(OperatorFault, match="a folder of .csv files.*name the file itself"):
        own(tmp_path, "./d")


def test_a_folder_without_the_names_of_splits_is_all_to_train_on(tmp_path: Path, parquet: Any) -> None:
    parquet("d/part-1.parquet", ROWS[:1])
    parquet("d/part-2.parquet", ROWS[1:])
    assert own(tmp_path, "./d") == READ


@pytest.mark.parametrize("split", [None, "train"])
def test_what_save_to_disk_wrote_is_read(tmp_path: Path, parquet: Any, split: str | None) -> None:
    inside = "d" if split is None else f"d/{split}"
    parquet(f"{inside}/data-00000-of-00001.arrow", classes=LABELS)
    (tmp_path / inside / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    if split:
        (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train"]}')
        with pytest.raises(OperatorFault, match="no split `test` of this data set; write one of train"):
            own(tmp_path, "./d", split="test")
    assert own(tmp_path, "./d") == own(tmp_path, "./d", labels={}) == READ, "classes are known by number and by name"
    (tmp_path / inside / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(OperatorFault, match="names data-00000-of-00001.arrow, which is not in this folder"):
        own(tmp_path, "./d")


@pytest.mark.parametrize("name", ["r.parquet", "r.arrow"])
def test_a_file_that_is_cut_or_none_is_told_by_name(tmp_path: Path, parquet: Any, name: str) -> None:
    path = parquet(name)
    for body in (path.read_bytes()[:-20], b"", b"not a table at all"):
        path.write_bytes(body)
        with pytest.raises(OperatorFault, match=f"{name}: no table that can be read|no rows"):
            own(tmp_path, name)
