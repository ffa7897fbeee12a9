"""What one member says is refused as it comes, and the others finish; or nobody refuses it. It ends no run for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.protection.masking_terms import Public, Revealed
from securefl.protocol import messages as m
from securefl.protocol.waiting import enough
from securefl.terms import Patience, Scheme
from tests.support.words import PAD, WEAK, another, padded, to_others
from tests.support.worlds import World, identity, resigned, signed_head

LIAR = "d"  # of four members, of whom three are enough
KINDS = ("Accept", "Enrolled", "Submitted", "Answered", "Bye")


def lying(world: World, kind: str, round_: int, lie) -> list[m.Frame]:
    """One member says something else in place of one answer. Returns what it said, once it did."""
    honest, said = world.handle, list[m.Frame]()

    def handle(asked: str, data: bytes) -> bytes:
        answer = honest(asked, data)
        frame = wire.decode(answer, m.Frame)
        receipt = frame.envelope.receipt
        if asked != LIAR or (receipt.kind, receipt.round) != (kind, round_) or said:
            return answer
        said.append(lie(frame))
        return wire.encode(said[0])

    world.handle = handle
    return said


@cache
def longest(scheme: Scheme) -> int:
    """The longest request of a run in which everybody is honest."""
    world, read = World(scheme=scheme), list[int]()
    carry = world.carry
    world.carry = lambda name, data: read.append(len(data)) or carry(name, data)
    assert world.play().outcome == "finished"
    return max(read)


def held(world: World) -> str:
    """Play the run to its end; who refused anything, if it was not the liar itself."""
    read = [0]
    carry = world.carry

    def measured(name: str, data: bytes) -> bytes:
        read.append(len(data) if name != LIAR else 0)
        return carry(name, data)

    world.carry = measured
    end = world.play()
    assert end.outcome == "finished", (end.why, world.faults)
    assert max(read) <= longest(world.scheme) + 512, "what a site reads is bounded"
    refused = {name for name, _ in world.faults}
    assert refused <= {"coordinator", LIAR}, world.faults
    return "refused as it comes" if "coordinator" in refused else "refused by nobody"


@given(st.data(), st.sampled_from(KINDS), st.sampled_from([1, 2]))
@settings(max_examples=30)
def test_whatever_one_member_says_the_others_finish(data: st.DataObject, kind: str, round_: int) -> None:
    world = World()
    round_ = {"Accept": 0, "Bye": 0, "Enrolled": 1}.get(kind, round_)
    said = lying(world, kind, round_, lambda frame: another(LIAR, frame, data.draw))
    event(f"{kind}: {held(world)}")
    assert said


@given(st.data(), st.sampled_from(KINDS[:3]))
@settings(max_examples=8)
def test_and_so_they_do_where_there_is_nothing_to_enrol_with(data: st.DataObject, kind: str) -> None:
    world = World(scheme=Scheme.CLEAR, rounds=1)
    lying(world, kind, {"Accept": 0}.get(kind, 1), lambda frame: another(LIAR, frame, data.draw))
    held(world)


DEALT: dict[str, Callable[[Public], Public]] = {
    "another threshold": lambda p: replace(p, statement=replace(p.statement, threshold=p.statement.threshold + 1)),
    "another round": lambda p: replace(p, statement=replace(p.statement, round=p.statement.round + 5)),
    "a weak key": lambda p: replace(p, statement=replace(p.statement, mask_key=WEAK)),
    "another roster": to_others,
    "no box for a peer": lambda p: replace(p, boxes={**p.boxes, "a": b""}),
    "a long box": lambda p: replace(p, boxes={**p.boxes, "a": PAD}),
    "a long commitment to a seed": lambda p: replace(p, statement=replace(p.statement, seed=PAD)),
    "long commitments": padded,
    "unsigned": lambda p: p,
}


@pytest.mark.parametrize("kind", ["Enrolled", "Submitted"])
@pytest.mark.parametrize("what", DEALT)
def test_keys_that_a_peer_would_refuse_are_refused_as_they_come(kind: str, what: str) -> None:
    world = World()
    field = "public" if kind == "Enrolled" else "following"

    def lie(frame: m.Frame) -> m.Frame:
        message = wire.decode(frame.envelope.body, getattr(m, kind))
        public = DEALT[what](wire.decode(getattr(message, field), Public))
        signature = bytes(64) if what == "unsigned" else identity(LIAR).sign("mask-key", wire.encode(public.statement))
        made = replace(message, **{field: wire.encode(replace(public, signature=signature))})
        return replace(resigned(frame.envelope.receipt, made, LIAR), head=frame.head)

    lying(world, kind, 1, lie)
    assert held(world) == "refused as it comes"


OLDER = {"none": None, "older": signed_head(LIAR, 1), "of another ledger": signed_head(LIAR, 2, b"x" * 32)}


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.CKKS, Scheme.MASKED_CKKS])
@pytest.mark.parametrize("head", OLDER.values(), ids=OLDER)
def test_an_input_names_the_ledger_that_paid_for_it(scheme: Scheme, head) -> None:
    world = World(scheme=scheme, rounds=1)

    def older(frame: m.Frame) -> m.Frame:
        receipt = replace(frame.envelope.receipt, head=head)
        signature = identity(LIAR).sign("receipt", wire.encode(receipt))
        return replace(frame, envelope=replace(frame.envelope, receipt=receipt, signature=signature))

    lying(world, "Submitted", 1, older)
    assert held(world) == "refused as it comes"
    assert [fault.rule for name, fault in world.faults if name == "coordinator"] == ["protocol.ledger-set-back"]


ASKING = {"Enrolled": "Enrol", "Submitted": "Propose", "Answered": "Ask"}


def hurried(scheme: Scheme, kind: str) -> World:
    """Five members, of whom three are enough; where ``kind`` is asked for, the liar is first, and three are waited for."""
    world = World(("a", "b", "c", "d", "e"), scheme, rounds=1, colluding=0)
    state = world.coordinator.state
    plan = replace(state.course.plan, patience=Patience(quorum=3, grace_s=1))
    world.coordinator.saved = wire.encode(replace(state, course=replace(state.course, plan=plan)))
    whole = world.exchange

    def exchange(asked: list[tuple[str, bytes]]):
        asked = sorted(asked, key=lambda each: each[0] != LIAR)
        is_short = {wire.decode(data, m.Frame).envelope.receipt.kind for _, data in asked} == {ASKING[kind]}
        for each in asked:
            if not (is_short and enough(world.coordinator.state)):
                yield from whole([each])

    world.exchange = exchange
    return world


@given(st.data(), st.sampled_from(list(ASKING)))
@settings(max_examples=30)
def test_what_counts_for_a_quorum_is_what_helps_to_finish(data: st.DataObject, kind: str) -> None:
    world = hurried(Scheme.MASKING, kind)

    def lie(frame: m.Frame) -> m.Frame:
        made = another(LIAR, frame, data.draw)
        # who shows a longer ledger than it has is refused from its next word on, as if it had fallen silent behind this
        # one: a quorum that is no more than what opens a sum cannot bear that, whoever it is
        assume(made.head is None or frame.head is None or made.head.head.size <= frame.head.head.size)
        return made

    said = lying(world, kind, 1, lie)
    end = world.play()
    assert said
    assert end.outcome == "finished", (end.why, world.faults)


def of_another_set(told: Revealed) -> Revealed:
    return Revealed(dict(list(told.seeds.items())[1:]), told.keys)


def wrong(told: Revealed) -> Revealed:
    """One share is another member's."""
    return replace(told, seeds={**told.seeds, "a": told.seeds["b"]})


ANSWERS: dict[str, Callable[[Revealed], bytes]] = {
    "a byte": lambda _: b"\0",
    "none": lambda _: wire.encode(Revealed({}, {})),
    "of another set": lambda told: wire.encode(of_another_set(told)),
    "a wrong share": lambda told: wire.encode(wrong(told)),
}


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_opens_nothing_counts_as_none(scheme: Scheme, what: str) -> None:
    world = hurried(scheme, "Answered")

    def lie(frame: m.Frame) -> m.Frame:
        told = wire.decode(wire.decode(frame.envelope.body, m.Answered).answer, Revealed)
        return replace(resigned(frame.envelope.receipt, m.Answered(1, ANSWERS[what](told)), LIAR), head=frame.head)

    lying(world, "Answered", 1, lie)
    assert world.play().outcome == "finished"
    assert [name for name, _ in world.faults] == ["coordinator"]
