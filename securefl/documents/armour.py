"""Bytes as text between two lines, as a mail or a file carries them: one form for every kind of signed document."""

from __future__ import annotations

import base64
import textwrap


def armoured(data: bytes, begin: str, end: str) -> str:
    """The bytes in base 64, 64 characters a line, between the lines ``begin`` and ``end``."""
    return "\n".join((begin, *textwrap.wrap(base64.b64encode(data).decode(), 64), end, ""))


def unarmoured(text: bytes, begin: str, end: str, most: int) -> bytes:
    """The bytes in a text of at most ``most`` bytes; how blanks and line ends stand in it does not matter.

    Raises:
        ValueError: it is longer, has other lines around it, or holds no base 64.
    """
    words = text[: most + 1].decode("ascii", "replace").split()
    first, last = begin.split(), end.split()
    if len(text) > most or words[: len(first)] != first or words[-len(last) :] != last:
        raise ValueError(f"no `{begin}` and `{end}` around at most {most} bytes")
    return base64.b64decode("".join(words[len(first) : -len(last)]), validate=True)
