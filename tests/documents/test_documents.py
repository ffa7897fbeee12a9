"""Documents: strict YAML, exact numbers, and errors that name the line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from securefl.documents import strict
from securefl.documents.strict import Document, First, Flag, Rational, Whole
from securefl.errors import OperatorFault
from securefl.shown import hidden


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    epsilon: Rational
    rank: Whole = Field(8, ge=1)


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")
    by_name: dict[str, Inner] = Field(default_factory=dict)
    pair: tuple[Inner, ...] = Field((), min_length=2)
    either: str | tuple[str, ...] = ""


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    version: First
    budget: Inner
    names: tuple[str, ...] = ()
    on: Flag = False
    parts: tuple[Inner, ...] = ()
    kind: Literal["a", "b"] = "a"
    from_: str = Field("", alias="from")


def parse(text: str | bytes) -> Document:
    return strict.parse(text if isinstance(text, bytes) else text.encode(), "doc.yaml")


def refusal(text: str | bytes) -> str:
    with pytest.raises(OperatorFault) as caught:
        parse(text)
    return str(caught.value)


def problems(text: str) -> str:
    with pytest.raises(OperatorFault) as caught:
        strict.validate(parse(text), Outer)
    return str(caught.value)


# Laws.

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda text: hidden(text) is None),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc xyz-.1", max_size=6), inner, max_size=4),
    max_leaves=12,
)


class Quoting(yaml.SafeDumper):
    """Quotes round every text: without them YAML 1.1 leaves out quotes that the strict reader needs."""

    def ignore_aliases(self, data):
        return True


Quoting.add_representer(str, lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:str", data, style='"'))


@given(PLAIN)
def test_what_yaml_writes_is_read_back_the_same(value):
    assert parse(yaml.dump(value, Dumper=Quoting, allow_unicode=True)).value == value


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("{}[]:,-?&*!|>'\"%#\n \tab01.e~@`\\uUx<", max_size=40))
def test_any_text_is_a_document_or_a_fault_of_the_operator(text):
    try:
        assert isinstance(strict.parse(text.encode("utf-8", "surrogatepass"), "doc.yaml"), Document)
    except OperatorFault as fault:
        assert "doc.yaml" in str(fault)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_fault_of_the_operator(data):
    try:
        assert isinstance(strict.parse(data, "doc.yaml"), Document)
    except OperatorFault as fault:
        assert "doc.yaml" in str(fault)


FRAGMENTS = st.sampled_from(
    'a: 1|b: {c: [1, 2]}|- x|? k|: v|&a b|*a|!!python/object:x y|!t u|<<: {a: 1}|---|...|%YAML 1.1|\'q|"\\UFFFFFFFF"|# c|  d: e|0x1F|.nan|k: |\t|['.split(
        "|"
    )
)


@settings(max_examples=300)
@given(st.lists(FRAGMENTS, max_size=8).map("\n".join))
def test_any_mix_of_yaml_is_a_document_or_a_fault_and_holds_plain_values_only(text):
    try:
        document = parse(text)
    except OperatorFault:
        return
    assert _is_plain(document.value)


def _is_plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | bool | int | strict.Decimal)


@given(st.integers(-(10**9), 10**9), st.integers(0, 9))
def test_a_decimal_is_exactly_what_was_written(digits, places):
    literal = f"{'-' * (digits < 0)}{abs(digits) // 10**places}.{abs(digits) % 10**places:0{max(places, 1)}d}"
    found = strict.validate(parse(f"version: 1\nbudget: {{epsilon: {literal}}}\n"), Outer)
    assert found.budget.epsilon == Fraction(literal)


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True, min_size=1), st.integers(0, 5))
def test_every_field_knows_its_line(keys, blank):
    text = "\n" * blank + "".join(f"{key}:\n  - 1\n  - 2\n" for key in keys)
    document = parse(text)
    for index, key in enumerate(keys):
        assert document.line_of((key,)) == blank + 3 * index + 1
        assert document.line_of((key, 1)) == blank + 3 * index + 3
        assert document.line_of((key, 7, "nowhere")) == blank + 3 * index + 1


# Vectors: what is read, and as what.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("null", None), ("~", None), ("7", 7), ("-7", -7), ("+7", 7), ("0", 0),
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("True", "True"), ("NULL", "NULL"), ("y", "y"), ("010", "010"), ("0o17", "0o17"),
        ("0x1F", "0x1F"), ("0b11", "0b11"), ("1_000", "1_000"), ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("2026-01-01", "2026-01-01"),
        ('"true"', "true"), ("'1'", "1"), ("'.nan'", ".nan"), ("=", "="), ("1/20", "1/20"), ("1.2.3", "1.2.3"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_a_word_is_read_as_what_it_looks_like(text, value):
    found = parse(f"a: {text}").value["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1e-5", "0.05", "1.", ".5", "1E+3", "-2.5"])
def test_a_point_or_an_exponent_makes_a_float_that_keeps_its_literal(text):
    found = parse(f"a: {text}").value["a"]
    assert isinstance(found, float)
    assert found == float(text)
    assert found.literal == text


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("a: &x 1\nb: 2", ":1", "anchor"), ("a: 1\nb: *x", ":2", "anchor or alias"), ("a: !!python/name:os.system x", ":1", "the tag"),
        ("a: 1\nb: !mine 2", ":2", "the tag"), ("a: ! 2", ":1", "the tag"), ("a: 1\nb: 2\na: 3", ":3", "`a` stands twice (first on line 1)"),
        ("a:\n  b: 1\n  'b': 2", ":3", "stands twice"), ("a: 1\n---\nb: 2", ":2", "a second document"), ("", "", "empty"), ("# only\n", "", "empty"),
        ("\n\na: .nan", ":3", "no number"), ("a: nan", ":1", "no number"), ("a: [1, -.INF]", ":1", "no number"), ("a: Infinity", ":1", "no number"),
        ("a: inf", ":1", "no number"), ("a: NaN", ":1", "no number"), ("1: x", ":1", "no text (1)"), ("true: x", ":1", "no text (True)"),
        ("~: x", ":1", "no text"), ("a: 1\n[b]: x", ":2", "no text"), ("{a: 1}: x", ":1", "no text"), ("a: 1e9999", ":1", "too large"),
        ("a: 1e-9999", ":1", "too close to 0"), ("a: " + "9" * 65, ":1", "65 characters"), ("a: [1\nb: 2", ":2", "not YAML"), ("a: 'b", ":1", "not YAML"),
        ("a:\tb:\t- c", ":1", "not YAML"), ("a: 1\nb: \x07", ":2", "not YAML: the character"), ('a: "\\ud800"', ":1", "character"), ('a: "\\0"', ":1", "character"),
        ('a: "\\UFFFFFFFF"', "", "not YAML"), ("%YAML 1." + "9" * 5000 + "\n--- a", "", "not YAML"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_at_its_line(text, place, why):
    message = refusal(text)
    assert message.startswith(f"doc.yaml{place}: ")
    assert why in message


def test_bytes_that_are_no_text_are_refused_at_their_line():
    assert refusal(b"a: 1\nb: \xff").startswith("doc.yaml:2: byte 0xff is not UTF-8")


def test_a_byte_order_mark_is_no_part_of_the_document():
    assert parse("\ufeffa: 1").value == {"a": 1}


@pytest.mark.parametrize("text", ["[" * 33, "- " * 33, "a: " + "{b: " * 40, "[" * 500_000])
def test_nesting_has_a_limit(text):
    assert "nested deeper than 32" in refusal(text)


def test_nesting_up_to_the_limit_is_read():
    assert parse("[" * 32 + "]" * 32).value


def test_size_has_a_limit():
    assert "more than 1048576 bytes" in refusal(b"a" * (1024 * 1024 + 1))


def test_the_number_of_values_has_a_limit(monkeypatch):
    monkeypatch.setattr(strict, "LIMIT_VALUES", 10)
    assert parse("[1, 2, 3, 4, 5, 6, 7, 8, 9]").value
    assert "more than 10 values" in refusal("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]")


def test_files_that_cannot_be_read_are_faults(tmp_path: Path):
    (tmp_path / "good.yaml").write_text("a: 1\n")
    assert strict.read(tmp_path / "good.yaml").value == {"a": 1}
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(OperatorFault, match="cannot be read"):
            strict.read(path)


# Validation.


def test_all_problems_are_told_at_once_with_line_field_and_remedy():
    text = "version: 1\nbudget:\n  epsilonn: 3\n  rank: 0\nnames: x\n"
    told = problems(text).splitlines()
    assert "doc.yaml:2: budget.epsilon: missing; add `epsilon`" in told
    assert "doc.yaml:3: budget.epsilonn: unknown key; did you mean `epsilon`?" in told
    assert "doc.yaml:4: budget.rank: found 0; it should be greater than or equal to 1" in told
    assert "doc.yaml:5: names: found 'x'; write a list, such as [a, b]" in told
    assert len(told) == 4


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("on: 1", "found 1; write true or false"), ("on: yes", "found 'yes'; write true or false"), ("names: [1]", "names.0: found 1; write text"),
        ("kind: c", "found 'c'; it should be 'a' or 'b'"), ("form: x", "unknown key; did you mean `from`?"), ("zzzz: 1", "unknown key; known here: "),
        ("parts: [{epsilon: 1}, {epsilon: 1, rnk: 2}]", "parts.1.rnk: unknown key; did you mean `rank`?"),
        ("parts: [{epsilon: 1, rank: true}]", "parts.0.rank: found true; write a whole number"),
        ("parts: [{epsilon: 1, rank: 2.0}]", "parts.0.rank: found 2.0; write a whole number"),
        ("parts: [{epsilon: 1, rank: '2'}]", "parts.0.rank: found '2'; write a whole number"),
        ("parts: [{epsilon: 1, rank: 010}]", "parts.0.rank: found '010'; write a whole number"),
        ("parts: [{epsilon: 'nan'}]", "parts.0.epsilon: found 'nan'; a number such as"), ("parts: [{epsilon: 1/0}]", "found '1/0'; a number"),
        ("parts: [{epsilon: true}]", "found true; a number"), ("parts: [{epsilon: -1/2}]", "found '-1/2'; a number"), ("parts: {a: 1}", "found a mapping; write a list"),
        (f"kind: {'c' * 500}", "ccc...; it should be"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told_with_what_would_do(line, told):
    message = problems(f"version: 1\nbudget: {{epsilon: 1}}\n{line}\n")
    assert message.startswith("doc.yaml:3: ")
    assert told in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("by_name: {one: {epsilon: 1, zzzz: 2}}", "by_name.one.zzzz: unknown key; known here: epsilon, rank"),
        ("pair: [{epsilon: 1}, {epsilon: 1, rank: 0}]", "pair.1.rank: found 0; it should be greater than or equal to 1"),
        ("pair: [{epsilon: 1}]", "pair: found 1; write at least 2"),
        ("either: 7", "either: found 7; write text, in quotes if it looks like a number\ndoc.yaml:1: either: found 7; write a list, such as [a, b]"),
    ],
)  # fmt: skip
def test_each_wrong_value_is_told_once_where_it_stands_and_in_no_readers_own_words(line, told):
    with pytest.raises(OperatorFault) as caught:
        strict.validate(parse(line), Named)
    assert str(caught.value) == f"doc.yaml:1: {told}"


@pytest.mark.parametrize("version", ["true", "1.0", "2", "'1'"])
def test_only_the_number_one_is_the_first_version(version):
    assert "doc.yaml:1: version: found" in problems(f"version: {version}\nbudget: {{epsilon: 1}}")


def test_a_document_that_is_no_mapping_is_told():
    assert "doc.yaml:1: the document: found a list; write its fields" in problems("[1]")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1/20", Fraction(1, 20)), ("0.05", Fraction(1, 20)), ("5e-2", Fraction(1, 20)), ("3", Fraction(3))],
)
def test_a_rational_is_what_was_written(text, value):
    assert strict.validate(parse(f"version: 1\nbudget: {{epsilon: {text}}}"), Outer).budget.epsilon == value


def test_a_part_and_what_lies_over_it_keep_their_lines():
    document = parse("base:\n  epsilon: 1\n  rank: 2\nchange:\n  rank: 0\n")
    merged = document.under("change").over(document.under("base"))
    assert merged.value == {"epsilon": 1, "rank": 0}
    with pytest.raises(OperatorFault, match=r"doc\.yaml:5: rank: found 0"):
        strict.validate(merged, Inner)
    assert merged.line_of(("epsilon",)) == 2
