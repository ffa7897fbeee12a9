"""A federation over Flower 1.42 with TLS and keys of its nodes, on this machine: provisioned, killed, verified."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.flare.network import COORDINATOR, SERVER, until
from examples.flower.network import FlowerNetwork, made
from securefl.ledger import export
from securefl.terms import ReservationReleased, Reserved, Settled
from tests.support.over_engines import InThisProcess, small_over
from tests.support.small import MEMBERS, Small

CHARGES = (Reserved, Settled, ReservationReleased)
ROUNDS = 2


class Here(InThisProcess, FlowerNetwork):
    """The same; what ends by itself is run in this process."""


@pytest.fixture
def network(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    network = small_over(Here, small, tmp_path / "flower", made(), capsys, ROUNDS)
    try:
        yield network
    finally:
        network.end()


def test_a_run_over_flower_goes_on_when_its_server_is_killed_and_holds(network: Here) -> None:
    keys = network.found()
    network.introduce()
    network.provision()
    network.serve()
    network.carry()
    process = network.coordinating()
    until(lambda: "round 1/" in network.log(COORDINATOR), "the first round")
    os.kill(network.process(SERVER), signal.SIGKILL)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, network.log(COORDINATOR)
    assert json.loads(said)["outcome"]["status"] == "finished"
    verdict = network.audited(keys)
    assert (verdict["ok"], verdict["pinned"]) == (True, True)
    for name in MEMBERS:
        found = export.leaves_of(export.read(network.run / "ledger" / f"{name}.ledger"), name)
        assert [type(each.entry) for each in found if isinstance(each.entry, CHARGES)] == [Reserved, Settled] * ROUNDS
