"""The encodings a file may be in: each gives every text back as the bytes it was read from, and leaves ASCII as it is.

A record is recognised by its bytes too (`sameness`), and a file is cut into rows before it is decoded (`rows`). A codec
with escapes, or with two ways to write one character, would let the same file stand under other bytes: `unicode_escape`
and `cp932` are of that kind. UTF-16, with its mark, becomes UTF-8 before anything else; so does UTF-8 with a mark.
"""

from __future__ import annotations

import codecs
from typing import Final

_WRITTEN: Final = (
    "ascii utf-8 utf-8-sig utf-16 utf-16-le utf-16-be latin-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 "
    "iso8859-7 iso8859-8 iso8859-9 iso8859-10 iso8859-11 iso8859-13 iso8859-14 iso8859-15 iso8859-16 cp437 cp850 cp852 "
    "cp855 cp857 cp858 cp860 cp861 cp862 cp863 cp865 cp866 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 "
    "cp1258 koi8-r koi8-u mac-roman gb18030 gbk shift_jis euc_jp euc_kr cp949"
)
KNOWN: Final = frozenset(codecs.lookup(name).name for name in _WRITTEN.split())


def known(name: str) -> str:
    """Return the encoding's name as it was written.

    Raises:
        ValueError: it is no encoding, or one that does not give back the bytes it read.
    """
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError) as fault:
        raise ValueError(f"no encoding {name!r}: write one such as utf-8, latin-1 or cp1252") from fault
    if found not in KNOWN:
        raise ValueError(
            f"files are not read as {name!r}: save the file as utf-8, or write latin-1, cp1252, gb18030 ..."
        )
    return name
