"""How do FLARE's two arrangements start, and what becomes of a run when one of their processes is killed in it?

`python -m audits.engines.arrangements --json`: parents carry, or a job does. One run each in which nothing is killed,
then one for each process that carries, killed once in the first round. Only processes that were started here are
killed, by their id.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from audits.engines.kills import FLARE, ROUNDS, charged, federation, here, wide
from examples.flare import engine
from examples.flare.network import COORDINATOR, SERVER, Network, until
from tests.support.small import MEMBERS, Small

PARENTS, JOB = "parents carry", "a job carries"
KILLED = {
    PARENTS: ("nothing", "a site's client", "the server"),
    JOB: ("nothing", "a site's job process", "a site's client", "the server's job process", "the server"),
}
LIMIT_S = 240.0  # for a run; one that takes longer is ended


def carrying(network: Network, what: str) -> int:
    """The process of FLARE's that this is."""
    parent = network.process(SERVER if "server" in what else "south")
    if "job" not in what:
        return parent
    children = [
        int(each) for task in Path(f"/proc/{parent}/task").iterdir() for each in _read(task / "children").split()
    ]
    return next(pid for pid in children if "_process" in _read(Path(f"/proc/{pid}/cmdline")))


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def run(network: Network, number: int, what: str) -> dict[str, Any]:
    """One run, in whose first round one process is killed."""
    heard, begun = len(network.log(COORDINATOR)) if number else 0, time.monotonic()
    process = network.coordinating(f"run-{number}")
    survivors: list[int] = []
    try:
        until(lambda: f"round 1/{ROUNDS}" in network.log(COORDINATOR)[heard:], "the first round", LIMIT_S)
        if what != "nothing":
            os.kill(carrying(network, what), signal.SIGKILL)
        said, _ = process.communicate(timeout=LIMIT_S)
        told = json.loads(said) if process.returncode == 0 else {}
        ended = told["outcome"]["status"] if told else str(process.returncode)
        survivors = [len(each["survivors"]) for each in told.get("rounds", [])]
    except (SystemExit, subprocess.TimeoutExpired, StopIteration) as fault:
        network.kill(COORDINATOR)
        ended = f"no end: {type(fault).__name__}"
    seconds = round(time.monotonic() - begun, 1)
    return {"killed": what, "ended": ended, "survivors": survivors, "seconds": seconds}


def memory_mb(network: Network) -> dict[str, int]:
    """Resident memory of the processes that carry at one site."""
    found = {}
    for what in ("a site's client", "a site's job process"):
        with suppress(StopIteration):
            status = _read(Path(f"/proc/{carrying(network, what)}/status"))
            found[what] = int(status.partition("VmRSS:")[2].split()[0]) // 1024
    return found


def tried(arrangement: str) -> dict[str, Any]:
    """A federation of its own over one arrangement."""
    with tempfile.TemporaryDirectory() as folder:
        small = Small(Path(folder))
        wide(small)
        network = Network(federation(small), Path(folder) / "network", engine.made(), by_job=arrangement == JOB)
        try:
            keys = network.found()
            network.request()
            network.introduce()
            network.provision()
            network.serve()
            begun = time.monotonic()
            network.carry()
            started, memory, runs = round(time.monotonic() - begun, 1), memory_mb(network), []
            for number, what in enumerate(KILLED[arrangement]):
                runs.append(run(network, number, what))
                print(arrangement, runs[-1], file=sys.stderr, flush=True)
            last = next((at for at, each in reversed([*enumerate(runs)]) if each["ended"] == "finished"), None)
            told: dict[str, Any] = {"verified": None}
            if last is not None:
                told["verified"] = network.audited(keys, f"run-{last}")["ok"]
                ledgers = network.of(COORDINATOR) / f"run-{last}" / "ledger"
                told["charges"] = {name: charged(ledgers / f"{name}.ledger") for name in MEMBERS}
        finally:
            logs = Path(os.environ.get("KEEP_LOGS", folder)) / arrangement.replace(" ", "-")
            logs.mkdir(parents=True, exist_ok=True)
            for path in network.folder.glob("flare-*.log"):
                (logs / path.name).write_text(path.read_text())
            network.end()
    return {"arrangement": arrangement, "seconds to start": started, "memory, MiB": memory, "runs": runs, **told}


def main() -> None:
    """Try both, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=(PARENTS, JOB))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = [tried(each) for each in (PARENTS, JOB) if asked.only in (None, each)]
    told = {"command": "python -m audits.engines.arrangements --json", **here(FLARE), "arrangements": found}
    print(json.dumps(told if asked.json else found, indent=1))


if __name__ == "__main__":
    main()
