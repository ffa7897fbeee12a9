"""Each guard of the coordinator on its own: whose answer it takes, and which ledgers it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from securefl import wire
from securefl.errors import Forged
from securefl.protocol import coordinator, coordinator_state
from securefl.protocol import messages as m
from securefl.terms import SignedHead
from tests.support.worlds import World, identity, signed_head


def heads_of(**sizes: int) -> tuple[SignedHead, ...]:
    return tuple(signed_head(owner, size) for owner, size in sizes.items())


@pytest.mark.parametrize(
    ("seen", "rule"),
    [
        (heads_of(b=5, c=5), None),
        (heads_of(coordinator=9_999), None),
        (heads_of(mallory=5), "protocol.stranger"),
        ((replace(signed_head("c", 5), signature=bytes(64)),), "protocol.signature"),
    ],
)
def test_a_coordinator_takes_in_only_what_parties_of_the_run_have_signed(seen, rule: str | None) -> None:
    world = World()
    before = world.advance(coordinator_state.Started()).state
    receipt = before.course.unanswered["a"].receipt
    accept = m.enclose(identity("a"), "a", receipt.sender, receipt.run, 0, m.Accept(bytes(32), b"", seen))
    event = coordinator_state.Received("a", m.Frame(accept, signed_head("a", 3)))
    if rule is not None:
        with pytest.raises(Forged) as caught:
            world.advance(event)
        assert caught.value.rule == rule
        return
    heads = world.advance(event).state.course.heads
    others = {head.head.owner: head for head in seen if head.head.owner != "coordinator"}
    assert heads == {**before.course.heads, **others, "a": signed_head("a", 3)}


@pytest.mark.parametrize(("known", "kept"), [(4, 5), (5, 5), (6, 6)])
def test_a_coordinator_keeps_the_longest_ledger_that_was_seen(known: int, kept: int) -> None:
    world = World()
    course = world.advance(coordinator_state.Started()).state.course
    accept = m.Accept(bytes(32), b"", (signed_head("b", 5),))
    held = coordinator._with_seen(replace(course, heads={"b": signed_head("b", known)}), accept)
    assert held.heads == {"b": signed_head("b", kept)}


def without_head(frame: m.Frame) -> m.Frame:
    return replace(frame, head=None)


def of_nobody(frame: m.Frame) -> m.Frame:
    return replace(frame, head=replace(frame.head, signature=bytes(64)))


def behind_its_receipt(frame: m.Frame) -> m.Frame:
    receipt = replace(frame.envelope.receipt, head=signed_head("a", 8))
    signature = identity("a").sign("receipt", wire.encode(receipt))
    return replace(frame, envelope=replace(frame.envelope, receipt=receipt, signature=signature))


def with_a_head_it_did_not_sign(frame: m.Frame) -> m.Frame:
    receipt = replace(frame.envelope.receipt, head=replace(signed_head("a", 2), signature=bytes(64)))
    signature = identity("a").sign("receipt", wire.encode(receipt))
    return replace(frame, envelope=replace(frame.envelope, receipt=receipt, signature=signature))


@pytest.mark.parametrize(
    ("altered", "rule"),
    [
        (without_head, "protocol.forged"),
        (of_nobody, "protocol.signature"),
        (behind_its_receipt, "protocol.ledger-set-back"),
        (with_a_head_it_did_not_sign, "protocol.signature"),
    ],
)
def test_a_coordinator_takes_no_answer_whose_ledger_does_not_go_with_it(altered, rule: str) -> None:
    world = World()
    receipt = world.advance(coordinator_state.Started()).state.course.unanswered["a"].receipt
    before = world.coordinator.saved
    accept = m.enclose(identity("a"), "a", receipt.sender, receipt.run, 0, m.Accept(bytes(32), b""))
    for sender in ("a", "mallory"):
        with pytest.raises(Forged) as caught:
            world.advance(coordinator_state.Received(sender, altered(m.Frame(accept, signed_head("a", 3)))))
        assert caught.value.rule == (rule if sender == "a" else "protocol.forged")
    assert world.coordinator.saved == before
