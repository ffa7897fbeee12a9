"""A federation over Flower on one machine: each party a folder, a home and processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from examples.flare import engine
from examples.flare.network import COORDINATOR, HOST, SERVER, Network, free_port, until
from securefl_carriers.flower.nodes import Nodes

FLOWER = engine.ROOT / "build" / "flower"
LOCK = engine.CARRIERS / "requirements-flower.lock"
LOOPBACK = "127.0.0.1"


def made() -> Path:
    """Return the environment of Flower, made of its lock if it is not there."""
    return engine.made(FLOWER, LOCK)


@dataclass
class FlowerNetwork(Network):
    """One federation's parties below ``folder``; ``engine`` is the environment of Flower."""

    def kit(self, name: str) -> Path:
        """A party's kit; the server's is beside the coordinator."""
        return self.of(COORDINATOR if name == SERVER else name) / "kit"

    def kits(self, *argv: object) -> str:
        """What one command about kits says."""
        python = [self.engine / "bin" / "python", "-m", "securefl_carriers.flower.kit", *map(str, argv)]
        done = subprocess.run(python, capture_output=True, text=True, check=False, env=self.environment())
        if done.returncode:
            raise SystemExit(f"kit {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def provision(self) -> None:
        """Everybody makes a key and a kit; what travels is a certificate and public keys, and fingerprints."""
        port, server = free_port(), self.kit(SERVER)
        read_out = self.kits("server", server.absolute(), "--host", HOST, "--public", f"{LOOPBACK}:{port}",
                             "--port", free_port(), "--doors", self.asked_at(SERVER))  # fmt: skip
        for name in self.federation.parties:
            own = self.kit(name).absolute()
            told = self.kits("site", own, "--name", name, "--superlink", f"{HOST}:{port}", "--agent", self.agent(name),
                             "--port", free_port(), "--ca", server / "ca.crt", "--fingerprint", read_out)  # fmt: skip
            self.kits("admit", server, "--name", name, "--key", own / "node.pub", "--fingerprint", told)
        for name in (SERVER, *self.federation.parties):
            self.told("doctor", "--flower", self.kit(name))

    def carry(self) -> None:
        """Start every kit, the server's first. Wait until all sites can be reached."""
        self.carry_at(SERVER)
        registered = Nodes(self.kit(SERVER))
        until(lambda: set(registered.served()) == set(self.federation.parties), "the server")
        for name in self.federation.parties:
            self.carry_at(name)
        until(lambda: all((self.asked_at(SERVER) / name).is_socket() for name in self.federation.parties), "the engine")

    def carry_at(self, name: str) -> None:
        """Start one kit; its process keeps Flower's alive."""
        python = [str(self.engine.absolute() / "bin" / "python"), "-m", "securefl_carriers.flower.serve"]
        self._start(f"flower {name}", [*python, str(self.kit(name))], self.environment(), quiet=True)

    @staticmethod
    def environment() -> dict[str, str]:
        """What the engine's own environment is given of this one."""
        return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def messages(self, name: str) -> int:
        """How many messages of Flower's a site has answered."""
        return self.log(f"flower {name}").count("Receiving: query.")

    def process(self, name: str) -> int:
        """The process of Flower's that a kit keeps alive."""
        serving = self.running[f"flower {name}"].pid
        called = "flower-superlink" if name == SERVER else "flower-supernode"
        found = [
            pid for pid in _children(serving) if called in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        ]
        return found[0]

    def end(self) -> None:
        """End whatever was started here: each kit's process ends its own."""
        carrying = [name for name in self.running if name.startswith("flower ")]
        for name in carrying:
            self.running[name].send_signal(signal.SIGTERM)
        for name in carrying:
            with suppress(subprocess.TimeoutExpired):
                self.running[name].wait(30)
        super().end()


def _children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]
