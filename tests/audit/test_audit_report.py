"""The report: one checked shape, a page that needs nothing else, and text that never becomes markup."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from securefl.audit import plots, report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>&amp;{{ 7*7 }}$\\frac{1}{2}$"
SOURCES = {"src", "href", "xlink:href", "action", "data", "srcset", "onerror", "onload", "onclick"}


@pytest.fixture(scope="module")
def facts(finished: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((finished / "run" / "report.json").read_text())
    return told


class Seen(HTMLParser):
    """Every tag, every attribute that could fetch or run something, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            f"{name}={value}" for name, value in attrs if name in SOURCES and not (value or "").startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def with_names(facts: dict[str, Any], name: str) -> dict[str, Any]:
    changed = copy.deepcopy(facts)
    changed["federation"] = changed["model"]["name"] = changed["outcome"]["why"] = name
    changed["outcome"]["status"] = "refused"
    for row in (*changed["members"], *changed["accounts"]):
        row["name"] = name
    return changed


def page_of(facts: dict[str, Any], folder: Path) -> Seen:
    return Seen(report.page_of(facts, plots.draw(facts, folder)))


def test_the_page_fetches_and_runs_nothing(facts: dict[str, Any], tmp_path: Path) -> None:
    seen = page_of(facts, tmp_path)
    assert seen.fetched == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(seen.tags)
    assert seen.tags.count("svg") == 3


def test_text_from_outside_is_shown_and_never_becomes_markup(facts: dict[str, Any], tmp_path: Path) -> None:
    plain = page_of(facts, tmp_path)
    hostile = page_of(with_names(facts, HOSTILE), tmp_path)
    assert HOSTILE in hostile.text
    assert hostile.fetched == []
    assert not {"script", "img"} & set(hostile.tags)
    assert set(hostile.tags) <= set(plain.tags) | {"strong"}


@settings(max_examples=15)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40))
def test_any_name_can_be_drawn_and_shown(
    facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    seen = page_of(with_names(facts, name), tmp_path_factory.mktemp("any"))
    assert seen.fetched == []


def test_a_run_that_stopped_says_so_first(facts: dict[str, Any], tmp_path: Path) -> None:
    stopped = with_names(facts, "because of a reason")
    seen = page_of(stopped, tmp_path)
    assert seen.text.index("The run was refused.") < seen.text.index("Members")


def test_a_run_without_a_round_has_a_report(facts: dict[str, Any], tmp_path: Path) -> None:
    empty = {**copy.deepcopy(facts), "rounds": []}
    empty["protections"]["cohort_sizes"] = []
    assert page_of(empty, tmp_path).tags.count("svg") == 3


def test_the_schema_in_the_package_is_the_one_reports_are_checked_with(facts: dict[str, Any]) -> None:
    written = json.loads(report.SCHEMA.read_text())
    assert written == report.schema()
    jsonschema.validate(facts, written)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.update(surprise=1),
        lambda f: f.pop("epsilon"),
        lambda f: f["epsilon"].update(spent=float("nan")),
        lambda f: f["epsilon"].update(spent=float("inf")),
        lambda f: f["members"][0]["heldout"].update(after="good"),
        lambda f: f.update(rounds=None),
    ],
)
def test_facts_of_another_shape_leave_no_report(facts: dict[str, Any], tmp_path: Path, spoil: Any) -> None:
    wrong = copy.deepcopy(facts)
    spoil(wrong)
    with pytest.raises(ValidationError):
        report.write(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_pictures(facts: dict[str, Any], tmp_path: Path) -> None:
    plots.draw(facts, tmp_path)
    for name in ("accuracy", "epsilon", "bytes"):
        data = (tmp_path / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert width > 800
        assert height > 400
        assert len(set(zlib.decompress(b"".join(_chunks(data))))) > 20, "one colour only"


def _chunks(png: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"IDAT":
            found.append(png[at + 8 : at + 8 + size])
        at += 12 + size
    return found
