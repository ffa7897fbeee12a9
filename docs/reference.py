"""Write the pages of `reference/` from the classes that read the documents: every field of every part.

python docs/reference.py            # write them
python docs/reference.py --check    # exit 1 if they are not what the code says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securefl.cli.schema import Kind, schema_of
from securefl.documents import schemas

PAGES = Path(__file__).with_name("reference")
Schema = dict[str, Any]
TITLES = {
    Kind.FEDERATION: "A federation's file",
    Kind.POLICY: "A policy",
    Kind.SUITE: "A federation's file with tasks",
    Kind.SITE: "A SITE document",
    Kind.COORDINATOR: "A COORDINATOR document",
    Kind.EXPERIMENT: "An experiment",
    Kind.PLAN: "A plan",
    Kind.PROJECT: "A PROJECT document",
}
USED = {
    Kind.FEDERATION: "`securefl run FILE --out RUN` runs it; `securefl check FILE` tries it first",
    Kind.POLICY: "`securefl policy check FILE` reads it; `securefl policy explain FILE FEDERATION` applies it",
    Kind.SUITE: "`securefl run FILE --out RUN` runs all of its tasks",
    Kind.SITE: "`securefl site check FILE` reads it; `securefl site init` writes a first one",
    Kind.COORDINATOR: "`securefl coordinator check FILE` reads it; `securefl coordinator init` writes a first one",
    Kind.EXPERIMENT: "`securefl compare FILE --out DIR` runs it",
    Kind.PLAN: "`securefl policy explain POLICY FILE` holds it against a policy",
    Kind.PROJECT: "`securefl provision authority FILE` begins with it",
}
HEAD = "| field | value | default | unit | example | what it is, and why |\n|---|---|---|---|---|---|"


def pages() -> dict[str, str]:
    """Each page by its name. A part that several documents have stands on the first page that has it."""
    placed: dict[str, str] = {}
    told = {}
    for kind in TITLES:
        schema = schema_of(kind)
        roots = [each for each in schema.get("anyOf", []) if "$ref" in each] or [schema]
        todo, mine = [_resolved(each, schema) for each in roots], []
        names = {part.get("title", ""): part for part in todo}
        while todo:
            part = todo.pop(0)
            mine.append(part)
            for name, inner in _inner(part, schema):
                if name not in names and name not in placed and any(True for _ in schemas.fields(inner)):
                    names[name] = inner
                    todo.append({**inner, "title": name})
        placed |= {name: f"{kind}.md" for name in names if name not in placed}
        told[f"{kind}.md"] = _page(kind, mine, schema, placed)
    return {**told, "README.md": _contents()}


def _contents() -> str:
    rows = [f"| [{TITLES[kind]}]({kind}.md) | {USED[kind]} | `securefl schema {kind}` |" for kind in TITLES]
    return "\n".join(
        [
            "# Reference of all documents", "",
            "Made from the code by `python docs/reference.py`. Numbers may be written as 0.05 or 1/20. For an editor,",
            "put the schema beside your document and name it in the first line:", "",
            "```", "securefl schema federation > federation.schema.json", "```", "",
            "`# yaml-language-server: $schema=federation.schema.json`", "",
            "| document | command | schema |", "|---|---|---|", *rows, "",
        ]
    )  # fmt: skip


def _page(kind: Kind, parts: list[Schema], schema: Schema, placed: dict[str, str]) -> str:
    lines = [f"# {TITLES[kind]}", "", f"{USED[kind]}. [All documents](README.md).", ""]
    for part in parts:
        lines += [f"## {part['title']}", "", *_words(part), "", HEAD]
        required = {name for each in (part, *part.get("anyOf", [])) for name in each.get("required", [])}
        lines += [_row(name, field, name in required, schema, placed) for name, field in schemas.fields(part)]
        lines.append("")
    return "\n".join(lines)


def _words(part: Schema) -> Iterator[str]:
    words = next((each["description"] for each in (part, *part.get("anyOf", [])) if "description" in each), "")
    yield " ".join(words.split("\n\n")[0].split())
    if part["title"].startswith(schemas.SOME):
        yield ""
        yield "Any of these: what is not here stands elsewhere in the document."
    if any(each.get("type") == "string" for each in part.get("anyOf", [])):
        yield ""
        yield "One word alone stands for the first field."


def _row(name: str, field: Schema, required: bool, schema: Schema, placed: dict[str, str]) -> str:  # noqa: FBT001
    value = _value(field, schema, placed)
    default = "**required**" if required else _default(field)
    example = f"`{_json(field['examples'][0])}`" if "examples" in field else ""
    words = ". ".join(
        each[:1].upper() + each[1:].rstrip(".") for each in (field.get("description", ""), field.get("why", "")) if each
    )
    unit = field.get("unit", "") if field.get("unit") != "1" else "a number"
    cells = (f"`{name}`", value, default, unit, example, f"{words}." if words else "")
    return "| " + " | ".join(each.replace("|", "\\|").replace("\n", " ") for each in cells) + " |"


def _default(field: Schema) -> str:
    if "default" not in field or field["default"] is None:
        return "none"
    default = field["default"]
    if isinstance(default, dict):
        default = {name: each for name, each in default.items() if each is not None}
        default = default["kind"] if set(default) == {"kind"} else default
    return f"`{_json(default)}`" if default not in ("", [], {}) else "empty"


def _json(value: Any) -> str:  # noqa: ANN401 - whatever a document holds
    return value if isinstance(value, str) else json.dumps(value)


def _resolved(field: Schema, schema: Schema) -> Schema:
    while "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        field = {"title": name, **schema["$defs"][name]}
        if name.startswith(schemas.SOME):
            field["title"] = name
    return field


def _inner(part: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The parts that a part's fields have, by name."""
    for _, field in schemas.fields(part):
        for name in _names(field):
            yield name, schema["$defs"][name]


def _names(field: Any) -> Iterator[str]:  # noqa: ANN401 - a schema, or a list in one
    if isinstance(field, dict):
        if "$ref" in field:
            yield field["$ref"].rpartition("/")[2]
        for key in ("anyOf", "items", "additionalProperties"):
            yield from _names(field.get(key))
    elif isinstance(field, list):
        for each in field:
            yield from _names(each)


def _value(field: Schema, schema: Schema, placed: dict[str, str]) -> str:
    """What may be written: in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        inner = schema["$defs"][name]
        if "enum" in inner:
            return _choice(inner["enum"])
        if "const" in inner:
            return f"`{inner['const']}`"
        return f"[{name}]({placed.get(name, '')}#{name.lower()})"
    if "enum" in field or "const" in field:
        return _choice(field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return _either(field, schema, placed)
    kind = field.get("type")
    if kind == "array":
        return f"a list of {_value(field.get('items', {}), schema, placed)}"
    if kind == "object":
        inner = field.get("additionalProperties", field.get("patternProperties"))
        inner = next(iter(inner.values())) if isinstance(inner, dict) and "patternProperties" in field else inner
        return f"names, each with {_value(inner, schema, placed)}" if isinstance(inner, dict) and inner else "fields"
    words = {"integer": "a whole number", "number": "a number", "boolean": "`true` or `false`", "string": "text"}
    return words.get(str(kind), "any value") + _bounds(field)


def _either(field: Schema, schema: Schema, placed: dict[str, str]) -> str:
    each = [one for one in field["anyOf"] if one.get("type") != "null"]
    kinds = {one.get("type") for one in each}
    if kinds == {"number", "string"} and any("/" in one.get("pattern", "") for one in each):
        number = next(one for one in each if one.get("type") == "number")
        return "a number" + _bounds({**number, **field})
    return " or ".join(dict.fromkeys(_value(one, schema, placed) for one in each))


def _choice(values: list[Any]) -> str:
    return " or ".join(f"`{_json(each)}`" for each in values)


def _bounds(field: Schema) -> str:
    signs = {
        "minimum": "at least", "ge": "at least", "exclusiveMinimum": "above", "gt": "above", "maximum": "at most",
        "le": "at most", "exclusiveMaximum": "below", "lt": "below",
    }  # fmt: skip
    found = [f"{words} {field[name]:g}" for name, words in signs.items() if isinstance(field.get(name), int | float)]
    return f", {' and '.join(found)}" if found else ""


def main(arguments: list[str]) -> None:
    """Write the pages, or compare them."""
    made = pages()
    if "--check" in arguments:
        there = {path.name: path.read_text() for path in PAGES.glob("*.md")}
        raise SystemExit(
            0 if there == made else "docs/reference is not what the code says: run python docs/reference.py"
        )
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.md"):
        path.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
