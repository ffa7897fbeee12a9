"""What each party writes down of one round, entry by entry and in order: what an auditor reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from securefl import keys, wire
from securefl.protocol import member as mm
from securefl.protocol import member_state
from securefl.protocol import messages as m
from securefl.terms import (
    Closed,
    Entry,
    Gathered,
    Hash,
    Leaf,
    MessageReceived,
    MessageSent,
    MicroEpsilon,
    Refused,
    Released,
    Reserved,
    RunJoined,
    Scheme,
    Settled,
    SumOpened,
    Update,
    Witnessed,
)
from tests.support.worlds import POLICY, World, an_update, refuse, seat

MEMBERS = ("a", "b", "c", "d")
MASKED = """
RunJoined; got Invite 0; sent Accept 0; saw coordinator; saw b; saw c; saw d; got Enrol 1; sent Enrolled 1;
saw coordinator; got Propose 1; saw b; saw c; saw d; saw coordinator; Reserved; Settled; sent Submitted 1; saw b; saw c;
saw d; got Ask 1; sent Answered 1; saw coordinator; got Close 0; saw b; saw c; saw d; Released; Closed; sent Bye 0;
saw coordinator"""
ENCRYPTED = """
RunJoined; got Invite 0; sent Accept 0; saw coordinator; saw b; saw c; saw custodian; saw d; got Enrol 1;
sent Enrolled 1; saw coordinator; got Propose 1; saw b; saw c; saw d; saw coordinator; Reserved; Settled;
sent Submitted 1; got Close 0; saw b; saw c; saw custodian; saw d; Released; Closed; sent Bye 0; saw coordinator"""
CUSTODIAN = """
RunJoined; got Invite 0; sent Accept 0; saw coordinator; got Ask 1; saw a; saw b; saw c; saw d; saw coordinator;
SumOpened; sent Answered 1; saw a; saw b; saw c; saw d; Released; Closed; got Close 0; sent Bye 0; saw coordinator"""
DECLINED = """
RunJoined; got Invite 0; sent Accept 0; saw coordinator; saw b; saw c; saw d; got Enrol 1; sent Enrolled 1;
saw coordinator; got Propose 1; saw b; saw c; saw d; saw coordinator; Refused; sent Declined 1; got Close 0; saw b;
saw c; saw d; Released; Closed; sent Bye 0; saw coordinator"""


def word(entry: Entry) -> str:
    if isinstance(entry, MessageReceived | MessageSent):
        way = "got" if isinstance(entry, MessageReceived) else "sent"
        return f"{way} {entry.receipt.kind} {entry.receipt.round}"
    return f"saw {entry.head.head.owner}" if isinstance(entry, Witnessed) else type(entry).__name__


def words(entries: Sequence[Entry]) -> list[str]:
    return [word(entry) for entry in entries]


def listed(text: str) -> list[str]:
    return " ".join(text.split()).split("; ")


def one(entries: Sequence[Entry], kind: type) -> Entry:
    (found,) = (entry for entry in entries if isinstance(entry, kind))
    return found


@pytest.mark.parametrize(
    ("scheme", "party", "expected"),
    [(Scheme.MASKING, "a", MASKED), (Scheme.CKKS, "a", ENCRYPTED), (Scheme.CKKS, "custodian", CUSTODIAN)],
)
def test_a_party_writes_down_each_thing_once_in_the_order_it_happened(
    scheme: Scheme, party: str, expected: str
) -> None:
    world = World(scheme=scheme, rounds=1)
    assert world.play().outcome == "finished"
    assert words(world.parties[party].entries) == listed(expected)
    assert all(wire.decode(wire.encode(Leaf(1, each)), Leaf).entry == each for each in world.parties[party].entries)


def test_a_coordinator_writes_down_whom_it_asked_and_what_came_with_whose_ledger() -> None:
    world = World(rounds=1)
    world.play()
    asked = [("Invite", "Accept", 0), ("Enrol", "Enrolled", 1), ("Propose", "Submitted", 1), ("Ask", "Answered", 1)]
    expected = ["RunJoined"]
    for kind, answer, round_ in [*asked, ("Close", "Bye", 0)]:
        expected += ["SumOpened", "Released"] if kind == "Close" else []
        expected += [f"sent {kind} {round_}"] * 4
        expected += [each for name in MEMBERS for each in (f"got {answer} {round_}", f"saw {name}")]
    assert words(world.coordinator.entries) == [*expected, "Closed"]


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.CKKS])
def test_what_is_written_is_of_this_run_plan_and_sum(scheme: Scheme) -> None:
    world = World(scheme=scheme, rounds=1)
    end = world.play()
    session, course = end.course.session, end.course
    everybody = tuple(seat(name) for name in (*MEMBERS, "coordinator", *(("custodian",) * scheme.has_custodian)))
    told = world.parties["a"].entries
    assert one(told, RunJoined) == RunJoined(session.run, "f", "member", POLICY, "a-data", everybody, b"")
    plan = wire.plan_hash(one(told, Reserved).plan)
    assert one(told, Settled) == Settled(plan, world.event)
    assert one(told, Released) == Released(session.run, 1, m.state_digest(course.state))
    assert one(told, Closed) == Closed(session.run, "finished", "every round ran")
    own = world.coordinator.entries
    order = (*everybody[:4], *everybody[5:], everybody[4])
    assert one(own, RunJoined) == RunJoined(session.run, "f", "coordinator", POLICY, "", order, b"")
    total = sum(np.rint(an_update(name, 1, world.dimension) * 2**16) for name in MEMBERS).astype("<i8")
    opened = one(own, SumOpened)
    assert (opened.run, opened.round, opened.plan, opened.survivors) == (session.run, 1, plan, MEMBERS)
    if scheme is Scheme.MASKING:
        assert opened.digest == hashlib.sha256(total.tobytes()).digest()
    else:
        assert one(world.parties["custodian"].entries, SumOpened) == opened
        assert one(world.parties["custodian"].entries, RunJoined) == RunJoined(
            session.run, "f", "custodian", POLICY, "", everybody, b""
        )
    receipts = [each.receipt for each in told if isinstance(each, MessageSent)]
    assert [each.plan for each in receipts if each.kind == "Submitted"] == [plan]
    assert [each.cost for each in receipts] == [MicroEpsilon(each.kind == "Submitted") for each in receipts]


def test_a_member_that_declines_writes_why_and_hears_the_end() -> None:
    world = World(rounds=1)
    world.parties["a"].decide = refuse
    assert world.play().outcome == "finished"
    told = world.parties["a"].entries
    assert words(told) == listed(DECLINED)
    refused = one(told, Refused)
    assert (refused.round, refused.what, refused.reasons) == (1, "plan", refuse(None).reasons)
    own = world.coordinator.entries
    place = words(own).index("Refused")
    assert words(own)[place - 1 : place + 2] == ["got Declined 1", "Refused", "saw a"]
    assert (own[place].what, own[place].reasons) == ("plan, by a", refuse(None).reasons)


def test_how_a_federation_below_came_to_a_result_stands_between_its_price_and_its_message() -> None:
    world = World(rounds=1)
    perform = world.perform
    gathered = Gathered(Hash(bytes(32)), bytes(16), (Hash(bytes(32)),), (3,), Hash(bytes(32)), 9)  # type: ignore[arg-type]

    def nested(party: object, effect: member_state.Effect) -> member_state.Step:
        if isinstance(effect, member_state.Train) and party.name == "a":
            update = Update(an_update("a", 1, world.dimension), effect.plan.learning.event, gathered)
            return mm.step(party.state, member_state.Trained(update, keys.Secret(bytes(32))), world.member_plugs("a"))
        return perform(party, effect)

    world.perform = nested  # type: ignore[method-assign]
    assert world.play().outcome == "finished"
    told = world.parties["a"].entries
    place = words(told).index("Gathered")
    assert words(told)[place - 1 : place + 2] == ["Settled", "Gathered", "sent Submitted 1"]
    assert told[place] == gathered
