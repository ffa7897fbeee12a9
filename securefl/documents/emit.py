"""Write a document that the strict reader reads back as the same values: what one part of this writes for another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from fractions import Fraction
from typing import Any

import yaml
from pydantic import BaseModel

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*\Z")
_NO_TEXT = re.compile(r"(true|false|null|nan|inf|infinity|yes|no|on|off|y|n)\Z", re.IGNORECASE)  # to some reader


class _Number(str):
    """A number as it is to be written, digit by digit."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Quotes round whatever a reader could take for something else; nothing is named and pointed to."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 - the library's own signature
        """Write every value out, however often it comes."""
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    safe = _PLAIN.match(text) and not _NO_TEXT.match(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if safe else '"')


def _number(dumper: yaml.SafeDumper, number: _Number) -> yaml.Node:
    plain = dumper.resolve(yaml.ScalarNode, str(number), (True, False))  # type: ignore[no-untyped-call]  # no tag then
    return dumper.represent_scalar(plain, str(number))


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Number, _number)


def text_of(value: Mapping[str, Any], head: str = "") -> bytes:
    """The document's text: comment lines first, then each field in the order given."""
    comments = "".join(f"# {line}\n" for line in head.splitlines())
    body = yaml.dump(
        _written(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=None
    )
    return (comments + body).encode()


def scalar(text: str) -> str:
    """One text as it stands behind a key, quoted where a reader could take it for something else."""
    listed = yaml.dump([text], Dumper=_Dumper, allow_unicode=True, width=2**31, default_flow_style=True)
    return listed.rstrip("\n")[1:-1]


def fields_of(part: BaseModel) -> dict[str, Any]:
    """A part of a document as the fields a person would write: those that differ from what is meant without them."""
    found = {}
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        if info.is_required() or value != info.get_default(call_default_factory=True, validated_data={}):
            found[info.alias or name] = value
    return found


def _written(value: Any) -> Any:  # noqa: ANN401 - whatever a document holds
    """The same in values that YAML has: a fraction is written exactly."""
    if isinstance(value, BaseModel):
        return _written(fields_of(value))
    if isinstance(value, Enum):
        return _written(value.value)
    if isinstance(value, Mapping):
        return {str(key): _written(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written(each) for each in value]
    if isinstance(value, Fraction):
        return exactly(value)
    return value if isinstance(value, bool | int) or value is None else _of_float_or_text(value)


def _of_float_or_text(value: Any) -> Any:  # noqa: ANN401 - whatever a document holds
    return _Number(repr(float(value))) if isinstance(value, float) else str(value)


def exactly(value: Fraction) -> Any:  # noqa: ANN401 - an int, a number or a text
    """A whole number, a decimal that ends, or a fraction such as 1/3."""
    if value.denominator == 1:
        return value.numerator
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 5 == 0 or rest % 2 == 0:
        rest //= 10 if rest % 10 == 0 else 5 if rest % 5 == 0 else 2
        places += 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return _Number(f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}")
