"""JSON that an auditor reads has one reading; what many tasks' report tells has a schema, and is computed again."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.audit import figures, json_files, suite_report
from securefl.errors import Tampered

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_what_has_one_reading_is_read_as_it_was_written(value: object) -> None:
    assert json_files.loads(json.dumps(value).encode()) == value


@given(st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=4), VALUES, st.data())
def test_a_key_that_stands_twice_is_refused_at_any_depth(
    value: dict[str, object], other: object, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    text = f"{{{json.dumps(key)}: {json.dumps(other)}, {json.dumps(value)[1:]}"
    for each in (text, f"[{text}]", f'{{"deep": {{"deeper": [1, {text}]}}}}'):
        with pytest.raises(ValueError, match="stands twice"):
            json_files.loads(each.encode())
        json.loads(each)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "", "{", "{}{}", "\ufeff{}"])
def test_what_is_no_json_is_refused(text: str, tmp_path) -> None:
    with pytest.raises(ValueError):
        json_files.loads(text.encode())
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Tampered, match=r"a\.json"):
        json_files.mapping(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_json_in_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ValueError):
        json_files.loads('{"epsilon": 1}'.encode(encoding))


OUTCOME = {"status": "finished", "why": "every round ran"}
ACCURACY = {"measure": "accuracy", "majority": 0.5, "before": 0.5, "after": 0.75, "macro_f1": 0.7, "broadcast": None,
            "local_only": None, "without_privacy": None, "note": ""}  # fmt: skip
TASK = {
    "outcome": OUTCOME, "run": "00" * 16, "members": [{"name": "a"}, {"name": "b"}], "rounds": [{}, {}],
    "model": {"trained_parameters": 7}, "accuracy": ACCURACY, "bytes": {"up": 3, "down": 4}, "seconds": {"total": 1.5},
    "epsilon": {"spent": 1.25, "limit": 8.0, "delta": 1e-7, "unit": "record"},
}  # fmt: skip


def told() -> dict:
    found = suite_report.figures({"one": TASK, "two": TASK}, 10)
    for each in found["tasks"].values():
        each |= {"owners": ["a", "b"], "account": suite_report.OWN}
    base = {"name": "m", "digest": "00", "parameters": 10}
    return found | {"file": "ab", "hide_ownership": False, "base": base}


def test_the_schema_in_the_package_is_the_one_that_many_tasks_reports_are_checked_with() -> None:
    import jsonschema

    written = json.loads(suite_report.SCHEMA.read_text())
    assert written == suite_report.schema()
    jsonschema.validate(told(), written)
    assert suite_report.read(told()).tasks["one"].bytes.full_update_each_way == 4 * 10 * 2 * 2


def places(value: object, way: tuple = ()):
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*way, name))
    else:
        yield way


@pytest.mark.parametrize("way", [way for way in places(told()) if way[-1] not in ("owners", "account", "file", "parameters")
                                 and way[0] not in ("hide_ownership", "base")], ids=lambda way: ".".join(map(str, way)))  # fmt: skip
def test_every_figure_of_many_tasks_is_compared(way: tuple) -> None:
    due, other = suite_report.figures({"one": TASK, "two": TASK}, 10), copy.deepcopy(told())
    figures.compare("suite.json", due, other)
    place = other
    for name in way[:-1]:
        place = place[name]
    was = place[way[-1]]
    place[way[-1]] = (
        was + 1e-5 if isinstance(was, float) and way[-1] != "delta" else 0 if was is None or was == 1e-7 else f"{was}x"
    )
    with pytest.raises(Tampered):
        figures.compare("suite.json", due, other)
    del place[way[-1]]
    with pytest.raises(Tampered, match="missing"):
        figures.compare("suite.json", due, other)


@pytest.mark.parametrize("spoil", [
    lambda f: f.update(surprise=1), lambda f: f["tasks"]["one"].update(surprise=1), lambda f: f.pop("modules"),
    lambda f: f.update(tasks={}), lambda f: f["base"].update(parameters="10"), lambda f: f.update(hide_ownership=0),
])  # fmt: skip
def test_what_the_schema_does_not_name_is_refused(spoil) -> None:
    facts = told()
    spoil(facts)
    with pytest.raises(Tampered):
        suite_report.read(facts)
