"""A federation over Flower 1.42 with TLS and keys of its nodes, on this machine: provisioned, killed, verified."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.flare.network import COORDINATOR, HOST, SERVER, until
from examples.flower.network import FlowerNetwork, made
from securefl.ledger import export
from securefl.terms import ReservationReleased, Reserved, Settled
from securefl_carriers.flower import kit
from securefl_carriers.flower.nodes import Nodes
from tests.support.over_engines import InThisProcess, small_over
from tests.support.small import MEMBERS, Small

CHARGES = (Reserved, Settled, ReservationReleased)
ROUNDS = 2


class Here(InThisProcess, FlowerNetwork):
    """The same; what ends by itself is run in this process."""

    def kits(self, *argv: object) -> str:
        self.capsys.readouterr()
        kit.main([*map(str, argv)])
        return self.capsys.readouterr().out.strip()


@pytest.fixture
def network(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    network = small_over(Here, small, tmp_path / "flower", made(), capsys, ROUNDS)
    try:
        yield network
    finally:
        network.end()


# What Flower serves on one port: its own interface to nodes, and what submits runs, registers nodes and hands out work.
OPEN = ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/openapi.json")
CLOSED = ("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/x", "/v1/fleet/x/../../control/start-run")
BAD = (403, 404, 405)


def check_the_gate(network: Here) -> None:
    """Whoever reaches the port that sites reach can do what a registered node does, if it is one, and nothing else."""
    server = network.kit(SERVER)
    trusted = ssl.create_default_context(cafile=server / "ca.crt")
    host, _, port = json.loads((server / "kit.json").read_text())["public"].rpartition(":")

    def asked(method: str, path: str) -> int:
        connection = http.client.HTTPSConnection(host, int(port), context=trusted, timeout=30)
        connection.request(method, path, b"", {"content-type": "application/protobuf"})
        status = connection.getresponse().status
        connection.close()
        return status

    for path in (*OPEN, *CLOSED):
        assert {asked("GET", path), asked("POST", path)} <= set(BAD), path
    assert asked("POST", "/v1/fleet/pull-messages") == 401, "passed on: a SuperLink asks for a node's signature"
    with pytest.raises(ssl.SSLCertVerificationError):
        with socket.create_connection((host, int(port))) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname=HOST)


def check_no_code_of_a_run_was_installed(network: Here) -> None:
    """Where Flower's own executors put what a run ships, before they import it, is nothing."""
    for name in (SERVER, *MEMBERS):
        home = network.kit(name) / "flower"
        assert home.is_dir()
        assert not [path for path in home.rglob("*") if path.suffix == ".py" or path.name == "apps"]


def check_what_was_let_in_is_taken_back(network: Here) -> None:
    """Whose key is removed from `nodes/` has no door and no node of Flower's, and is let in by that key no more."""
    server, door = network.kit(SERVER), network.asked_at(SERVER) / "west"
    nodes, west = Nodes(server), Nodes(server).admitted()["west"]
    assert door.is_socket()
    assert west in nodes.registered().nodes
    nodes.place("west").unlink()
    until(lambda: not door.exists(), "the door of west to be shut")
    until(lambda: west in nodes.registered().gone, "Flower to forget west's node")
    assert set(nodes.served()) == {*MEMBERS} - {"west"}
    network.told("doctor", "--flower", server)
    own = network.kit("west") / "node.pub"
    with pytest.raises(SystemExit, match="was taken back"):
        kit.main(
            [
                "admit",
                str(server),
                "--name",
                "west",
                "--key",
                str(own),
                "--fingerprint",
                kit.fingerprint(own.read_bytes()),
            ]
        )


def test_a_run_over_flower_goes_on_when_its_server_is_killed_and_holds(network: Here) -> None:
    keys = network.found()
    network.introduce()
    network.provision()
    network.serve()
    network.carry()
    process = network.coordinating()
    until(lambda: "round 1/" in network.log(COORDINATOR), "the first round")
    check_the_gate(network)
    os.kill(network.process(SERVER), signal.SIGKILL)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, network.log(COORDINATOR)
    assert json.loads(said)["outcome"]["status"] == "finished"
    verdict = network.audited(keys)
    assert (verdict["ok"], verdict["pinned"]) == (True, True)
    for name in MEMBERS:
        found = export.leaves_of(export.read(network.run / "ledger" / f"{name}.ledger"), name)
        assert [type(each.entry) for each in found if isinstance(each.entry, CHARGES)] == [Reserved, Settled] * ROUNDS
    check_no_code_of_a_run_was_installed(network)
    check_what_was_let_in_is_taken_back(network)
    serving = [process for name, process in network.running.items() if name.startswith("flower ")]
    network.end()
    assert [each.returncode for each in serving] == [0] * len(serving), "each ended when it was asked to"
