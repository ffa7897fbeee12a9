"""Strict YAML: one plain, finite, unambiguous document, or an error with a line."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from securefl import documents
from securefl.documents import Rational
from securefl.errors import OperatorFault


def value(text: str) -> object:
    return documents.parse(text.encode(), "d.yaml").value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1e-5", {"a": 1e-5}), ("a: no", {"a": "no"}), ("a: on", {"a": "on"}), ("a: true", {"a": True}), ("a: null", {"a": None}),
        ("a: 010", {"a": 10}), ("a: 0x10", {"a": "0x10"}), ("a: 1:30", {"a": "1:30"}), ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: '1'", {"a": "1"}), ("a: [1, 2.5, x]", {"a": [1, 2.5, "x"]}), ("a: 'nan'", {"a": "nan"}),
    ],
)  # fmt: skip
def test_plain_values_are_what_they_look_like(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"), ("a: .nan", "no number"), ("a: -.inf", "no number"), ("a: Infinity", "no number"), ("a: 1e999", "too large"),
        ("a: 1\na: 2", "stands twice"), ("a: &x 1", "anchor"), ("a: *x", "alias"), ("a: !!python/object:os.system x", "tag"),
        ("a: !custom 1", "tag"), ("--- 1\n--- 2", "second document"), ("{1: {2: 3}", "not YAML"), ("? [a]\n: 1", "no text"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"), ("a: \x00", "not YAML"), ("a: " + "9" * 100, "100 characters"),
        ("x" * 2_000_000, "more than"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_its_reason(text: str, told: str) -> None:
    with pytest.raises(OperatorFault, match=told):
        documents.parse(text.encode(), "d.yaml")


def test_bad_utf8_names_the_line() -> None:
    with pytest.raises(OperatorFault, match="d.yaml:2"):
        documents.parse(b"a: 1\nb: \xff\n", "d.yaml")


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24))
    with pytest.raises(OperatorFault, match="anchor"):
        documents.parse(bomb.encode(), "d.yaml")


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: Rational


@pytest.mark.parametrize(("text", "expected"), [("0.1", Fraction(1, 10)), ("1/20", Fraction(1, 20)), ("1e-5", Fraction(1, 100000)), ("3", Fraction(3))])
def test_numbers_are_exactly_what_was_written(text: str, expected: Fraction) -> None:
    assert documents.validate(documents.parse(f"rate: {text}".encode(), "d"), Model).rate == expected


@pytest.mark.parametrize("text", ["x", "1/0", "true", "[1]", "1/2/3", "-1/2", "''"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(OperatorFault, match="d:1: rate"):
        documents.validate(documents.parse(f"rate: {text}".encode(), "d"), Model)


fragments = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["a: ", "- ", "\n", "  ", "{", "}", "[", "]", "&a ", "*a", "!!", "|\n", ">", "'", '"', "---\n", "? ", ": ", "1e9", ".nan", "#", "\t", "%"]),
    ),
    max_size=25,
).map("".join)


@given(fragments)
@settings(max_examples=1500)
def test_any_text_is_a_document_or_a_clear_error(text: str) -> None:
    try:
        documents.parse(text.encode("utf-8", "surrogatepass"), "d.yaml")
    except OperatorFault as fault:
        assert "d.yaml" in str(fault)
