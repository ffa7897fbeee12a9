"""Three airlines train over Flower with TLS and keys of their nodes, each with a home and processes of its own."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from examples.flare.demo import ROOT, airlines, signed
from examples.flare.network import COORDINATOR
from examples.flower import network

MEMBERS = 3


def main() -> None:
    """Provision, start, run, verify, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "flower-demo")
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {what}", flush=True)

    flower = network.made()
    say(f"Flower is in {flower}, of {network.LOCK.name}")
    six = airlines(asked.rounds, signed(asked.out / "officer", threshold="{at_least: 2}"))
    three = replace(six, members=dict(list(six.members.items())[:MEMBERS]))
    over = network.FlowerNetwork(three, asked.out, flower)
    try:
        keys = over.found()
        over.introduce()
        say(f"{len(keys)} parties have a home and a key each, and are introduced by signed documents")
        over.provision()
        say("each has a kit: its key was made where it stays, and no code of a run is looked at")
        over.serve()
        over.carry()
        say("every site serves, and Flower reaches it with TLS, through a gate that passes nothing else")
        process = over.coordinating()
        process.communicate()
        print(over.log(COORDINATOR), end="")
        if process.returncode:
            sys.exit(process.returncode)
        costs = ", ".join(f"{name} {over.messages(name)}" for name in three.members)
        say(f"{asked.rounds} rounds are over; messages of Flower's to {costs}")
        verdict = over.audited(keys)
        say(f"verified: {verdict['entries']} entries hold, under the keys of {', '.join(verdict['keys'])}")
    finally:
        over.end()
        say("everything is ended")


if __name__ == "__main__":
    main()
