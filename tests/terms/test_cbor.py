"""Whatever the bytes: they are refused at little cost before anything is built, or are what this project writes."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from securefl import cbor, wire
from securefl.audit import json_files
from securefl.coordinator import evidence
from securefl.errors import Malformed, Tampered
from securefl.protocol import messages as m
from securefl.terms import MemberId, Participant, PoissonGaussian, PublicKey
from tests.support.worlds import World

MOST = (1 << 8 * cbor.MOST_INTEGER) - 1
integers = st.integers(-MOST - 1, MOST) | st.sampled_from([23, 24, 255, 256, 2**16, 2**32, 2**64 - 1, 2**64, -(2**64)])
values = st.recursive(
    st.none() | st.booleans() | integers | st.binary(max_size=300) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=3), inner, max_size=30),
    max_leaves=40,
)
anything = st.recursive(  # other tags, floats, sets, keys of all kinds: what the library can write, and we never do
    st.floats() | st.dates() | st.just(cbor2.undefined) | st.fractions() | st.uuids() | integers | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers() | st.binary(), inner, max_size=4)
        | st.builds(cbor2.CBORTag, st.integers(0, 70_000), inner)
    ),
)


@given(values)
def test_what_we_write_is_read(value: object) -> None:
    assert cbor.load(cbor.dump(value)) == value


@given(values, st.data())
def test_a_part_of_it_and_more_than_it_are_refused(value: object, data: st.DataObject) -> None:
    whole = cbor.dump(value)
    with pytest.raises(cbor.Refused):
        cbor.load(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(cbor.Refused, match="after the end"):
        cbor.load(whole + data.draw(st.binary(min_size=1, max_size=3)))


@given(st.binary(max_size=200) | anything.map(cbor2.dumps) | values.map(cbor2.dumps))
@example(b"\xd8\x1c\x81\xd8\x1d\x00")  # a list that holds itself
@example(b"\xc2\x40")
def test_whatever_passes_is_written_so_again_and_is_a_plain_value(data: bytes) -> None:
    try:
        value = cbor.load(data)
    except (cbor.Refused, cbor2.CBORDecodeError):
        return
    waiting = [value]
    while waiting:
        part = waiting.pop()
        assert type(part) in (int, bool, bytes, str, list, dict, type(None))
        waiting += part if isinstance(part, list) else [*part, *part.values()] if isinstance(part, dict) else []
    assert cbor2.loads(cbor.dump(value)) == value


class Counting(bytes):
    """Bytes that count how often one of them is looked at by itself: once per item, and in a large integer."""

    looked = 0

    def __getitem__(self, place):
        self.looked += not isinstance(place, slice)
        return super().__getitem__(place)


def nested(levels: int, width: int) -> bytes:
    """Encodings in encodings: a list of a long string that is such a list, and so on."""
    data = bytes(wire.LONG)
    for _ in range(levels):
        data = cbor.dump([data, *range(width)])
    return data


def shared(levels: int) -> bytes:
    """A list that stands for two to the power of ``levels`` strings."""
    parts = [b"\xd8\x1c\x81\x59\x01\x00" + bytes(256)]
    parts += [b"\xd8\x1c\x82" + (b"\xd8\x1d" + cbor2.dumps(level)) * 2 for level in range(levels - 1)]
    return bytes([0x98, levels]) + b"".join(parts)


@given(st.binary(max_size=600) | anything.map(cbor2.dumps) | values.map(cbor2.dumps))
@example(nested(40, 20))
@example(nested(500, 2))
@example(shared(60))
def test_however_they_stand_in_each_other_no_more_items_are_visited_than_there_are_bytes(data: bytes) -> None:
    counted = Counting(data)
    pieces = wire.cut(counted)
    assert b"".join(pieces) == data
    assert len(pieces) <= wire.MOST_CUTS
    assert counted.looked <= len(data) + len(data) // wire.LONG + 2


def test_encodings_in_encodings_are_cut_at_every_depth() -> None:
    assert bytes(wire.LONG) in wire.cut(nested(500, 2))  # deeper than calls may go


def test_a_string_is_stepped_over_whatever_its_length() -> None:
    counted = Counting(cbor.dump([1, bytes(1 << 20), "é" * 1000]))
    assert cbor.strings(counted, least=wire.LONG) == [(7, 7 + (1 << 20))]
    assert counted.looked == 4


@pytest.mark.parametrize("depth", [cbor.MOST_DEPTH, cbor.MOST_DEPTH + 1, 100_000])
def test_what_is_nested_too_deep_is_refused(depth: int) -> None:
    data = b"\x81" * depth + b"\x00"
    if depth == cbor.MOST_DEPTH:
        cbor.load(data)
    else:
        with pytest.raises(cbor.Refused, match="nested deeper"):
            cbor.load(data)


MANY = 400_000


@pytest.mark.parametrize(
    "data",
    [
        b"\x9a" + MANY.to_bytes(4, "big") + b"\x80" * MANY,
        b"\x9a\xff\xff\xff\xff" + b"\x80" * MANY,
        b"\xba" + (MANY // 2).to_bytes(4, "big") + b"\x60\x80" * (MANY // 2),
        b"\xd8\x1e\x82" + (b"\xc2\x5a\x00\x03\x0d\x40" + b"\xff" * 200_000) * 2,
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        shared(60),
    ],
    ids=["empty lists", "of more than there are", "a map", "a rational", "a string without end", "shared"],
)
@pytest.mark.parametrize("expected", [m.Frame, m.Enrolled, PoissonGaussian], ids=lambda each: each.__name__)
def test_what_costs_much_is_refused_at_no_cost(data: bytes, expected: type) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            wire.decode(data, expected)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_list_has_room_for_one_item_in_eight_bytes() -> None:
    wire.decode(wire.encode((1,) * cbor.FREE_ITEMS), tuple[int, ...])
    with pytest.raises(ValueError, match="items"):
        wire.encode((1,) * (2 * cbor.FREE_ITEMS))
    many = (Participant(MemberId("north"), PublicKey(bytes(32)), "here"),) * 20_000
    assert wire.decode(wire.encode(many), tuple[Participant, ...]) == many


@given(integers | st.integers(MOST - 2, MOST + 3) | st.integers(-MOST - 3, -MOST))
def test_an_integer_that_does_not_travel_is_not_encoded(number: int) -> None:
    for value, kind in ((number, int), (Fraction(number), Fraction)):
        if -MOST - 1 <= number <= MOST:
            assert wire.decode(wire.encode(value), kind) == value
        else:
            with pytest.raises(ValueError, match="bits"):
                wire.encode(value)


def test_messages_of_ours_are_half_as_deep_and_of_numbers_a_third_as_long_as_may_be() -> None:
    """A number of a document has 64 characters and a float holds it: its fraction is far below the bound."""
    plan = cbor.dump(cbor2.loads(wire.encode(World().coordinator.state.course.plan)))

    def depth(value: object) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert depth(cbor2.loads(plan)) * 2 <= cbor.MOST_DEPTH
    smallest = Fraction("1." + "1" * 57 + "e-323")
    assert smallest.denominator.bit_length() * 3 <= 8 * cbor.MOST_INTEGER


def test_an_error_repeats_little_of_what_came() -> None:
    for raw in (["x" * 10_000_000], [bytes(1_000_000)], [["x" * 1_000_000]]):
        with pytest.raises(Malformed) as told:
            wire.decode(cbor.dump(raw), Participant)
        assert len(str(told.value)) < 200
    role = cbor.dump(["Session", *[b"x" * 1_000_000] * 7])
    with pytest.raises(Malformed) as told:
        wire.decode(role, m.Session)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "[" * 100_000 + "]" * 100_000])
def test_json_of_somebody_else_s_that_no_reader_can_take_is_named(text: str, tmp_path) -> None:
    """JSON has its own reader, which ends at its own depth: that is a word on the file, and no bug here."""
    path = tmp_path / "report.json"
    path.write_text(text)
    for read in (json_files.mapping, evidence.told_in):
        with pytest.raises(Tampered, match="report.json"):
            read(path)
