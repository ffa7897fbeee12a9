"""The reference pages and the schemas are what the code reads, and say what a person needs of each field."""

from __future__ import annotations

import runpy
from pathlib import Path

import jsonschema
import pytest

from securefl.cli.schema import Kind, schema_of
from securefl.documents import field_notes, schemas, strict

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
BY_MARK = {
    "securefl_policy": Kind.POLICY, "securefl_federation": Kind.FEDERATION, "securefl_experiment": Kind.EXPERIMENT,
}  # fmt: skip
OWNER = {"Suite": "FederationFile"}  # whose notes its fields have
SCHEMAS = {kind: schema_of(kind) for kind in Kind}


def parts(kind: Kind):
    schema = SCHEMAS[kind]
    yield schema.get("title", ""), schema
    yield from schema["$defs"].items()


def fields():
    """Each field once: a part that several documents have is the same in all of them."""
    seen = set()
    for kind in Kind:
        for title, part in parts(kind):
            for name, field in schemas.fields(part):
                if (title, name) not in seen:
                    seen.add((title, name))
                    yield kind, title.removeprefix(schemas.SOME), name, field


def taken(value, schema) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def test_each_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[Kind.SUITE])
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[Kind.COORDINATOR])


def is_number(field) -> bool:
    if field.get("type") in ("integer", "number"):
        return "const" not in field and "enum" not in field
    return any(is_number(each) for each in field.get("anyOf", ()))


def test_the_committed_pages_are_what_the_code_says() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    there = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    assert there == made, "run python docs/reference.py"
    divisor = next(line for line in made["federation.md"].splitlines() if line.startswith("| `divisor`"))
    assert "there is no default" in divisor and "depends on who has which records" in divisor


def test_every_field_says_what_it_is_and_every_number_its_unit() -> None:
    """Where this fails: give the field a `description`, or a row in `documents/field_notes.py`."""
    silent = {
        f"{part}.{name}" for _, part, name, field in fields() if "description" not in field and "$ref" not in field
    }
    assert silent == set()
    no_unit = {f"{part}.{name}" for _, part, name, field in fields() if is_number(field) and "unit" not in field}
    assert {each for each in no_unit if not each.endswith((".seed", ".seeds"))} == set()


def test_every_example_may_be_written_where_it_stands() -> None:
    shown = 0
    for kind, part, name, field in fields():
        for example in field.get("examples", ()):
            assert taken(example, {**field, "$defs": SCHEMAS[kind]["$defs"]}), f"{part}.{name}: {example}"
            shown += 1
        needed = name in SCHEMAS[kind]["$defs"].get(part, SCHEMAS[kind]).get("required", ())
        simple = not {"$ref", "const", "enum"} & set(field)
        assert field.get("examples") or not (needed and simple), f"{part}.{name} is required and has no example"
    assert shown > 100


def test_no_note_is_of_a_field_that_is_not_there() -> None:
    known = {each for _, part, name, _ in fields() for each in (name, f"{OWNER.get(part, part)}.{name}")}
    assert set(field_notes.NOTES) - known == set()


@pytest.mark.parametrize("path", sorted([*ROOT.glob("policies/*.yaml"), *ROOT.glob("examples/**/*.yaml")]), ids=str)
def test_each_schema_takes_the_shipped_documents_and_no_unknown_key(path) -> None:
    document = strict.read(path).value
    mark = next((mark for mark in BY_MARK if mark in document), None)
    if mark is None:
        assert "securefl_cases" in document
        return
    schema = SCHEMAS[Kind.SUITE if "tasks" in document else BY_MARK[mark]]
    if path.name == "legacy.yaml":  # of a federation as a member: what it has not, its parent has
        schema = {**schema, "required": []}
    assert taken(document, schema)
    assert not taken({**document, "epsilonn": 1}, schema)


def test_some_fields_of_a_part_are_known_and_none_is_asked_for() -> None:
    data = {"securefl_federation": 1, "data": {"text": "body"}}
    wrong = {"securefl_federation": 1, "data": {"txt": "body"}}
    part = {**SCHEMAS[Kind.FEDERATION], "required": []}
    assert taken(data, part)
    assert not taken(wrong, part)
