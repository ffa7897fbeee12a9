"""When two rows are one record: while they are read, and when they are met again under another name.

Rows with the same trained text are one record, and so are texts with the same token ids. Its label is the one that most
of them have; where two labels tie, there is no record. So one row more or less changes the trained set by at most one
record, whatever the rows around it and their order.

A record is recognised by any of its forms. Each is taken from what was read, and none depends on how it was read:

- the row's bytes as they stand in the file, before they are decoded, and those of every row that another delimiter
  makes of the same lines: a text of several lines is one row to one delimiter and many to another (`rows`);
- the text, the text that is trained on, and the bytes the text stands as;
- the same texts in normal form: without case, width, composition, blanks and characters that are drawn as nothing;
- the text beside each other value of its row, in any order. The same row under another text column has one of these in
  common, also where a library read numbers and dates instead of the words in the file, or left columns out.

A model adds its token ids.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from securefl.shown import drawn

SIZE: Final = 16  # bytes of a form
PAIR: Final = b"two values of a row\0"
NUMERIC: Final = tuple("+-.0123456789")
BYTES: Final = {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}  # what "surrogateescape" makes of a byte


def plurality(votes: Mapping[int, int]) -> int | None:
    """The label with the most votes; None where two tie. One vote more or less never turns one label into another."""
    ranked = Counter(votes).most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None
    return ranked[0][0]


def settled(rows: Iterable[tuple[int, ...]], labels: Iterable[int]) -> dict[tuple[int, ...], int]:
    """Each row of token ids that is a record, in the order of the first, with its label."""
    votes: dict[tuple[int, ...], Counter[int]] = {}
    for key, label in zip(rows, labels, strict=True):
        votes.setdefault(key, Counter())[label] += 1
    decided = {key: plurality(each) for key, each in votes.items()}
    return {key: label for key, label in decided.items() if label is not None}


def canonical(text: str) -> str:
    """The text without what can change while it reads the same: case, width, composition, blanks, unseen characters."""
    if text.isascii():
        return drawn(text).lower()
    text = unicodedata.normalize("NFKD", drawn(text))  # a joiner between a letter and its mark would keep them apart
    text = unicodedata.normalize("NFKD", text.upper().casefold())  # the upper case of a dotless i is an I
    return unicodedata.normalize("NFKC", drawn(text))


def forms(row: Iterable[object], raw: bytes, text: str, trained: str, encoding: str) -> frozenset[bytes]:
    """Return what a row is recognised by.

    Args:
        row: the values of all its columns, of any types.
        raw: its bytes in the file; empty where a library read the file.
        text: the column that was asked for.
        trained: what is made of it to train on.
        encoding: what the file's bytes were read as, one in which ASCII is itself.
    """
    bare, words = by_bytes(text, encoding), [said for value in row for said in _words(value)]
    exact = {raw, written(text, encoding), written(text, "utf-8"), written(trained, "utf-8")} - {b""}
    alike = {canonical(each).encode() for each in (text, trained, bare)}
    beside = _pairs(text, words)
    plain = [by_bytes(said, encoding) for said in words]
    if plain != words:
        beside |= _pairs(bare, plain)
    return frozenset(map(form, exact | alike | beside))


def form(data: bytes) -> bytes:
    """A digest of ``SIZE`` bytes. It is not secret: whoever keeps it keys it."""
    return hashlib.blake2b(data, digest_size=SIZE).digest()


def written(text: str, encoding: str) -> bytes:
    """The bytes a text was read from; a character that the encoding has not, such as one of an escape, as in UTF-8."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return b"".join(_one(character, encoding) for character in text)


def _one(character: str, encoding: str) -> bytes:
    try:
        return character.encode(encoding)
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")


def by_bytes(text: str, encoding: str) -> str:
    """Return what the text's bytes say whatever they were read as: UTF-8, and where they are not, a character each."""
    if text.isascii():
        return text
    return written(text, encoding).decode("utf-8", "surrogateescape").translate(BYTES)


def _pairs(text: str, words: Iterable[str]) -> set[bytes]:
    """The text and each other value of its row, in an order of their own."""
    mine, found = _value(text), set()
    for said in words:
        other = _value(said)
        if other and other != mine:
            first, second = sorted((mine, other))
            found.add(PAIR + len(first).to_bytes(8, "big") + first + second)
    return found


def _value(said: str) -> bytes:
    """A value in normal form: 1.50, 1.5 and 15e-1 are one, as is the float of 32 bits that is nearest to them."""
    text = canonical(said)
    if text[:1] in NUMERIC:
        try:
            number = float(text)
        except ValueError:
            return text.encode()
        return f"{number + 0:.6g}".encode()  # + 0 makes -0 a 0
    return text.encode()


def _words(value: object) -> Iterator[str]:
    """Yield what may stand in a file for this value; of a list or structure, the texts that are in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "surrogateescape").translate(BYTES)
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            if isinstance(each, str | bytes | Mapping | list | tuple):
                yield from _words(each)
    elif isinstance(value, datetime):  # files write it in many ways, and libraries read some of them
        yield from (value.isoformat(), value.isoformat(" "), f"{value.replace(tzinfo=None).isoformat()}Z")
        yield value.date().isoformat()
    elif value is not None:
        yield str(value)
