"""FedYolo-style: does a module for each task forget nothing, send little, and lose what to whom? Without privacy.

Eight members own two or three of four tasks (the publishers of `examples/suite`). Arms, at equal optimizer steps: a
module for each task; one module for all tasks; the whole model; a module that each member trains alone. In every arm a
task has a head of its own. Reconstructed from the abstract: heads, optimizers and numbers are choices made here.

Bytes are those of real messages: of a short private run's receipts, and of one sealed update of the whole model.

    python -m audits.utility.fedyolo [--quick] [--json] [--seeds N] [--jobs N]
    python -m audits.utility.fedyolo [--quick] --local-steps FILE     adds the sweep of steps between rounds to FILE
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from audits.figures import figure, report
from audits.speed.protection import Cohort
from securefl import wire
from securefl.compare.results import STUDENT
from securefl.documents import suite_file
from securefl.documents.data_source import DataSource
from securefl.keys import Secret
from securefl.protocol.messages import Submitted
from securefl.simulation import suite
from securefl.terms import Adapter, AdapterKind, Task, Update
from securefl.terms.records import Record
from securefl.training import adapter_tensors
from securefl.training.built import Built
from securefl.training.data import part, whole
from securefl.training.shared_base import Base
from securefl.training.step import Encoded
from tests.support.worlds import EVENT

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "suite" / "federation.yaml"
MODULE = Adapter(("query", "value", "attention.output.dense"), 8, 16, 1)
TASK = Task("classification", ("no", "yes"))  # all of them have two labels
RATES = {"module": 6e-3, "full": 3e-4}  # of Adam, chosen on seed 99, which is not reported
BATCH, TOKENS = 12, 24


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    rounds: int
    steps: int  # of each member on each of its tasks, in a round
    train: int  # records of a task, all members together
    test: int


FULL, QUICK = Size(3, 8, 2400, 400), Size(1, 2, 400, 40)
SPLITS = {"even": Fraction(100), "uneven": Fraction(1, 10)}  # Dirichlet parameters of the members' shares of each label


@dataclass(frozen=True)
class World:
    """One seed's records: by task, by member; and what is held out of each task."""

    train: Mapping[str, Mapping[str, Encoded]]
    test: Mapping[str, Encoded]

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the file's order."""
        return tuple(self.train)

    @property
    def members(self) -> tuple[str, ...]:
        """Everybody who owns something."""
        return tuple(sorted({member for owned in self.train.values() for member in owned}))

    def owned(self, member: str) -> tuple[str, ...]:
        """The tasks this member owns."""
        return tuple(task for task, owned in self.train.items() if member in owned)


class Arm:
    """A model whose body and heads are bytes, and that trains from any of them."""

    def __init__(self, built: Built, rate: float) -> None:
        self.built, self._rate = built, rate
        self._places = built.layout.places()
        self.start = adapter_tensors.dump(built)

    @property
    def head(self) -> np.ndarray:
        """Which entries of a state are the head."""
        found = np.zeros(len(self.start) // 4, bool)
        for name, place in self._places.items():
            found[place] = name.startswith("head.")
        return found

    def train(self, start: bytes, records: Encoded, steps: int, label: str) -> bytes:
        """The state after so many steps of Adam on batches drawn with the label."""
        built = self.built
        adapter_tensors.load(built, start)
        drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(label.encode()).digest()[:8]))
        optimizer = torch.optim.Adam(built.parameters, lr=self._rate, fused=True)
        for _ in range(steps):
            ids, mask, labels = records.batch(drawn.integers(0, len(records.ids), BATCH).tolist())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(built.model(ids, mask), labels).backward()
            optimizer.step()
        return adapter_tensors.dump(built)

    def logits(self, at: bytes, records: Encoded) -> torch.Tensor:
        """Return what a state says of records."""
        adapter_tensors.load(self.built, at)
        with torch.no_grad():
            parts = [range(n, min(n + 100, len(records.ids))) for n in range(0, len(records.ids), 100)]
            return torch.cat([self.built.model(*records.batch(each)[:2]) for each in parts])

    def accuracy(self, at: bytes, records: Encoded) -> float:
        """The share a state gets right."""
        return float((self.logits(at, records).argmax(1) == torch.tensor(records.labels)).float().mean())


def everything(base: Base) -> Built:
    """The whole model, trainable: on tensors of its own, for it moves them."""
    alone = Base.load(base.model.name, FILE.parent)
    built = alone.built(TASK, Adapter((), 1, 1, 1, kind=AdapterKind.HEAD))
    for parameter in built.model.parameters():
        parameter.requires_grad_(True)
    every = tuple(sorted(built.model.named_parameters()))
    return replace(built, trainable=every, stateful=every)


def world(base: Base, seed: int, dirichlet: Fraction, size: Size) -> World:
    """The suite's records under another split. Held-out records are the same for every split and seed."""
    document = yaml.safe_load(FILE.read_text())
    train: dict[str, dict[str, Encoded]] = {}
    test = {}
    for name, task in suite_file.load(FILE).tasks.items():
        given = document["tasks"][name]["data"]
        labels = task.loaded.file.task.labels
        source = DataSource.model_validate({**given, "partition": None})
        found = whole(source, FILE.parent, labels)
        held = [r for card, r in zip(found.cards, found.records, strict=True) if card.held]
        held.sort(key=lambda r: hashlib.sha256(r.text.encode()).digest())  # files are sorted in ways of their own
        test[name] = encoded(base, held[: size.test])
        parts = {"members": len(task.owners), "dirichlet": dirichlet, "seed": seed, "at_least": 8}
        share = min(Fraction(1), Fraction(int(size.train / (1 - source.heldout)), len(found.records)))
        train[name] = {}
        for index, owner in enumerate(task.owners):
            mine = {**given, "share": share, "partition": {**parts, "index": index}}
            parted = DataSource.model_validate(mine)
            train[name][owner] = encoded(base, part(parted, whole(parted, FILE.parent, labels)).train)
    return World(train, test)


def encoded(base: Base, records: Sequence[Record]) -> Encoded:
    """Records as token ids."""
    rows = base.tokenizer([r.text for r in records], truncation=True, max_length=TOKENS)["input_ids"]
    return Encoded(tuple(map(tuple, rows)), tuple(r.label for r in records), 0)


def mean(states: Sequence[bytes]) -> bytes:
    """Their mean, entry by entry."""
    total = np.sum([np.frombuffer(each, "<f4").astype(np.float64) for each in states], axis=0)
    return (total / len(states)).astype("<f4").tobytes()


def put(at: bytes, mask: np.ndarray, values: bytes) -> bytes:
    """``at``, with the masked entries of ``values`` in place of its own."""
    return np.where(mask, np.frombuffer(values, "<f4"), np.frombuffer(at, "<f4")).astype("<f4").tobytes()


def module_each(arm: Arm, records: World, rounds: int, steps: int, label: str) -> dict[str, bytes]:
    """A state for each task: what its owners' states average to, round by round."""
    found = {}
    for task, owned in records.train.items():
        now = arm.start
        for number in range(rounds):
            now = mean([arm.train(now, part, steps, f"{label} {task} {who} {number}") for who, part in owned.items()])
        found[task] = now
    return found


def one_for_all(arm: Arm, records: World, rounds: int, steps: int, label: str) -> dict[str, bytes]:
    """One body for all tasks; in each round a member trains its tasks in turn, from one to the next."""
    now = dict.fromkeys(records.tasks, arm.start)  # the same body, and each task's own head
    for number in range(rounds):
        bodies, heads = [], {task: [] for task in records.tasks}
        for member in records.members:
            owned = records.owned(member)
            turned = [*owned[number % len(owned) :], *owned[: number % len(owned)]]
            body = now[turned[0]]
            for task in turned:
                start = put(body, arm.head, now[task])
                body = arm.train(start, records.train[task][member], steps, f"{label} {task} {member} {number}")
                heads[task].append(body)
            bodies.append(body)
        together = mean(bodies)
        now = {task: put(together, arm.head, mean(heads[task])) for task in records.tasks}
    return now


def alone(arm: Arm, records: World, rounds: int, steps: int, label: str) -> dict[str, list[bytes]]:
    """Each owner's own state for each task."""
    return {
        task: [arm.train(arm.start, part, rounds * steps, f"{label} {task} {who}") for who, part in owned.items()]
        for task, owned in records.train.items()
    }


def scores(arm: Arm, records: World, states: Mapping[str, bytes]) -> dict[str, float]:
    """Each task's accuracy."""
    return {task: arm.accuracy(states[task], records.test[task]) for task in records.tasks}


def in_sequence(arm: Arm, records: World, rounds: int, steps: int, label: str) -> dict[str, float]:
    """Tasks one after the other on one body: how much accuracy the earlier ones lose until the end."""
    now = dict.fromkeys(records.tasks, arm.start)
    learnt = {}
    for task, owned in records.train.items():
        for number in range(rounds):
            states = [
                arm.train(now[task], part, steps, f"{label} {task} {who} {number}") for who, part in owned.items()
            ]
            after = mean(states)
            now = {other: after if other == task else put(after, arm.head, now[other]) for other in records.tasks}
        learnt[task] = arm.accuracy(now[task], records.test[task])
    last = records.tasks[-1]
    return {task: learnt[task] - arm.accuracy(now[task], records.test[task]) for task in records.tasks if task != last}


def interference(base: Base, records: World, seed: int, steps: int) -> dict[str, float]:
    """The share of a task's logits that change, bit by bit, when another task is trained."""
    first, second = records.tasks[:2]
    (who, part), *_ = records.train[first].items()
    found = {}
    models = base.models({name: (TASK, replace(MODULE, seed=seed + n), "auto") for n, name in enumerate(records.tasks)})
    arms = {name: Arm(each._built, RATES["module"]) for name, each in models.items()}  # noqa: SLF001
    learnt = arms[second].train(arms[second].start, next(iter(records.train[second].values())), steps, f"first {seed}")
    before = arms[second].logits(learnt, records.test[second])
    moved = arms[first].train(arms[first].start, part, steps, f"interference {seed} {who}")
    adapter_tensors.load(arms[first].built, moved)
    after = arms[second].logits(learnt, records.test[second])
    found["module"] = float((before != after).float().mean())
    full = Arm(everything(base), RATES["full"])
    start = full.train(full.start, next(iter(records.train[second].values())), steps, f"first {seed}")
    before = full.logits(start, records.test[second])
    moved = put(full.train(start, part, steps, f"interference {seed} {who}"), full.head, start)
    found["full"] = float((before != full.logits(moved, records.test[second])).float().mean())
    return found


def one_split(work: tuple[int, str, Size]) -> dict[str, Any]:
    """Everything that is compared, for one seed and one split."""
    seed, name, size = work
    torch.set_num_threads(1)
    base = Base.load(yaml.safe_load(FILE.read_text())["model"], FILE.parent)
    small = Arm(base.built(TASK, replace(MODULE, seed=seed)), RATES["module"])
    full = Arm(everything(base), RATES["full"])
    records = world(base, seed, SPLITS[name], size)
    given = (records, size.rounds, size.steps, f"{seed} {name}")
    told: dict[str, Any] = {
        f"module {name}": scores(small, records, module_each(small, *given)),
        f"full {name}": scores(full, records, one_for_all(full, *given)),
        f"local {name}": {
            each: statistics.mean(small.accuracy(at, records.test[each]) for at in states)
            for each, states in alone(small, *given).items()
        },
    }
    if name == "even":
        told[f"shared {name}"] = scores(small, records, one_for_all(small, *given))
        told["forgets shared"] = in_sequence(small, *given)
        told["forgets full"] = in_sequence(full, *given)
        told["interference"] = interference(base, records, seed, size.steps)
        told["majority"] = {each: majority(records.test[each]) for each in records.tasks}
    print(json.dumps({"seed": seed, **told}), file=sys.stderr, flush=True)
    return told


def majority(records: Encoded) -> float:
    """The share of the most frequent label."""
    return max(records.labels.count(each) for each in set(records.labels)) / len(records.labels)


def bytes_of_modules() -> Iterator[dict[str, Any]]:
    """Yield what a member sends and gets in a round of each task of the example, by a real run's receipts."""
    document = yaml.safe_load(FILE.read_text())
    del document["training"]["epsilon"]
    document["training"] |= {"rounds": 2, "steps": 1, "noise_multiplier": 2}
    document["policy"] = str(FILE.parent / document["policy"])
    for task in document["tasks"].values():
        task["data"] |= {"file": str(FILE.parent / task["data"]["file"]), "limit": 1500}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "federation.yaml"
        path.write_text(json.dumps(document, indent=1))
        result = suite.run(suite_file.load(path), Path(folder) / "run", sites=Path(folder) / "sites")
    assert result.outcome == "finished", result.why
    for name, told in result.told["tasks"].items():
        members, rounds = told["members"], 2
        yield {
            "task": name, "values": told["trained_parameters"], "members": members,
            "up": told["bytes"]["up"] / members / rounds, "down": told["bytes"]["down"] / members / rounds,
        }  # fmt: skip


def bytes_of_everything(members: int, dimension: int) -> int:
    """Return what a member sends in a round of the whole model: one sealed update, encoded as it leaves."""
    cohort = Cohort(members, dimension)
    name = cohort.names[0]
    update = Update(np.random.default_rng(0).normal(0, 0.01, dimension), EVENT)
    secret, relay = cohort.enrolment[name].secret, cohort.relays[name]
    sealed, _ = cohort.member.seal(name, cohort.plan, cohort.box[name], secret, relay, b"", update, Secret(bytes(32)))
    return len(wire.encode(Submitted(1, sealed, cohort.enrolled[name])))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval (Student's t); an infinite one for a single value."""
    middle = statistics.mean(values)
    if len(values) < 2:
        return middle, math.inf
    return middle, STUDENT[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def average(told: Mapping[str, float]) -> float:
    """Over tasks."""
    return statistics.mean(told.values())


def lines(seeds: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what is reported of all seeds: means, and paired differences with their intervals."""

    def told(name: str, of: Sequence[float]) -> dict[str, Any]:
        middle, half = spread(of)
        interval = "one seed" if half == math.inf else f"95 % interval {middle - half:+.4f} to {middle + half:+.4f}"
        return {**figure(name, round(middle, 4), f"none; {interval}", holds=True), "by_seed": [round(v, 4) for v in of]}

    for name in seeds[0]:
        if name not in ("seed", "interference", "majority"):
            what = "accuracy lost by earlier tasks" if name.startswith("forgets") else "accuracy"
            yield told(f"{name}: {what}, mean over tasks", [average(each[name]) for each in seeds])
    pairs = [
        (f"module - {other}, {split}", f"module {split}", f"{other} {split}")
        for split in ("even", "uneven")
        for other in ("shared", "full", "local")
    ]
    pairs += [(f"{arm}: even - uneven", f"{arm} even", f"{arm} uneven") for arm in ("module", "full", "local")]
    for name, one, other in pairs:
        if one in seeds[0] and other in seeds[0]:
            yield told(f"{name}: paired difference", [average(s[one]) - average(s[other]) for s in seeds])
    pairs = [[average(s["forgets full"]) - average(s["forgets shared"]) for s in seeds]]
    yield told("full - shared: accuracy lost by earlier tasks, paired difference", pairs[0])
    most = max(each["interference"]["module"] for each in seeds)
    yield figure("a module: share of another task's logits that change in any bit", most, "0", holds=most == 0)
    least = min(each["interference"]["full"] for each in seeds)
    yield figure("the whole model: share of another task's logits that change", least, "none", holds=True)


def main() -> int:
    """All lines; 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: shows that everything runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=None, help="processes; else one for each core")
    parser.add_argument("--local-steps", type=Path, help="the JSON of an earlier run, to which that sweep is added")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.local_steps:
        from audits.utility import local_steps  # noqa: PLC0415 - it is made of this module's parts

        local_steps.extend(given.local_steps, quick=given.quick)
        return 0
    began = time.monotonic()
    model = yaml.safe_load(FILE.read_text())["model"]
    base = Base.load(model, FILE.parent)
    size, seeds = (QUICK, range(1, 2)) if given.quick else (FULL, range(1, 1 + given.seeds))
    found: list[dict[str, Any]] = []
    for each in bytes_of_modules():
        up = bytes_of_everything(each["members"], base.parameters)
        down = 4 * base.parameters
        ratio = (up + down) / (each["up"] + each["down"])
        name = f"{each['task']} ({each['values']} values, {each['members']} members): full update / module, bytes"
        found.append({**figure(name, round(ratio, 1), "at least 100", holds=ratio >= 100), **each, "full_up": up})
    work = [(seed, name, size) for name in SPLITS for seed in seeds]
    with ProcessPoolExecutor(given.jobs or os.cpu_count(), get_context("spawn")) as pool:
        parts = list(pool.map(one_split, work))
    told = [
        {"seed": seed}
        | {
            key: each
            for (mine, _, _), part in zip(work, parts, strict=True)
            if mine == seed
            for key, each in part.items()
        }
        for seed in seeds
    ]
    found += lines(told)
    found.append(figure("seconds", round(time.monotonic() - began), "none", holds=True))
    return report(found, as_json=given.json)


if __name__ == "__main__":
    raise SystemExit(main())
