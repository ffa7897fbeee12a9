"""Stories of whole runs: who speaks, who is silent, what the run ends with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import keys, wire
from securefl.errors import Forged, OutOfTurn
from securefl.protection import encrypted
from securefl.protection.summation import Summation
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import messages as m
from securefl.terms import (
    Closed,
    MemberId,
    Participant,
    Refused,
    ReservationReleased,
    Reserved,
    Scheme,
    Settled,
    SumOpened,
    Witnessed,
)
from tests.support.carriers import Stage, carrying, runtime_of
from tests.support.worlds import EVENT, World, identity, refuse, replaced_plan, resigned, seat, signed_head

ALL = ("a", "b", "c", "d")


@pytest.fixture(autouse=True, scope="module", params=["inprocess", "sockets"])
def carrier(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every story is told over calls, and over sockets."""
    stage, calls = Stage(), World.carry
    with runtime_of(request.param, stage) as runtime:
        World.carry = carrying(stage, runtime)
        yield
        World.carry = calls


SCHEMES = list(Scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_ends_with_the_same_adapter(scheme: Scheme) -> None:
    world = World(scheme=scheme)
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(ALL, ALL))


def test_the_order_of_arrival_does_not_matter() -> None:
    forwards, backwards = World(), World()
    backwards.backwards = True
    assert forwards.play().course.state == backwards.play().course.state


def test_every_member_trains_once_a_round_however_often_it_is_asked() -> None:
    world = World()
    world.twice = {(name, kind) for name in ALL for kind in ("Invite", "Enrol", "Propose", "Ask", "Close")}
    end = world.play()
    assert end.outcome == "finished"
    assert [world.parties[name].trained for name in ALL] == [2, 2, 2, 2]
    assert np.array_equal(world.reached(end), world.expected(ALL, ALL))


@pytest.mark.parametrize("kind", ["Invite", "Enrol", "Propose"])
@pytest.mark.parametrize("way", ["lost", "deaf"])
def test_a_member_that_falls_silent_before_its_result_is_left_out_of_the_sum(kind: str, way: str) -> None:
    world = World(rounds=1)
    getattr(world, way).add(("b", kind))
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d")))


def test_a_member_that_missed_a_round_is_back_in_the_next() -> None:
    world = World(rounds=2)
    world.deaf.add(("b", "Propose"))
    world.advance(coordinator_state.Started())
    world.coordinator.saved = wire.encode(
        coordinator_state.Planned(world.coordinator.state.course)
    )  # as if it had not begun
    world = World(rounds=2)
    rounds_heard: list[int] = []

    def only_the_first(frame: m.Frame) -> m.Frame:
        rounds_heard.append(frame.envelope.receipt.round)
        return frame

    world.forge["Propose"] = only_the_first
    world.deaf.add(("b", "Propose"))
    handle = world.handle

    def heal(name: str, data: bytes) -> bytes:
        if wire.decode(data, m.Frame).envelope.receipt.kind == "Ask":
            world.deaf.discard(("b", "Propose"))
        return handle(name, data)

    world.handle = heal  # type: ignore[method-assign]
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d"), ALL))
    assert rounds_heard == [1, 1, 1, 2, 2, 2, 2]


def test_too_few_survivors_end_the_run_cleanly_and_open_nothing() -> None:
    world = World(rounds=1)
    world.lost |= {("a", "Propose"), ("b", "Propose")}
    end = world.play()
    assert (end.outcome, end.last_round) == ("aborted", 0)
    assert "2 of 4" in end.why
    assert not any(type(entry).__name__ == "SumOpened" for entry in world.coordinator.entries)


def test_a_run_that_nobody_accepts_ends_cleanly() -> None:
    world = World()
    world.deaf |= {(name, "Invite") for name in ALL}
    end = world.play()
    assert (end.outcome, end.last_round) == ("aborted", 0)
    assert "did not accept" in end.why


def test_too_few_answers_end_the_run_cleanly() -> None:
    world = World(rounds=1)
    world.deaf |= {("a", "Ask"), ("b", "Ask")}
    assert world.play().outcome == "aborted"


def test_one_silent_answer_does_not_matter_while_enough_answer() -> None:
    world = World(rounds=1)
    world.deaf.add(("a", "Ask"))
    end = world.play()
    assert np.array_equal(world.reached(end), world.expected(ALL))


def test_a_refusal_by_all_ends_the_run_as_refused_before_anybody_trains() -> None:
    world = World()
    for party in world.parties.values():
        party.decide = refuse
    end = world.play()
    assert end.outcome == "refused"
    assert "budget.epsilon" in end.why
    assert all(party.trained == 0 for party in world.parties.values())
    assert not any(isinstance(e, Reserved) for party in world.parties.values() for e in party.entries)


def test_one_refusal_leaves_that_member_out() -> None:
    world = World(rounds=1)
    world.parties["c"].decide = refuse
    end = world.play()
    assert np.array_equal(world.reached(end), world.expected(("a", "b", "d")))
    assert world.parties["c"].trained == 0


def test_every_reservation_is_settled_in_a_run_that_finishes() -> None:
    world = World()
    world.play()
    for name in ALL:
        entries = world.parties[name].entries
        reserved = [wire.plan_hash(e.plan) for e in entries if isinstance(e, Reserved)]
        assert reserved == [e.plan for e in entries if isinstance(e, Settled)]
        assert len(set(reserved)) == 2


def test_everybody_ends_with_everybodys_head() -> None:
    world = World()
    world.play()
    for name in ALL:
        owners = {e.head.head.owner for e in world.parties[name].entries if isinstance(e, Witnessed)}
        assert owners == {*ALL, "coordinator"} - {name}
        assert any(isinstance(e, Closed) and e.outcome == "finished" for e in world.parties[name].entries)


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_a_coordinator_that_is_killed_anywhere_goes_on_where_it_stood(cut: int) -> None:
    whole = World()
    expected = whole.play().course.state
    world = World()

    class Killed(Exception):
        pass

    left, advance = cut, world.advance

    def mortal(event: coordinator_state.Event) -> coordinator_state.Step:
        nonlocal left
        if left == 0:
            left = -1
            raise Killed
        left -= 1
        return advance(event)

    world.advance = mortal  # type: ignore[method-assign]
    try:
        end = world.play()
    except Killed:
        started = not isinstance(world.coordinator.state, coordinator_state.Planned)
        end = world.play(coordinator_state.Resumed() if started else coordinator_state.Started())
    assert end.outcome == "finished"
    assert end.course.state == expected
    assert all(world.parties[name].trained == 2 for name in ALL)


@pytest.mark.parametrize("point", ["Reserve", "Train"])
def test_a_member_that_is_killed_inside_an_effect_spends_once(point: str) -> None:
    world = World()
    perform = world.perform
    dead = False

    class Killed(OutOfTurn):
        pass

    def mortal(party: object, effect: member_state.Effect) -> member_state.Step:
        nonlocal dead
        if type(effect).__name__ == point and party.name == "b" and not dead:
            dead = True
            raise Killed("the process is gone")
        return perform(party, effect)

    world.perform = mortal  # type: ignore[method-assign]
    asked: list[str] = []
    exchange = world.exchange

    def again(outbound: object, patience_s: float = 0) -> object:
        for name, answer in exchange(outbound, patience_s):
            if not isinstance(answer, bytes) and name == "b":
                asked.append(name)
                envelope = world.coordinator.state.course.unanswered["b"]
                answer = world.handle("b", wire.encode(m.Frame(envelope, world.coordinator.head())))  # noqa: PLW2901
            yield name, answer

    world.exchange = again  # type: ignore[method-assign]
    end = world.play()
    assert asked == ["b"]
    assert np.array_equal(world.reached(end), world.expected(ALL, ALL))
    reserved = [wire.plan_hash(e.plan) for e in world.parties["b"].entries if isinstance(e, Reserved)]
    assert len(reserved) == len(set(reserved)) == 2


def test_a_run_that_closes_while_a_member_trains_is_paid_for_at_it() -> None:
    world = World(rounds=1)

    def die(party: object, effect: member_state.Effect) -> member_state.Step:
        if isinstance(effect, member_state.Train) and party.name in {"a", "b"}:
            raise OutOfTurn("the process is gone")
        return World.perform(world, party, effect)

    world.perform = die  # type: ignore[method-assign]
    assert world.play().outcome == "aborted"
    entries = world.parties["a"].entries
    assert [type(e) for e in entries if isinstance(e, Reserved | Settled | ReservationReleased)] == [Reserved, Settled]


@pytest.mark.parametrize("effect", [member_state.Reserve, member_state.Train])
def test_a_member_that_is_killed_inside_an_effect_is_back_in_the_next_round_and_pays_if_it_trained(
    effect: type,
) -> None:
    world = World(rounds=2)
    perform, enrolments, told = world.perform, list[m.Frame](), list[str]()

    def die(party: object, asked: member_state.Effect) -> member_state.Step:
        if party.name == "b" and isinstance(asked, effect) and asked.plan.round == 1:
            try:  # that of its own round comes too late
                world.handle("b", wire.encode(replace(enrolments[0], head=world.coordinator.head())))
            except OutOfTurn as fault:
                told.append(str(fault))
            raise OutOfTurn("the process is gone")
        return perform(party, asked)

    def listen(frame: m.Frame) -> m.Frame:
        if frame.envelope.receipt.to == "b":
            enrolments.append(frame)
        return frame

    world.perform, world.forge["Enrol"] = die, listen  # type: ignore[method-assign]
    end = world.play()
    assert end.outcome == "finished"
    assert told == ["round 1 again: the next one is 2"]
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d"), ALL))
    charged = [e for e in world.parties["b"].entries if isinstance(e, Reserved | Settled | ReservationReleased)]
    trained = effect is member_state.Train
    assert [type(e) for e in charged] == [Reserved, Settled] * (1 + trained)
    assert all(e.did == EVENT for e in charged if isinstance(e, Settled)), "what may have run is paid for whole"


# What a member does not let a coordinator do. The wire forges what the coordinator would; the member is unmodified.

FORGERIES = {
    "a lower cohort": lambda f: replaced_plan(f, cohort=wire.decode(f.envelope.body, m.Propose).plan.cohort[:2]),
    "a stranger": lambda f: replaced_plan(
        f, cohort=(*wire.decode(f.envelope.body, m.Propose).plan.cohort[:3], seat("mallory"))
    ),
    "a swapped key": lambda f: replaced_plan(
        f,
        cohort=tuple(
            Participant(s.member, identity("mallory").public, s.region) if s.member == "d" else s
            for s in wire.decode(f.envelope.body, m.Propose).plan.cohort
        ),
    ),
    "another policy": lambda f: replaced_plan(f, policy=hashlib.sha256(b"lax").digest()),
    "another federation": lambda f: replaced_plan(f, federation="g"),
    "an old round": lambda f: replaced_plan(f, round=0),
    "a skipped round": lambda f: replaced_plan(f, round=7),
    "another base": lambda f: replaced_plan(f, base=hashlib.sha256(b"trap").digest()),
    "another dimension": lambda f: replaced_plan(f, dimension=5),
    "no protection": lambda f: replaced_plan(
        f, cover=replace(wire.decode(f.envelope.body, m.Propose).plan.cover, scheme=Scheme.CLEAR)
    ),
    "a low threshold": lambda f: replaced_plan(
        f, cover=replace(wire.decode(f.envelope.body, m.Propose).plan.cover, threshold=1)
    ),
    "a doubled seat": lambda f: replaced_plan(f, cohort=(wire.decode(f.envelope.body, m.Propose).plan.cohort[:1] * 4)),
    "a wrong signer": lambda f: resigned(f.envelope.receipt, wire.decode(f.envelope.body, m.Propose), "mallory"),
    "an altered body": lambda f: replace(f, envelope=replace(f.envelope, body=f.envelope.body + b"\0")),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_proposal_is_refused_before_training(forgery: str) -> None:
    world = World(rounds=1)
    world.forge["Propose"] = FORGERIES[forgery]
    end = world.play()
    assert end.outcome == "aborted"
    assert len(world.faults) == 4
    assert all(party.trained == 0 for party in world.parties.values())


@given(flip=st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_request_with_one_flipped_bit_moves_no_member(flip: int) -> None:
    world = World(rounds=1)
    world.forge["Invite"] = lambda frame: frame
    asked = world.advance(coordinator_state.Started()).outbound
    data = bytearray(wire.encode(m.Frame(asked[0], None)))
    data[flip // 8 % len(data)] ^= 1 << flip % 8
    before = world.parties["a"].saved
    with pytest.raises(Forged.__mro__[1]):
        world.handle("a", bytes(data))
    assert world.parties["a"].saved == before


def test_a_ledger_that_was_set_back_is_refused_by_the_coordinator() -> None:
    world = World(rounds=1)
    course = world.coordinator.state.course
    world.coordinator.saved = wire.encode(
        coordinator_state.Planned(replace(course, heads={"b": signed_head("b", 5_000)}))
    )
    end = world.play()
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d")))
    assert any("has shown 5000 before" in str(fault) for _, fault in world.faults)


def test_a_ledger_that_was_set_back_is_refused_by_a_peer() -> None:
    world = World(rounds=1)
    idle = world.parties["d"].state
    charter = replace(idle.charter, witnessed={"b": signed_head("b", 5_000)})
    world.parties["d"].saved = wire.encode(member_state.Idle(charter))
    world.play()
    assert any(name == "d" and "has shown 5000 before" in str(fault) for name, fault in world.faults)
    assert world.parties["d"].trained == 0


def test_a_second_question_about_a_round_is_refused() -> None:
    world = World(rounds=1)
    questions: list[bytes] = []
    handle = world.handle

    def listen(name: str, data: bytes) -> bytes:
        answer = handle(name, data)
        frame = wire.decode(data, m.Frame)
        if frame.envelope.receipt.kind == "Ask" and name == "a":
            question = wire.decode(frame.envelope.body, m.Ask)
            other = resigned(
                frame.envelope.receipt, replace(question, question=question.question + b"x"), "coordinator"
            )
            with pytest.raises(OutOfTurn):
                handle("a", wire.encode(other))
            questions.append(data)
        return answer

    world.handle = listen  # type: ignore[method-assign]
    world.play()
    assert len(questions) == 1


def test_a_custodian_opens_one_sum_a_round_and_only_of_enough_signed_inputs() -> None:
    world = World(scheme=Scheme.CKKS, rounds=1)

    def shrink(frame: m.Frame) -> m.Frame:
        ask = wire.decode(frame.envelope.body, m.Ask)
        summation = wire.decode(ask.question, Summation)
        fewer = replace(ask, question=wire.encode(replace(summation, inputs=summation.inputs[:1])))
        return resigned(frame.envelope.receipt, fewer, "coordinator")

    world.forge["Ask"] = shrink
    assert world.play().outcome == "aborted"
    assert any("a sum over 1 members" in str(fault) for _, fault in world.faults)


ENCRYPTED = [scheme for scheme in Scheme if scheme.has_custodian]


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize("backwards", [False, True])
def test_an_encrypted_run_goes_on_without_who_falls_silent_before_or_after_its_result(
    scheme: Scheme, backwards: bool
) -> None:
    world = World(names=("a", "b", "c", "d", "e", "f"), scheme=scheme, rounds=3, threshold=4, dimension=5000)
    world.backwards = backwards
    world.lost |= {("b", "Propose"), ("c", "Ask")}  # one result, and under masks one member's shares
    world.twice |= {("custodian", "Ask"), ("a", "Propose"), ("d", "Ask")}  # what is sent again is what was sent
    end = world.play()
    assert end.outcome == "finished", end.why
    assert np.array_equal(world.reached(end), world.expected(*[("a", "c", "d", "e", "f")] * 3))
    assert not world.faults


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_a_custodian_that_falls_silent_ends_the_run_without_a_sum(scheme: Scheme) -> None:
    world = World(scheme=scheme, rounds=1)
    world.deaf.add(("custodian", "Ask"))
    end = world.play()
    assert end.outcome == "aborted"
    assert "4 results and 0 answers: protocol.too-few" in end.why or "4 answers: protocol.too-few" in end.why


def test_under_masks_the_custodian_is_asked_last_and_not_at_all_after_too_few_shares() -> None:
    world = World(scheme=Scheme.MASKED_CKKS, rounds=1)
    asked: list[str] = []
    honest = world.handle

    def listen(name: str, data: bytes) -> bytes:
        if wire.decode(data, m.Frame).envelope.receipt.kind == "Ask":
            asked.append(name)
        return honest(name, data)

    world.handle = listen  # type: ignore[method-assign]
    assert world.play().outcome == "finished"
    assert asked == ["a", "b", "c", "d", "custodian"]
    world = World(scheme=Scheme.MASKED_CKKS, rounds=1)
    world.lost |= {("a", "Ask"), ("b", "Ask")}
    end = world.play()
    assert (end.outcome, "4 results and 2 answers: protocol.too-few" in end.why) == ("aborted", True)
    assert not any(isinstance(entry, SumOpened) for entry in world.parties["custodian"].entries)


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_what_was_decrypted_and_is_no_sum_is_the_rounds_one_opening(scheme: Scheme) -> None:
    world = World(scheme=scheme, rounds=1)
    honest, questions = world.handle, []

    def again(name: str, data: bytes) -> bytes:
        answer = honest(name, data)
        frame = wire.decode(data, m.Frame)
        if name == "a" and frame.envelope.receipt.kind == "Propose":
            plan, seat_ = wire.decode(frame.envelope.body, m.Propose).plan, world.parties["a"].state.seat
            made = encrypted.boxed(
                name, plan, wire.decode(seat_.material, encrypted.Material), (b"none",), keys.Secret(bytes(32))
            )
            replied = wire.decode(answer, m.Frame)
            spoiled = replace(wire.decode(replied.envelope.body, m.Submitted), payload=made)
            answer = wire.encode(m.Frame(resigned(replied.envelope.receipt, spoiled, "a").envelope, replied.head))
        if name == "custodian" and frame.envelope.receipt.kind == "Ask":
            ask = wire.decode(frame.envelope.body, m.Ask)
            summation = wire.decode(ask.question, Summation)
            fewer = replace(ask, question=wire.encode(replace(summation, inputs=summation.inputs[:3])))
            with pytest.raises(OutOfTurn) as fault:
                honest(name, wire.encode(resigned(frame.envelope.receipt, fewer, "coordinator")))
            questions.append(fault.value.rule)
        return answer

    world.handle = again  # type: ignore[method-assign]
    end = world.play()
    assert (end.outcome, questions) == ("aborted", ["protocol.replayed-round"])
    refused = [entry for entry in world.parties["custodian"].entries if isinstance(entry, Refused)]
    assert [reason.rule for entry in refused for reason in entry.reasons] == ["protocol.no-sum"]


def test_a_custodian_refuses_an_input_that_its_member_did_not_sign() -> None:
    world = World(scheme=Scheme.CKKS, rounds=1)

    def swap(frame: m.Frame) -> m.Frame:
        ask = wire.decode(frame.envelope.body, m.Ask)
        summation = wire.decode(ask.question, Summation)
        first, second, *rest = summation.inputs
        copied = replace(first, body=second.body)
        fake = replace(ask, question=wire.encode(replace(summation, inputs=(copied, second, *rest))))
        return resigned(frame.envelope.receipt, fake, "coordinator")

    world.forge["Ask"] = swap
    assert world.play().outcome == "aborted"
    assert any("not the one its receipt names" in str(fault) for _, fault in world.faults)


def test_an_answer_in_another_members_name_is_refused() -> None:
    world = World(rounds=1)
    world.advance(coordinator_state.Started())
    envelope = m.enclose(identity("b"), MemberId("a"), MemberId("coordinator"), world.coordinator.state.course.session.run,
                         0, m.Accept(bytes(32), b""))  # fmt: skip
    with pytest.raises(Forged):
        world.advance(coordinator_state.Received(MemberId("a"), m.Frame(envelope, signed_head("a", 2))))
