"""A site's own fault stops a simulation, whose person has to mend it; a peer's fault is an answer as everywhere."""

from __future__ import annotations

import pytest

from securefl.errors import OperatorFault, PeerFault, Tampered
from securefl.protocol.messages import NoAnswer
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure
from securefl.simulation.own_sites import Halted, OwnSite, told_to_operator
from securefl.terms import MemberId
from tests.support.parties import waiting

A = MemberId("a")


class Broken:
    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def handle(self, data: bytes) -> bytes:
        raise self.fault


@pytest.mark.parametrize(
    "fault", [OperatorFault("the disk is full"), Tampered("a", "gone"), OSError(28), AssertionError()]
)
def test_a_sites_own_fault_is_raised_to_whoever_runs_the_simulation(fault: Exception) -> None:
    runtime = InProcess({A: OwnSite(Broken(fault))})
    with pytest.raises(type(fault)) as raised, told_to_operator():
        list(runtime.exchange([(A, b"")], waiting(1.0)))
    assert raised.value is fault
    with pytest.raises(Halted):
        list(runtime.exchange([(A, b"")], waiting(1.0)))


def test_a_peers_fault_is_an_answer() -> None:
    runtime = InProcess({A: OwnSite(Broken(PeerFault("no", "protocol.unsafe")))})
    assert list(runtime.exchange([(A, b"")], waiting(1.0))) == [(A, Failure(str(NoAnswer("protocol.unsafe"))))]
