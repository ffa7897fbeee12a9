"""A federation over NVIDIA FLARE 2.9 with mutual TLS, on this machine: provisioned, killed piece by piece, verified."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from examples.flare import engine
from examples.flare.network import COORDINATOR, CUSTODIAN, HOST, SERVER, Network, until
from securefl.cli import provision
from securefl.cli.main import main
from securefl.documents import participants, project_file
from securefl.errors import OperatorFault
from securefl.kits import flare_kit, flare_provision
from securefl.ledger import export
from securefl.runtime.sockets import Sockets
from securefl.terms import Hash, MemberId, ReservationReleased, Reserved, Settled
from tests.support.over_engines import InThisProcess, small_over
from tests.support.parties import waiting
from tests.support.small import MEMBERS, Small

CHARGES = (Reserved, Settled, ReservationReleased)


class Here(InThisProcess, Network):
    """The same; what ends by itself is run in this process."""


@pytest.fixture
def network(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    network = small_over(Here, small, tmp_path / "flare", engine.made(), capsys)
    try:
        yield network
    finally:
        network.end()


def test_a_run_over_flare_goes_on_whatever_is_killed_and_holds(network: Here, tmp_path: Path) -> None:
    """The coordinator, a site's own process, a client of FLARE's and its server: each once. Each is paid for once."""
    keys = network.found()
    network.request()
    network.introduce()
    network.provision()
    check_kits(network, tmp_path)
    network.serve()
    network.carry()
    os.kill(network.running["north"].pid, signal.SIGSTOP)  # what it is asked stays open
    network.coordinating()
    until(lambda: "members, policy" in network.log(COORDINATOR), "the coordinator")
    network.kill("north")
    network.serve("north")
    until(lambda: "round 1/3" in network.log(COORDINATOR), "the first round")
    network.kill(COORDINATOR)
    before = network.process("south"), network.process(SERVER)
    for process in before:
        os.kill(process, signal.SIGKILL)
    process = network.coordinating()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, network.log(COORDINATOR)
    assert json.loads(said)["outcome"]["status"] == "finished"
    assert (network.process("south"), network.process(SERVER)) != before, "FLARE's own scripts started them again"
    verdict = network.audited(keys)
    assert (verdict["ok"], verdict["pinned"]) == (True, True)
    for name in MEMBERS:
        found = export.leaves_of(export.read(network.run / "ledger" / f"{name}.ledger"), name)
        assert [type(each.entry) for each in found if isinstance(each.entry, CHARGES)] == [Reserved, Settled] * 3
    check_a_dead_client_ends_nothing(network)
    check_a_second_certificate_is_nobodys(network, tmp_path / "impostor")


def test_a_custodian_over_flare_opens_the_sums_and_its_key_is_split_within_a_run(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shares come from members over the engine: its clients ask each other, by the roster, and nobody else."""
    network = small_over(Here, small, tmp_path / "flare", engine.made(), capsys, 2, "masked-ckks")
    try:
        keys = network.found()
        network.request()
        network.introduce()
        network.provision()
        network.serve()
        network.carry()
        process = network.coordinating()
        until(lambda: "round 1/2" in network.log(COORDINATOR), "the first round")
        network.kill(CUSTODIAN)
        network.split()
        network.serve(CUSTODIAN)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, network.log(COORDINATOR)
        assert json.loads(said)["outcome"]["status"] == "finished"
        (vault,) = (network.of(CUSTODIAN) / "home").glob("*.split")
        assert not vault.with_suffix("").exists(), "the whole key is on no disk"
        verdict = network.audited(keys)
        assert (verdict["ok"], verdict["pinned"]) == (True, True)
    finally:
        network.end()


def check_a_dead_client_ends_nothing(network: Here) -> None:
    """A site whose client of FLARE dies for good within a run is left out of its rounds; the others finish them."""
    network.edit(COORDINATOR, {"patience": {"quorum": 2, "grace": 1, "ask": 15, "close": 5}})
    said_before = len(network.log(COORDINATOR))
    process = network.coordinating("second")
    until(lambda: "round 1/3" in network.log(COORDINATOR)[said_before:], "the second run")
    network.kill("flare west")
    os.kill(network.process("west"), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, network.log(COORDINATOR)
    told = json.loads(said)
    assert told["outcome"]["status"] == "finished"
    assert 2 in told["cohort_sizes"] or 2 in [len(each["survivors"]) for each in told["rounds"]], told


def check_kits(network: Here, tmp_path: Path) -> None:
    """Nobody's key is anywhere else; and whatever is loosened in a kit is found."""
    for name in (SERVER, *MEMBERS):
        own = network.of(COORDINATOR if name == SERVER else name)
        kept = {path.read_bytes() for path in own.rglob("*.key")}
        others = {path for path in network.folder.rglob("*") if path.is_file() and not path.is_relative_to(own)}
        assert not [path for path in others if path.read_bytes() in kept]
        assert all(each.status == flare_kit.OK for each in flare_kit.examine(network.kit(name), known(network, name)))
    check_whose_kit(network)
    check_kits_of_a_job(network, tmp_path / "by-job")
    for name, (file, change) in LOOSER.items():
        kit = tmp_path / "kits" / name
        shutil.copytree(network.kit("north"), kit)
        document = json.loads((kit / "local" / file).read_text()) if file else {}
        change(kit, document)
        if file:
            (kit / "local" / file).write_text(json.dumps(document))
        found = {each.name for each in flare_kit.examine(kit) if each.status != flare_kit.OK}
        assert found == {name.partition(" ")[0]}, name
    document = yaml.safe_load((network.folder / "project.yaml").read_text())
    narrower = network.folder / "narrower.yaml"
    narrower.write_text(yaml.safe_dump({**document, "sites": ["south"]}))
    asked = network.of("north") / "request" / "north.request.zip"
    with pytest.raises(OperatorFault, match="north is nobody in this project; give server, or one of south"):
        flare_provision.approve(project_file.load(narrower), flare_provision.Engine(network.engine), asked,
                                network.of(COORDINATOR) / "authority", tmp_path / "none")  # fmt: skip
    narrower.write_text(yaml.safe_dump({**document, "server": {"host": "north", "port": 1}, "sites": ["south"]}))
    with pytest.raises(OperatorFault, match="north asks to be a client"):
        flare_provision.approve(project_file.load(narrower), flare_provision.Engine(network.engine), asked,
                                network.of(COORDINATOR) / "authority", tmp_path / "none")  # fmt: skip
    check_what_is_looked_at_is_what_is_signed(network, asked, tmp_path)


def check_what_is_looked_at_is_what_is_signed(network: Here, asked: Path, tmp_path: Path) -> None:
    """A request that is exchanged once it was looked at is not the one that is signed."""
    mail = tmp_path / "north.request.zip"
    shutil.copyfile(asked, mail)
    engine = flare_provision.Engine(network.engine)

    def late(*argv: object, notes: Path) -> None:
        shutil.copyfile(network.of("south") / "request" / "south.request.zip", mail)
        engine(*argv, notes=notes)

    project, authority = project_file.load(network.project), network.of(COORDINATOR) / "authority"
    signed = flare_provision.approve(project, late, mail, authority, tmp_path / "north.signed.zip")
    with ZipFile(signed) as packed:
        assert [name for name in packed.namelist() if name.endswith(".crt")] == ["north.crt"]


def check_kits_of_a_job(network: Here, folder: Path) -> None:
    """A kit by which a job carries lets in that job alone; what is loosened in it is found, too."""
    shutil.copytree(network.kit("north"), folder)
    component = flare_kit.by_job(flare_kit.agent(network.agent("north"), known(network, "north").asked_by))
    flare_kit.harden(folder, component)

    def wrong() -> set[str]:
        return {each.name for each in flare_kit.examine(folder, known(network, "north")) if each.status != flare_kit.OK}

    assert wrong() == set()
    rights, resources = folder / "local" / flare_kit.RIGHTS, folder / "local" / flare_kit.RESOURCES
    good = json.loads(rights.read_text()), json.loads(resources.read_text())
    for person in (
        {"lead": {"submit_job": "any"}},
        {flare_kit.SUBMITTER: {"submit_job": "any", "byoc": "any"}},
        {flare_kit.SUBMITTER: "any"},
    ):
        rights.write_text(json.dumps({**good[0], "permissions": {**good[0]["permissions"], **person}}))
        assert wrong() == {"code"}
    rights.write_text(json.dumps(good[0]))
    resources.write_text(json.dumps({**good[1], "class_allow_list": [*flare_kit.JOB_CLASSES, "nvflare.x"]}))
    assert wrong() == {"classes"}
    flare_kit.harden(folder, flare_kit.agent(network.agent("north"), known(network, "north").asked_by))
    assert wrong() == set()
    assert json.loads(resources.read_text())["class_allow_list"] == []
    rights.write_text(json.dumps(good[0]))
    assert wrong() == {"code"}, "without a job nobody submits one"


def known(network: Here, name: str) -> participants.Neighbours:
    return provision.neighbours(network.document_of(name), "small", at_server=name == SERVER)


def check_whose_kit(network: Here) -> None:
    """A kit is held against the roster: whose it is, and whom it knows by which key."""
    north, kit = known(network, "north"), network.kit("north")
    other = Hash(bytes(32))
    for changed, told in (
        (known(network, "south"), {"identity"}),
        (replace(north, own=other), {"identity"}),
        (replace(north, asked_by={SERVER: other}), {"peers"}),
        (replace(north, asked_by={**north.asked_by, "custodian": other}), {"peers"}),
        (replace(north, asked_by={}), {"peers"}),
    ):
        assert {each.name for each in flare_kit.examine(kit, changed) if each.status != flare_kit.OK} == told
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--flare", str(kit), "--party", str(network.document("south"))])
    assert ended.value.code == 2


def check_a_second_certificate_is_nobodys(network: Here, folder: Path) -> None:
    """The authority gives somebody else a certificate for west, which FLARE takes for west: it reads nothing."""
    heard: list[bytes] = []
    with socketserver.ThreadingUnixStreamServer(str(network.doors / "impostor"), Listening) as agent:
        agent.heard = heard
        threading.Thread(target=agent.serve_forever, args=(0.05,), daemon=True).start()
        engine, authority = ("--engine", network.engine), network.of(COORDINATOR) / "authority"
        asked = network.told("provision", "request", network.project, "west", *engine, "--out", folder / "request")
        signed = network.told("provision", "approve", network.project, asked["request"], *engine, "--authority", authority, "--out", folder)  # fmt: skip
        made = network.told("provision", "kit", network.project, signed["signed"], *engine, "--request", folder / "request",
                            "--fingerprint", flare_provision.fingerprint(authority), "--out", folder / "kits",
                            "--agent", network.doors / "impostor")  # fmt: skip
        found = [each for each in flare_kit.examine(Path(made["kit"])) if each.status != flare_kit.OK]
        assert [each.name for each in found] == ["peers"], "it knows the server by its name alone"
        os.kill(network.process(SERVER), signal.SIGKILL)  # started again it knows nobody's certificate
        shutil.rmtree(network.kit("west"))
        Path(made["kit"]).rename(network.kit("west"))
        network.carry_at("west")
        west = MemberId("west")
        asking = Sockets({west: network.asked_at(SERVER) / west}).exchange([(west, b"anything")], waiting(60))
        threading.Thread(target=lambda: list(asking), daemon=True).start()
        until(lambda: "west: its certificate has another key" in network.log(f"flare {SERVER}"), "a refusal")
        agent.shutdown()
    assert heard == []


class Listening(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.heard.append(self.request.recv(1000))


Change = Callable[[Path, dict[str, Any]], object]
LOOSER: dict[str, tuple[str, Change]] = {
    "code of a role": (flare_kit.RIGHTS, lambda _, it: it["permissions"]["lead"].update(byoc="any")),
    "code of all": (flare_kit.RIGHTS, lambda _, it: it["permissions"].update(project_admin="any")),
    "code by default": ("", lambda kit, _: (kit / "local" / flare_kit.RIGHTS).unlink()),
    "classes listed": (flare_kit.RESOURCES, lambda _, it: it["class_allow_list"].append("*")),
    "classes by default": (flare_kit.RESOURCES, lambda _, it: it.pop("class_allow_list")),
    "classes warned of": (flare_kit.RESOURCES, lambda _, it: it.update(class_list_enforcement_mode="warn")),
    "logs allowed": (flare_kit.RESOURCES, lambda _, it: it.pop("allow_log_streaming")),
    "logs sent": (
        flare_kit.RESOURCES,
        lambda _, it: it["components"].append({"id": "x", "path": "nvflare.site_log_streamer.SiteLogStreamer"}),
    ),
    "storage": (flare_kit.RESOURCES, lambda _, it: it["components"].append({"id": "x", "path": "y", "args": {"root_dir": f"{gettempdir()}/x"}})),
    "carrier": (flare_kit.RESOURCES, lambda _, it: it["components"].pop()),
    "peers by name": (flare_kit.RESOURCES, lambda _, it: it["components"][-1]["args"].update(asked_by=[SERVER])),
    "peers whoever": (flare_kit.RESOURCES, lambda _, it: it["components"][-1]["args"].pop("asked_by")),
    "key": ("", lambda kit, _: (kit / "startup" / "client.key").chmod(0o644)),
    "connection": ("", lambda kit, _: _in_clear(kit / "startup" / "fed_client.json")),
}  # fmt: skip


def _in_clear(path: Path) -> None:
    path.write_text(path.read_text().replace('"mtls"', '"tls"'))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sites": ["a", "a"]}, "each has a name of its own"),
        ({"sites": [HOST]}, "each has a name of its own"),
        ({"sites": [SERVER]}, "each has a name of its own"),
        ({"sites": ["../a"]}, "sites"),
        ({"server": {"host": "a b"}}, "is no name of a machine"),
        ({"engine": "carrier-pigeon"}, "engine"),
        ({"port": 1}, "port"),
    ],
)
def test_a_project_that_cannot_be_is_refused_with_its_line(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    good = {"securefl_project": 1, "name": "small", "server": {"host": HOST}, "sites": ["a", "b"]}
    path = tmp_path / "project.yaml"
    path.write_text(yaml.safe_dump(good, sort_keys=False))
    assert project_file.load(path).called(SERVER) == HOST
    path.write_text(yaml.safe_dump({**good, **change}, sort_keys=False))
    with pytest.raises(OperatorFault, match=told) as fault:
        project_file.load(path)
    assert "project.yaml:" in str(fault.value)


@pytest.mark.parametrize("written", [None, b"", b"PK", b"PK\x03\x04"])
def test_what_is_no_request_is_refused(written: bytes | None, tmp_path: Path) -> None:
    project = project_file.Project(
        project_file.ProjectFile.model_validate(
            {"securefl_project": 1, "name": "small", "server": {"host": HOST}, "sites": ("a",)}
        ),
        tmp_path,
    )
    asked = tmp_path / "a.request.zip"
    if written is not None:
        asked.write_bytes(written)
    with pytest.raises(OperatorFault, match=r"no request of FLARE; give NAME\.request\.zip"):
        flare_provision.approve(project, flare_provision.Engine(tmp_path), asked, tmp_path, tmp_path / "signed")
