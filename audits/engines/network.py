"""A run over a bad network: connections that are cut, frames that take half a second, a partition, two restarts.

`python -m audits.engines.network --repeats 5` writes, after each run, how it ended, in how many seconds, what it met,
and whether state and ledgers are those of the same run in good weather and each site was charged once for each round.
What stands in the file already counts. The kernel's own `tc netem` needs a module that not every machine has; here a
relay between coordinator and sites does the same to whole connections and frames.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from securefl.files import write
from securefl.terms import Reserved, Scheme, Settled
from tests.runtime.test_sockets import houses, paid
from tests.support.parties import Federation
from tests.support.weather import CUTS, Killed, Sky, Striking, Weather, calm, driven, kinds, ways

ROUNDS, PARTITION_S = 2, 30.0
SCHEMES = (Scheme.MASKING, Scheme.MASKED_CKKS)
RESTARTS = (("Propose", 1), ("Ask", 1))
LIBRARIES = ("cryptography", "numpy", "cbor2")
RESULT = Path(__file__).with_name("network.json")


def killed() -> None:
    """End the coordinator's process, as far as its ledger can tell."""
    raise Killed


def once(scheme: Scheme, number: int, folder: Path) -> dict[str, Any]:
    """One run: a site dies at the first plan, the coordinator after it; the partition begins with the second plan."""
    state, ledgers = calm(Federation(folder / "calm", scheme), ROUNDS)
    federation, sky = Federation(folder / "rough", scheme), Sky(Weather(), number)
    begun = time.monotonic()
    with houses(federation) as parties, ways(folder / "ways", federation, sky) as runtime:

        def restarted() -> None:
            parties.end("b", signal.SIGKILL)
            parties.start("b")

        strikes = {
            ("Propose", 1): restarted,
            ("Ask", 1): killed,
            ("Propose", 2): lambda: sky.part(PARTITION_S),
        }
        end = driven(federation, Striking(runtime, strikes), ROUNDS)
    return {
        "protection": scheme.value, "number": number, "outcome": end.outcome,
        "seconds": round(time.monotonic() - begun, 1),
        "cut": sum(sky.met[each] for each in CUTS), "twice": sky.met["twice"], "late": sky.met["late"],
        "turned_away_by_the_partition": sky.met["parted"], "restarts": sum(each not in strikes for each in RESTARTS),
        "state_as_in_good_weather": end.course.state == state,
        "ledgers_as_in_good_weather": all(kinds(federation)[name] == ledgers[name] for name in federation.parties),
        "double_charges": sum(paid(federation, name) != [Reserved, Settled] * ROUNDS for name in federation.names),
    }  # fmt: skip


def holds(told: dict[str, Any]) -> bool:
    """Whether every run ended as it would have in good weather."""
    return all(
        row["outcome"] == "finished" and row["state_as_in_good_weather"] and row["ledgers_as_in_good_weather"]
        and not row["double_charges"] and row["restarts"] == 2 and row["turned_away_by_the_partition"]
        for row in told["runs"]
    )  # fmt: skip


def main() -> None:
    """Run what is not in the file yet; exit 1 if a run did not end right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--into", type=Path, default=RESULT)
    given = parser.parse_args()
    told: dict[str, Any] = json.loads(given.into.read_text()) if given.into.exists() else {"runs": []}
    for scheme in SCHEMES:
        for number in range(1, given.repeats + 1):
            if any((row["protection"], row["number"]) == (scheme.value, number) for row in told["runs"]):
                continue
            with tempfile.TemporaryDirectory() as folder:
                row = once(scheme, number, Path(folder))
            print(json.dumps(row))
            told = {
                "command": f"python -m audits.engines.network --repeats {given.repeats}",
                "weather": {"loss": 0.1, "twice": 0.05, "late": 0.05, "delay_s": 0.5, "partition_s": PARTITION_S},
                "versions": {name: importlib.metadata.version(name) for name in LIBRARIES}
                | {"python": platform.python_version()},
                "runs": [*told["runs"], row],
            }  # fmt: skip
            write(given.into, json.dumps(told, indent=1).encode() + b"\n")
    raise SystemExit(0 if holds(told) else 1)


if __name__ == "__main__":
    main()
