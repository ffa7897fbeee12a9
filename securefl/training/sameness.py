"""When two rows are one record: while they are read, and when they are met again under another name.

Rows with the same trained text are one record, and so are texts with the same token ids. Its label is the one that most
of them have; where two labels tie, there is no record. So one row more or less changes the trained set by at most one
record, whatever the rows around it and their order.

A record is recognised by any of its forms: the text in the file, the bytes it stands as, its whole row, the text that
is trained on, and both texts without case, width, composition, blanks and invisible characters. A model adds its token
ids.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

SIZE: Final = 16  # bytes of a form
JOINT: Final = b","  # between a row's columns, as most files have it
# characters that are drawn as nothing, beside those of category Cf: joiners, fillers, variation selectors
UNSEEN: Final = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)))
)


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
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(c for c in folded if c not in UNSEEN and (c.isspace() or unicodedata.category(c)[0] != "C"))
    return " ".join(text.lower().replace("\0", "").split())


def forms(row: Iterable[object], text: str, trained: str, encoding: str) -> frozenset[bytes]:
    """What a row is recognised by. ``row`` holds all of its columns; ``encoding`` is what its file was read as."""
    whole = JOINT.join(_bytes("" if each is None else str(each), encoding) for each in row)
    made = {_bytes(each, "utf-8") for each in (text, trained, canonical(text), canonical(trained))}
    return frozenset(form(each) for each in (whole, _bytes(text, encoding), *made))


def form(data: bytes) -> bytes:
    """A digest of ``SIZE`` bytes. It is not secret: whoever keeps it keys it."""
    return hashlib.blake2b(data, digest_size=SIZE).digest()


def _bytes(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except (UnicodeError, LookupError):  # a lone surrogate, or a character from an escape
        return text.encode("utf-8", "surrogatepass")
