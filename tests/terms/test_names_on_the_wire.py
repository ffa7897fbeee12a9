"""A name that has a form is decoded in that form alone: keys, hashes, runs, signatures, and who a party is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import cbor, wire
from securefl.errors import Malformed
from securefl.terms import MemberId
from securefl.terms.names import NAME_FORM, SIZES

SIZED = st.sampled_from(sorted(SIZES, key=str))


@given(SIZED, st.binary(max_size=80))
def test_bytes_of_another_length_are_no_key_no_hash_no_run_and_no_signature(kind: Any, data: bytes) -> None:
    if len(data) == SIZES[kind]:
        assert wire.decode(wire.encode(data), kind) == data
    else:
        with pytest.raises(Malformed, match=f"each has {SIZES[kind]}"):
            wire.decode(wire.encode(data), kind)


@given(SIZED, st.data())
def test_the_right_length_is_decoded_also_inside_something_else(kind: Any, drawn: st.DataObject) -> None:
    right = drawn.draw(st.binary(min_size=SIZES[kind], max_size=SIZES[kind]))
    for expected, value in ((tuple[kind, ...], (right, right)), (kind | None, right), (kind | None, None)):
        assert wire.decode(wire.encode(value), expected) == value
    for value in ((right, right[1:]), (right + b"\0",)):
        with pytest.raises(Malformed):
            wire.decode(wire.encode(value), tuple[kind, ...])


@given(st.text(max_size=70) | st.from_regex(NAME_FORM, fullmatch=True))
def test_who_a_party_is_has_the_form_that_a_policy_allows(name: str) -> None:
    data = cbor.dump(name)
    if re.fullmatch(NAME_FORM, name):
        assert wire.decode(data, MemberId) == name
    else:
        with pytest.raises(Malformed):
            wire.decode(data, MemberId)
