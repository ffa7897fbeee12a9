"""Values as bytes and back: deterministic CBOR (RFC 8949, 4.2.1), one encoding per value.

Types drive the codec: a dataclass travels as ``[name, field, ...]``, and decoding takes the type
that is expected. There is no rule for floats or arrays, so an ``Update`` has no serial form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any, Final, Union

from cbor2 import CBORDecodeError, CBORTag

from securefl import cbor
from securefl.errors import Malformed
from securefl.shown import hidden
from securefl.terms import Aggregate, Hash, Plan, Update
from securefl.terms.layout import Layout
from securefl.terms.names import NAME_FORM, NAMED, SIZES

LIMIT_BYTES = 256 * 1024 * 1024  # larger frames are refused before they are parsed
LONG = 256  # bytes from which on a part of a value may be kept elsewhere
MOST_CUTS = 2048  # pieces of one byte string: of parts that are so many, none is worth a file of its own
MOST_SHOWN = 60  # characters of a name from elsewhere that an error repeats
BOUND: Final = 1 << 8 * cbor.MOST_INTEGER  # an integer lies between this and its negative; both are larger
_JOINED, _ENCODED = 65_536, 65_537  # CBOR tags in what is kept at home; nothing that travels has one
_NAME = re.compile(NAME_FORM)
_FAULTS = (CBORDecodeError, ValueError, TypeError, KeyError, RecursionError, ArithmeticError)


def encode(value: object) -> bytes:
    """The one canonical encoding of ``value``.

    Raises:
        TypeError: some part of it has no rule: floats, arrays, sets, updates.
        ValueError: nobody could decode it: a text holds a character that does not show as itself, an integer is too
            large, or too many small things are in it.
    """
    data = cbor.dump(_pack(value))
    if len(data) > cbor.FREE_ITEMS:  # a shorter one has as many items as it likes
        cbor.strings(data, least=len(data), most=cbor.most_items(len(data)))
    return data


def decode(data: bytes, expected: Any) -> Any:  # noqa: ANN401 - `expected` may be a union
    """The value that ``data`` is the canonical encoding of. Every character of every text in it shows as itself.

    Raises:
        Malformed: not CBOR, not canonical, too large, of more items than a value of this type or its bytes are worth,
            not of the expected type, or with a character that hides. Bytes that are no CBOR of ours cost one pass.
    """
    if len(data) > LIMIT_BYTES:
        raise Malformed(f"{len(data)} bytes, more than the {LIMIT_BYTES} allowed")
    try:
        value = _unpacker(expected)(cbor.load(data, most=min(cbor.most_items(len(data)), _most(expected))))
        again = cbor.dump(_pack(value))
    except _FAULTS as fault:
        raise Malformed(f"not a {_name(expected)}: {fault}") from fault
    if again != data:
        raise Malformed(f"a {_name(expected)} in a second encoding: only the canonical one is accepted")
    return value


Reference = tuple[Any, ...]  # of bytes and integers


def encode_apart(
    value: object, string: Callable[[bytes], Sequence[bytes | Reference]], encoding: Callable[[bytes], Reference | None]
) -> bytes:
    """Encode a value whose long parts are kept elsewhere.

    Args:
        string: is shown each byte string in it; returns its pieces, each as it is or as what it can be had by again.
        encoding: is shown the encoding of each dataclass inside it, inner ones first; None leaves it in its place.
    """

    def aside(part: object, packed: object) -> object:
        if isinstance(part, bytes):
            pieces = string(part)
            if all(isinstance(piece, bytes) for piece in pieces):
                return part
            return CBORTag(_JOINED, [piece if isinstance(piece, bytes) else list(piece) for piece in pieces])
        reference = None if part is value else encoding(cbor.dump(packed))
        return packed if reference is None else CBORTag(_ENCODED, list(reference))

    return cbor.dump(_pack(value, aside))


def decode_apart(data: bytes, expected: Any, get: Callable[[Reference], bytes]) -> Any:  # noqa: ANN401
    """Decode what ``encode_apart`` made. Its parts are believed: whoever keeps them keeps them from changing.

    Args:
        get: what is kept under a reference.

    Raises:
        Malformed: it is not of the expected type.
    """

    def put_back(raw: Any) -> object:  # noqa: ANN401 - what CBOR can say
        if isinstance(raw, CBORTag) and raw.tag == _JOINED:
            return b"".join(piece if isinstance(piece, bytes) else get(tuple(piece)) for piece in raw.value)
        if isinstance(raw, CBORTag) and raw.tag == _ENCODED:
            return put_back(load(get(tuple(raw.value))))
        if isinstance(raw, list):
            return [put_back(item) for item in raw]
        return {key: put_back(item) for key, item in raw.items()} if isinstance(raw, dict) else raw

    def load(kept: bytes) -> Any:  # noqa: ANN401 - as above; of what is kept elsewhere, its items are still here
        return cbor.load(kept, tags=(_JOINED, _ENCODED), most=len(kept))

    try:
        return _unpacker(expected)(put_back(load(data)))
    except _FAULTS as fault:
        raise Malformed(f"not a {_name(expected)}: {fault}") from fault


def cut(data: bytes) -> tuple[bytes, ...]:
    """Cut a byte string where long byte strings inside it begin and end, if it is an encoding; joined, they are it.

    Two messages that hold the same adapter state so have a piece in common. At most ``len(data)`` items are visited,
    however encodings stand in each other: nothing is read twice, and nothing is built.
    """
    edges, waiting = {0, len(data)}, [(0, len(data))]
    while waiting:
        start, end = waiting.pop()
        if end - start < LONG or data[start] >> 5 not in (4, 5):  # neither an array nor a map
            continue
        try:
            inner = cbor.strings(data, start, end, least=LONG)
        except cbor.Refused:
            continue
        if len(edges) + 2 * len(inner) <= MOST_CUTS:
            edges.update(*inner)
            waiting += inner
    return tuple(data[start:end] for start, end in pairwise(sorted(edges))) or (data,)


def digest(label: str, value: object) -> Hash:
    """SHA-256 over the label and the canonical encoding: one meaning per label."""
    return Hash(hashlib.sha256(label.encode() + b"\0" + encode(value)).digest())


def plan_hash(plan: Plan) -> Hash:
    """The plan's name: what grants, receipts and masks are bound to."""
    return digest("plan", plan)


def layout_digest(layout: Layout) -> Hash:
    """What a plan names a layout by: names, shapes and order of a state's tensors, and the rule that trains them."""
    return digest("layout", layout)


Aside = Callable[[object, object], object]  # is shown a byte string or a dataclass, and it packed; may replace it


def _pack(value: object, aside: Aside | None = None) -> object:
    """What CBOR can say of a value."""
    cls: type = type(value)
    return _packer(cls)(value, aside)


@cache
def _packer(cls: type) -> Callable[[Any, Aside | None], object]:
    """How values of a class are packed: what kind of class it is, is asked once."""
    if cls in _AS_THEY_ARE:
        return _AS_THEY_ARE[cls]
    if issubclass(cls, Update | Aggregate):
        raise TypeError(f"{cls.__name__} has no encoding: it stays where it was made")
    for kind, packed in _PACKED:
        if issubclass(cls, kind):
            return packed
    if dataclasses.is_dataclass(cls):
        return _dataclass_packer(cls)
    raise TypeError(f"{cls.__name__} has no encoding")


_AS_THEY_ARE: Mapping[type, Callable[[Any, Aside | None], object]] = {  # no class below these
    bool: lambda value, _: value,
    type(None): lambda value, _: value,
    int: lambda value, _: _integer(value),
    bytes: lambda value, aside: value if aside is None else aside(value, value),
}
_PACKED: tuple[tuple[type, Callable[[Any, Aside | None], object]], ...] = (
    (Enum, lambda value, _: value.value),  # first: some are texts, too
    (str, lambda value, _: _text(value)),
    (tuple, lambda value, aside: [_pack(item, aside) for item in value]),
    (Fraction, lambda value, _: [_integer(value.numerator), _integer(value.denominator)]),
    (Mapping, lambda value, aside: {_key(key): _pack(item, aside) for key, item in value.items()}),
)


def _dataclass_packer(cls: type) -> Callable[[Any, Aside | None], object]:
    name, fields = cls.__name__, tuple(_hints(cls))

    def pack(value: object, aside: Aside | None) -> object:
        packed = [name, *[_pack(getattr(value, field), aside) for field in fields]]
        return packed if aside is None else aside(value, packed)

    return pack


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{type(key).__name__} as a key has no encoding")
    return str(key.value) if isinstance(key, Enum) else _text(key)


def _integer(value: int) -> int:
    if not -BOUND <= value < BOUND:
        raise ValueError(f"an integer of {value.bit_length()} bits: at most {8 * cbor.MOST_INTEGER} travel")
    return value


def _text(text: str) -> str:
    unseen = hidden(text)
    if unseen is not None:
        raise ValueError(f"the character {unseen!a} in a text: it does not show as itself")
    return text


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def _most(expected: Any) -> int:  # noqa: ANN401
    """How many items the encoding of a value of this type has at most: its bytes alone say, with a list or mapping."""
    while hasattr(expected, "__supertype__"):
        expected = expected.__supertype__
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return max(_most(each) for each in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return 1 + sum(_most(each) for each in args)
    if origin is not None:
        return LIMIT_BYTES
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        return 2 + sum(_most(each) for each in _hints(expected).values())
    return 5 if expected is Fraction else 2  # a large integer is a tag and its bytes


@cache
def _unpacker(expected: Any) -> Callable[[Any], Any]:  # noqa: ANN401
    if expected in SIZES:
        return lambda raw: _sized(expected, raw)
    if expected in NAMED:
        return lambda raw: _named(NAMED[expected], raw)
    return _unpacker_of_form(expected)


def _unpacker_of_form(expected: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - one return per kind of type
    while hasattr(expected, "__supertype__"):
        expected = expected.__supertype__
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return _one_of(args)
    if origin is tuple and args[-1] is Ellipsis:
        return lambda raw: tuple(map(_unpacker(args[0]), _exactly(raw, list)))
    if origin is tuple:
        return lambda raw: tuple(_unpacker(t)(item) for t, item in zip(args, _exactly(raw, list), strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return lambda raw: {_unpacker(args[0])(k): _unpacker(args[1])(v) for k, v in _exactly(raw, dict).items()}
    if expected is Fraction:
        return _fraction
    if isinstance(expected, type) and issubclass(expected, Enum):
        return lambda raw: _member(expected, raw)
    if dataclasses.is_dataclass(expected):
        return lambda raw: _dataclass(expected, raw)
    if expected in (int, str, bytes, bool, type(None)):
        return lambda raw: _exactly(raw, expected)
    raise AssertionError(f"no decoding for {expected}")


def _one_of(options: tuple[Any, ...]) -> Callable[[Any], Any]:
    named: dict[str, Any] = {_name(option): option for option in options if dataclasses.is_dataclass(option)}
    plain = [option for option in options if option is not type(None) and not dataclasses.is_dataclass(option)]
    assert len(plain) <= 1, "a union holds dataclasses, None and at most one plain type"

    def unpack(raw: Any) -> Any:  # noqa: ANN401
        if raw is None and type(None) in options:
            return None
        if named and isinstance(raw, list) and raw and raw[0] in named:
            return _dataclass(named[raw[0]], raw)
        if plain:
            return _unpacker(plain[0])(raw)
        raise ValueError(f"one of {', '.join(named)} expected")

    return unpack


def _dataclass(cls: Any, raw: Any) -> Any:  # noqa: ANN401
    name, *fields = _exactly(raw, list)
    if name != cls.__name__:
        found = _exactly(name, str)[:MOST_SHOWN]
        raise ValueError(f"{cls.__name__} expected, found {found!r}")
    return cls(*[unpack(field) for unpack, field in zip(_unpackers(cls), fields, strict=True)])


@cache
def _unpackers(cls: type) -> tuple[Callable[[Any], Any], ...]:
    return tuple(map(_unpacker, _hints(cls).values()))


def _member(cls: type[Enum], raw: Any) -> Enum:  # noqa: ANN401
    if type(raw) not in (str, int) or (isinstance(raw, str) and len(raw) > MOST_SHOWN):  # an error would repeat it
        raise ValueError(f"a {cls.__name__} expected")
    return cls(raw)


def _fraction(raw: Any) -> Fraction:  # noqa: ANN401
    numerator, denominator = (_exactly(part, int) for part in _exactly(raw, list))
    return Fraction(numerator, denominator)


def _sized(expected: Any, raw: Any) -> bytes:  # noqa: ANN401
    found: bytes = _exactly(raw, bytes)
    if len(found) != SIZES[expected]:
        raise ValueError(f"a {_name(expected)} of {len(found)} bytes: each has {SIZES[expected]}")
    return found


def _named(what: str, raw: Any) -> str:  # noqa: ANN401
    found: str = _exactly(raw, str)
    if not _NAME.fullmatch(found):
        raise ValueError(f"{found[:MOST_SHOWN]!r} is no {what}'s name")
    return found


def _exactly(raw: Any, cls: type) -> Any:  # noqa: ANN401
    if type(raw) is not cls:
        raise ValueError(f"{cls.__name__} expected, found {type(raw).__name__}")
    if isinstance(raw, str):
        _text(raw)
    return raw


def _name(expected: Any) -> str:  # noqa: ANN401
    return getattr(expected, "__name__", str(expected))
