"""Kill one process of a federation over NVIDIA FLARE in the midst of a run, at several points, several times each.

`python -m audits.engines.kills --repeats 5 --json` writes how each run ended and in how many seconds, whether the
ledgers of all of them hold, and whether each site was charged once for each round. Only processes that were started
here are killed, by their id.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.flare import engine
from examples.flare.network import COORDINATOR, SERVER, Federation, Network, until
from securefl.ledger import export
from securefl.terms import ReservationReleased, Reserved, Settled
from tests.support.small import FEDERATION, MEMBERS, Small, sign

ROUNDS = 2
POINTS = ("client", "server", "site", "coordinator")  # what is killed
STARTED_BY_FLARE = {"client": "south", "server": SERVER}
WHEN = ("members, policy", f"round 1/{ROUNDS}", f"round {ROUNDS}/{ROUNDS}")  # in which the coordinator said this


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
    elif what == "site":
        network.kill("north")
        network.serve("north")
    else:
        network.kill(COORDINATOR)
        network.coordinating(run)


def once(network: Network, number: int, what: str, when: str) -> dict[str, Any]:
    """One run in which one process is killed once."""
    run, begun, heard = f"run-{number}", time.monotonic(), len(network.log(COORDINATOR)) if number else 0
    network.coordinating(run)
    until(lambda: when in network.log(COORDINATOR)[heard:], "the coordinator")
    strike(network, what, run)
    process = network.running[COORDINATOR]
    said, _ = process.communicate(timeout=300)
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


def main() -> None:
    """Strike at every point, so often; exit 1 if one run did not end right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        small = Small(Path(folder))
        wide(small)
        network = Network(federation(small), Path(folder) / "network", engine.made())
        try:
            keys = network.found()
            network.introduce()
            network.provision()
            network.serve()
            network.carry()
            for what, when, _ in itertools.product(POINTS, WHEN, range(asked.repeats)):
                found.append(once(network, len(found), what, when))
                print(found[-1], file=sys.stderr, flush=True)
            verdict = network.audited(keys, f"run-{len(found) - 1}")
            ledgers = network.of(COORDINATOR) / f"run-{len(found) - 1}" / "ledger"
            charges = {name: charged(ledgers / f"{name}.ledger") for name in MEMBERS}
        finally:
            network.end()
    right = sum(each["ended"] == "finished" for each in found)
    once_each = set(charges.values()) == {"RS" * ROUNDS * len(found)}
    told = {"right": right, "of": len(found), "verified": verdict["ok"], "charged once": once_each, "runs": found}
    said = f"{right} of {len(found)} end right; ledgers hold: {verdict['ok']}; each is charged once: {once_each}"
    print(json.dumps(told, indent=2) if asked.json else said)
    sys.exit(right != len(found) or not verdict["ok"] or not once_each)


if __name__ == "__main__":
    main()
