"""Each guard of a member and of a custodian on its own: one thing is wrong, consistently, and it is named.

A forgery that is signed but half made is refused by the receipt, whatever else is wrong with it. Here the receipt names
the message it comes with, so that nothing but the guard for what is wrong can refuse it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from securefl import keys, wire
from securefl.errors import OutOfTurn, PeerFault
from securefl.protection.summation import Summation
from securefl.protocol import custodian as u
from securefl.protocol import member as mm
from securefl.protocol import member_state, seen_heads
from securefl.protocol import messages as m
from securefl.terms import (
    Envelope,
    Gathered,
    Hash,
    MessageSent,
    Model,
    Participant,
    Plan,
    RunId,
    RunJoined,
    Scheme,
    Settled,
    Update,
    Witnessed,
)
from securefl.terms.names import TaskName
from tests.support.worlds import POLICY, World, an_update, identity, resigned, seat, signed_head

RAND = keys.Secret(bytes(range(32)))
FAR = signed_head("coordinator", 10_000)
OTHER = Hash(hashlib.sha256(b"another").digest())


ANSWERS: dict[tuple[str, Scheme, bytes], Envelope] = {}  # by who was asked, and what


@cache
def lived(party: str, scheme: Scheme) -> tuple[tuple[tuple[object, str, bytes], ...], World]:
    """What one party was asked in a run of two rounds: its state before, and the request."""
    world = World(scheme=scheme, rounds=2)
    asked: list[tuple[object, str, bytes]] = []
    handle = world.handle

    def listen(name: str, data: bytes) -> bytes:
        before = world.parties[name].state
        answer = handle(name, data)
        if name == party:
            asked.append((before, wire.decode(data, m.Frame).envelope.receipt.kind, data))
            ANSWERS[party, scheme, data] = wire.decode(answer, m.Frame).envelope
        return answer

    world.handle = listen  # type: ignore[method-assign]
    assert world.play().outcome == "finished"
    return tuple(asked), world


def first(party: str, scheme: Scheme, kind: str) -> tuple[object, m.Frame]:
    """The state that met the first request of this kind, and the request."""
    return next((state, wire.decode(data, m.Frame)) for state, name, data in lived(party, scheme)[0] if name == kind)


def step(party: str, scheme: Scheme, state: object, frame: m.Frame) -> object:
    """One step of the unmodified machine."""
    world = lived(party, scheme)[1]
    event = member_state.Received(frame.envelope, FAR, RAND)
    if party == "custodian":
        return u.step(state, event, world.custodian_plugs())
    return mm.step(state, event, world.member_plugs(party))


def broken(party: str, scheme: Scheme, state: object, frame: m.Frame) -> str:
    """The rule by which this request is refused."""
    with pytest.raises(PeerFault) as caught:
        step(party, scheme, state, frame)
    return caught.value.rule


# An invitation: what this site was set up with, and nothing else.

INVITATIONS: dict[str, tuple[str, Callable[[m.Session], m.Session]]] = {
    "another run": ("protocol.another-run", lambda s: replace(s, run=RunId(b"1" * 16))),
    "another federation": ("protocol.another-federation", lambda s: replace(s, federation="g")),
    "another task": ("protocol.another-task", lambda s: replace(s, task=TaskName("another"))),
    "another policy": ("protocol.stale-policy", lambda s: replace(s, policy=OTHER)),
    "another coordinator": ("protocol.another-party", lambda s: replace(s, coordinator=seat("mallory"))),
    "another custodian": ("protocol.another-party", lambda s: replace(s, custodian=seat("mallory"))),
    "a stranger": ("protocol.stranger", lambda s: replace(s, roster=(*s.roster, seat("mallory")))),
    "a doubled member": ("protocol.stranger", lambda s: replace(s, roster=(*s.roster, s.roster[0]))),
    "a swapped key": (
        "protocol.stranger",
        lambda s: replace(s, roster=(*s.roster[:3], Participant("d", identity("mallory").public, s.roster[3].region))),
    ),
}


@pytest.mark.parametrize("party", ["a", "custodian"])
@pytest.mark.parametrize("what", INVITATIONS)
def test_an_invitation_that_differs_in_one_thing_is_refused_for_that_thing(party: str, what: str) -> None:
    state, frame = first(party, Scheme.CKKS, "Invite")
    rule, change = INVITATIONS[what]
    invite = wire.decode(frame.envelope.body, m.Invite)
    other = replace(invite, session=change(invite.session))
    assert broken(party, Scheme.CKKS, state, resigned(frame.envelope.receipt, other, "coordinator")) == rule


def test_a_member_does_not_join_a_run_without_itself() -> None:
    state, frame = first("a", Scheme.CKKS, "Invite")
    invite = wire.decode(frame.envelope.body, m.Invite)
    other = replace(invite, session=replace(invite.session, roster=invite.session.roster[1:]))
    forged = resigned(frame.envelope.receipt, other, "coordinator")
    assert broken("a", Scheme.CKKS, state, forged) == "protocol.without-me"


# An enrolment: no round that was begun is ever begun again.


def begun() -> Iterator[tuple[object, int]]:
    """Every state of a member that an enrolment can meet, and the last round that had begun for it then."""
    asked, world = lived("a", Scheme.MASKING)
    last = 0
    for state, kind, data in asked:
        if kind != "Invite":
            yield state, last
        if kind == "Propose":
            last += 1
            frame = wire.decode(data, m.Frame)
            deciding = mm.step(state, member_state.Received(frame.envelope, FAR, RAND), world.member_plugs("a")).state
            yield deciding, last
            granted = member_state.Decided(world.parties["a"].decide(deciding.proposal.plan))
            yield mm.step(deciding, granted, world.member_plugs("a")).state, last


@pytest.mark.parametrize("before", range(8))
def test_a_member_enrols_for_a_round_if_and_only_if_none_so_late_has_begun(before: int) -> None:
    states = list(begun())
    assert len(states) == 8 + 2
    for state, last in states[before::8]:
        _, frame = first("a", Scheme.MASKING, "Enrol")
        enrol = wire.decode(frame.envelope.body, m.Enrol)
        for round_ in range(5):
            asked = resigned(replace(frame.envelope.receipt, round=round_), replace(enrol, round=round_), "coordinator")
            if state.seat.request == asked.envelope.receipt.digest:
                continue  # the very request that was answered last
            if round_ <= last:
                assert broken("a", Scheme.MASKING, state, asked) == "protocol.replayed-round"
            else:
                moved = step("a", Scheme.MASKING, state, asked)
                assert (type(moved.state), moved.state.seat.next_round) == (member_state.Ready, round_)


# A proposal: of this run, for this round, under what was agreed.

PLANS: dict[str, tuple[str, Callable[[Plan], Plan]]] = {
    "another run": ("protocol.another-run", lambda p: replace(p, run=RunId(b"1" * 16))),
    "another federation": ("protocol.another-run", lambda p: replace(p, federation="g")),
    "another policy": ("protocol.stale-policy", lambda p: replace(p, policy=OTHER)),
    "a round before": ("protocol.replayed-round", lambda p: replace(p, round=0)),
    "a round after": ("protocol.out-of-turn", lambda p: replace(p, round=2)),
    "a stranger": ("protocol.stranger", lambda p: replace(p, cohort=(*p.cohort[:3], seat("mallory")))),
    "a doubled member": ("protocol.stranger", lambda p: replace(p, cohort=(*p.cohort, p.cohort[0]))),
    "a member under another key": (
        "protocol.stranger",
        lambda p: replace(p, cohort=(*p.cohort[:3], Participant("d", identity("mallory").public, p.cohort[3].region))),
    ),
    "a member of another region": (
        "protocol.stranger",
        lambda p: replace(p, cohort=(*p.cohort[:3], replace(p.cohort[3], region="elsewhere"))),
    ),
    "without this member": ("protocol.without-me", lambda p: replace(p, cohort=p.cohort[1:])),
    "another scheme": ("protocol.another-cover", lambda p: replace(p, cover=replace(p.cover, scheme=Scheme.CLEAR))),
    "another threshold": ("protocol.another-cover", lambda p: replace(p, cover=replace(p.cover, threshold=4))),
    "a custodian": (
        "protocol.another-cover",
        lambda p: replace(p, cover=replace(p.cover, custodian=identity("mallory").public)),
    ),
    "another model": ("protocol.another-model", lambda p: replace(p, model=Model("n", p.model.digest))),
    "other weights": ("protocol.another-model", lambda p: replace(p, model=Model(p.model.name, OTHER))),
    "another state": ("protocol.another-state", lambda p: replace(p, base=OTHER)),
    "a smaller update": ("protocol.another-state", lambda p: replace(p, dimension=p.dimension - 1)),
    "a larger update": ("protocol.another-state", lambda p: replace(p, dimension=p.dimension + 1)),
    "nothing to release": ("protocol.unlisted-release", lambda p: replace(p, release=())),
}


def proposed(frame: m.Frame, change: Callable[[Plan], Plan]) -> m.Frame:
    """The proposal with another plan, under a receipt that names that plan."""
    proposal = wire.decode(frame.envelope.body, m.Propose)
    plan = change(proposal.plan)
    receipt = replace(frame.envelope.receipt, plan=wire.plan_hash(plan), round=plan.round)
    return resigned(receipt, replace(proposal, plan=plan), "coordinator")


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_that_differs_in_one_thing_is_refused_for_that_thing(what: str) -> None:
    state, frame = first("a", Scheme.MASKING, "Propose")
    rule, change = PLANS[what]
    assert broken("a", Scheme.MASKING, state, proposed(frame, change)) == rule


def test_a_plan_that_differs_in_nothing_is_put_before_the_policy() -> None:
    state, frame = first("a", Scheme.MASKING, "Propose")
    assert isinstance(step("a", Scheme.MASKING, state, proposed(frame, lambda p: p)).state, member_state.Deciding)
    other = proposed(frame, lambda p: replace(p, purpose="what this site does not judge here"))
    assert isinstance(step("a", Scheme.MASKING, state, other).state, member_state.Deciding)


@pytest.mark.parametrize("changes", [{"plan": None}, {"plan": OTHER}, {"round": 0}, {"round": 2}])
def test_a_receipt_that_names_another_plan_or_round_is_refused(changes: dict[str, object]) -> None:
    state, frame = first("a", Scheme.MASKING, "Propose")
    receipt = replace(frame.envelope.receipt, **changes)
    forged = resigned(receipt, wire.decode(frame.envelope.body, m.Propose), "coordinator")
    assert broken("a", Scheme.MASKING, state, forged) == "protocol.another-plan"


def test_a_member_answers_questions_about_the_round_it_sealed_and_no_other() -> None:
    state, frame = first("a", Scheme.MASKING, "Ask")
    ask = wire.decode(frame.envelope.body, m.Ask)
    for round_ in (0, 2):
        forged = resigned(frame.envelope.receipt, replace(ask, round=round_), "coordinator")
        assert broken("a", Scheme.MASKING, state, forged) == "protocol.another-round"


# A custodian's question: a sum of this run, of a round not opened yet, over enough members that signed for it.


def summed(frame: m.Frame, change: Callable[[Plan], Plan], **more: object) -> m.Frame:
    """The question about another plan, with every input signed anew for that plan."""
    ask = wire.decode(frame.envelope.body, m.Ask)
    question = wire.decode(ask.question, Summation)
    plan = change(question.plan)
    inputs = tuple(
        resigned(
            replace(each.receipt, plan=wire.plan_hash(plan)), wire.decode(each.body, m.Submitted), each.receipt.sender
        ).envelope
        for each in question.inputs
    )
    asked = replace(
        ask, **{"round": plan.round, "question": wire.encode(replace(question, plan=plan, inputs=inputs)), **more}
    )
    receipt = replace(frame.envelope.receipt, plan=wire.plan_hash(plan), round=asked.round)
    return resigned(receipt, asked, "coordinator")


SUMS: dict[str, tuple[str, Callable[[Plan], Plan]]] = {
    "another run": ("protocol.another-run", lambda p: replace(p, run=RunId(b"1" * 16))),
    "another federation": ("protocol.another-run", lambda p: replace(p, federation="g")),
    "another policy": ("protocol.stale-policy", lambda p: replace(p, policy=OTHER)),
    "a stranger": ("protocol.stranger", lambda p: replace(p, cohort=(*p.cohort, seat("mallory")))),
    "a smaller cohort": ("protocol.stranger", lambda p: replace(p, cohort=p.cohort[1:])),
    "more than there are": (
        "protocol.few-survivors",
        lambda p: replace(p, cover=replace(p.cover, min_cohort=len(p.cohort) + 1)),
    ),
}


@pytest.mark.parametrize("what", SUMS)
def test_a_sum_that_differs_in_one_thing_is_refused_for_that_thing(what: str) -> None:
    state, frame = first("custodian", Scheme.CKKS, "Ask")
    rule, change = SUMS[what]
    assert broken("custodian", Scheme.CKKS, state, summed(frame, change)) == rule


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_a_custodian_opens_each_round_once(opened: int) -> None:
    state, frame = first("custodian", Scheme.CKKS, "Ask")
    before, asked = replace(state, opened_round=opened), summed(frame, lambda p: p)
    if opened == 0:
        assert isinstance(step("custodian", Scheme.CKKS, before, asked).state, u.Decrypting)
    else:
        assert broken("custodian", Scheme.CKKS, before, asked) == "protocol.replayed-round"
    other = summed(frame, lambda p: p, round=2)
    assert broken("custodian", Scheme.CKKS, state, other) == "protocol.replayed-round"


@pytest.mark.parametrize("kind", ["Ask", "Invite"])
def test_a_custodian_that_decrypts_is_asked_nothing_but_to_stop(kind: str) -> None:
    held, frame = first("custodian", Scheme.CKKS, "Ask")
    decrypting = step("custodian", Scheme.CKKS, held, frame).state
    assert isinstance(decrypting, u.Decrypting)
    asked = (
        summed(frame, lambda p: replace(p, purpose="another"))
        if kind == "Ask"
        else resigned(
            frame.envelope.receipt,
            wire.decode(first("custodian", Scheme.CKKS, kind)[1].envelope.body, m.Invite),
            "coordinator",
        )
    )
    assert broken("custodian", Scheme.CKKS, decrypting, asked) == "protocol.second-question"
    _, close = first("custodian", Scheme.CKKS, "Close")
    left = step("custodian", Scheme.CKKS, decrypting, close).state
    assert isinstance(left, u.Left)
    for state in (left, first("custodian", Scheme.CKKS, "Invite")[0]):  # neither decrypts: a question is out of turn
        assert broken("custodian", Scheme.CKKS, state, asked if kind == "Ask" else frame) == "protocol.out-of-turn"


def test_a_custodian_that_is_stopped_keeps_what_it_saw_of_the_coordinators_ledger() -> None:
    held, frame = first("custodian", Scheme.CKKS, "Ask")
    _, close = first("custodian", Scheme.CKKS, "Close")
    decrypting = step("custodian", Scheme.CKKS, held, frame).state
    world = lived("custodian", Scheme.CKKS)[1]
    longer = signed_head("coordinator", 20_000)
    left = u.step(decrypting, member_state.Received(close.envelope, longer, RAND), world.custodian_plugs()).state
    assert left.charter.witnessed["coordinator"] == longer
    with pytest.raises(PeerFault) as caught:  # so a ledger that is shorter than that is found
        seen_heads.beside(left.charter, FAR, close.envelope.receipt)
    assert caught.value.rule == "protocol.ledger-set-back"


@pytest.mark.parametrize(("party", "scheme", "place"), [
    *(("a", Scheme.MASKING, place) for place in range(6)), *(("custodian", Scheme.CKKS, place) for place in range(3)),
])  # fmt: skip
def test_what_a_party_is_asked_twice_it_answers_with_the_same_bytes_and_does_not_move(
    party: str, scheme: Scheme, place: int
) -> None:
    asked, _ = lived(party, scheme)
    (_, _, data), (after, _, _) = asked[place], asked[place + 1]
    moved = step(party, scheme, after, wire.decode(data, m.Frame))
    assert (moved.state, moved.entries, moved.effects) == (after, (), ())
    assert moved.outbound == ANSWERS[party, scheme, data]


@pytest.mark.parametrize("party", ["a", "custodian"])
def test_who_joins_writes_down_as_what_under_which_policy_and_with_whom(party: str) -> None:
    state, frame = first(party, Scheme.CKKS, "Invite")
    moved = step(party, Scheme.CKKS, state, frame)
    role, rows = ("member", "a-data") if party == "a" else ("custodian", "")
    everybody = tuple(seat(name) for name in ("a", "b", "c", "d", "coordinator", "custodian"))
    joined = RunJoined(RunId(bytes(16)), "f", role, POLICY, rows, everybody, b"")
    assert [entry for entry in moved.entries if isinstance(entry, RunJoined)] == [joined]


@pytest.mark.parametrize("party", ["a", "custodian"])
@pytest.mark.parametrize("known", [4, 5, 6])
def test_a_coordinator_may_know_less_of_a_ledger_than_whom_it_invites(party: str, known: int) -> None:
    state, frame = first(party, Scheme.CKKS, "Invite")
    seen = replace(state, charter=replace(state.charter, witnessed={"b": signed_head("b", known)}))
    invite = replace(wire.decode(frame.envelope.body, m.Invite), heads=(signed_head("b", 5),))
    moved = step(party, Scheme.CKKS, seen, resigned(frame.envelope.receipt, invite, "coordinator"))
    charter = moved.state.charter if party == "custodian" else moved.state.seat.charter
    assert charter.witnessed["b"] == signed_head("b", max(known, 5))


def test_a_custodian_opens_no_sum_that_it_was_not_asked_for() -> None:
    world = lived("custodian", Scheme.CKKS)[1]
    for state in (first("custodian", Scheme.CKKS, kind)[0] for kind in ("Invite", "Ask", "Close")):
        with pytest.raises(OutOfTurn):
            u.step(state, u.Decrypted(b""), world.custodian_plugs())


def test_a_custodian_remembers_which_round_it_opened_and_what_it_said() -> None:
    asked, _ = lived("custodian", Scheme.CKKS)
    held = [state for state, kind, _ in asked if kind in ("Ask", "Close")]
    assert [state.opened_round for state in held] == [0, 1, 2]
    for (_, _, data), state in zip(asked, held, strict=False):
        envelope = wire.decode(data, m.Frame).envelope
        assert (state.request, state.reply) == (envelope.receipt.digest, ANSWERS["custodian", Scheme.CKKS, data])
    left = step("custodian", Scheme.CKKS, *first("custodian", Scheme.CKKS, "Close")).state
    assert (type(left), left.outcome) == (u.Left, "finished")


def test_a_member_that_leaves_keeps_what_the_run_ended_with_and_no_secret() -> None:
    state, frame = first("a", Scheme.MASKING, "Close")
    close = wire.decode(frame.envelope.body, m.Close)
    left = step("a", Scheme.MASKING, state, frame).state
    assert isinstance(left, member_state.Left)
    assert (left.outcome, left.state) == (close.outcome, close.state)
    assert (left.seat.box, left.seat.enrolment) == (b"", b"")
    assert {head.head.owner for head in close.heads} - {"a"} <= set(left.seat.charter.witnessed)


@pytest.mark.parametrize("below", [None, Gathered(OTHER, RunId(bytes(16)), (OTHER,), (3,), OTHER, 9)])
def test_a_result_is_paid_for_and_leaves_in_one_step_that_keeps_its_answer(below: Gathered | None) -> None:
    world = lived("a", Scheme.MASKING)[1]
    training = next(state for state, _ in begun() if isinstance(state, member_state.InTraining))
    plan = training.proposal.plan
    update = Update(an_update("a", 1, world.dimension), plan.learning.event, below)
    moved = mm.step(training, member_state.Trained(update, RAND), world.member_plugs("a"))
    settled = Settled(wire.plan_hash(plan), plan.learning.event)
    sent = MessageSent(moved.outbound.receipt, moved.outbound.signature)
    assert moved.entries == ((settled, sent) if below is None else (settled, below, sent))
    assert moved.state.seat.reply == moved.outbound
    assert (moved.state.plan, moved.state.seat.next_round) == (plan, plan.round + 1)
    assert (moved.outbound.receipt.cost, moved.outbound.receipt.plan) == (training.cost, wire.plan_hash(plan))


def test_a_member_remembers_what_a_proposal_showed_it_of_other_ledgers_while_it_decides() -> None:
    state, frame = first("a", Scheme.MASKING, "Propose")
    proposal = replace(wire.decode(frame.envelope.body, m.Propose), heads=(signed_head("b", 5_000),))
    moved = step("a", Scheme.MASKING, state, resigned(frame.envelope.receipt, proposal, "coordinator"))
    assert moved.state.seat.charter.witnessed["b"] == signed_head("b", 5_000)
    assert (moved.state.seat.request, moved.state.seat.reply) == (moved.entries[0].receipt.digest, None)
    assert Witnessed(signed_head("b", 5_000)) in moved.entries
