"""What a `tokenizer.json` is made of: parts of which a text's row follows, in memory that the text's length bounds.

A tokenizer is run on records. A part that draws lots gives one text several rows; parts that lengthen a text again and
again end the process at one that is long enough, and whether a site answers would tell of a record.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final

GROWTH: Final = 64  # times as long as it was a text may become; in Unicode's NFKC one character becomes 18
TYPES: Final = {
    "normalizer": frozenset({
        "Sequence", "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip", "Nmt",
        "Prepend", "Precompiled", "ByteLevel", "Replace",
    }),
    "pre_tokenizer": frozenset({
        "Sequence", "BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace",
        "WhitespaceSplit", "CharDelimiterSplit", "UnicodeScripts",
    }),
    "model": frozenset({"WordPiece", "BPE", "Unigram", "WordLevel"}),
    "post_processor": frozenset({
        "Sequence", "BertProcessing", "RobertaProcessing", "TemplateProcessing", "ByteLevel",
    }),
}  # fmt: skip
INSIDE: Final = ("normalizers", "pretokenizers", "processors")  # of a Sequence
BYTE_LEVEL: Final = 2  # a byte becomes a character of two bytes at most
SAVE_AGAIN: Final = "use a tokenizer as transformers saves it"

Wrong = tuple[str, str]  # what, and the remedy


def wrong(document: dict[str, Any]) -> Wrong | None:
    """Return what is wrong with the parts of a `tokenizer.json`, and the remedy; None if nothing is."""
    growth = 1.0
    for place, allowed in TYPES.items():
        for part in _parts(document.get(place)):
            kind = part.get("type")
            known = isinstance(kind, str) and kind in allowed
            if not known and not (kind is None and place == "model"):  # older files leave it out
                return f"has {str(kind)[:40]!r} as a `{place}`, which is not known here", SAVE_AGAIN
            if part.get("dropout") not in (None, 0):
                return "has `dropout`: a text would have another row each time", "set it to null"
            growth *= _growth(part)
            if kind == "TemplateProcessing" and not _holds_its_text_once(part):
                return "has a template in which a text does not stand once", SAVE_AGAIN
    if growth > GROWTH:
        return f"can make a text more than {GROWTH} times as long as it is", SAVE_AGAIN
    return None


def _parts(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - parsed JSON
    """Each part of a place, and those inside it."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            for name in INSIDE:
                inside = part.get(name)
                waiting += inside if isinstance(inside, list) else []


def _growth(part: dict[str, Any]) -> float:
    """How many times as long a text may be behind this part."""
    if part.get("type") == "ByteLevel":
        return BYTE_LEVEL
    if part.get("type") == "Replace":
        pattern, content = part.get("pattern"), part.get("content")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        if not isinstance(content, str):
            return float("inf")
        least = len(found) if isinstance(found, str) and found else 0  # a regex may match one character, or none
        return max(1.0, len(content) / least if least else len(content) + 1.0)
    if part.get("type") == "Precompiled":
        return _longest(part.get("precompiled_charsmap"))
    return 1


def _longest(charsmap: object) -> float:
    """Characters that one may become by SentencePiece's table: a trie behind its size, then texts that end with a 0."""
    try:
        data = base64.b64decode(charsmap, validate=True) if isinstance(charsmap, str) else b""
        texts = data[4 + int.from_bytes(data[:4], "little") :].decode()
    except (binascii.Error, ValueError):
        return float("inf")
    return max(map(len, texts.split("\0")), default=0) or 1


def _holds_its_text_once(part: dict[str, Any]) -> bool:
    pieces = part.get("single")
    texts = (
        [each for each in pieces if isinstance(each, dict) and "Sequence" in each] if isinstance(pieces, list) else []
    )
    return len(texts) == 1
