"""Each guard of the coordinator on its own: whose answer it takes, and which ledgers it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from securefl import keys, wire
from securefl.errors import Forged, OutOfTurn
from securefl.protocol import answers, coordinator, coordinator_checks, coordinator_state
from securefl.protocol import messages as m
from securefl.terms import Hash, RunId, Scheme, SignedHead
from tests.support.worlds import World, identity, signed_head

BOX = keys.public_half(keys.Secret(bytes(range(32))))


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
    accept = m.enclose(identity("a"), "a", receipt.sender, receipt.run, 0, m.Accept(BOX, b"", seen))
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
    accept = m.Accept(BOX, b"", (signed_head("b", 5),))
    held = coordinator_checks.with_seen(replace(course, heads={"b": signed_head("b", known)}), accept)
    assert held.heads == {"b": signed_head("b", kept)}


def test_of_two_ledgers_of_one_length_the_one_that_was_seen_first_stays() -> None:
    """Its owner signed both: the first stands against whoever shows the second."""
    world = World()
    course = world.advance(coordinator_state.Started()).state.course
    one, other = (signed_head("b", 5, bytes([n]) * 32) for n in (1, 2))
    held = coordinator_checks.with_seen(replace(course, heads={"b": one}), m.Accept(BOX, b"", (other,)))
    assert held.heads == {"b": one}


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
    accept = m.enclose(identity("a"), "a", receipt.sender, receipt.run, 0, m.Accept(BOX, b""))
    for sender in ("a", "mallory"):
        with pytest.raises(Forged) as caught:
            world.advance(coordinator_state.Received(sender, altered(m.Frame(accept, signed_head("a", 3)))))
        assert caught.value.rule == (rule if sender == "a" else "protocol.forged")
    assert world.coordinator.saved == before


def waiting(scheme: Scheme) -> dict[str, tuple[object, m.Frame]]:
    """Of each kind of answer, the state that met the first one, and the answer."""
    world = World(scheme=scheme, rounds=1)
    met: dict[str, tuple[object, m.Frame]] = {}
    advance = world.advance

    def listen(event: coordinator_state.Event) -> coordinator_state.Step:
        if isinstance(event, coordinator_state.Received):
            met.setdefault(event.frame.envelope.receipt.kind, (world.coordinator.state, event.frame))
        return advance(event)

    world.advance = listen  # type: ignore[method-assign]
    assert world.play().outcome == "finished"
    return met


MET = {scheme: waiting(scheme) for scheme in (Scheme.MASKING, Scheme.CKKS)}
KINDS = {m.Accept: "Accept", m.Enrolled: "Enrolled", m.Submitted: "Submitted", m.Answered: "Answered", m.Bye: "Bye"}


def said(frame: m.Frame, message: object, **receipt: object) -> m.Frame:
    """The same answer with another message or receipt, signed by its sender."""
    old = frame.envelope.receipt
    new = replace(old, **receipt)
    envelope = m.enclose(
        identity(old.sender), old.sender, new.to, new.run, new.round, message, new.plan, old.cost, ("weights",), old.head
    )  # fmt: skip
    return replace(frame, envelope=envelope)


def refused(state: object, frame: m.Frame) -> str:
    with pytest.raises(Forged) as caught:
        coordinator.step(
            state, coordinator_state.Received(frame.envelope.receipt.sender, frame), World().coordinator_plugs
        )
    return caught.value.rule


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_an_answer_answers_the_request_that_is_open_and_no_other(kind: type) -> None:
    state, frame = MET[Scheme.MASKING][kind.__name__]
    message = m.opened(frame.envelope, kind)
    round_ = frame.envelope.receipt.round
    assert refused(state, said(frame, message, round=round_ + 1)) == "protocol.another-round"
    assert refused(state, said(frame, message, round=round_ - 1)) == "protocol.another-round"
    assert refused(state, said(frame, message, plan=Hash(b"2" * 32))) == "protocol.another-plan"
    assert refused(state, said(frame, message, run=RunId(b"1" * 16))) == "protocol.misdirected"
    assert refused(state, said(frame, message, to="b")) == "protocol.misdirected"
    if hasattr(message, "round"):
        assert refused(state, said(frame, replace(message, round=round_ + 1))) == "protocol.another-round"
    same = said(frame, message)
    moved = coordinator.step(state, coordinator_state.Received("a", same), World().coordinator_plugs)
    assert "a" not in moved.state.course.unanswered


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
@pytest.mark.parametrize("other", KINDS, ids=KINDS.values())
def test_an_answer_of_another_kind_than_was_asked_for_does_not_move_the_coordinator(kind: type, other: type) -> None:
    state, frame = MET[Scheme.MASKING][kind.__name__]
    if other is kind:
        return
    message = m.opened(MET[Scheme.MASKING][other.__name__][1].envelope, other)
    answer = said(frame, message)
    event = coordinator_state.Received("a", answer)
    if (type(state), other) in coordinator.RULES:
        assert coordinator.step(state, event, World().coordinator_plugs) == coordinator_state.Step(state)
    else:
        with pytest.raises(OutOfTurn):
            coordinator.step(state, event, World().coordinator_plugs)
    with pytest.raises(Forged) as caught:
        answers.check(state.course.unanswered["a"], answer.envelope)
    assert caught.value.rule == "protocol.out-of-turn"


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_a_second_answer_of_one_peer_is_ignored(kind: type) -> None:
    state, frame = MET[Scheme.MASKING][kind.__name__]
    others = {name: each for name, each in state.course.unanswered.items() if name != "a"}
    after = replace(state, course=replace(state.course, unanswered=others))
    event = coordinator_state.Received("a", frame)
    assert coordinator.step(after, event, World().coordinator_plugs) == coordinator_state.Step(after)


def test_a_run_whose_custodian_does_not_join_ends_before_anybody_enrols() -> None:
    world = World(scheme=Scheme.CKKS)
    world.deaf.add(("custodian", "Invite"))
    end = world.play()
    assert (end.outcome, end.why, end.last_round) == ("aborted", "the custodian did not accept", 0)
    assert {party.trained for party in world.parties.values()} == {0}
