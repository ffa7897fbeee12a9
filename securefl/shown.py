"""Text that means what it looks like: what no name or word may hold, and how any text is put before a reader.

A control character moves a terminal's cursor; a bidirectional mark turns a line round; one without width makes two
names look alike. None of them may stand in a name. Words that were made from somewhere else's are written with escapes.
The list stands here and not in the running Unicode version: two machines must agree on what a ledger may hold.
"""

from __future__ import annotations

import json
import re
from typing import Any

HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # without width
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2"  # signs that enclose what follows
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffb"  # spaces, directions, variants, marks
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff"  # halves of a character
    "]"
)


def hidden(text: str) -> str | None:
    """The first character in ``text`` that does not show as itself; None if every one does."""
    if text.isascii() and text.isprintable():  # most are
        return None
    found = HIDDEN.search(text)
    return None if found is None else found.group()


def plain(text: str) -> str:
    """The same in one line; an escape such as a terminal's reads x1b behind a backslash: nothing is left out."""
    return text if hidden(text) is None else HIDDEN.sub(lambda found: ascii(found.group())[1:-1], text)


def short(text: str, most: int = 2000) -> str:
    """The same, made plain and cut to ``most`` characters: no more is written down of words from outside."""
    text = plain(text[: most + 1])  # first cut, so that no text is read through that is far too long
    return text if len(text) <= most else text[: most - 1] + "…"


def on_screen(text: str) -> str:
    """The same for text of several lines: their ends stay."""
    return "\n".join(map(plain, text.split("\n")))


def in_json(value: object, indent: int | None = 2) -> str:
    """JSON that reads back as ``value``, and shows every character that is in it.

    Raises:
        ValueError: a number in it is not finite.
    """
    written = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return "\n".join(HIDDEN.sub(_escaped, line) for line in written.split("\n"))


def plainly(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The same value with every text in it made plain."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plainly(each) for key, each in value.items()}
    return [plainly(each) for each in value] if isinstance(value, list | tuple) else value


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]
