"""Kill one process of a federation in the midst of a run: every point once a repeat, over NVIDIA FLARE or over sockets.

`python -m audits.engines.kills --over flare --repeats 5` writes, after each repeat, how each of its runs ended and in
how many seconds, whether everybody's ledgers hold, and whether each site was charged once for each round. What stands
in the file already counts: a command that was ended goes on with the repeat that it was in. Only processes that were
started here are killed, by their id.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.flare import engine
from examples.flare.network import COORDINATOR, SERVER, Federation, Network, until
from securefl.files import write
from securefl.ledger import export
from securefl.terms import ReservationReleased, Reserved, Settled
from tests.support.small import FEDERATION, MEMBERS, Small, sign

ROUNDS = 2
FLARE, SOCKETS = "flare", "sockets"
POINTS: Mapping[str, tuple[str, ...]] = {
    FLARE: ("client", "server", "site", COORDINATOR),
    SOCKETS: (*MEMBERS, COORDINATOR),
}  # what is killed
STARTED_BY_FLARE: Mapping[str, str] = {"client": "south", "server": SERVER}
WHEN = ("members, policy", f"round 1/{ROUNDS}", f"round {ROUNDS}/{ROUNDS}")  # in which the coordinator said this
RESULT = Path(__file__).with_name("kills.json")
ROOT = Path(__file__).resolve().parents[2]


def federation(small: Small) -> Federation:
    """Three members who train in a second."""
    trained = {key: FEDERATION[key] for key in ("name", "purpose", "task", "adapter", "protection")}
    trained["training"] = {**FEDERATION["training"], "rounds": ROUNDS}
    members = {
        name: {"region": "here", "data": {"file": str(small.folder / f"{name}.csv"), "text": "text", "label": "label"}}
        for name in MEMBERS
    }
    return Federation("small", small.folder / "policy.yaml", trained, ("./model", str(small.folder / "model")), members)


def strike(network: Network, what: str, run: str) -> None:
    """Kill it; what no script of FLARE's starts again is started again here."""
    if what in STARTED_BY_FLARE:
        os.kill(network.process(STARTED_BY_FLARE[what]), signal.SIGKILL)
    elif what == COORDINATOR:
        network.kill(COORDINATOR)
        network.coordinating(run)
    else:
        site = "north" if what == "site" else what
        network.kill(site)
        network.serve(site)


def once(network: Network, number: int, what: str, when: str) -> dict[str, Any]:
    """One run in which one process is killed once."""
    run, begun, heard = f"run-{number}", time.monotonic(), len(network.log(COORDINATOR)) if number else 0
    network.coordinating(run)
    until(lambda: when in network.log(COORDINATOR)[heard:], "the coordinator", 600)
    strike(network, what, run)
    process = network.running[COORDINATOR]
    said, _ = process.communicate(timeout=900)
    seconds = round(time.monotonic() - begun, 1)
    ended = json.loads(said)["outcome"]["status"] if process.returncode == 0 else str(process.returncode)
    if what in STARTED_BY_FLARE:  # its script counts, and gives up at the fifth
        network.kill(f"flare {STARTED_BY_FLARE[what]}")
        os.kill(network.process(STARTED_BY_FLARE[what]), signal.SIGKILL)
        network.carry_at(STARTED_BY_FLARE[what])
    return {"killed": what, "when": when, "ended": ended, "seconds": seconds}


def charged(ledger: Path) -> str:
    """What a site was charged: a reservation, and what became of it, for each round."""
    letters = {Reserved: "R", Settled: "S", ReservationReleased: "L"}
    found = export.leaves_of(export.read(ledger), ledger.name)
    return "".join(letters.get(type(each.entry), "") for each in found)


def wide(small: Small) -> None:
    """Let the policy bear any number of runs."""
    path = small.folder / "policy.yaml"
    path.write_text(path.read_text().replace("epsilon: 20", "epsilon: 20000"))
    sign(path)


def repeat(over: str) -> dict[str, Any]:
    """A federation of its own, in which every point is struck once; then everything is verified."""
    points, runs, begun = [(what, when) for what in POINTS[over] for when in WHEN], [], time.time()
    with tempfile.TemporaryDirectory() as folder:
        small = Small(Path(folder))
        wide(small)
        network = Network(federation(small), Path(folder) / "network", engine.made() if over == FLARE else None)
        try:
            keys = network.found()
            if over == FLARE:
                network.request()
            network.introduce()
            if over == FLARE:
                network.provision()
            network.serve()
            if over == FLARE:
                network.carry()
            for number, (what, when) in enumerate(points):
                try:
                    runs.append(once(network, number, what, when))
                except (SystemExit, subprocess.TimeoutExpired) as fault:  # it hangs: nothing after it would count
                    runs.append({"killed": what, "when": when, "ended": f"hung: {fault}", "seconds": None})
                print(f"{over} {runs[-1]}", file=sys.stderr, flush=True)
                if runs[-1]["seconds"] is None:
                    break
            last = f"run-{len(runs) - 1}"
            verdict = network.audited(keys, last)
            ledgers = network.of(COORDINATOR) / last / "ledger"
            charges = {name: charged(ledgers / f"{name}.ledger") for name in MEMBERS}
        finally:
            network.end()
    twice = sorted(name for name, each in charges.items() if each != "RS" * ROUNDS * len(runs))
    return {
        "over": over, "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(begun)), **here(over),
        "right": sum(each["ended"] == "finished" for each in runs), "of": len(runs), "verified": verdict["ok"],
        "not charged once a round": twice, "runs": runs,
    }  # fmt: skip


def here(over: str) -> dict[str, Any]:
    """What code, which versions, and how much else this machine did."""
    described = [shutil.which("git") or "git", "describe", "--always", "--dirty"]
    git = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    carrier = {"nvflare": _locked("nvflare")} if over == FLARE else {}
    versions = {**carrier, "python": platform.python_version(), "torch": importlib.metadata.version("torch")}
    return {"commit": git.stdout.strip(), "versions": versions, "load": round(os.getloadavg()[0], 1)}


def _locked(package: str) -> str:
    lines = engine.LOCK.read_text().splitlines()
    return next(line.partition("==")[2].split()[0] for line in lines if line.startswith(f"{package}=="))


def summary(repeats: list[dict[str, Any]], over: str) -> dict[str, Any]:
    """What is known so far of one carrier."""
    mine = [each for each in repeats if each["over"] == over]
    return {
        "repeats": len(mine), "right": sum(each["right"] for each in mine), "of": sum(each["of"] for each in mine),
        "repeats verified": sum(each["verified"] for each in mine),
        "double charges": sum(len(each["not charged once a round"]) for each in mine),
    }  # fmt: skip


def main() -> None:
    """Repeat so often, but what was done; exit 1 if one run did not end right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--over", choices=(FLARE, SOCKETS), default=FLARE)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    found = json.loads(asked.out.read_text()).get("repeats", []) if asked.out.exists() else []
    while sum(each["over"] == asked.over for each in found) < asked.repeats:
        found.append(repeat(asked.over))
        told = {
            "command": "python -m audits.engines.kills --over flare|sockets --repeats N",
            **{over: summary(found, over) for over in POINTS},
            "repeats": found,
        }
        write(asked.out, (json.dumps(told, indent=1) + "\n").encode())
        print(summary(found, asked.over), flush=True)
    told = summary(found, asked.over)
    sys.exit(told["right"] != told["of"] or told["repeats verified"] != told["repeats"] or told["double charges"] > 0)


if __name__ == "__main__":
    main()
