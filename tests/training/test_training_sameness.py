"""One row more or less is at most one record more or less, under every option; and a record is known however written."""

import csv
import io
import json
import struct
import unicodedata
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import shown
from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.terms.records import Record
from securefl.training import same_records
from securefl.training.data import load
from securefl.training.rows import Cuts, read
from tests.support.tiny_models import shared

LABELS = ("neg", "pos", "odd")
WORDS = (
    "@a thanks",
    "@b thanks",
    "@a  thanks",
    "Late again",
    "late again",
    "@a",
    "@b @a",
    "",
    " ",
    "x y z w",
    "x y z v",
)
ROW = st.fixed_dictionaries({
    "text": st.sampled_from([*WORDS, None]), "label": st.sampled_from([*LABELS, "", "1", 1.0, None]), "lang": st.sampled_from(["en", "fr"]),
    "year": st.integers(2000, 2003),
})  # fmt: skip
OPTIONS = st.fixed_dictionaries({}, optional={
    "labelled": st.sampled_from([0, "1/2", 1]), "share": st.sampled_from(["1/2", "9/10", 1]),
    "replace": st.sampled_from([[{"pattern": r"@\w+", "with": "@u"}], [{"pattern": r"@\w+ ?", "with": ""}]]),
    "where": st.sampled_from([{"lang": "en"}, {"year": {"from": 2001}}]), "heldout": st.sampled_from([0.2, 0.5]),
    "labels": st.just({"1": "pos", "odd": "neg"}), "missing": st.just(["@a", "neg"]), "on_missing": st.just("refuse"),
    "handles": st.sampled_from([{"contains": "@a"}, {"contains": "@a", "first_of": ["@b", "@a"]}]),
    "partition": st.fixed_dictionaries({
        "members": st.just(2), "index": st.integers(0, 1), "dirichlet": st.just(1), "seed": st.integers(0, 99),
        "at_least": st.just(1),
    }),
})  # fmt: skip


def trained(rows, told) -> Counter[Record] | None:
    """What is trained on; None where an experiment's parts are refused."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
        try:
            return Counter(load(DataSource.model_validate(told), Path(folder), LABELS).train)
        except OperatorFault as fault:
            return Counter() if "to train on" in str(fault) or "no rows" in str(fault) else None


def apart(one: Counter, other: Counter) -> int:
    return (one - other).total() + (other - one).total()


@given(st.lists(ROW, max_size=14), ROW, OPTIONS, st.sampled_from(["1/2", 1]), st.data())
@settings(max_examples=400, deadline=None)
def test_one_row_more_is_at_most_one_record_more_or_less_under_every_option(rows, extra, told, unlabelled, data):
    told = {"file": "r.jsonl", "heldout": 0, "unlabelled": data.draw(st.sampled_from(["keep", "drop"]))} | told
    told |= told.pop("handles", {})
    place = data.draw(st.integers(0, len(rows)))
    before, after = trained(rows, told), trained([*rows[:place], extra, *rows[place:]], told)
    if before is not None and after is not None:
        assert apart(before, after) <= 1
        assert max(after.values(), default=1) == 1, "a record counts once"


def records_of(body, kind, **told) -> Counter[Record] | None:
    """What is trained on of a table as it stands; None where it is refused."""
    with TemporaryDirectory() as folder:
        (Path(folder) / f"r.{kind}").write_text(body, newline="")
        source = DataSource.model_validate({"file": f"r.{kind}", "heldout": 0, "unlabelled": "keep", **told})
        try:
            return Counter(load(source, Path(folder), LABELS).train)
        except OperatorFault as fault:
            return Counter() if "to train on" in str(fault) else None


MARKED = st.text(st.sampled_from('ab"",\t '), max_size=9)


@given(st.lists(MARKED, max_size=9), MARKED, st.sampled_from(["csv", "tsv"]), st.booleans(), st.data())
@settings(max_examples=500, deadline=None)
def test_one_line_more_is_at_most_one_record_more_or_less_wherever_it_has_quotation_marks(
    texts, extra, kind, first, data
):
    """A table of any lines, as somebody types it: what one of them holds changes no other."""
    delimiter, place = {"csv": ",", "tsv": "\t"}[kind], data.draw(st.integers(0, len(texts)))
    lines = [delimiter.join(("pos", each) if first else (each, "pos")) for each in (*texts, extra)]
    head = delimiter.join(("label", "text") if first else ("text", "label"))
    before = records_of("\n".join([head, *lines[:-1]]), kind)
    after = records_of("\n".join([head, *lines[:place], lines[-1], *lines[place:-1]]), kind)
    if before is not None and after is not None:
        assert apart(before, after) <= 1


@given(st.lists(st.text('ab",\t\n\r ', max_size=9), max_size=9), st.text('ab",\t\n\r ', max_size=9), st.data())
@settings(max_examples=200, deadline=None)
def test_one_row_more_is_at_most_one_record_more_or_less_where_texts_have_several_lines(texts, extra, data):
    """A table of any texts, as a program writes it."""
    place = data.draw(st.integers(0, len(texts)))

    def written(rows):
        out = io.StringIO(newline="")
        csv.writer(out).writerows([("text", "label"), *((each, "pos") for each in rows)])
        return out.getvalue()

    before = records_of(written(texts), "csv", multiline=True)
    after = records_of(written([*texts[:place], extra, *texts[place:]]), "csv", multiline=True)
    assert before is not None
    assert after is not None
    assert before == Counter(Record(each, 1) for each in {*texts} if each.strip()), "each text as it was given"
    assert apart(before, after) <= 1


def test_every_option_of_a_source_is_among_those_that_are_tried():
    tried = {"file", "text", "label", "unlabelled", "contains", "first_of"}
    tried |= {
        "labelled",
        "share",
        "replace",
        "where",
        "heldout",
        "labels",
        "partition",
        "multiline",
        "missing",
        "on_missing",
    }
    without_choice = {
        "deduplicate",
        "split",
        "encoding",
        "delimiter",
    }  # always true; where rows are, and how they are read
    assert set(DataSource.model_fields) == tried | without_choice


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return shared("bert", tmp_path_factory.mktemp("model"))


RECORD = st.builds(Record, st.text("ab c", min_size=1, max_size=8), st.integers(0, 2))


@given(st.lists(RECORD, max_size=12), RECORD, st.integers(3, 8), st.randoms())
@settings(max_examples=100, deadline=None)
def test_one_record_more_is_at_most_one_row_of_tokens_more_or_less(model, records, extra, max_tokens, chance):
    def counted(of):
        kept = model.distinct(tuple(of), max_tokens)
        assert model.distinct(kept, max_tokens) == kept
        found = model._records(kept, max_tokens)
        return Counter(zip(found.ids, found.labels, strict=True))

    before, after = counted(records), counted(chance.sample([*records, extra], len(records) + 1))
    assert apart(before, after) <= 1
    assert max(Counter(ids for ids, _ in after).values(), default=1) == 1


def test_texts_that_are_cut_to_the_same_tokens_are_one_record_to_train_on(model):
    texts = tuple(Record(f"abcd {end}", 1) for end in "xyz")
    assert len(model.distinct(texts, 6)) == 1
    assert len(model.distinct(texts, 12)) == 3
    assert len(model.distinct((*texts, Record("abcd w", 0)), 6)) == 1
    assert len(model.distinct((texts[0], Record("abcd w", 0)), 6)) == 0, "labels that tie"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 3))
def test_no_vote_turns_one_label_into_another(votes, extra):
    before, after = same_records.plurality(Counter(votes)), same_records.plurality(Counter([*votes, extra]))
    assert before == after or None in (before, after)
    assert same_records.plurality(Counter(votes)) == same_records.plurality(Counter(reversed(votes)))


def forms(row, text, trained=None, encoding="utf-8", raw=b""):
    return same_records.forms(row, raw, text, text if trained is None else trained, encoding)


WRITTEN = {
    "as it is": lambda t: t, "upper case": str.upper, "blanks": lambda t: f"  {t.replace(' ', '   ')}\t",
    "decomposed": lambda t: unicodedata.normalize("NFKD", t), "wide": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "joiners": lambda t: "\u200d".join(t), "soft hyphens": lambda t: t.replace("a", "a\u00ad"), "no-break": lambda t: t.replace(" ", "\u00a0"),
    "ligatures": lambda t: t.replace("fi", "\ufb01"), "fillers": lambda t: t.replace(" ", " \u115f"), "marked": lambda t: "\ufeff" + t,
    "variants": lambda t: t.replace("e", "e\ufe0f"), "nul": lambda t: t + "\0", "ideographs' variants": "\U000e0100".join,
    "braille blanks": lambda t: t.replace(" ", "\u2800"), "null notes": "\U0001d159".join, "Khitan fillers": "\U00016fe4".join,
    "tags": lambda t: t + "\U000e0041\U000e007f", "joined marks": lambda t: "\u034f".join(unicodedata.normalize("NFD", t)),
    "blanks everywhere": "\u2009".join, "dotless": lambda t: t.replace("i", "\u0131"), "hieroglyphs' blanks": "\U00013441".join,
    "private": "\ue000".join, "no characters": "\ufdd0\U0001ffff".join,
}  # fmt: skip


@pytest.mark.parametrize("how", WRITTEN)
@given(st.text("abfi éßÅ!", min_size=1, max_size=12).filter(str.strip))
@settings(max_examples=20, deadline=None)
def test_a_text_that_reads_the_same_has_a_form_in_common(how, text):
    again = WRITTEN[how](text)
    one, other = (forms((each, n), each) for n, each in enumerate((text, again)))
    assert one & other


UNDRAWN = [" ", *(chr(code) for code in range(0x110000) if shown.hidden(chr(code)))]


@given(st.text(st.characters(codec="utf-8"), max_size=12), st.sampled_from(UNDRAWN), st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_the_normal_form_is_of_what_is_drawn(text, hidden, place):
    at = min(place, len(text))
    normal = same_records.canonical(text)
    assert same_records.canonical(normal) == normal
    assert same_records.canonical(text[:at] + hidden + text[at:]) == normal
    for form in ("NFC", "NFD"):
        assert same_records.canonical(unicodedata.normalize(form, text)) == normal


@given(st.text(max_size=20), st.text(max_size=20))
def test_texts_have_a_form_in_common_only_if_they_read_the_same(one, other):
    alike = one == other or same_records.canonical(one) == same_records.canonical(other)
    assert bool(forms((one, "left"), one) & forms((other, "right"), other)) == alike


@pytest.mark.parametrize("encoding", ["latin1", "cp1252", "koi8-r"])
def test_the_same_bytes_read_in_another_encoding_are_the_same_record(encoding):
    text = "größe"
    misread = text.encode().decode(encoding, "replace")
    assert forms((text,), text) & forms((misread,), misread, encoding=encoding)


def test_the_same_row_under_another_text_column_is_the_same_record():
    row = ("a message", "another message", "pos")
    assert forms(row, row[0]) & forms(row, row[1])
    assert not forms(row, row[0], "x") & forms(("a", "b"), "a", "y")
    assert not forms(row, row[0]) & forms((*row[1:], "a third message"), row[1]), "two rows with one value in common"


AT = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
NAIVE = AT.replace(tzinfo=None)
TYPED = [
    ("1.50", 1.5), ("007", 7), ("true", True), ("TRUE", True), ("1e3", 1000), ("1.1", struct.unpack("<f", struct.pack("<f", 1.1))[0]),
    ("-0", 0.0), ("2020-01-02", date(2020, 1, 2)), ("2020-01-02T03:04:05Z", AT),
    ("2020-01-02 03:04:05", NAIVE), ("2020-01-02T03:04:05+00:00", AT), ("2020-01-02", datetime(2020, 1, 2, tzinfo=UTC)), ("café", "café".encode()),
    ("12345678901234567890123", 12345678901234567890123), ("1.25", Decimal("1.250")), ("late", ["late"]), ("late", {"a": {"b": "late"}}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "read"), TYPED)
def test_a_value_is_the_same_as_the_words_in_a_file_and_as_a_library_reads_it(written, read):
    assert forms(("subject", written), "subject") & forms((read, "subject"), "subject")
    assert forms(("subject", written), written) & forms((read, "subject"), "subject"), "also where it is the text"


def test_columns_that_a_library_leaves_out_or_reads_otherwise_change_no_pair():
    whole = {"id": "17", "subject": "lost again", "body": "my bag is gone", "label": "bad", "when": "3 May"}
    part = {"body": "my bag is gone", "label": 0, "when": None, "subject": "lost again"}
    assert forms(whole.values(), whole["subject"]) & forms(part.values(), part["body"])


TEXTS = st.text(st.sampled_from("ab é߀Ж日\u2028\u0131\u00a0\"',\\"), min_size=1, max_size=8).filter(str.strip)


def _table(rows, kind, encoding, escaped):
    out = io.StringIO(newline="")
    if kind == "jsonl":
        for row in rows:
            out.write(json.dumps(dict(zip(("one", "two", "n"), row, strict=True)), ensure_ascii=escaped) + "\n")
    else:
        made = csv.writer(out, delimiter="\t" if kind == "tsv" else ",")
        made.writerows([("one", "two", "n"), *rows])
    return out.getvalue().encode(encoding)


@given(
    st.lists(st.tuples(TEXTS, TEXTS, st.just("1.50")), min_size=1, max_size=4), st.sampled_from(["csv", "tsv", "jsonl"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]), st.data(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_encoding_and_no_column_makes_a_file_new(rows, kind, encoding, data):
    escaped = data.draw(st.booleans())
    raw = _table(rows, kind, encoding, escaped)
    if not escaped and kind == "jsonl" and encoding != "utf-16":  # a raw character beside an escape
        raw = raw.replace(b"a", b"a\\u2028")
    with TemporaryDirectory() as folder:
        (Path(folder) / f"r.{kind}").write_bytes(raw)
        known = None
        for other in sorted({"utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "koi8-r", "gb18030", "shift_jis"}):
            for column in ("one", "two"):
                told = {"file": f"r.{kind}", "text": column, "heldout": 0, "encoding": other, "label": "x"}
                try:
                    read = load(DataSource.model_validate({**told, "unlabelled": "keep"}), Path(folder), LABELS)
                except OperatorFault:  # what it is not in
                    continue
                known = read.forms if known is None else known
                assert known & read.forms, (other, column)
        assert known is not None


LINES = st.text(st.sampled_from('ab",;|\t\n\r '), max_size=12)


@given(
    st.lists(st.tuples(LINES, LINES), min_size=1, max_size=5),
    st.sampled_from([",", "\t", ";", "|"]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_no_delimiter_makes_a_files_rows_new(pairs, delimiter, whole, data):
    """A table is read under every ending: each record of any reading is known from those of any other with its lines."""
    if whole:  # as a table is written; else anything at all
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter).writerows(pairs)
        body = out.getvalue()
    else:
        body = "\n".join(f"{one}{delimiter}{other}" for one, other in pairs)
    with TemporaryDirectory() as folder:
        readings = []
        for kind, mark in (("csv", ","), ("csv", ";"), ("csv", "|"), ("tsv", None), ("tab", None)):
            (Path(folder) / f"r.{kind}").write_text(f"n,n;o|p\tm\n{body}", newline="")
            told = DataSource.model_validate({"file": f"r.{kind}", "text": "n", "multiline": True, "delimiter": mark})
            with suppress(OperatorFault):
                readings.append((kind, list(read(Path(folder) / f"r.{kind}", told))))
    for kind, found in readings:
        for other, rows in readings:
            mine, theirs = data.draw(st.sampled_from(found)) if found else None, rows
            if mine is not None and mine.raw and theirs:
                assert any(mine.cuts & each.cuts for each in theirs), (kind, other)
    for _, found in readings:
        for row in found:
            assert not row.raw or row.cuts


def test_a_table_of_one_reading_has_no_form_more():
    """Where every reading makes the same rows, a row's cuts are its own bytes: no row is taken for another one."""
    for raw in (b"a,b\nx,1\ny,2", b'a\tb\r\n"x ""y"" z"\t1\r\nq "w\t2', b"a,b\n\n\nx,1\n"):
        cuts = Cuts(raw)
        assert cuts.of(0, len(raw)) == {same_records.form(line) for line in raw.splitlines() if line}
        assert cuts.of(0, 3) == {same_records.form(raw[:3])}
