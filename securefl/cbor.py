"""The one door by which bytes become CBOR's values: what this project never writes is refused before any value is made.

One pass over the heads of the items, in a loop, without recursion; strings are stepped over. What passes has one
length, no tag but those of large integers and those a caller names, no float, text as keys, every head as short as it
can be, and no more items than its bytes are worth. Only then does the library build values.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import cbor2

MOST_DEPTH: Final = 32  # containers in containers; a message of ours has half as many at most
MOST_INTEGER: Final = 512  # bytes; a number of a document, as a fraction, has 160, and a product of three fits
FREE_ITEMS: Final = 1 << 16  # whatever their number of bytes; then ...
BYTES_PER_ITEM: Final = 8  # ... one item for so many bytes: an item costs the library 90 bytes of memory

_TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 3, 4, 5, 6, 7  # major types (RFC 8949, 3.1), beside integers and byte strings
_BYTES: Final = 2
_LARGE: Final = (2, 3)  # tags of integers that 8 bytes do not hold
_PLAIN: Final = frozenset({20, 21, 22})  # false, true, null
_LEAST: Final = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}  # what a head of so many bytes more is needed for


class Refused(ValueError):
    """Bytes that are no value of ours. Nothing was built."""


def most_items(size: int) -> int:
    """Return how many items so many bytes may hold."""
    return FREE_ITEMS + size // BYTES_PER_ITEM


def load(data: bytes, *, tags: Collection[int] = (), most: int | None = None) -> Any:  # noqa: ANN401 - what CBOR can say
    """The value in these bytes, after ``strings`` found nothing wrong with them.

    Raises:
        Refused: something was wrong.
        cbor2.CBORDecodeError: a text is not UTF-8.
    """
    strings(data, least=len(data) + 1, tags=tags, most=most_items(len(data)) if most is None else most)
    return cbor2.loads(data)


def dump(value: object) -> bytes:
    """The canonical encoding of what CBOR can say (RFC 8949, 4.2.1)."""
    return cbor2.dumps(value, canonical=True)


def strings(  # noqa: C901, PLR0912 - one branch per kind of item, in one loop: it runs for each
    data: bytes, start: int = 0, end: int | None = None, *, least: int, tags: Collection[int] = (),
    most: int | None = None,
) -> list[tuple[int, int]]:  # fmt: skip
    """Where the one item in ``data[start:end]`` has byte strings of ``least`` bytes or more: their beginnings and ends.

    At most ``end - start`` items are visited, and what a string holds is not read.

    Args:
        tags: may stand in it beside those of large integers.
        most: items that it may have.

    Raises:
        Refused: it has another form than what we write, is cut short, or something follows it.
    """
    at, end = start, len(data) if end is None else end
    most = end - start if most is None else most
    found: list[tuple[int, int]] = []
    around: list[tuple[int, bool]] = []  # what is left to come in each container around this one
    due, left, mapping, items, large = 1, 1, False, 0, False
    while due:
        if due > end - at:
            raise Refused(f"cut short: {due} items are to come, and {end - at} bytes")
        if items == most:
            raise Refused(f"more than {most} items in {end - start} bytes")
        head = data[at]
        kind, size = head >> 5, head & 31
        at += 1
        if size > 23:
            size, at = _size(data, at, end, size, kind)
        if large and (kind != _BYTES or not 8 < size <= MOST_INTEGER or at == end or not data[at]):
            raise Refused("an integer in another form than the shortest, or too large")
        if mapping and not left & 1 and kind != _TEXT:
            raise Refused("a key that is no text")
        items, due, left = items + 1, due - 1, left - 1
        if kind in (_BYTES, _TEXT):
            if size > end - at:
                raise Refused(f"cut short: a string of {size} bytes, and {end - at} are left")
            if kind == _BYTES and size >= least and not large:
                found.append((at, at + size))
            at += size
            large = False
        elif kind in (_ARRAY, _MAP):
            size *= 1 + (kind == _MAP)
            due += size
            if size:
                around.append((left, mapping))
                left, mapping = size, kind == _MAP
            if len(around) > MOST_DEPTH:
                raise Refused(f"nested deeper than {MOST_DEPTH}")
        elif kind == _TAG:
            large = size in _LARGE
            if not large and size not in tags:
                raise Refused(f"the tag {size}")
            due, left = due + 1, left + 1
        elif kind == _SIMPLE and size not in _PLAIN:
            raise Refused("a float, or another value that no message of ours holds")
        while not left and around:
            left, mapping = around.pop()
    if at != end:
        raise Refused(f"{end - at} bytes after the end")
    return found


def _size(data: bytes, at: int, end: int, size: int, kind: int) -> tuple[int, int]:
    """Return what a head says that goes on behind its first byte, and where it ends."""
    if size > 27 or kind == _SIMPLE:
        raise Refused("a length that is not told, or a float")
    width = 1 << size - 24
    if width > end - at:
        raise Refused("cut short within a head")
    told = int.from_bytes(data[at : at + width], "big")
    if told < _LEAST[width]:
        raise Refused("a head longer than it needs to be: only the canonical one is accepted")
    return told, at + width
