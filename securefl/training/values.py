"""What a value of a table is: no value at all, or words as its file writes them. One rule for every kind of file.

There is no value where a row has not the column, where it is null or not a number, where it is blank, and where the
document says so (`missing`). Any other value is told and compared as a file writes it: true, not True.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from datetime import date
from typing import Any, Final

from securefl.errors import OperatorFault
from securefl.shown import hidden, in_json

SHOWN: Final = 24  # a longer value, or one with blanks, may be a text in the wrong column: it is not shown
WHOLE: Final = re.compile(r"(-?\d{1,18})\.0+")  # a whole number, as a table with gaps in it writes it


def is_missing(value: object, more: Collection[str] = ()) -> bool:
    """Return whether this is no value; ``more`` says which texts are none either."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, str):
        return not value.strip() or value in more
    return value is None


def written(value: object, column: str, place: str) -> str:
    """A value that is there, as a file writes it.

    Raises:
        OperatorFault: it is a list or a structure.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.decode("utf-8", "replace")
        case date():
            return value.isoformat()
    if isinstance(value, list | tuple | dict):
        raise OperatorFault(f"`{column}` is {kind(value)}", "one value is expected", place)
    return str(value)


def kind(value: Any) -> str:  # noqa: ANN401 - whatever a table holds
    """Return what sort of value this is, in a person's words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, list | tuple | dict):
        return "a structure" if isinstance(value, dict) else "a list"
    return "a date" if isinstance(value, date) else "bytes" if isinstance(value, bytes) else "a number"


def forms(said: str) -> tuple[str, ...]:
    """The ways in which the same value may be written: 1.0 is also 1."""
    found = WHOLE.fullmatch(said)
    return (said,) if found is None else (said, found[1])


def label_shown(said: str, known: Collection[str]) -> tuple[str, str]:
    """What a person is shown of a value that is no label, and what to do where it is nearly one."""
    near = next((each for each in known if drawn(each) == drawn(said)), None)
    if near is not None:
        remedy = f"it is {near} but for case, blanks or what is not drawn: mend the file, or map it under `labels`"
        return in_json(said), remedy
    if len(said) <= SHOWN and not re.search(r"\s", said) and hidden(said) is None:
        return f"'{said}'", ""
    return f"a value of {len(said)} characters", ""


def drawn(said: str) -> str:
    """A label without what a reader may overlook."""
    return "".join(each for each in said if not each.isspace() and hidden(each) is None).casefold()
