"""Documents that people write: strict YAML with line numbers, and errors that name file, line, field and remedy.

Stricter than YAML: no aliases, no tags, one document, text keys, each once; `true`, `false` and `null` are the only
words that are not text; numbers are finite, decimal and keep what was written, so 0.1 is exactly a tenth.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, Strict, ValidationError, WithJsonSchema
from yaml.composer import Composer
from yaml.reader import ReaderError
from yaml.resolver import BaseResolver

from securefl.errors import OperatorFault
from securefl.shown import hidden

LIMIT_BYTES = 1024 * 1024
LIMIT_DEPTH = 32
LIMIT_VALUES = 100_000
LIMIT_DIGITS = 64
LIMIT_SHOWN = 80  # characters of a wrong value that an error repeats

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")  # 010 is ten to some readers and eight to others: here it is text
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?\Z")
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

    def has(self, key: str) -> bool:
        """Return whether this is a mapping with this key."""
        return isinstance(self.value, dict) and key in self.value

    def line_of(self, path: Path_) -> int:
        """The line of a value, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def under(self, *path: str | int) -> Document:
        """The part at ``path``, as a document of its own: same file, same lines.

        Raises:
            KeyError, IndexError: there is nothing at this path.
        """
        value = self.value
        for step in path:
            value = value[step]
        inside = {place[len(path) :]: line for place, line in self.lines.items() if place[: len(path)] == path}
        return Document(self.name, self.text, value, inside)

    def over(self, base: Document) -> Document:
        """``base`` with the fields of this mapping in place of its own, each with the line it was written on."""
        kept = {place: line for place, line in base.lines.items() if not place or place[0] not in self.value}
        return Document(self.name, self.text, {**base.value, **self.value}, {**self.lines, **kept})


class Decimal(float):
    """A number with a point or an exponent, and how it was written."""

    literal: str

    def __new__(cls, literal: str) -> Self:
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


def _no_boolean(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if isinstance(raw, bool | float):  # Python holds that True == 1 == 1.0
        raise ValueError("1 is expected")  # noqa: TRY004 - pydantic reads ValueError
    return raw


Whole = Annotated[int, Strict()]  # neither true nor 3.0 nor "3" is a whole number
Flag = Annotated[bool, Strict()]  # neither "yes" nor 1 is true
First = Annotated[Literal[1], BeforeValidator(_no_boolean)]  # the version of a format that has had one so far


def read(path: Path) -> Document:
    """The document at ``path``.

    Raises:
        OperatorFault: it is absent, unreadable, or not as strict as it must be.
    """
    return parse(text_of(path), str(path))


def text_of(path: Path, most: int = LIMIT_BYTES) -> bytes:
    """Return what a file holds; of one with more than ``most`` bytes, one byte more than that.

    Raises:
        OperatorFault: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except (OSError, ValueError) as fault:  # a path with a zero byte is a ValueError
        why = fault.strerror if isinstance(fault, OSError) else fault
        raise OperatorFault(f"cannot be read: {why}", "check the path", str(path)) from fault


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
        place = f"{name}:{line}"
        raise OperatorFault(f"byte {text[fault.start]:#04x} is not UTF-8", "save the file as UTF-8", place) from fault
    try:
        node = _Composed(_events(decoded, name)).get_single_node()
    except yaml.MarkedYAMLError as fault:
        at = f"{name}:{fault.problem_mark.line + 1}" if fault.problem_mark is not None else name
        raise OperatorFault(f"not YAML: {fault.problem}", "mend the line", at) from fault
    except ReaderError as fault:
        place = f"{name}:{decoded.count(chr(10), 0, fault.position) + 1}"
        raise OperatorFault(f"not YAML: the character {fault.character!r} in it", "remove it", place) from fault
    except (yaml.YAMLError, ValueError, OverflowError) as fault:  # a character or a version number out of all bounds
        raise OperatorFault(f"not YAML: {fault}", "remove what no reader can represent", name) from fault
    if node is None:
        raise OperatorFault("an empty document", "write what it should say", name)
    lines: dict[Path_, int] = {}
    return Document(name, text, _plain(node, (), lines, name), lines)


class _Composed(Composer, BaseResolver):
    """Nodes of events that were read before, so a text is read once. What a scalar means is said in ``_scalar``."""

    def __init__(self, events: Iterable[yaml.Event]) -> None:
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._left = deque(events)

    def check_event(self, *kinds: type[yaml.Event]) -> bool:
        """Whether the next event is of one of these kinds."""
        return isinstance(self._left[0], kinds)

    def peek_event(self) -> yaml.Event:
        """Return the next event; it stays."""
        return self._left[0]

    def get_event(self) -> yaml.Event:
        """Return the next event."""
        return self._left.popleft()


def _events(decoded: str, name: str) -> Iterator[yaml.Event]:
    """Size, depth, aliases, tags and second documents are found in the stream, before anything is built."""
    depth = started = values = 0
    for event in yaml.parse(decoded, Loader=yaml.SafeLoader):
        assert event.start_mark is not None, "an event of a text knows its place"
        place = f"{name}:{event.start_mark.line + 1}"
        if getattr(event, "anchor", None) is not None:  # an alias has one too
            raise OperatorFault("an anchor or alias", "write the value out", place)
        if getattr(event, "tag", None) is not None:
            raise OperatorFault(f"the tag {getattr(event, 'tag', '')}", "remove it", place)
        started += isinstance(event, yaml.DocumentStartEvent)
        if started > 1:
            raise OperatorFault("a second document", "one file holds one", place)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > LIMIT_DEPTH:
            raise OperatorFault(f"nested deeper than {LIMIT_DEPTH}", "flatten it", place)
        values += isinstance(event, yaml.NodeEvent)
        if values > LIMIT_VALUES:
            raise OperatorFault(f"more than {LIMIT_VALUES} values", "split the document", place)
        yield event


def _plain(node: yaml.Node, path: Path_, lines: dict[Path_, int], name: str) -> Any:  # noqa: ANN401
    line = node.start_mark.line + 1
    lines[path] = line
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            key = _scalar(key_node, f"{name}:{key_line}") if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = f" ({key!r})" if isinstance(key_node, yaml.ScalarNode) else ""
                raise OperatorFault(f"a key that is no text{shown}", "write a name", f"{name}:{key_line}")
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
    unseen = hidden(text)
    if unseen is not None:
        what = f"the character {unseen!a} in a text: it does not show as itself"
        raise OperatorFault(what, "remove it, or write the text in one line", place)
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
        if float(number) == 0 and Fraction(text) != 0:
            raise OperatorFault(f"{text} is too close to 0", "write 0, or a larger number", place)
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
        told = (
            f"{document.name}:{document.line_of(where)}: {words}"
            for where, words in _told(document.value, model, fault)
        )
        raise OperatorFault(tuple(dict.fromkeys(told))) from fault


def problems(value: Any, model: type[BaseModel], fault: ValidationError) -> str:  # noqa: ANN401
    """All that is wrong with a value that stands on no line of its own: field, what was found and what would do."""
    return "; ".join(dict.fromkeys(words for _, words in _told(value, model, fault)))


def each_problem(value: Any, model: type[BaseModel], fault: ValidationError) -> Iterator[tuple[Path_, str]]:  # noqa: ANN401
    """Yield where in a value each problem stands, and what there is to say of it."""
    yield from dict.fromkeys(_told(value, model, fault))


_WANTED = {
    "model_type": "write its fields under it, one a line",
    "model_attributes_type": "write its fields under it, one a line",
    "dict_type": "write its fields under it, one a line",
    "tuple_type": "write a list, such as [a, b]",
    "list_type": "write a list, such as [a, b]",
    "int_type": "write a whole number",
    "bool_type": "write true or false",
    "string_type": "write text, in quotes if it looks like a number",
}


def _told(value: Any, model: type[BaseModel], fault: ValidationError) -> Iterator[tuple[Path_, str]]:  # noqa: ANN401
    """Where each problem stands, and what there is to say. That a list is short of what is wrong in it goes unsaid."""
    errors = fault.errors()
    for error in errors:
        here = error["loc"]
        follows = any(len(other["loc"]) > len(here) and other["loc"][: len(here)] == here for other in errors)
        if error["type"] != "too_short" or not follows:
            yield _existing(value, here), _words(value, model, error)


def _words(value: Any, model: type[BaseModel], error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    missing = error["type"] == "missing"
    where: Path_ = error["loc"] if missing else _existing(value, error["loc"])  # behind it stand names of types
    place = ".".join(str(part) for part in where) or "the document"
    if missing:
        return f"{place}: missing; add `{where[-1]}`{_allowed(model, where)}"
    if error["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, where[:-1]))
        close = difflib.get_close_matches(str(where[-1]), known, 1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
        return f"{place}: unknown key; {hint}"
    if error["type"] == "too_short":
        return f"{place}: found {error['ctx']['actual_length']}; write at least {error['ctx']['min_length']}"
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "it should be")
    return f"{place}: found {_shown(error['input'])}; {_WANTED.get(error['type'], message)}"


def _shown(found: Any) -> str:  # noqa: ANN401
    if isinstance(found, dict | list | tuple):
        return "a mapping" if isinstance(found, dict) else "a list"
    if found is None or isinstance(found, bool):
        return {None: "nothing", True: "true", False: "false"}[found]
    text = found.literal if isinstance(found, Decimal) else str(found) if isinstance(found, Fraction) else repr(found)
    return text if len(text) <= LIMIT_SHOWN else f"{text[:LIMIT_SHOWN]}..."


def _existing(value: Any, path: Path_) -> Path_:  # noqa: ANN401
    """As much of the path as the document has."""
    walked: list[str | int] = []
    for part in path:
        inside_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not inside_list and not (isinstance(value, dict) and part in value):
            break
        value = value[part]
        walked.append(part)
    return tuple(walked)


def _fields_at(model: type[BaseModel], path: Path_) -> Iterator[str]:
    """The keys that may be written at this place."""
    keyed = False
    for part in path:
        if isinstance(part, int) or keyed:  # a place in a list, or a name that the document chose
            keyed = False
            continue
        named = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
        keyed = typing.get_origin(named.get(part)) is dict
        inner = next(_models_in(named.get(part)), None)
        if inner is None:
            return
        model = inner
    yield from (info.alias or name for name, info in model.model_fields.items())


def _allowed(model: type[BaseModel], where: Path_) -> str:
    """What a field that is missing may say: its values, if they are few, else what it is; nothing if nobody says."""
    for part in where[:-1]:
        field_ = next((info for name, info in model.model_fields.items() if part in (info.alias, name)), None)
        inner = None if field_ is None else next(_models_in(field_.annotation), None)
        model = inner or model
    info = next((info for name, info in model.model_fields.items() if where[-1] in (info.alias, name)), None)
    if info is None:
        return ""
    kind = info.annotation
    values = tuple(kind) if isinstance(kind, type) and issubclass(kind, Enum) else typing.get_args(kind)
    said = [str(getattr(each, "value", each)) for each in values if isinstance(each, str | int)]
    if said and len(said) == len(values):
        return f": {' or '.join(said)}"
    return f": {info.description}" if info.description else ""


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


class Part(BaseModel):
    """A part of a document: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def or_name(schema: dict[str, Any]) -> None:
    """Let the JSON Schema of a part take its name alone, too: what its validator makes of a text."""
    inner = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, inner]
