"""The encodings a file may be in give back the bytes they read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from securefl.documents import encodings
from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.training import same_records
from securefl.training.data import load

MARKED = ("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig")  # these become UTF-8 before anything else


@given(st.sampled_from(sorted(encodings.KNOWN)), st.binary(max_size=8))
def test_what_is_read_is_written_back_as_the_bytes_it_was(name, raw) -> None:
    if name in ("utf-16", "utf-8-sig"):
        text, name = raw.decode(name, "ignore"), "utf-8"  # noqa: PLW2901
        raw = text.encode(name)
    try:
        text = raw.decode(name)
    except UnicodeError:
        return
    assert text.encode(name) == raw


@given(st.sampled_from(sorted(encodings.KNOWN - set(MARKED))), st.binary(max_size=12))
def test_lines_columns_and_quotes_are_the_same_bytes_in_every_encoding(name, raw) -> None:
    for mark in (b"\n", b"\r", b'"', b",", b"\t"):
        parts = raw.split(mark)
        try:
            apart = [part.decode(name) for part in parts]
        except UnicodeDecodeError:
            with pytest.raises(UnicodeDecodeError):
                raw.decode(name)
            continue
        assert raw.decode(name).split(mark.decode()) == apart
    ascii_ = bytes(each for each in raw if each < 0x80)
    assert ascii_.decode(name) == ascii_.decode("ascii")


@given(st.text(max_size=6), st.sampled_from(sorted(encodings.KNOWN - set(MARKED))))
def test_what_an_encoding_has_not_is_written_one_by_one(text, name) -> None:
    assert same_records.written(text, name) == b"".join(same_records.written(each, name) for each in text)


def _read(folder, raw: bytes, encoding: str):
    (folder / "r.csv").write_bytes(raw)
    source = DataSource(file="r.csv", encoding=encoding, heldout=0)
    return [each.text for each in load(source, folder, ("bad", "good")).train]


TABLE = "text,label\ncafé,good\n"


@pytest.mark.parametrize(("raw", "encodings_"), [
    (TABLE.encode("utf-16"), ("utf-16", "utf-16-le")), (TABLE.encode("utf-8-sig"), ("utf-8-sig", "utf-8")),
    (b"\xfe\xff" + TABLE.encode("utf-16-be"), ("utf-16", "utf_16_be")), (TABLE.encode(), ("utf-8", "utf-8-sig")),
])  # fmt: skip
def test_a_mark_is_no_part_of_a_file(tmp_path, raw, encodings_) -> None:
    for name in encodings_:
        assert _read(tmp_path, raw, name) == ["café"]


@pytest.mark.parametrize(("raw", "name", "why"), [
    (TABLE.encode("utf-16"), "latin-1", "UTF-16 by its mark"), (TABLE.encode("utf-16"), "utf-16-be", "UTF-16 by its mark"),
    (TABLE.encode("utf-16"), "utf-8", "UTF-16 by its mark"), (TABLE.encode("utf-16-le"), "utf-16-le", "no mark of UTF-16"),
    (TABLE.encode("utf-16-be"), "utf-16", "no mark of UTF-16"), (TABLE.encode(), "utf-16", "no mark of UTF-16"),
    (b"\xff\xfe" + TABLE.encode("utf-16-le")[:-1], "utf-16", r"r\.csv:2: bytes that are not UTF-16"),
])  # fmt: skip
def test_a_file_is_read_as_utf_16_if_and_only_if_it_has_the_mark(tmp_path, raw, name, why) -> None:
    with pytest.raises(OperatorFault, match=why):
        _read(tmp_path, raw, name)


@pytest.mark.parametrize(
    "name", ["unicode_escape", "raw_unicode_escape", "utf-7", "cp932", "punycode", "idna", "rot13", "hex", "zip", "no"]
)
def test_a_codec_that_can_write_one_text_in_two_ways_is_refused(name) -> None:
    with pytest.raises(ValidationError, match="encoding|not read as"):
        DataSource(file="a.csv", encoding=name)


@pytest.mark.parametrize("name", ["utf-8", "latin1", "ISO-8859-15", "windows-1252", "gb18030", "utf_16"])
def test_the_encodings_people_have_are_read(name) -> None:
    assert DataSource(file="a.csv", encoding=name).encoding == name
