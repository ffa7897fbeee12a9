"""Inputs are added as they come: what a coordinator keeps does not grow with how many there are."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import keys, wire
from securefl.errors import Forged
from securefl.protection import clear, fixed_point, masking, packing, schemes
from securefl.protection.mask_streams import sum_bits
from securefl.protection.masking_terms import Masked
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.rules import FactorServer
from securefl.strategy.weights import weight, weighted
from securefl.terms import FixedPoint, MemberId, Plan, Scheme, Sharing, SignedReceipt, Update, Weighting
from tests.support.nested import LAYOUT
from tests.support.worlds import World, resigned

ALL = ("a", "b", "c", "d")
ADDING = [each for each in Scheme if not each.has_custodian]
KEEPING = [each for each in Scheme if each.has_custodian]


def payloads(world: World) -> list[bytes]:
    """Every sealed input that a member sent."""
    frames = [wire.decode(data, m.Frame) for _, data in world.carried]
    return [
        wire.decode(frame.envelope.body, m.Submitted).payload
        for frame in frames
        if frame.envelope.receipt.kind == m.Submitted.__name__
    ]


def states(world: World) -> list[bytes]:
    """Every state that the coordinator saved."""
    return [wire.encode(moved.state) for _, moved in world.seen]


@pytest.mark.parametrize("scheme", ADDING)
def test_no_state_holds_an_input_once_a_second_one_was_added(scheme: Scheme) -> None:
    world = World(scheme=scheme, dimension=40)
    assert world.play().outcome == "finished"
    sent = payloads(world)
    assert len(sent) == 8
    vectors = [wire.decode(each, clear.Bare).values if scheme is Scheme.CLEAR else each for each in sent]
    held = [sum(each in state for each in vectors) for state in states(world)]
    assert max(held) <= 1, "in the clear, the first input is its own sum"


@pytest.mark.parametrize("scheme", KEEPING)
def test_a_coordinator_whose_custodian_adds_keeps_every_input_as_it_was_signed(scheme: Scheme) -> None:
    world = World(scheme=scheme)
    assert world.play().outcome == "finished"
    sent = payloads(world)
    assert max(sum(each in state for each in sent) for state in states(world)) == 4


def spoiling(world: World, name: str, payload: bytes) -> None:
    """This member's input is another one, under its own signature."""
    honest = world.handle

    def handle(asked: str, data: bytes) -> bytes:
        answer = honest(asked, data)
        frame = wire.decode(answer, m.Frame)
        if asked != name or frame.envelope.receipt.kind != m.Submitted.__name__:
            return answer
        message = replace(wire.decode(frame.envelope.body, m.Submitted), payload=payload)
        return wire.encode(replace(resigned(frame.envelope.receipt, message, name), head=frame.head))

    world.handle = handle


BAD = {"no payload": b"x", "no vector": wire.encode(Masked(b"short")), "another scheme's": wire.encode(clear.Bare(b""))}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
def test_what_is_no_input_is_refused_as_it_comes_and_the_others_finish(payload: bytes) -> None:
    world = World()
    spoiling(world, "b", payload)
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d"), ("a", "c", "d")))
    assert [name for name, fault in world.faults] == ["coordinator", "coordinator"]


@pytest.mark.parametrize("value", [1 << 40, -(1 << 63), (1 << 63) - 1])
def test_in_the_clear_a_longer_input_than_an_honest_one_is_refused_as_it_comes(value: int) -> None:
    world = World(scheme=Scheme.CLEAR)
    spoiling(world, "b", wire.encode(clear.Bare(np.full(world.dimension, value, "<i8").tobytes())))
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d"), ("a", "c", "d")))
    assert [(name, fault.rule) for name, fault in world.faults] == [("coordinator", "protocol.poisoned-sum")] * 2


WEIGHTED = Sharing((Weighting(Fraction(3), Fraction(1)), Weighting(Fraction(-1), Fraction(2))))


def weighted_plan(world: World) -> Plan:
    """Of two sums: behind each copy of a change stands a weight."""
    return replace(world.coordinator.state.course.plan, sharing=WEIGHTED)


class WeightedWorld(World):
    """A federation in the clear, of weighted means of ``LAYOUT``."""

    def __post_init__(self) -> None:
        self.dimension = LAYOUT.entries
        super().__post_init__()
        state = self.coordinator.state
        plan = replace(weighted_plan(self), dimension=LAYOUT.dimension(1, WEIGHTED))
        self.coordinator.saved = wire.encode(replace(state, course=replace(state.course, plan=plan)))
        strategy = FactorServer(LAYOUT, FedAvg(Fraction(1), Fraction(0)), WEIGHTED)
        self.coordinator_plugs = replace(self.coordinator_plugs, strategy=strategy)

    def update_of(self, name: str, round_: int) -> np.ndarray:
        own = tuple(weight(each, 0.1) for each in WEIGHTED.weightings)
        return weighted(own, super().update_of(name, round_))


@pytest.mark.parametrize("copy", [1, 2])
@pytest.mark.parametrize("wrong", [-1.0, 0.0, 1.001])
def test_in_the_clear_a_weight_that_no_honest_member_has_is_refused_as_it_comes(copy: int, wrong: float) -> None:
    world = WeightedWorld(scheme=Scheme.CLEAR)
    values = np.zeros(LAYOUT.dimension(1, WEIGHTED), "<i8")
    places = [len(values) // 2 - 1, len(values) - 1]
    values[places] = 1 << 15
    values[places[copy - 1]] = round(wrong * (1 << 16))
    spoiling(world, "b", wire.encode(clear.Bare(values.tobytes())))
    assert world.play().outcome == "finished"
    assert [name for name, _ in world.faults] == ["coordinator"] * 2


@given(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3), st.floats(-9, 9), st.integers(0, 2**32))
def test_in_the_clear_an_honest_weight_is_taken_however_long_its_change_is(change, score: float, seed: int) -> None:
    plan = replace(weighted_plan(World(scheme=Scheme.CLEAR)), dimension=8)
    plan = replace(plan, learning=replace(plan.learning, learning_rate=Fraction(1, 1000)))
    own = tuple(weight(each, score) for each in WEIGHTED.weightings)
    rand = keys.Secret(seed.to_bytes(32, "big"))
    sent = fixed_point.encode_update(Update(weighted(own, np.array(change)), plan.learning.event), plan, rand)
    assert clear.ClearCoordinator().add(plan, b"", MemberId("a"), wire.encode(clear.Bare(sent.astype("<i8").tobytes())))
    assert np.allclose(sent[[3, 7]] / 2**16, own, atol=2**-16)


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_a_key_that_ends_once_its_input_came_is_out_unless_the_input_was_added(scheme: Scheme) -> None:
    world = World(scheme=scheme, rounds=1)

    def standing(seat: object) -> None:
        state = world.coordinator.state
        if seat.member == "a" and isinstance(state, coordinator_state.Collecting) and "a" in state.sealed:
            raise Forged("handed over", "protocol.key-handed-over")

    world.coordinator_plugs = replace(world.coordinator_plugs, standing=standing)
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(ALL if scheme is Scheme.MASKING else ALL[1:]))
    kept = {type(each) for _, moved in world.seen for each in getattr(moved.state, "sealed", {}).values()}
    assert (kept == {SignedReceipt}) is (scheme is Scheme.MASKING)


def plan_of(dimension: int, encoding: FixedPoint) -> Plan:
    plan = World().coordinator.state.course.plan
    return replace(plan, dimension=dimension, cover=replace(plan.cover, encoding=encoding))


@given(
    st.data(), st.integers(1, 70), st.integers(1, 6),
    st.sampled_from([FixedPoint(24, 16, 32), FixedPoint(2, 1, 32), FixedPoint(40, 16, 64)]),
)  # fmt: skip
def test_inputs_add_up_modulo_the_ring_in_any_order(data, dimension: int, count: int, encoding: FixedPoint) -> None:
    plan = plan_of(dimension, encoding)
    width = sum_bits(plan)
    vectors = [
        data.draw(st.lists(st.integers(0, (1 << width) - 1), min_size=dimension, max_size=dimension))
        for _ in range(count)
    ]
    total = b""
    for place in data.draw(st.permutations(range(count))):
        elements = np.array(vectors[place], fixed_point.ring_dtype(encoding.ring_bits))
        payload = wire.encode(Masked(packing.pack(elements, width)))
        total = masking.MaskingCoordinator().add(plan, total, MemberId(str(place)), payload)
    found = packing.whole(total, dimension, width, fixed_point.ring_dtype(encoding.ring_bits))
    assert [int(each) for each in found] == [sum(column) % (1 << width) for column in zip(*vectors, strict=True)]


@given(st.sampled_from(ADDING), st.integers(1, 9), st.integers(0, 80))
def test_bytes_that_are_no_vector_of_the_plan_are_never_added(scheme: Scheme, dimension: int, size: int) -> None:
    plan, coordinator = plan_of(dimension, FixedPoint(24, 16, 32)), schemes.coordinator_half(scheme)
    made = clear.Bare if scheme is Scheme.CLEAR else Masked
    fits = 8 * dimension if scheme is Scheme.CLEAR else packing.size(dimension, sum_bits(plan))
    if size == fits:
        assert coordinator.add(plan, b"", MemberId("a"), wire.encode(made(bytes(size))))
        return
    with pytest.raises(Forged, match=f"a sent {size} bytes where {fits} belong"):
        coordinator.add(plan, b"", MemberId("a"), wire.encode(made(bytes(size))))
