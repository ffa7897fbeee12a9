"""What a party writes down of a request is what the request was: its receipt names its round, plan and ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from securefl import wire
from securefl.errors import Forged
from securefl.protocol import member_state, requests
from securefl.protocol import messages as m
from securefl.terms import Envelope, MemberId, Scheme, SignedHead
from tests.protocol.test_protocol_guards import OTHER, broken, first, lived, step
from tests.support.worlds import identity, resigned, seat, signed_head

ASKED = [
    *(("a", Scheme.MASKING, kind) for kind in ("Invite", "Enrol", "Propose", "Ask", "Close")),
    *(("custodian", Scheme.CKKS, kind) for kind in ("Invite", "Ask", "Close")),
]
STRANGER = signed_head("mallory", 9)
HEADS = {
    "nobody's": SignedHead(signed_head("coordinator", 3).head, bytes(64)),
    "one that came after the message": signed_head("coordinator", 20_000),
}


def told(frame: m.Frame, **changes: object) -> m.Frame:
    """The same request, whose receipt says something else, under the coordinator's signature."""
    receipt = replace(frame.envelope.receipt, **changes)
    signature = identity("coordinator").sign("receipt", wire.encode(receipt))
    return m.Frame(Envelope(receipt, signature, frame.envelope.body), frame.head)


@pytest.mark.parametrize(("party", "scheme", "kind"), ASKED)
def test_a_receipt_that_names_another_plan_or_round_than_its_request_is_refused(
    party: str, scheme: Scheme, kind: str
) -> None:
    state, frame = first(party, scheme, kind)
    step(party, scheme, state, frame)
    receipt = frame.envelope.receipt
    assert (receipt.plan is None) == (kind not in ("Propose", "Ask"))
    for plan in {None, OTHER} - {receipt.plan}:
        assert broken(party, scheme, state, told(frame, plan=plan)) == "protocol.another-plan"
    for round_ in (receipt.round + 1, 7):
        rule = "protocol.another-plan" if kind == "Propose" else "protocol.another-round"
        due = "protocol.replayed-round" if (party, kind) == ("custodian", "Ask") else rule
        assert broken(party, scheme, state, told(frame, round=round_)) == due


@pytest.mark.parametrize(("party", "scheme", "kind"), ASKED)
@pytest.mark.parametrize("head", HEADS)
def test_a_receipt_names_a_ledger_that_its_sender_signed_or_is_refused(
    party: str, scheme: Scheme, kind: str, head: str
) -> None:
    state, frame = first(party, scheme, kind)
    step(party, scheme, state, told(frame, head=signed_head("coordinator", 3)))
    rules = {"protocol.signature", "protocol.ledger-set-back"}
    assert broken(party, scheme, state, told(frame, head=HEADS[head])) in rules


@pytest.mark.parametrize("change", [{"plan": None}, {"round": 7}, {"head": HEADS["nobody's"]}])
def test_what_is_asked_again_while_it_is_trained_stands_in_the_ledger_only_as_it_was_asked(
    change: dict[str, object],
) -> None:
    """The step that takes a training up again tells of the repeated request, whose receipt may be another one."""
    asked, _ = lived("a", Scheme.MASKING)
    _, frame = first("a", Scheme.MASKING, "Propose")
    training = next(state for state, kind, _ in asked if kind == "Ask")
    assert isinstance(training, member_state.Sealed)
    proposal = wire.decode(frame.envelope.body, m.Propose)
    seat_ = replace(training.seat, request=frame.envelope.receipt.digest, reply=None)
    under_way = member_state.InTraining(seat_, proposal, 0)
    again = step("a", Scheme.MASKING, under_way, frame)
    assert isinstance(again.state, member_state.TrainingAgain)
    assert [entry.receipt for entry in again.entries] == [frame.envelope.receipt]
    broken("a", Scheme.MASKING, under_way, told(frame, **change))


def knowing_a_stranger(state: object) -> object:
    """The state of a site that knows one party more, which takes no part in this run."""
    charter = state.charter if hasattr(state, "charter") else state.seat.charter
    charter = replace(charter, peers=(*charter.peers, seat("mallory")))
    return replace(state, charter=charter) if hasattr(state, "charter") else replace(
        state, seat=replace(state.seat, charter=charter)
    )  # fmt: skip


@pytest.mark.parametrize(("party", "scheme", "kind"), [each for each in ASKED if each[2] not in ("Enrol", "Ask")])
def test_the_ledger_of_a_party_that_is_not_in_the_run_is_not_written_down(
    party: str, scheme: Scheme, kind: str
) -> None:
    """Whoever reads this ledger finds that party in none of its runs, and could say nothing for it."""
    state, frame = first(party, scheme, kind)
    knows = knowing_a_stranger(state)
    step(party, scheme, knows, frame)
    message = m.opened(frame.envelope, m.Invite | m.Propose | m.Close)
    shown = replace(message, heads=(*message.heads, STRANGER))
    assert broken(party, scheme, knows, resigned(frame.envelope.receipt, shown, "coordinator")) == "protocol.stranger"


def test_an_acceptance_beside_which_a_stranger_s_ledger_lies_is_refused() -> None:
    state, frame = first("a", Scheme.MASKING, "Enrol")
    enrol = m.opened(frame.envelope, m.Enrol)
    frames = tuple(
        m.Frame(each.envelope, STRANGER if each.envelope.receipt.sender == MemberId("b") else each.head)
        for each in enrol.accepts
    )
    forged = resigned(frame.envelope.receipt, replace(enrol, accepts=frames), "coordinator")
    assert broken("a", Scheme.MASKING, knowing_a_stranger(state), forged) == "protocol.stranger"


def test_no_request_is_opened_whose_receipt_was_not_held_to_it() -> None:
    _, frame = first("a", Scheme.MASKING, "Enrol")
    assert requests.opened(frame.envelope, m.Enrol).round == frame.envelope.receipt.round
    with pytest.raises(Forged):
        requests.opened(told(frame, round=9).envelope, m.Enrol)
