"""Documents that people write: strict YAML with line numbers, and errors that name file, line, field and remedy.

Stricter than YAML: no aliases, no tags, one document, text keys, each once; `true`, `false` and `null` are the only words
that are not text; numbers are finite and keep what was written, so 0.1 is exactly a tenth.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, PlainSerializer, ValidationError, WithJsonSchema

from securefl.errors import OperatorFault

LIMIT_BYTES = 1024 * 1024
LIMIT_DEPTH = 32
LIMIT_DIGITS = 64

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]{1,4})?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)\Z", re.IGNORECASE)
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}

Path_ = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as plain values, with the line each came from."""

    name: str
    text: bytes
    value: Any
    lines: dict[Path_, int] = field(repr=False)

    def line_of(self, path: Path_) -> int:
        """The line of a value, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class Decimal(float):
    """A number with a point or an exponent, and how it was written."""

    literal: str

    def __new__(cls, literal: str) -> Decimal:
        """The nearest float, and the text it stands for."""
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


def _rational(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if isinstance(raw, bool):
        raise ValueError("a number is expected")  # noqa: TRY004 - pydantic reads ValueError
    if isinstance(raw, Decimal):
        return Fraction(raw.literal)
    if isinstance(raw, int | Fraction):
        return Fraction(raw)
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}/[0-9]{1,18}", raw) and int(raw.split("/")[1]):
        return Fraction(raw)
    if isinstance(raw, float):
        return Fraction(repr(raw))
    raise ValueError("a number such as 0.05 or 1/20 is expected")


Rational = Annotated[
    Fraction,
    BeforeValidator(_rational),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^[0-9]+/[0-9]+$"}]}),
]


def read(path: Path) -> Document:
    """The document at ``path``.

    Raises:
        OperatorFault: it is absent, unreadable, or not as strict as it must be.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT_BYTES + 1)
    except OSError as fault:
        raise OperatorFault(f"cannot be read: {fault.strerror}", "check the path", str(path)) from fault
    return parse(text, str(path))


def parse(text: bytes, name: str) -> Document:
    """The document in ``text``; ``name`` is what errors call it.

    Raises:
        OperatorFault: it is not one plain, finite, unambiguous document.
    """
    if len(text) > LIMIT_BYTES:
        raise OperatorFault(f"more than {LIMIT_BYTES} bytes", "split the document", name)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = text.count(b"\n", 0, fault.start) + 1
        raise OperatorFault(f"byte {text[fault.start]:#04x} is not UTF-8", "save the file as UTF-8", f"{name}:{line}") from fault
    try:
        _refuse_early(decoded, name)
        node = yaml.compose(decoded, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise OperatorFault(f"not YAML: {fault.problem}", "mend the line", f"{name}:{line}") from fault
    except yaml.YAMLError as fault:
        raise OperatorFault(f"not YAML: {fault}", "remove what is no text", name) from fault
    if node is None:
        raise OperatorFault("an empty document", "write what it should say", name)
    lines: dict[Path_, int] = {}
    return Document(name, text, _plain(node, (), lines, name), lines)


def _refuse_early(decoded: str, name: str) -> None:
    """Depth, aliases, tags and second documents are found in the stream, before anything is built."""
    depth = documents = 0
    for event in yaml.parse(decoded, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise OperatorFault("an anchor or alias", "write the value out", f"{name}:{line}")
        if getattr(event, "tag", None) is not None:
            raise OperatorFault(f"the tag {event.tag}", "remove it", f"{name}:{line}")
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise OperatorFault("a second document", "one file holds one", f"{name}:{line}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > LIMIT_DEPTH:
            raise OperatorFault(f"nested deeper than {LIMIT_DEPTH}", "flatten it", f"{name}:{line}")


def _plain(node: yaml.Node, path: Path_, lines: dict[Path_, int], name: str) -> Any:  # noqa: ANN401
    line = node.start_mark.line + 1
    lines[path] = line
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise OperatorFault("a key that is no text", "write a name", f"{name}:{key_line}")
            key = key_node.value
            if key in found:
                first = lines[(*path, key)]
                raise OperatorFault(f"`{key}` stands twice (first on line {first})", "keep one", f"{name}:{key_line}")
            found[key] = _plain(value_node, (*path, key), lines, name)
            lines[(*path, key)] = key_line
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, name) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode), "YAML has three kinds of nodes"
    return _scalar(node, f"{name}:{line}")


def _scalar(node: yaml.ScalarNode, place: str) -> Any:  # noqa: ANN401
    text: str = node.value
    if node.style is not None:  # quoted or block text is text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.match(text):
        raise OperatorFault(f"{text} is no number here", "write a finite one, or quote the text", place)
    if _DECIMAL.match(text):
        if len(text) > LIMIT_DIGITS:
            raise OperatorFault(f"a number of {len(text)} characters", "write fewer digits", place)
        if _INTEGER.match(text):
            return int(text)
        number = Decimal(text)
        if abs(number) == float("inf"):
            raise OperatorFault(f"{text} is too large", "write a smaller number", place)
        return number
    return text


def validate(document: Document, model: type[M]) -> M:
    """The document as a ``model``.

    Raises:
        OperatorFault: every problem at once, each with line, field, what was found and what would do.
    """
    try:
        return model.model_validate(document.value)
    except ValidationError as fault:
        problems = list(dict.fromkeys(_told(document, model, error) for error in fault.errors()))
        raise OperatorFault("\n".join(problems)) from fault


def _told(document: Document, model: type[BaseModel], error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    where: Path_ = tuple(part for part in error["loc"] if _stands(document.value, part) or isinstance(part, str | int))
    path = _existing(document.value, where)
    dotted = ".".join(str(part) for part in where) or "the document"
    place = f"{document.name}:{document.line_of(path)}: {dotted}"
    if error["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, where[:-1]))
        close = difflib.get_close_matches(str(where[-1]), known, 1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
        return f"{place}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{place}: missing; add `{where[-1]}`"
    found = error["input"]
    shown = f"found {found!r}" if isinstance(found, str | int | float | bool) or found is None else "found a structure"
    return f"{place}: {shown}; {error['msg'].removeprefix('Value error, ')}"


def _stands(value: Any, part: Any) -> bool:  # noqa: ANN401
    return isinstance(value, dict) and part in value


def _existing(value: Any, path: Path_) -> Path_:  # noqa: ANN401
    """As much of the path as the document has."""
    walked: list[str | int] = []
    for part in path:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            break
        walked.append(part)
    return tuple(walked)


def _fields_at(model: type[BaseModel], path: Path_) -> Iterator[str]:
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation if part in current.model_fields else None
        current = next(_models_in(annotation), None)
        if current is None:
            return
    yield from current.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401
    import typing  # noqa: PLC0415

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
