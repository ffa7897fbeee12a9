"""Text that means what it looks like: what no name or word may hold, and how any text is put before a reader.

A control character moves a terminal's cursor; a bidirectional mark turns a line round; one that is drawn as nothing, or
as a blank, makes two names look alike. None of them may stand in a name. Words that were made from somewhere else's are
written with escapes. The list stands here and not in the running Unicode version: two machines must agree on what a
ledger may hold, and on which texts read the same.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

CONTROLS: Final = "\x00-\x1f\x7f-\x9f\ud800-\udfff"  # category Cc, and halves of a character (Cs)
# property Default_Ignorable_Code_Point of Unicode 17: drawn as nothing
IGNORABLE: Final = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# property White_Space, without the one blank that a name may hold
BLANK: Final = "\t-\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# symbols and letters whose drawing is empty: braille blank, object replacement, Khitan filler, hieroglyphs' blanks and
# joints, null notehead, number joiner
EMPTY: Final = "\u2800\ufffc\U0001107f\U00013430-\U00013455\U00016fe4\U0001d159"
# the rest of category Cf: signs that enclose what follows, and marks of notes
SIGNS: Final = "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9-\ufffb\U000110bd\U000110cd"
# no characters: for private use, where each machine draws what it likes, and those that Unicode never gives away
NONE: Final = (
    "\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
)  # fmt: skip
HIDDEN: Final = re.compile(f"[{CONTROLS}{IGNORABLE}{BLANK}{EMPTY}{SIGNS}{NONE}]")


def hidden(text: str) -> str | None:
    """The first character in ``text`` that does not show as itself; None if every one does."""
    if text.isascii() and text.isprintable():  # most are
        return None
    found = HIDDEN.search(text)
    return None if found is None else found.group()


def drawn(text: str) -> str:
    """Only what a reader sees of ``text``: without blanks, and without what does not show as itself."""
    return (text if text.isascii() and text.isprintable() else HIDDEN.sub("", text)).replace(" ", "")


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
