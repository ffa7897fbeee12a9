"""What one dishonest party can do to the others' machines, and what it must not be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from securefl import merkle, wire
from securefl.errors import Forged
from securefl.keys import Secret
from securefl.protection import enrolments, masking_terms
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import member as mm
from securefl.protocol import messages as m
from securefl.terms import ReservationReleased, Reserved, RunId, Scheme, Settled, SumOpened, Update
from tests.support.worlds import World, an_update, identity, resigned

ALL = ("a", "b", "c", "d")
Lie = Callable[[m.Reply, str], m.Reply]
IN_THE_SUM = {"an answer that is none": ALL}  # of every other lie the liar is in none


def lying(world: World, liar: str, kind: str, lie: Lie) -> None:
    """From now on ``liar`` signs something else where it answers with ``kind``."""
    handle = world.handle

    def answer(name: str, data: bytes) -> bytes:
        frame = wire.decode(handle(name, data), m.Frame)
        receipt = frame.envelope.receipt
        if name == liar and receipt.kind == kind:
            message = lie(wire.decode(frame.envelope.body, getattr(m, kind)), liar)
            return wire.encode(replace(frame, envelope=resigned(receipt, message, liar).envelope))
        return wire.encode(frame)

    world.handle = answer  # type: ignore[method-assign]


def enrolled(public: bytes, liar: str, **changes: object) -> bytes:
    """An enrolment whose statement says something else, properly signed by the liar."""
    given = wire.decode(public, masking_terms.Public)
    said = replace(given.statement, **changes)
    return wire.encode(replace(given, statement=said, signature=identity(liar).sign("mask-key", wire.encode(said))))


def dealt_to(public: bytes, liar: str, roster: tuple[str, ...]) -> bytes:
    """An enrolment that says all through that it was dealt to others."""
    short = wire.decode(public, masking_terms.Public).commitments[: len(roster)]
    tree = merkle.root(tuple(map(merkle.leaf_hash, short)))
    said = wire.decode(enrolled(public, liar, roster=enrolments.roster_hash(roster), shares=tree), masking_terms.Public)
    return wire.encode(replace(said, roster=roster, commitments=short))


def keys_that_say(**changes: object) -> tuple[str, Lie]:
    return "Enrolled", lambda reply, liar: replace(reply, public=enrolled(reply.public, liar, **changes))


def public_with(**changes: object) -> tuple[str, Lie]:
    return "Enrolled", lambda reply, _: replace(
        reply, public=wire.encode(replace(wire.decode(reply.public, masking_terms.Public), **changes))
    )


def with_(kind: str, **changes: object) -> tuple[str, Lie]:
    return kind, lambda reply, _: replace(reply, **changes)


LIES: dict[str, tuple[str, Lie]] = {
    "keys that are none": with_("Enrolled", public=b"junk"),
    "no keys": with_("Enrolled", public=b""),
    "keys under another signature": public_with(signature=bytes(64)),
    "no boxes": public_with(boxes={}),
    "a mask key of low order": keys_that_say(mask_key=bytes(32)),
    "a mask key that is too short": keys_that_say(mask_key=b"k"),
    "another threshold": keys_that_say(threshold=2),
    "another roster": (
        "Enrolled",
        lambda reply, liar: replace(reply, public=dealt_to(reply.public, liar, ("a", "b", "d"))),
    ),
    "another roster than it shows": keys_that_say(roster=enrolments.roster_hash(("a", "b", "d"))),
    "a roster it did not state": public_with(roster=("a", "b", "d")),
    "commitments it did not state": public_with(commitments=(bytes(64),) * 4),
    "too few commitments": public_with(commitments=()),
    "keys of another round": keys_that_say(round=9),
    "next keys that are none": with_("Submitted", following=b"junk"),
    "a vector that is none": with_("Submitted", payload=b"junk"),
    "a vector that is too short": with_("Submitted", payload=wire.encode(masking_terms.Masked(b""))),
    "an answer that is none": with_("Answered", answer=b"junk"),
    "a box key of low order": with_("Accept", box=bytes(32)),
    "a box key that is too short": with_("Accept", box=b"k"),
}


@pytest.mark.parametrize("liar", ["a", "d"])
@pytest.mark.parametrize("what", LIES)
def test_a_member_that_sends_nonsense_is_left_out_alone_and_makes_no_wrong_sum(what: str, liar: str) -> None:
    world = World()
    lying(world, liar, *LIES[what])
    end = world.play()
    honest = tuple(name for name in ALL if name != liar)
    for name in honest:
        assert isinstance(world.parties[name].state, member_state.Left), "an honest member never heard the end"
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(*(IN_THE_SUM.get(what, honest),) * 2))


@pytest.mark.parametrize("what", ["a mask key of low order", "a mask key that is too short"])
def test_a_key_that_agrees_on_nothing_is_found_before_anybody_pays_for_a_round_with_it(what: str) -> None:
    world = World()
    lying(world, "d", *LIES[what])
    assert world.play().outcome == "finished"
    paid = {n for n, party in world.parties.items() if any(isinstance(e, Reserved) for e in party.entries)}
    assert paid == {"a", "b", "c"}
    assert not any(isinstance(e, SumOpened) and "d" in e.survivors for e in world.coordinator.entries)


@pytest.mark.parametrize("payload", [b"junk", b""])
def test_a_ciphertext_that_is_none_ends_the_run_cleanly(payload: bytes) -> None:
    world = World(scheme=Scheme.CKKS)
    lying(world, "d", *with_("Submitted", payload=payload))
    assert world.play().outcome == "aborted"
    assert all(isinstance(world.parties[name].state, member_state.Left) for name in ALL)


def test_an_invitation_to_one_run_in_the_envelope_of_another_is_refused() -> None:
    world = World(rounds=1)
    asked = world.advance(coordinator_state.Started()).outbound[0]
    invite = wire.decode(asked.body, m.Invite)
    other = replace(invite, session=replace(invite.session, run=RunId(b"1" * 16)))
    before = world.parties["a"].saved
    with pytest.raises(Forged):
        world.handle("a", wire.encode(resigned(asked.receipt, other, "coordinator")))
    assert world.parties["a"].saved == before


def test_a_proposal_whose_receipt_names_another_plan_is_refused() -> None:
    world = World(rounds=1)

    def rename(frame: m.Frame) -> m.Frame:
        receipt, message = frame.envelope.receipt, wire.decode(frame.envelope.body, m.Propose)
        return resigned(replace(receipt, plan=None), message, "coordinator")

    world.forge["Propose"] = rename
    world.play()
    assert not any(isinstance(e, Reserved) for name in ALL for e in world.parties[name].entries)


def test_training_that_did_something_else_leaves_nothing_and_is_paid_for_as_the_larger() -> None:
    world = World()
    perform = world.perform

    def more(party: object, effect: member_state.Effect) -> member_state.Step:
        if isinstance(effect, member_state.Train) and party.name == "b":
            event = effect.plan.learning.event
            update = Update(an_update("b", 1, world.dimension), replace(event, steps=event.steps + 1))
            return mm.step(party.state, member_state.Trained(update, Secret(bytes(32))), world.member_plugs("b"))
        return perform(party, effect)

    world.perform = more  # type: ignore[method-assign]
    end = world.play()
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d"), ("a", "c", "d")))
    told = [e for e in world.parties["b"].entries if isinstance(e, Reserved | Settled | ReservationReleased)]
    assert [type(e) for e in told] == [Reserved, Settled] * 2
    assert [e.did.steps for e in told[1::2]] == [world.event.steps + 1] * 2


def test_a_member_that_left_keeps_no_key_that_opens_what_was_sealed_for_it() -> None:
    world = World()
    world.play()
    assert all(
        (world.parties[name].state.seat.box, world.parties[name].state.seat.enrolment) == (b"", b"") for name in ALL
    )
