"""A federation over NVIDIA FLARE on one machine: each party a folder, a home and two processes of its own.

Everything is a command: what one party has, another one is sent. Whatever is started here is ended by its process id.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

COORDINATOR, CUSTODIAN, SERVER, HOST = "coordinator", "custodian", "server", "localhost"
DOOR = "door"


@dataclass(frozen=True)
class Federation:
    """What is trained, and by whom."""

    name: str
    policy: Path
    trained: Mapping[str, Any]  # fields of a COORDINATOR document
    model: tuple[str, str]  # what the policy calls it, and where it is here
    members: Mapping[str, Mapping[str, Any]]  # of each: region and data
    custodian: bool = False

    @property
    def parties(self) -> tuple[str, ...]:
        """Whoever is asked."""
        return (*self.members, *((CUSTODIAN,) if self.custodian else ()))


@dataclass
class Network:
    """One federation's parties below ``folder``; ``engine`` is the environment of FLARE, or the sockets themselves."""

    federation: Federation
    folder: Path
    engine: Path | None
    by_job: bool = field(default=False, kw_only=True)  # FLARE's parents carry, or a job
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.doors = Path(tempfile.mkdtemp(prefix="securefl-"))  # a socket's path is short
        for name in (*self.federation.parties, COORDINATOR):
            self.of(name).mkdir(parents=True)

    def of(self, name: str) -> Path:
        """A party's own folder."""
        return self.folder / "parties" / name

    def document(self, name: str) -> Path:
        """A party's own document."""
        return self.of(name) / ("coordinator.yaml" if name == COORDINATOR else "site.yaml")

    def agent(self, name: str) -> Path:
        """The socket of a site."""
        return self.doors / name / DOOR

    def asked_at(self, name: str) -> Path:
        """Where the server's or the custodian's engine has a socket for each whom it asks."""
        return self.doors / f"asked-by-{name}"

    def way(self, name: str) -> Path:
        """Where the coordinator asks a party."""
        return self.agent(name) if self.engine is None else self.asked_at(SERVER) / name

    def kit(self, name: str) -> Path:
        """A party's kit of FLARE; the server's is beside the coordinator."""
        return self.kits(name) / self.federation.name / "prod_00" / (HOST if name == SERVER else name)

    def kits(self, name: str) -> Path:
        """Where a party makes it."""
        return self.of(COORDINATOR if name == SERVER else name) / "kits"

    def asking(self, name: str) -> Path:
        """Where a party, or the server, keeps its key of FLARE and what it asks the authority."""
        return self.of(COORDINATOR if name == SERVER else name) / "request"

    def document_of(self, name: str) -> Path:
        """The document of the party at whose machine a participant of FLARE is."""
        return self.document(COORDINATOR if name == SERVER else name)

    @property
    def project(self) -> Path:
        """Who takes part in FLARE's network."""
        return self.folder / "project.yaml"

    def told(self, *argv: object) -> dict[str, Any]:
        """What one command says in JSON."""
        done = subprocess.run([*SECUREFL, *map(str, argv), "--json"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"securefl {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def found(self) -> dict[str, str]:
        """Everybody makes a home, a key and a document; the keys, by name."""
        of, keys = self.federation, {}
        for name in of.parties:
            if name not in of.members:
                keys[name] = self.told("site", "init", self.document(name), "--custodian")["key"]
                continue
            member, (model, at) = of.members[name], of.model
            made = self.told("site", "init", self.document(name), "--name", name, "--region", member["region"],
                             "--model", model, "--at", at, "--data", member["data"]["file"])  # fmt: skip
            keys[name] = made["key"]
            self.edit(name, {"data": member["data"]})
        mine, invited = self.document(COORDINATOR), [part for name in of.members for part in ("--member", name)]
        made = self.told("coordinator", "init", mine, "--policy", of.policy, "--model", of.model[0], *invited)
        ways: dict[str, Any] = {"members": {name: str(self.way(name)) for name in of.members}}
        if of.custodian:
            ways["custodian"] = str(self.way(CUSTODIAN))
        model = {"name": of.model[0], "at": of.model[1]}
        self.edit(COORDINATOR, {**of.trained, "policy": str(of.policy), "model": model, **ways})
        start = self.of(COORDINATOR) / "first.start"
        self.told("start", "make", mine, start)
        self.edit(COORDINATOR, {"start": str(start)})
        return {**keys, COORDINATOR: made["key"]}

    def introduce(self) -> None:
        """Everybody is in, by signed documents and by fingerprints that are read out."""
        mine, mail = self.document(COORDINATOR), self.folder / "mail"
        mail.mkdir()
        read_out = self.told("site", "invite", mine, "--out", mail / "invitation")["fingerprint"]
        for name in self.federation.parties:
            answer = mail / f"{name}.answer"
            made = self.told("site", "join", self.document(name), mail / "invitation", "--fingerprint", read_out,
                             "--out", answer)  # fmt: skip
            self.told("site", "join", mine, answer, "--fingerprint", made["fingerprint"])
        read_out = self.told("site", "roster", mine, "--out", mail / "roster")["fingerprint"]
        for name in self.federation.parties:
            self.told("site", "join", self.document(name), mail / "roster", "--fingerprint", read_out)

    def request(self) -> None:
        """Everybody makes a key for FLARE, which what they sign of themselves from now on names."""
        server = {"host": HOST, "port": free_port()}
        document = {"securefl_project": 1, "name": self.federation.name, "server": server}
        written = {**document, "sites": list(self.federation.parties)}
        self.project.write_text(yaml.safe_dump(written, sort_keys=False))
        for name in (SERVER, *self.federation.parties):
            self.told("provision", "request", self.project, name, "--engine", self.engine,
                      "--out", self.asking(name), "--party", self.document_of(name))  # fmt: skip

    def provision(self) -> None:
        """Everybody gets a certificate and makes a kit; the coordinator's machine has the authority and the server."""
        authority, mail = self.of(COORDINATOR) / "authority", self.folder / "mail"
        engine = ("--engine", self.engine)
        read_out = self.told("provision", "authority", self.project, *engine, "--out", authority)["fingerprint"]
        for name in (SERVER, *self.federation.parties):
            (asked,) = self.asking(name).glob("*.request.zip")
            signed = self.told("provision", "approve", self.project, asked, *engine, "--authority", authority,
                               "--out", mail)["signed"]  # fmt: skip
            way = () if name == SERVER else ("--agent", self.agent(name))
            asks = ("--doors", self.asked_at(name)) if name in (SERVER, CUSTODIAN) else ()
            made = self.told("provision", "kit", self.project, signed, *engine, "--request", self.asking(name),
                             "--fingerprint", read_out, "--out", self.kits(name), *way, *asks,
                             "--party", self.document_of(name), *(("--by-job",) if self.by_job else ()))  # fmt: skip
            assert Path(made["kit"]) == self.kit(name).absolute(), made
            self.told("doctor", "--flare", self.kit(name), "--party", self.document_of(name))

    def serve(self, *names: str) -> None:
        """Start these sites' own processes, or everybody's."""
        for name in names or self.federation.parties:
            argv = [*SECUREFL, "site", "serve", str(self.document(name)), "--socket", str(self.agent(name)), "--json"]
            split = name == CUSTODIAN and any((self.of(name) / "home").glob("*.split"))
            holders = self.federation.members if split else ()
            ways = [f"--member={each}={self.asked_at(name) / each}" for each in holders]
            self._start(name, [*argv, *ways])
        for name in names or self.federation.parties:
            said = self.running[name].stdout
            assert said is not None
            if not json.loads("".join(iter(said.readline, "}\n")) + "}")["ok"]:
                raise SystemExit(f"{name} does not serve")

    def split(self) -> None:
        """The custodian, who is not served now, splits its key; each member keeps the share that it was sent."""
        shares = self.folder / "mail" / "shares"
        self.told("custodian", "split", self.document(CUSTODIAN), "--threshold", 2, "--out", shares)
        for name in self.federation.members:
            self.told("custodian", "keep", self.document(name), shares / f"{name}.share")

    def carry(self) -> None:
        """Start every kit as FLARE has it: its own script keeps its process alive. Wait until all can be reached."""
        for name in (SERVER, *self.federation.parties):
            self.carry_at(name)
        until(lambda: all((self.asked_at(SERVER) / name).is_socket() for name in self.federation.parties), "the engine")

    def carry_at(self, name: str) -> None:
        """Start one kit; its script looks every five seconds whether its process lives."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        assert self.engine is not None
        environment["PATH"] = f"{self.engine.absolute() / 'bin'}:{environment['PATH']}"
        self._start(f"flare {name}", [str(self.kit(name) / "startup" / "sub_start.sh")], environment, quiet=True)

    def coordinating(self, run: str = "run") -> subprocess.Popen[str]:
        """Start the coordinator; an interrupted run goes on."""
        out = self.of(COORDINATOR) / run
        argv = [*SECUREFL, "coordinate", str(self.document(COORDINATOR)), "--out", str(out), "--json"]
        return self._start(COORDINATOR, argv)

    @property
    def run(self) -> Path:
        """What the coordinator leaves."""
        return self.of(COORDINATOR) / "run"

    def audited(self, keys: Mapping[str, str], run: str = "run") -> dict[str, Any]:
        """Lay everybody's ledger beside the coordinator's, and verify all of it under these keys."""
        left = self.of(COORDINATOR) / run
        for name in self.federation.parties:
            self.told("ledger", "export", self.document(name), left / "ledger")
        given = self.folder / "keys.json"
        given.write_text(json.dumps(dict(keys)))
        return self.told("audit", "verify", left, "--keys", given)

    def process(self, name: str) -> int:
        """The process of a party's kit, which its script starts again when it has ended."""
        place = self.kit(name) / "pid.fl"
        until(place.exists, f"FLARE at {name}")
        return int(place.read_text())

    def kill(self, name: str) -> None:
        """Kill one process that was started here."""
        process = self.running.pop(name)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def log(self, name: str) -> str:
        """What a process said so far beside its answer."""
        return (self.folder / f"{name.replace(' ', '-')}.log").read_text()

    def end(self) -> None:
        """End whatever was started here: scripts first, so that nothing is started again."""
        for name in [each for each in self.running if each.startswith("flare ")]:
            self.kill(name)
            with suppress(OSError, ValueError, SystemExit):
                _ended(self.process(name.removeprefix("flare ")))
        for name in list(self.running):
            self.kill(name)

    def _start(
        self, name: str, argv: list[str], environment: dict[str, str] | None = None, *, quiet: bool = False
    ) -> subprocess.Popen[str]:
        """Start one process; what a ``quiet`` one says goes to its log, as everybody's complaints do."""
        with (self.folder / f"{name.replace(' ', '-')}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log if quiet else subprocess.PIPE, stderr=log, text=True,
                env=environment, start_new_session=True,
            )  # fmt: skip
        return self.running[name]

    def edit(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change a party's own document."""
        path = self.document(name)
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))


SECUREFL = (sys.executable, "-m", "securefl")


def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port


def until(true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not there after {seconds:.0f} s")
        time.sleep(0.1)


def _ended(pid: int) -> None:
    """End a process of FLARE that a script of ours started."""
    if "nvflare" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"):
        os.kill(pid, signal.SIGKILL)
