"""Masked sums are exact or there is none, whoever falls silent and when; what the coordinator sees is noise.

Three parts, each with a fixed seed. Sums: random cohorts, shares of the silent, encodings and lengths, over both real
halves. Silence: whole federations on a wire that loses one to three requests or answers, at every stage and of every
member in turn. Looks: bytes of packed vectors, and two rounds of one update.

`--members N` is one round of so many members over both real halves, a third of whom fall silent: half before they sent
anything, half after.

    python -m audits.protection.masking_bars [--quick] [--members 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from securefl import wire
from securefl.protection.masking_terms import Masked, TooFew
from securefl.terms import FixedPoint, SumOpened
from tests.protection.test_protection import Round
from tests.support.worlds import World

SEED = 20261121
WORK = 3e7  # keystream elements one configuration may take: vectors are long where cohorts are small
STAGES = ("Invite", "Enrol", "Propose", "Ask", "Close")

Figure = dict[str, Any]


def one_sum(rand: random.Random, most: int) -> str:
    """One configuration with cohorts up to ``most``: ``right``, ``wrong``, or the name of a clean abort."""
    n = rand.randint(3, most)
    length = max(1, int(math.exp(rand.uniform(0, math.log(min(1e6, WORK / n / n))))))
    made = Round(n, length, label=str(rand.random()))
    bits = rand.choice([(22, 32), (24, 32), (22, 64), (rand.randint(22, 32 - (n - 1).bit_length()), 32), (45, 64)])
    made.plan = replace(made.plan, cover=replace(made.plan.cover, encoding=FixedPoint(bits[0], 16, bits[1])))
    falling = rand.sample(made.names, round(rand.uniform(0, 0.33) * n))
    early = falling[: rand.randint(0, len(falling))]
    for name in rand.sample(made.names, n):
        if name not in early:
            made.seal(name)
    enough = len(made.names) - len(falling) >= made.threshold
    try:
        total = made.finish(silent=tuple(name for name in falling if name not in early))
    except TooFew:
        return "TooFew" if not enough else "wrong"
    return "right" if enough and np.array_equal(total, made.expected()) else "wrong"


def sums(count: int, most: int, told: Callable[[int], None] = lambda _: None) -> list[Figure]:
    """``count`` configurations."""
    rand, found = random.Random(SEED), Counter[str]()  # noqa: S311 - configurations, not keys
    for done in range(count):
        found[one_sum(rand, most)] += 1
        told(done + 1)
    return [
        at_most(f"wrong sums in {count} configurations of 3 to {most} members", found["wrong"], 0),
        at_least("sums equal to the integers' sum bit for bit", found["right"], count / 2),
        at_most("clean aborts, fewer than the threshold being left", found["TooFew"], count / 2),
    ]


def one_run(rand: random.Random, turn: int) -> str:
    """One federation of which somebody is not heard: ``right``, ``wrong`` or the outcome of a clean end."""
    n = 3 + turn % 4
    world = World(names=tuple("abcdefg"[:n]), threshold=n // 2 + 2 if n > 3 else 3)
    losses = [(world.names[turn % n], STAGES[turn // n % len(STAGES)])]
    losses += [(rand.choice(world.names), rand.choice(STAGES)) for _ in range(rand.choice([0, 0, 1, 2]))]
    for loss in losses:
        (world.lost if rand.random() < 0.5 else world.deaf).add(loss)
    world.backwards = rand.random() < 0.5
    end = world.play()
    opened = [entry.survivors for entry in world.coordinator.entries if isinstance(entry, SumOpened)]
    if not np.array_equal(world.reached(end), world.expected(*opened)):
        return "wrong"
    if end.outcome == "finished":
        return "right" if len(opened) == world.rounds else "wrong"
    return end.outcome if end.why else "wrong"


def silence(count: int, told: Callable[[int], None] = lambda _: None) -> list[Figure]:
    """``count`` runs: every stage and every member of 3 to 6 falls silent in turn."""
    rand, found = random.Random(SEED + 1), Counter[str]()  # noqa: S311 - losses, not keys
    for turn in range(count):
        found[one_run(rand, turn)] += 1
        told(turn + 1)
    return [
        at_most(f"wrong adapters in {count} runs with members silent at some stage", found["wrong"], 0),
        at_least("runs that finished with the sum of those heard", found["right"], 1),
        at_most("runs that ended cleanly with a reason, and opened no wrong sum", found["aborted"], count),
    ]


def crowd(n: int, length: int) -> list[Figure]:
    """One round of ``n`` members, a third of whom fall silent."""
    began = time.process_time()
    made = Round(n, length, label="crowd")
    made.plan = replace(made.plan, cover=replace(made.plan.cover, encoding=FixedPoint(22, 16, 32)))
    enrolled = time.process_time()
    silent, early = tuple(made.names[: n // 3]), set(made.names[: n // 6])
    for name in made.names:
        if name not in early:
            made.seal(name)
            print(f"\rsealed {len(made.sealed)} of {n}  ", end="", file=sys.stderr, flush=True)
    sealed = time.process_time()
    total = made.finish(silent=tuple(name for name in silent if name not in early))
    opened = time.process_time()
    wrong = int((total != made.expected()).sum())
    return [
        at_most(f"{n} members, {n // 3} silent, {length} entries: wrong entries of the sum", wrong, 0),
        plain("CPU seconds a member enrols in", (enrolled - began) / n),
        plain("CPU seconds a member checks and seals in", (sealed - enrolled) / len(made.sealed)),
        plain("CPU seconds of the coordinator's sum, answers included", opened - sealed),
        plain("kilobytes a member is given of its peers", len(made.relays[made.names[0]]) / 1000),
        plain("kilobytes a member publishes for its peers", len(made.enrolled[made.names[0]]) / 1000),
    ]


def looks(length: int) -> list[Figure]:
    """Normal scores of what an eye on the wire sees of vectors of ``length`` entries."""
    uneven, serial, together = [], [], []
    for members in (3, 8):
        packed = []
        for label in ("one", "two"):
            made = Round(members, length, label=label)
            sealed: Masked = wire.decode(made.seal(made.names[0]), Masked)
            on_wire = np.frombuffer(sealed.elements, "u1").astype(float)
            counts = np.bincount(on_wire.astype(int), minlength=256)
            chi = float(((counts - len(on_wire) / 256) ** 2).sum() * 256 / len(on_wire))
            uneven.append(abs(chi - 255) / math.sqrt(510))
            serial += [_score(on_wire[step:], on_wire[:-step]) for step in (1, 2, 3, 4, 8)]
            packed.append(on_wire)
        together.append(_score(*packed))
    return [
        at_most("chi-square of bytes on the wire, largest normal score", max(uneven), 4),
        at_most("serial correlation of bytes on the wire at 1, 2, 3, 4, 8, largest normal score", max(serial), 4),
        at_most("correlation of two rounds of one update, largest normal score", max(together), 4),
    ]


def _score(a: np.ndarray, b: np.ndarray) -> float:
    return abs(float(np.corrcoef(a, b)[0, 1])) * math.sqrt(len(a))


def plain(name: str, value: float) -> Figure:
    """A figure that no bar is set for."""
    return {"name": name, "value": round(value, 3), "bar": None, "holds": True}


def at_most(name: str, value: float, bar: float) -> Figure:
    """A figure that holds at or below its bar."""
    return {"name": name, "value": round(value, 3), "bar": f"<= {bar:g}", "holds": value <= bar}


def at_least(name: str, value: float, bar: float) -> Figure:
    """A figure that holds at or above its bar."""
    return {"name": name, "value": round(value, 3), "bar": f">= {bar:g}", "holds": value >= bar}


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="20 sums of up to 20 members, 60 runs")
    options.add_argument("--members", type=int, help="one round of so many, and nothing else")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()

    def telling(what: str, of: int) -> Callable[[int], None]:
        return lambda done: print(f"\r{what} {done} of {of}  ", end="", file=sys.stderr, flush=True)

    some, most, runs, length = (20, 20, 60, 40_000) if chosen.quick else (200, 100, 500, 1_000_000)
    if chosen.members:
        figures = crowd(chosen.members, 1000)
    else:
        figures = [*sums(some, most, telling("sum", some)), *silence(runs, telling("run", runs)), *looks(length)]
    print(file=sys.stderr)
    if chosen.json:
        command = " ".join(["python -m audits.protection.masking_bars", *sys.argv[1:]])
        versions = {name: version(name) for name in ("numpy", "cryptography")}
        print(json.dumps({"figures": figures, "command": command, "versions": versions}, indent=1))
    else:
        for each in figures:
            print(f"{'ok ' if each['holds'] else 'BAD'} {each['name']}: {each['value']} (bar {each['bar']})")
    return 0 if all(each["holds"] for each in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
