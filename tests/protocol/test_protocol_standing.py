"""Does a key count? Each machine asks wherever somebody speaks or is spoken of, and takes no step where it does not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from securefl.errors import Forged
from securefl.protocol import coordinator_state
from securefl.terms import Participant, RunJoined, Scheme, SumOpened
from tests.support.worlds import World

REVOKED = "protocol.key-revoked"
Standing = Callable[[Participant], None]


def refusing(name: str, when: Callable[[], bool] = lambda: True) -> Standing:
    """Every key counts but that party's, from when on."""

    def standing(seat: Participant) -> None:
        if seat.member == name and when():
            raise Forged(f"the key of {name} was revoked", REVOKED)

    return standing


def to_members(world: World, standing: Standing) -> None:
    plugs = world.member_plugs
    world.member_plugs = lambda name: replace(plugs(name), standing=standing)  # type: ignore[method-assign]


def to_the_custodian(world: World, standing: Standing) -> None:
    plugs = world.custodian_plugs
    world.custodian_plugs = lambda: replace(plugs(), standing=standing)  # type: ignore[method-assign]


def test_a_coordinator_whose_own_key_ended_writes_down_no_run() -> None:
    world = World()
    world.coordinator_plugs = replace(world.coordinator_plugs, standing=refusing("coordinator"))
    with pytest.raises(Forged, match="was revoked"):
        world.advance(coordinator_state.Started())
    assert not any(isinstance(entry, RunJoined) for entry in world.coordinator.entries)


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_no_word_of_a_member_whose_key_ended_is_taken(scheme: Scheme) -> None:
    world = World(scheme=scheme, rounds=1)
    world.coordinator_plugs = replace(world.coordinator_plugs, standing=refusing("b"))
    end = world.play()
    assert end.outcome == "finished"
    assert np.array_equal(world.reached(end), world.expected(("a", "c", "d")))
    assert {fault.rule for name, fault in world.faults if name == "coordinator"} == {REVOKED}


@pytest.mark.parametrize("name", ["coordinator", "custodian"])
def test_a_custodian_joins_no_run_by_a_key_that_ended(name: str) -> None:
    world = World(scheme=Scheme.MASKED_CKKS, rounds=1)
    to_the_custodian(world, refusing(name))
    assert world.play().outcome == "aborted"
    assert world.parties["custodian"].entries == []


@pytest.mark.parametrize("name", ["coordinator", "custodian", "b"])
def test_a_custodian_decrypts_nothing_by_a_key_that_ended_since(name: str) -> None:
    world = World(scheme=Scheme.MASKED_CKKS, rounds=1)
    to_the_custodian(world, refusing(name, lambda: isinstance(world.coordinator.state, coordinator_state.Asking)))
    assert world.play().outcome == "aborted"
    assert not any(isinstance(entry, SumOpened) for entry in world.parties["custodian"].entries)


@pytest.mark.parametrize("name", ["coordinator", "custodian"])
def test_no_member_joins_a_run_whose_coordinator_or_custodian_has_a_key_that_ended(name: str) -> None:
    world = World(scheme=Scheme.MASKED_CKKS, rounds=1)
    to_members(world, refusing(name))
    assert world.play().outcome == "aborted"
    for member in world.names:
        assert not any(isinstance(entry, RunJoined) for entry in world.parties[member].entries)
