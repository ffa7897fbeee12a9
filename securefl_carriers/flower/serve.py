"""Run a kit: Flower's own process with the options that are safe, and beside it what carries. It ends when asked to.

At a site: `flower-supernode`, which runs no code, and the worker that answers its messages. At the server:
`flower-superlink` on this machine only, the gate that sites connect to, the worker that carries, and the one run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from securefl_carriers.flower.gate import gate
from securefl_carriers.flower.kit import KIT, LOOPBACK, NoKit, ServerKit, SiteKit, loaded

APP: Final = Path(__file__).parent / "app"  # the stub
BIN: Final = Path(sys.executable).parent  # of Flower's own commands
FLWR: Final = str(BIN / "flwr")
UNREGISTERED: Final = "unregistered"  # what Flower says of a node that it forgot
SOON_S: Final = 10.0  # for a run that was submitted to begin
AGAIN_S: Final = 1.0  # before a process that ended is started again
CONNECTION: Final = "here"  # what Flower's command line calls the SuperLink of this machine
PR_SET_PDEATHSIG: Final = 1
_SYSTEM: Final = ctypes.CDLL(None)
QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def supernode(kit: SiteKit) -> list[str]:
    """Compose the command of a site's SuperNode."""
    own = kit.folder
    return [
        str(BIN / "flower-supernode"), "--isolation", "process", "--superexec-auth-secret-file", str(own / "secret"),
        "--superlink", kit.superlink, "--root-certificates", str(own / "ca.crt"),
        "--auth-supernode-private-key", str(own / "node.key"), "--host", LOOPBACK, "--port", str(kit.port),
        "--node-config", f"agent={json.dumps(str(kit.agent))}",
    ]  # fmt: skip


def superlink(kit: ServerKit) -> list[str]:
    """Compose the command of the server's SuperLink."""
    own = kit.folder
    return [
        str(BIN / "flower-superlink"), "--isolation", "process", "--superexec-auth-secret-file", str(own / "secret"),
        "--ssl-ca-certfile", str(own / "ca.crt"), "--ssl-certfile", str(own / "server.crt"),
        "--ssl-keyfile", str(own / "server.key"), "--enable-supernode-auth", "--host", LOOPBACK,
        "--port", str(kit.port), "--database", str(own / "state.db"), "--disable-runtime-dependency-installation",
    ]  # fmt: skip


class House:
    """What runs for one kit: processes that are started again when they end, until it is enough."""

    def __init__(self, kit: SiteKit | ServerKit) -> None:
        self.kit, self.enough, self.fault = kit, threading.Event(), ""
        self._strays = frozenset[str]()  # as of the last look: a file that is being replaced is away for a moment
        home = kit.folder / "flower"
        home.mkdir(mode=0o700, exist_ok=True)
        own = {KIT: str(kit.folder), "FLWR_HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}
        self._environment = {**os.environ, **QUIET, **own}
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run, until a signal ends it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.enough.set())
        work = [sys.executable, "-m", "securefl_carriers.flower.executor", str(self.kit.folder)]
        threads = [partial(self._kept, "flower", self._command()), partial(self._kept, "worker", work)]
        if isinstance(self.kit, ServerKit):
            _connect(self.kit, Path(self._environment["FLWR_HOME"]))
            threads += [partial(self._gated, self.kit), partial(self._submitted, self.kit)]
        for each in threads:
            threading.Thread(target=each, daemon=True).start()
        self.enough.wait()
        self.end()

    def _gated(self, kit: ServerKit) -> None:
        try:
            gate(kit).run()
        finally:
            if not self.enough.is_set():
                self.fault = f"nobody can connect: is {kit.public} taken?"
                self.enough.set()

    def _command(self) -> list[str]:
        return superlink(self.kit) if isinstance(self.kit, ServerKit) else supernode(self.kit)

    def _kept(self, name: str, command: list[str]) -> None:
        """Keep a process alive."""
        while not self.enough.is_set():
            self._done(name, command)
            self.enough.wait(AGAIN_S)

    def _submitted(self, kit: ServerKit) -> None:
        """Have Flower know the sites that are let in, and no others; keep one run submitted."""
        while not self.enough.is_set():
            if not self._listens():
                self.enough.wait(AGAIN_S / 5)
                continue
            self._registered(kit)
            if not kit.is_carried:
                self._done("flwr", [FLWR, "run", str(APP), CONNECTION])
                self._begun(kit)
            self.enough.wait(AGAIN_S)

    def _registered(self, kit: ServerKit) -> None:
        """Register each key that is new in `nodes/`, and take back each that lies there no more."""
        for path, key in kit.nodes.new().items():
            with suppress(ValueError, KeyError, TypeError):
                kit.nodes.register(key, int(self._said("register", str(path))["node-id"]))
        before, strays = self._strays, kit.nodes.strays()
        self._strays = frozenset(strays)
        for key in before & strays.keys():
            node = strays[key]
            with suppress(ValueError):
                self._said("unregister", str(node))  # fails where that was done, and not noted
            with suppress(ValueError, KeyError, TypeError):
                known = {int(each["node-id"]): each["status"] for each in self._said("list")["nodes"]}
                if known.get(node, UNREGISTERED) == UNREGISTERED:
                    kit.nodes.take_back(key)

    def _said(self, what: str, *argv: str) -> dict[str, Any]:
        """Return what a command about nodes said.

        Raises:
            ValueError: it was not done.
        """
        said = json.loads(self._done("flwr", [FLWR, "supernode", what, *argv, CONNECTION, "--format", "json"]))
        if not isinstance(said, dict) or said.get("success") is not True:
            raise ValueError(what)
        return said

    def _begun(self, kit: ServerKit) -> None:
        """Wait until the run that was submitted carries, for a while."""
        deadline = time.monotonic() + SOON_S
        while time.monotonic() < deadline and not self.enough.wait(AGAIN_S / 5):
            if kit.is_carried:
                return

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex((LOOPBACK, self.kit.port)) == 0

    def _done(self, name: str, command: list[str]) -> str:
        """Run one process to its end; return what a command said."""
        with self._lock:
            if self.enough.is_set():
                return ""
            process = self._running[name] = subprocess.Popen(  # noqa: S603 - what this module composed
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if name == "flwr" else None, text=True,
                env=self._environment, start_new_session=True,
                preexec_fn=_ends_with_us,  # noqa: PLW1509 - one system call, of a library that is loaded
            )  # fmt: skip
        said, _ = process.communicate()
        return said or ""

    def end(self) -> None:
        """End what was started here."""
        with self._lock:
            self.enough.set()
            for process in self._running.values():
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ends_with_us() -> None:
    """In a process to be: end when the thread that started it does, be it killed; each thread here outlives its own."""
    _SYSTEM.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _connect(kit: ServerKit, home: Path) -> None:
    """Tell Flower's command line where the SuperLink of this machine is."""
    told = {"address": f"{LOOPBACK}:{kit.port}", "root-certificates": str(kit.folder / "ca.crt")}
    lines = [f"[superlink]\ndefault = {json.dumps(CONNECTION)}\n\n[superlink.{CONNECTION}]"]
    (home / "config.toml").write_text(
        "\n".join([*lines, *(f"{key} = {json.dumps(told[key])}" for key in told), ""]), encoding="utf-8"
    )


def main() -> None:
    """Run a kit."""
    parser = argparse.ArgumentParser(prog="python -m securefl_carriers.flower.serve", description=__doc__)
    parser.add_argument("kit", type=Path)
    try:
        house = House(loaded(parser.parse_args().kit.absolute()))
        house.run()
    except NoKit as fault:
        sys.exit(str(fault))
    sys.exit(house.fault or None)


if __name__ == "__main__":
    main()
