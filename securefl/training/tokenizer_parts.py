"""What a `tokenizer.json` is made of: parts of which a text's row follows, in memory that the text's length bounds.

A tokenizer is run on records. A part that draws lots gives one text several rows; parts that lengthen a text again and
again end the process at one that is long enough, and whether a site answers would tell of a record.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final

GROWTH: Final = 72  # times as many characters a text may become: 18 in a table as T5's, 2 for spaces, 2 for a mark
REPEATED: Final = 64  # characters of what stands in the place of an unknown word, or at an end of many pieces
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
LENGTHENING: Final = ("normalizer", "pre_tokenizer")  # places whose parts change the text
LONGEST: Final = {  # characters that one becomes at most, of all in Unicode 16
    "NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "BertNormalizer": 3, "Lowercase": 2,
    "ByteLevel": 4,  # each byte of one, and there are four
}  # fmt: skip
ENDS: Final = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix")
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
            growth *= _growth(part) if place in LENGTHENING else 1
            if any(isinstance(part.get(name), str) and len(part[name]) > REPEATED for name in ENDS):
                return f"has more than {REPEATED} characters for each unknown word, or each piece", SAVE_AGAIN
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
    """How many times as many characters a text may have behind this part. A piece of it has one at least."""
    kind = part.get("type")
    if kind == "Prepend":  # before each piece between two added tokens
        return 1.0 + len(part["prepend"]) if isinstance(part.get("prepend"), str) else float("inf")
    if kind == "Metaspace":  # before each word
        return 1 if part.get("prepend_scheme") == "never" else 2
    if kind == "ByteLevel":
        return LONGEST[kind] + (part.get("add_prefix_space") is not False)
    if kind == "Replace":
        pattern, content = part.get("pattern"), part.get("content")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        if not isinstance(content, str):
            return float("inf")
        least = len(found) if isinstance(found, str) and found else 0  # a regex may match one character, or none
        return max(1.0, len(content) / least if least else len(content) + 1.0)
    if kind == "Precompiled":
        return _longest(part.get("precompiled_charsmap"))
    return LONGEST.get(kind, 1) if isinstance(kind, str) else 1


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
