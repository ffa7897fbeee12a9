"""The JSON Schema of a document, from the classes that read it: for editors, and for the reference pages.

Each field says what it is, its unit, an example and why it is there (``documents.field_notes``). Where a document takes
some fields of a part, because others stand elsewhere, the schema has that part's fields and asks for none of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from securefl.documents.data_source import DataSource, Partition
from securefl.documents.federation import FederationFile
from securefl.documents.field_notes import note_of
from securefl.documents.strategy import StrategyPart
from securefl.documents.suite_file import OWN, SuitePart
from securefl.documents.task import AdapterPart, TaskPart
from securefl.documents.training import TrainingPart

Schema = dict[str, Any]
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PARTS: Final[dict[str, type[BaseModel]]] = {
    "task": TaskPart,
    "adapter": AdapterPart,
    "data": DataSource,
    "training": TrainingPart,
    "strategy": StrategyPart,
}
SOME: Final = "Some"  # begins the name of a part of which a document may have some fields
_AT: Final = "#/$defs/"


def of(*models: type[BaseModel]) -> Schema:
    """The JSON Schema of a document that is one of these."""
    first, *others = models
    kind: Any = first
    for other in others:
        kind = kind | other
    return _told(TypeAdapter(kind).json_schema())


def of_suite() -> Schema:
    """The JSON Schema of a federation's file with tasks: what every task says for itself need not stand for all."""
    schema, more = FederationFile.model_json_schema(), SuitePart.model_json_schema()
    schema["$defs"] |= more["$defs"]
    schema["properties"] = {**schema["properties"], **more["properties"]}
    for name in OWN:
        schema["properties"][name] = {"type": "object", "additionalProperties": True}
    schema["required"] = [each for each in schema["required"] if each not in OWN] + more["required"]
    words = "A federation's file with `tasks`: a run for each, over one base model."
    return _told(schema) | {"title": "Suite", "description": words}


def schema_text(schema: Schema) -> str:
    """The schema as a file."""
    return json.dumps(schema, indent=2) + "\n"


def fields(part: Schema) -> Iterator[tuple[str, Schema]]:
    """The fields of a part, by name: also of one that a text may stand for."""
    for each in (part, *part.get("anyOf", ())):
        yield from each.get("properties", {}).items()


def _told(schema: Schema) -> Schema:
    schema = {"$schema": DIALECT, **schema}
    parts: dict[str, Schema] = schema.setdefault("$defs", {})
    for title, part in [(schema.get("title", ""), schema), *parts.items()]:
        for name, field in list(fields(part)):
            if name in PARTS and field.get("additionalProperties") is True:
                field.pop("additionalProperties")
                field.pop("type")
                field["$ref"] = _some(PARTS[name], parts)
            _note(title, name, field)
    return schema


def _some(part: type[BaseModel], parts: dict[str, Schema]) -> str:
    """A reference to this part with any of its fields; it is put among the others."""
    name = SOME + part.__name__
    if name not in parts:
        whole = part.model_json_schema()
        inner = whole.pop("$defs", {})
        for title, each in inner.items():
            if title not in parts:
                parts[title] = each
                for field, of_ in fields(each):
                    _note(title, field, of_)
        whole.pop("required", None)
        for field, of_ in fields(whole):
            _note(part.__name__, field, of_)
        parts[name] = whole
        if "partition" in whole["properties"]:  # which part is whose follows from the list of members
            whole["properties"]["partition"] = {
                "$ref": _some(Partition, parts), "description": whole["properties"]["partition"]["description"],
            }  # fmt: skip
    return _AT + name


def _note(part: str, name: str, field: Schema) -> None:
    """Write down what is known of a field; what the field says itself stands."""
    is_part = any("$ref" in each for each in (field, *field.get("anyOf", ())))
    note = note_of(part, name, is_part=is_part)
    if note.what:
        field.setdefault("description", note.what)
    if note.example is not None:
        field.setdefault("examples", [note.example])
    if note.unit:
        field["unit"] = note.unit
    if note.why:
        field["why"] = note.why
