"""One row more or less is at most one record more or less, under every option; and a record is known however written."""

import json
import unicodedata
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.terms.records import Record
from securefl.training import sameness
from securefl.training.data import load
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
    "text": st.sampled_from(WORDS), "label": st.sampled_from([*LABELS, "", "1"]), "lang": st.sampled_from(["en", "fr"]),
    "year": st.integers(2000, 2003),
})  # fmt: skip
OPTIONS = st.fixed_dictionaries({}, optional={
    "labelled": st.sampled_from([0, "1/2", 1]), "share": st.sampled_from(["1/2", "9/10", 1]),
    "replace": st.sampled_from([[{"pattern": r"@\w+", "with": "@u"}], [{"pattern": r"@\w+ ?", "with": ""}]]),
    "where": st.sampled_from([{"lang": "en"}, {"year": {"from": 2001}}]), "heldout": st.sampled_from([0.2, 0.5]),
    "labels": st.just({"1": "pos", "odd": "neg"}),
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
            return Counter() if "to train on; check" in str(fault) or "no rows" in str(fault) else None


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


def test_every_option_of_a_source_is_among_those_that_are_tried():
    tried = {"file", "text", "label", "unlabelled", "contains", "first_of"}
    tried |= {"labelled", "share", "replace", "where", "heldout", "labels", "partition"}
    without_choice = {"deduplicate", "split", "encoding"}  # always true; where rows are, and how they are read
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
    before, after = sameness.plurality(Counter(votes)), sameness.plurality(Counter([*votes, extra]))
    assert before == after or None in (before, after)
    assert sameness.plurality(Counter(votes)) == sameness.plurality(Counter(reversed(votes)))


WRITTEN = {
    "as it is": lambda t: t, "upper case": str.upper, "blanks": lambda t: f"  {t.replace(' ', '   ')}\t",
    "decomposed": lambda t: unicodedata.normalize("NFKD", t), "wide": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "joiners": lambda t: "\u200d".join(t), "soft hyphens": lambda t: t.replace("a", "a\u00ad"), "no-break": lambda t: t.replace(" ", "\u00a0"),
    "ligatures": lambda t: t.replace("fi", "\ufb01"), "fillers": lambda t: t.replace(" ", " \u115f"), "marked": lambda t: "\ufeff" + t,
    "variants": lambda t: t.replace("e", "e\ufe0f"), "nul": lambda t: t + "\0",
}  # fmt: skip


@pytest.mark.parametrize("how", WRITTEN)
@given(st.text("abfi éßÅ!", min_size=1, max_size=12).filter(str.strip))
@settings(max_examples=20, deadline=None)
def test_a_text_that_reads_the_same_has_a_form_in_common(how, text):
    again = WRITTEN[how](text)
    one, other = (sameness.forms((each, n), each, each, "utf-8") for n, each in enumerate((text, again)))
    assert one & other


@given(st.text(max_size=20), st.text(max_size=20))
def test_texts_have_a_form_in_common_only_if_they_read_the_same(one, other):
    row = sameness.forms((one, 1), one, one, "utf-8"), sameness.forms((other, 2), other, other, "utf-8")
    met = {f"{one},1", one, sameness.canonical(one)} & {f"{other},2", other, sameness.canonical(other)}
    assert bool(row[0] & row[1]) == bool(met)


@pytest.mark.parametrize("encoding", ["latin1", "cp1252", "koi8-r"])
def test_the_same_bytes_read_in_another_encoding_are_the_same_record(encoding):
    text = "größe"
    misread = text.encode().decode(encoding, "replace")
    assert sameness.forms((text,), text, text, "utf-8") & sameness.forms((misread,), misread, misread, encoding)


def test_the_same_row_under_another_text_column_is_the_same_record():
    row = ("a message", "another message", "pos")
    assert sameness.forms(row, row[0], row[0], "utf-8") & sameness.forms(row, row[1], row[1], "utf-8")
    assert not sameness.forms(row, row[0], "x", "utf-8") & sameness.forms(("a", "b"), "a", "y", "utf-8")
