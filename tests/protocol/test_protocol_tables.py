"""The tables of moves, exhausted: every state with every event either has a row or is out of turn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import pytest

from securefl import wire
from securefl.errors import OutOfTurn, PeerFault
from securefl.keys import Secret
from securefl.protocol import coordinator as c
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.protocol import member as mm
from securefl.protocol import messages as m
from securefl.terms import Reason, Refusal, ReservationReleased, Scheme, Settled, Update
from tests.support.worlds import EVENT, World, a_grant, an_update, identity, signed_head

Visit = tuple[object, object]


def visits(scheme: Scheme) -> tuple[dict[type, object], dict[type, object], dict[type, object], dict[str, bytes]]:
    """One state of each kind and one message of each kind, as a real run passes through them."""
    world = World(scheme=scheme, rounds=2)
    members: dict[type, object] = {}
    custodians: dict[type, object] = {}
    requests: dict[str, bytes] = {}
    keep, handle = world.keep, world.handle

    def note(party: object, moved: object) -> None:
        before = party.state
        kinds = {"custodian": custodians, "a": members}.get(party.name, {})
        kinds.setdefault(type(before), before)
        keep(party, moved)
        kinds.setdefault(type(party.state), party.state)

    def listen(name: str, data: bytes) -> bytes:
        frame = wire.decode(data, m.Frame)
        if name == "a" or name == "custodian" and frame.envelope.receipt.kind == "Ask":
            requests.setdefault(frame.envelope.receipt.kind + ("" if name == "a" else "@custodian"), data)
        return handle(name, data)

    world.keep, world.handle = note, listen  # type: ignore[method-assign]
    world.play()
    ports = member_state.Ports(identity("a"), World().member_plugs("a").protection)
    restarted = mm.step(members[member_state.InTraining], member_state.Resumed(), ports).state
    members[type(restarted)] = restarted
    coordinators = {type(before): before for before, _ in world.seen}
    coordinators[coordinator_state.Ended] = world.coordinator.state
    replies = {wire.decode(data, m.Frame).envelope.receipt.kind: data for name, data in world.carried if name == "a"}
    return members, coordinators, custodians, {**requests, **replies}


MASKED = visits(Scheme.MASKING)
ENCRYPTED = visits(Scheme.CKKS)
RAND = Secret(bytes(range(32)))
FAR = signed_head("coordinator", 10_000)


def member_events() -> dict[type, object]:
    world = World()
    members, _, _, frames = MASKED
    plan = members[member_state.InTraining].proposal.plan
    events: dict[type, object] = {
        kind: member_state.Received(wire.decode(frames[kind.__name__], m.Frame).envelope, FAR, RAND)
        for kind in mm.REQUESTS.values()
    }
    events[member_state.Decided] = member_state.Decided(a_grant(plan))
    events[member_state.Trained] = member_state.Trained(Update(an_update("a", 1, world.dimension), EVENT), RAND)
    events[member_state.Stopped] = member_state.Stopped("out of memory")
    events[member_state.Resumed] = member_state.Resumed()
    return events


def test_a_real_run_visits_every_state() -> None:
    assert set(MASKED[0]) == set(get_args(member_state.State))
    assert set(MASKED[1]) == set(get_args(coordinator_state.State))
    assert set(ENCRYPTED[2]) == set(get_args(u.State))


@pytest.mark.parametrize(
    ("state", "event"),
    list(itertools.product(get_args(member_state.State), member_events())),
    ids=lambda kind: kind.__name__,
)
def test_every_pair_at_a_member_moves_as_its_row_says_or_is_out_of_turn(state: type, event: type) -> None:
    before = MASKED[0][state]
    row = mm.RULES.get((state, event))
    try:
        moved = mm.step(
            before, member_events()[event], member_state.Ports(identity("a"), World().member_plugs("a").protection)
        )
    except OutOfTurn:
        return  # no row, or a row for another round: nothing moved
    except PeerFault:
        assert row is not None
        return
    ports = member_state.Ports(identity("a"), World().member_plugs("a").protection)
    resumed = mm.step(before, member_state.Resumed(), ports).state
    repeated = moved.state == resumed and len(moved.entries) == (resumed != before)
    assert repeated or (row is not None and type(moved.state) in row[1])


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in itertools.product(get_args(member_state.State), member_events()) if pair not in mm.RULES],
    ids=lambda kind: kind.__name__,
)
def test_no_row_no_move_at_a_member(state: type, event: type) -> None:
    before = MASKED[0][state]
    received = member_events()[event]
    repeats = isinstance(received, member_state.Received) and not isinstance(before, member_state.Idle) and (
        before.seat.request == received.envelope.receipt.digest
    )  # fmt: skip
    if repeats:
        after = mm.step(before, received, World().member_plugs("a"))
        resumed = mm.step(before, member_state.Resumed(), World().member_plugs("a")).state
        assert (after.state, len(after.entries)) == (resumed, resumed != before)
    else:
        with pytest.raises(OutOfTurn):
            mm.step(before, received, World().member_plugs("a"))


SPENT = [
    None,
    *(member_state.Ran(did, rule) for did in (None, replace(EVENT, steps=1)) for rule in ("", "policy.version")),
]


@pytest.mark.parametrize("spent", SPENT)
def test_no_move_from_a_training_that_was_begun_again_gives_anything_back(spent: member_state.Ran | None) -> None:
    before = MASKED[0][member_state.TrainingAgain]
    ports = member_state.Ports(identity("a"), World().member_plugs("a").protection)
    stopped = member_state.Stopped("whatever", spent)
    of = {kind: each for kind, each in member_events().items() if (member_state.TrainingAgain, kind) in mm.RULES}
    events = [each for kind, each in of.items() if kind is not m.Enrol]  # this one is for the round that has begun
    for event in [*events, stopped]:
        moved = mm.step(before, event, ports)
        charges = [each for each in moved.entries if isinstance(each, Settled | ReservationReleased)]
        if isinstance(moved.state, member_state.TrainingAgain):
            assert not charges
        else:
            assert charges == [Settled(wire.plan_hash(before.proposal.plan), EVENT)]
    stopped_at_first = mm.step(MASKED[0][member_state.InTraining], stopped, ports).entries[0]
    assert isinstance(stopped_at_first, ReservationReleased) == (spent is not None and spent.did is None)


COORDINATOR_EVENTS = [
    coordinator_state.Started,
    *c.REPLIES.values(),
    coordinator_state.Elapsed,
    coordinator_state.Resumed,
]


@pytest.mark.parametrize(
    ("state", "event"),
    list(itertools.product(get_args(coordinator_state.State), COORDINATOR_EVENTS)),
    ids=lambda kind: kind.__name__,
)
def test_every_pair_at_the_coordinator_moves_as_its_row_says_or_is_out_of_turn(state: type, event: type) -> None:
    world = World()
    _, coordinators, _, frames = MASKED
    before = coordinators[state]
    if event in (coordinator_state.Started, coordinator_state.Elapsed, coordinator_state.Resumed):
        happened = event()
    elif event is m.Declined:
        run = before.course.session.run
        body = m.Declined(1, (Reason("training", "v", "l", "f"),))
        envelope = m.enclose(identity("a"), "a", "coordinator", run, 1, body)
        happened = coordinator_state.Received("a", m.Frame(envelope, wire.decode(frames["Bye"], m.Frame).head))
    else:
        frame = wire.decode(frames[event.__name__], m.Frame)
        late = wire.decode(frames["Bye"], m.Frame).head
        happened = coordinator_state.Received("a", m.Frame(frame.envelope, late))
    row = c.RULES.get((state, event))
    if row is None:
        with pytest.raises(OutOfTurn):
            c.step(before, happened, world.coordinator_plugs)
        return
    try:
        moved = c.step(before, happened, world.coordinator_plugs)
    except PeerFault:
        return  # this row, another round: nothing moved
    assert type(moved.state) in row[1]


@pytest.mark.parametrize(
    ("state", "request_"), list(itertools.product(get_args(u.State), ["Invite", "Ask@custodian", "Close", "Propose"])),
    ids=lambda kind: getattr(kind, "__name__", kind),
)  # fmt: skip
def test_every_pair_at_the_custodian_moves_or_is_out_of_turn(state: type, request_: str) -> None:
    world = World(scheme=Scheme.CKKS)
    frame = wire.decode(ENCRYPTED[3][request_], m.Frame)
    receipt = frame.envelope.receipt
    body = wire.decode(frame.envelope.body, m.Invite | m.Ask | m.Close | m.Propose)
    envelope = m.enclose(
        identity("coordinator"), "coordinator", "custodian", receipt.run, receipt.round, body, receipt.plan
    )
    before = ENCRYPTED[2][state]
    ports = u.Ports(identity("custodian"), world.holder, 3)
    kind = u.REQUESTS.get(receipt.kind, type(None))
    row = u.RULES.get((state, kind))
    repeated = getattr(before, "request", None) == envelope.receipt.digest
    try:
        moved = u.step(before, member_state.Received(envelope, FAR, RAND), ports)
    except OutOfTurn:
        return
    except PeerFault:
        assert row is not None or repeated
        return
    assert moved.state == before or (row is not None and type(moved.state) in row[1])


@pytest.mark.parametrize("index", [0, 1])
def test_every_state_is_the_same_after_a_restart(index: int) -> None:
    kinds = (member_state.State, coordinator_state.State)[index]
    for state in MASKED[index].values():
        assert wire.decode(wire.encode(state), kinds) == state


def test_no_state_and_no_message_can_hold_an_update() -> None:
    update = Update(an_update("a", 1, 4), EVENT)
    with pytest.raises(TypeError):
        wire.encode(update)
    with pytest.raises(TypeError):
        wire.encode(m.Submitted(1, update, b""))  # type: ignore[arg-type]
    import pickle  # noqa: PLC0415, S403

    with pytest.raises(TypeError):
        pickle.dumps(update)


def test_a_refusal_names_a_reason() -> None:
    with pytest.raises(ValueError, match="at least one reason"):
        Refusal(())
