"""Six airlines train over NVIDIA FLARE with mutual TLS, each with a home and processes of its own."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from examples.flare import engine
from examples.flare.network import COORDINATOR, Federation, Network

ROOT = Path(__file__).parents[2]
AIRLINES = ROOT / "examples" / "airlines" / "federation.yaml"
TRAINED = ("name", "purpose", "task", "adapter", "training", "strategy", "protection")


def airlines(rounds: int, policy: Path) -> Federation:
    """The six airlines, as their example has them, under this policy."""
    file = yaml.safe_load(AIRLINES.read_text())
    members = {
        each["name"]: {"region": each["region"], "data": {**file["data"], **each["data"]}} for each in file["members"]
    }
    trained = {key: file[key] for key in TRAINED}
    trained["training"] = {**file["training"], "rounds": rounds}
    return Federation(file["name"], policy, trained, (file["model"], file["model"]), members)


def signed(folder: Path, **changed: str) -> Path:
    """Copy the airlines' policy, signed by an officer who is made up for this run; some values may be other ones."""
    folder.mkdir(parents=True)
    policy, key = folder / "policy.yaml", folder / "officer.key"
    securefl = [sys.executable, "-m", "securefl"]
    made = subprocess.run([*securefl, "keys", "init", key], capture_output=True, text=True, check=True).stdout.strip()
    text = (AIRLINES.parent / yaml.safe_load(AIRLINES.read_text())["policy"]).read_text()
    keys = f"approvals: {{required: 0, keys: {{officer: {made}}}}}"
    text = re.sub("^approvals:.*", keys, text, flags=re.MULTILINE)
    for field, value in changed.items():
        text = re.sub(f"{field}: {{[^}}]*}}", f"{field}: {value}", text)
    policy.write_text(text)
    subprocess.run([*securefl, "policy", "sign", policy, "--key", key], capture_output=True, check=True)
    return policy


def main() -> None:
    """Provision, start, run, verify, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "flare-demo")
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {what}", flush=True)

    flare = engine.made()
    say(f"FLARE is in {flare}, of {engine.LOCK.name}")
    network = Network(airlines(asked.rounds, signed(asked.out / "officer")), asked.out, flare)
    try:
        keys = network.found()
        network.request()
        network.introduce()
        say(f"{len(keys)} parties have a home and a key each, and are introduced by signed documents")
        network.provision()
        say("each has a kit of FLARE: its key was made where it stays, no job can bring code")
        network.serve()
        network.carry()
        say("every site serves, and FLARE reaches it with mutual TLS")
        process = network.coordinating()
        _, _ = process.communicate()
        print(network.log(COORDINATOR), end="")
        if process.returncode:
            sys.exit(process.returncode)
        say(f"{asked.rounds} rounds are over")
        verdict = network.audited(keys)
        say(f"verified: {verdict['entries']} entries hold, under the keys of {', '.join(verdict['keys'])}")
    finally:
        network.end()
        say("everything is ended")


if __name__ == "__main__":
    main()
