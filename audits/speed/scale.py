"""How far one machine goes: a thousand simulated members, a million masked inputs, and what silence costs.

`members`: `securefl run` in one process, of 40 federations of 25 sites below one root, each with 60 records of its own,
on one base model. Each site trains with record-level DP, masks, and keeps a signed ledger in a home of its own.

`inputs`: what coordinators do with a million masked inputs of 16,000 entries, at three levels of 100: each is decoded,
unpacked and added as it comes. The members of one federation of each level are real, with keys, shares and masks for
every pair; the coordinators of all others get the same bytes, for what they do depends on no value. Every sum is
compared with integers. Opening a sum costs the same wherever it is: one is measured, and told times how many there are.

`dropouts`: the coordinator's work for 500 members, 150 of whom fall silent after they sent their keys.

Each part is a process of its own, and its memory the most it ever had.

    python -m audits.speed.scale [--quick] [--only PART] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from audits.figures import circumstances, figure, report
from audits.speed.protection import EVENT, Cohort, _secret, many
from securefl import wire
from securefl.protection.masking_terms import Survivors
from securefl.strategy.fedavg import FedAvg
from securefl.terms import FixedPoint, MemberId, Plan, Update

MOST_CPU_S, MOST_MIB = 60, 300
FULL, QUICK = "full", "quick"
Figures = list[dict[str, Any]]
EACH: Final = {FULL: 100, QUICK: 10}  # members of a federation, at each of three levels
NODES: Final = {FULL: (40, 25), QUICK: (3, 4)}
ENTRIES, WIDE, AIRLINES = 16_000, FixedPoint(25, 16, 32), FixedPoint(24, 16, 32)  # 32-bit sums of 100; 31-bit ones


def told(name: str, value: float, most: float | None = None) -> dict[str, Any]:
    """One line; without a bar it only stands beside the others."""
    return figure(name, round(value, 3), "" if most is None else f"<= {most}", holds=most is None or value <= most)


def memory_mib(kind: str = "VmHWM") -> float:
    """The most that this process ever had in memory, or has (``VmRSS``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


class Level:
    """One federation whose members are real, and what its coordinator is given."""

    def __init__(self, members: int, values: Callable[[int], np.ndarray], encoding: FixedPoint = WIDE) -> None:
        cohort = Cohort(members, ENTRIES, encoding.value_bits)
        self.plan: Plan = replace(cohort.plan, cover=replace(cohort.plan.cover, encoding=encoding))
        self.coordinator, self.enrolled, self.survivors = cohort.coordinator, cohort.enrolled, tuple(cohort.names)
        question, grid = wire.encode(Survivors(self.survivors)), np.zeros(ENTRIES, np.int64)
        self.payloads, self.answers = dict[MemberId, bytes](), dict[MemberId, bytes]()
        for place, name in enumerate(cohort.names):
            update, key = Update(values(place), EVENT), cohort.enrolment[name].secret
            given = name, self.plan, cohort.box[name], key, cohort.relays[name], b""
            self.payloads[name], kept = cohort.member.seal(*given, update, _secret("seal"))
            self.answers[name] = cohort.member.answer(name, self.plan, kept, question)
            grid += np.rint(update.values * 2**encoding.fraction_bits).astype(np.int64)
        self.sum = grid

    def add(self) -> bytes:
        """What the coordinator has once every input came."""
        total = b""
        for name, payload in self.payloads.items():
            total = self.coordinator.add(self.plan, total, name, payload)
        return total

    def check(self, total: bytes) -> np.ndarray:
        """The change of this federation's state, once its sum is found to be the integers' own."""
        opened = self.coordinator.open(self.plan, self.enrolled, self.survivors, total, self.answers)
        assert np.array_equal(opened.total, self.sum), "not the sum of the members' integers"
        state, strategy = np.zeros(ENTRIES, "<f4").tobytes(), FedAvg()
        after, _ = strategy.advance(1, state, strategy.begin(state), opened)
        return np.frombuffer(after, "<f4").astype(np.float64)


def inputs(size: str) -> Figures:
    """A million inputs through three levels."""
    each = EACH[size]
    rand = np.random.default_rng(0)
    leaf = Level(each, lambda _: rand.normal(0, 1, ENTRIES))
    changes = leaf.check(leaf.add())
    middle = Level(each, lambda _: changes)
    above = middle.check(middle.add())
    root = Level(each, lambda _: above)
    spent, known = 0.0, {level: level.add() for level in (leaf, middle, root)}
    for level, federations in ((leaf, each * each), (middle, each), (root, 1)):
        for _ in range(federations):
            began = time.process_time()
            total = level.add()
            spent += time.process_time() - began
            assert total == known[level], "a sum of the same inputs is another one"
    began = time.process_time()
    root.check(known[root])
    opening = time.process_time() - began
    narrow = Level(each, lambda _: rand.normal(0, 1, ENTRIES), AIRLINES)
    began = time.process_time()
    narrow.add()
    one = (time.process_time() - began) / each
    count = each**3 + each**2 + each
    what = f"{count:,} masked inputs of {ENTRIES:,} entries, three levels of {each}"
    full = size == FULL
    return [
        told(f"{what}: CPU seconds to decode, unpack and add, 32-bit sums", spent, MOST_CPU_S if full else None),
        told(f"{what}: MiB", memory_mib(), MOST_MIB if full else None),
        told(f"{what}: CPU microseconds of one, 31-bit sums", 1e6 * one),
        told(f"opening one sum of {each}, shares and self masks: CPU seconds", opening),
        told(f"opening all {each**2 + each + 1:,}: CPU seconds, told from one", opening * (each**2 + each + 1)),
    ]


def members(size: str) -> Figures:
    """A thousand members in one process, through the product's own door."""
    from securefl.documents import federation_file  # noqa: PLC0415
    from securefl.progress import Silent  # noqa: PLC0415
    from securefl.simulation import federation as simulation  # noqa: PLC0415
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415
    from tests.support.trees import Tree  # noqa: PLC0415

    nodes, sites = NODES[size]
    marks, models = list[tuple[float, float, float]](), set[int]()

    class Watched(Silent):
        """Notes where the root's rounds begin and the run ends."""

        def round(self, *_: object) -> None:
            """A round begins; those of federations below come prefixed, as words."""
            models.update(id(each) for each in gc.get_objects() if type(each) is SharedModel)
            marks.append((time.process_time(), time.monotonic(), memory_mib("VmRSS")))
            print(f"round {len(marks)}: {marks[-1]}", file=sys.stderr, flush=True)

        def say(self, text: str) -> None:
            """Tell how far it is."""
            if "evaluating" in text:
                self.round()

    with TemporaryDirectory() as name:
        folder = Path(name)
        tree = Tree(folder, tuple(f"n{number:02d}" for number in range(nodes)), sites)
        loaded = federation_file.load(tree.tree())
        began = time.process_time()
        cache = simulation.ResourceCache(page=False)
        result = simulation.run(loaded, folder / "out", sites=folder / "sites", progress=Watched(), workbench=cache)
        assert result.outcome == "finished", result.why
    what = f"{nodes * sites} members below {nodes} nodes, in one process"
    first, rounds = marks[0], list(pairwise(marks))
    return [
        told(f"{what}: CPU seconds to introduce and build everybody", first[0] - began),
        *(
            told(f"{what}: round {number}, {kind}", after[place] - before[place])
            for number, (before, after) in enumerate(rounds, 1)
            for place, kind in enumerate(("CPU seconds", "seconds", "MiB more than before"))
        ),
        told(f"{what}: MiB", memory_mib()),
        told(f"{what}: base models in memory", len(models), 1),
    ]


def dropouts(size: str) -> Figures:
    """The coordinator's work where 30 % fall silent: each survivor's mask with each of them is taken out."""
    figures = many(500 if size == FULL else 40, ENTRIES)[:2]
    return [told(each["name"], each["value"]) for each in figures]


PARTS: Final[Mapping[str, Callable[[str], Figures]]] = {"inputs": inputs, "members": members, "dropouts": dropouts}


def apart(part: str, size: str) -> Figures:
    """The figures of one part, measured in a process of its own."""
    command = [sys.executable, "-m", "audits.speed.scale", "--here", part, *(["--quick"] if size == QUICK else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this file itself
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="a dozen members, a thousand inputs, 40 members")
    options.add_argument("--only", choices=PARTS, help="one part")
    options.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    size = QUICK if chosen.quick else FULL
    if chosen.here:
        print(json.dumps(PARTS[chosen.here](size)))
        return 0
    figures = [each for part in PARTS if chosen.only in (None, part) for each in apart(part, size)]
    return report(figures, as_json=chosen.json, beside=("cryptography", "torch"), also=circumstances())


if __name__ == "__main__":
    raise SystemExit(main())
