"""The encodings a file may be in give back the bytes they read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from securefl.documents import encodings
from securefl.documents.data_source import DataSource


@given(st.sampled_from(sorted(encodings.KNOWN)), st.binary(max_size=8))
def test_what_is_read_is_written_back_as_the_bytes_it_was(name, raw) -> None:
    if name in ("utf-16", "utf-8-sig"):  # these put a mark in front, whatever stood there
        return
    try:
        text = raw.decode(name)
    except UnicodeError:
        return
    assert text.encode(name) == raw


@pytest.mark.parametrize(
    "name", ["unicode_escape", "raw_unicode_escape", "utf-7", "cp932", "punycode", "idna", "rot13", "hex", "zip", "no"]
)
def test_a_codec_that_can_write_one_text_in_two_ways_is_refused(name) -> None:
    with pytest.raises(ValidationError, match="encoding|not read as"):
        DataSource(file="a.csv", encoding=name)


@pytest.mark.parametrize("name", ["utf-8", "latin1", "ISO-8859-15", "windows-1252", "gb18030", "utf_16"])
def test_the_encodings_people_have_are_read(name) -> None:
    assert DataSource(file="a.csv", encoding=name).encoding == name
