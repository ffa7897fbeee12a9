"""JSON that has one reading: UTF-8, each key once, finite numbers. Whatever reads it, reads the same.

A parser takes the last of two equal keys, a person the first. So a file with a key twice says two things.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from securefl.errors import Tampered


class Ambiguous(ValueError):
    """The text is JSON, and two readers may take it for two things."""


def loads(text: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse JSON that has one reading.

    Raises:
        ValueError: it is no JSON in UTF-8, has a key twice in one object, or holds NaN or an infinity.
    """
    return json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)


def mapping(path: Path, name: str = "") -> dict[str, Any]:
    """Read the JSON object in a file; ``name`` is what a finding calls the file.

    Raises:
        Tampered: the file cannot be read, or holds no object that has one reading.
    """
    where = name or path.name
    try:
        value = loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise Tampered(where, f"cannot be read: {fault}") from fault
    if not isinstance(value, dict):
        raise Tampered(where, "no mapping")
    return value


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Ambiguous(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise Ambiguous(f"{constant} is no number of JSON")
