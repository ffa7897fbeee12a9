"""WorldLM-style federations of federations against flat ones, at equal optimiser steps; run from the repository's root.

Nine leaves train a small language model of bytes from its public seed: presidents' speeches to 1865, speeches from 1946
and chats, three leaves each. The real halves of the strategy run here over the tree, in one process, on the grid's
integers, without noise or protection: what is asked is what the strategy learns, not what it hides.

    python -m audits.utility.worldlm audits/utility/worldlm.json
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from securefl.compare.results import spread
from securefl.documents.data_source import DataSource
from securefl.protocol.messages import state_digest
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.member import MemberStrategy
from securefl.strategy.rules import FactorServer
from securefl.strategy.worldlm import AttentionServer
from securefl.terms import (
    Adapter,
    AdapterKind,
    Aggregate,
    Attention,
    FixedPoint,
    Hash,
    Learning,
    MemberId,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    RunId,
    Scheme,
    Sharing,
    Task,
)
from securefl.terms.records import Record
from securefl.training.data import Records, load
from securefl.training.modules import byte_gpt
from securefl.training.shared_model import SharedModel
from securefl.wire import layout_digest

DATA = Path("build/data")
MODEL, KEYS = "bytes:3x32:{seed}", ("blocks.2",)  # the last third of the blocks
TOKENS, BATCH, STEPS, ROUNDS, INNER, RATE = 32, 8, 20, 40, 2, Fraction(3, 1000)
RECORDS, HELDOUT = 1500, 200
LEAVES: Mapping[str, Mapping[str, Any]] = {
    "1790-1836": {"file": "speeches.csv", "where": {"year": {"from": 1790, "to": 1836}}},
    "1837-1850": {"file": "speeches.csv", "where": {"year": {"from": 1837, "to": 1850}}},
    "1851-1865": {"file": "speeches.csv", "where": {"year": {"from": 1851, "to": 1865}}},
    "1946-1965": {"file": "speeches.csv", "where": {"year": {"from": 1946, "to": 1965}}},
    "1966-1979": {"file": "speeches.csv", "where": {"year": {"from": 1966, "to": 1979}}},
    "1980-2026": {"file": "speeches.csv", "where": {"year": {"from": 1980, "to": 2026}}},
    "chats-a": {"file": "chats.csv", "part": 0},
    "chats-b": {"file": "chats.csv", "part": 1},
    "chats-c": {"file": "chats.csv", "part": 2},
}
NATURAL = (tuple(LEAVES)[0:3], tuple(LEAVES)[3:6], tuple(LEAVES)[6:9])
SWAPPED = (("chats-a", *NATURAL[0][1:]), NATURAL[1], ("1790-1836", *NATURAL[2][1:]))
NOISES = (4.0, 24.0)  # times the root mean square of a change
NOISED = ("1790-1836", "1837-1850")
ENCODING = FixedPoint(40, 30, 64)
MOST, TWO = ("positions", "blocks", "head"), ("blocks.1", "blocks.2")  # more of it by attention, less by a mean
FULL = Attention(KEYS, Fraction(5), Fraction(4), residual=True)
ADAPTER = Adapter(("embedding", "positions", "blocks", "head"), 1, 1, 0, AdapterKind.FULL)


@dataclass(frozen=True, slots=True)
class Arm:
    """How one model is trained."""

    kind: str  # "local", "flat" or "tree"
    sharing: Sharing
    tree: tuple[tuple[str, ...], ...] = NATURAL
    noise: float = 0.0  # on what two leaves share, times the root mean square of their change


ARMS: Mapping[str, Arm] = {
    "flat FedAvg": Arm("flat", Sharing()),
    "WorldLM-style": Arm("tree", Sharing(attention=FULL)),
    "WorldLM-style, swapped": Arm("tree", Sharing(attention=FULL), SWAPPED),
    "FedPer": Arm("flat", Sharing(home=KEYS)),
    "local": Arm("local", Sharing()),
    "WorldLM-style, mean for attention": Arm("tree", Sharing(attention=replace(FULL, sharpness=Fraction(0)))),
    "flat FedAvg, noise on two": Arm("flat", Sharing(), noise=NOISES[0]),
    "WorldLM-style, noise on two": Arm("tree", Sharing(attention=FULL), noise=NOISES[0]),
    "HierFAVG": Arm("tree", Sharing()),
    "flat FedAvg, strong noise on two": Arm("flat", Sharing(), noise=NOISES[1]),
    "WorldLM-style, strong noise on two": Arm("tree", Sharing(attention=FULL), noise=NOISES[1]),
    "WorldLM-style, all but embeddings keys": Arm("tree", Sharing(attention=replace(FULL, keys=MOST))),
    "WorldLM-style, all but embeddings keys, strong noise on two": Arm(
        "tree", Sharing(attention=replace(FULL, keys=MOST)), noise=NOISES[1]
    ),
    "WorldLM-style, two key layers": Arm("tree", Sharing(attention=replace(FULL, keys=TWO))),
    "WorldLM-style, two key layers, strong noise on two": Arm(
        "tree", Sharing(attention=replace(FULL, keys=TWO)), noise=NOISES[1]
    ),
    "WorldLM-style, no residual": Arm("tree", Sharing(attention=replace(FULL, residual=False))),
}


class Bench:
    """One seed: the model, the leaves' records, and what it takes to train and to add up."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.shared = SharedModel.load(MODEL.format(seed=seed), Path(), Task("language", ()), ADAPTER)
        self.start = self.shared.initial()
        self.half = MemberStrategy(self.shared.layout, self.start)
        self.records = {name: _drawn(found, name, seed) for name, found in _all().items()}
        self.model = self.shared._built.model  # noqa: SLF001 - the same module, called with stacked tensors
        places, tensors = self.shared.layout.places(), self.shared.layout.tensors
        self.shapes = {each.name: (places[each.name], each.shape) for each in tensors}
        self.gradients = torch.func.vmap(torch.func.grad(self._loss))
        self.ids, self.masks = {}, {}
        for name, (train, _) in self.records.items():
            rows = byte_gpt.Bytes()([each.text for each in train], truncation=True, max_length=TOKENS)["input_ids"]
            self.masks[name] = torch.tensor([[n < len(row) for n in range(TOKENS)] for row in rows]).long()
            self.ids[name] = torch.tensor([row + [0] * (TOKENS - len(row)) for row in rows])

    def plan(self, sharing: Sharing, round_: int) -> Plan:
        """Return what the halves and the training are asked."""
        event = PoissonGaussian(Fraction(BATCH, RECORDS), Fraction(1), STEPS)
        learning = Learning(event, Fraction(1), BATCH, RATE, "adamw", TOKENS, 64)
        return Plan(
            "bench", Hash(bytes(32)), RunId(bytes(16)), round_, "", self.shared.model, self.shared.task, ADAPTER,
            learning, ProtectionSpec(Scheme.CLEAR, 1, 1, 0, ENCODING, None), (), (), Hash(bytes(32)),
            self.shared.layout.dimension(round_, sharing), sharing, layout_digest(self.shared.layout),
            state_digest(self.shared.initial()),
        )  # fmt: skip

    def train(self, states: Mapping[str, bytes], round_: int, noise: float) -> dict[str, bytes]:
        """Every leaf's steps from a state of its own, stacked: AdamW anew each round, the same draws in every arm."""
        names = list(states)
        flat = torch.from_numpy(np.stack([np.frombuffer(states[n], "<f4") for n in names]).copy())
        draws = [np.random.default_rng([self.seed, round_, place_of(n)]) for n in names]
        first, second = torch.zeros_like(flat), torch.zeros_like(flat)
        for step in range(1, STEPS + 1):
            chosen = [r.integers(0, len(self.ids[n]), BATCH) for r, n in zip(draws, names, strict=True)]
            ids = torch.stack([self.ids[n][c] for c, n in zip(chosen, names, strict=True)])
            mask = torch.stack([self.masks[n][c] for c, n in zip(chosen, names, strict=True)])
            with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for stacked weights
                change = self.gradients(flat, ids, mask)
            first, second = 0.9 * first + 0.1 * change, 0.999 * second + 0.001 * change**2
            sized = (second / (1 - 0.999**step)).sqrt() + 1e-8
            flat = flat * (1 - float(RATE) * 0.01) - float(RATE) * first / (1 - 0.9**step) / sized
        found = {}
        for name, ended in zip(names, flat.double().numpy(), strict=True):
            values, begun = ended, np.frombuffer(states[name], "<f4").astype(np.float64)
            if noise and name in NOISED:
                drawn = np.random.default_rng([self.seed, round_, place_of(name), 1]).normal(0, 1, len(values))
                values = ended + noise * float(np.sqrt(np.mean((ended - begun) ** 2))) * drawn
            found[name] = values.astype("<f4").tobytes()
        return found

    def _loss(self, flat: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tensors = {n: flat[place].view(shape) for n, (place, shape) in self.shapes.items()}
        costs = torch.func.functional_call(self.model, tensors, (ids, mask))
        return costs.mean()

    def score(self, leaf: str, state: bytes) -> float:
        """Nats per byte on the leaf's held-out texts."""
        return self.shared.evaluate(state, self.records[leaf][1], TOKENS).accuracy

    def strategy(self, sharing: Sharing) -> AttentionServer | FactorServer:
        """The coordinator's half."""
        if sharing.attention is not None:
            return AttentionServer(self.shared.layout, FedAvg(), sharing.attention, self.start)
        return FactorServer(self.shared.layout, FedAvg(), sharing)


def place_of(leaf: str) -> int:
    """A leaf's number."""
    return tuple(LEAVES).index(leaf)


@cache
def _all() -> dict[str, Records]:
    """Every leaf's records, read once."""
    found = {}
    for name, spec in LEAVES.items():
        where, third = dict(spec.get("where", {})), spec.get("part")
        file = DATA / spec["file"]
        if third is not None:
            with file.open(encoding="utf-8", newline="") as rows:
                senders = sorted({row["sender"] for row in csv.DictReader(rows)})
            where = {"sender": senders[third::3]}
        source = DataSource.model_validate({"file": str(file.resolve()), "heldout": 0.2, "where": where})
        found[name] = load(source, Path(), ())
    return found


def _drawn(found: Records, name: str, seed: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """A seed's part of a leaf's records: to train on, and held out."""
    rand = np.random.default_rng([seed, place_of(name)])
    train, heldout = rand.permutation(len(found.train))[:RECORDS], rand.permutation(len(found.heldout))[:HELDOUT]
    return tuple(found.train[i] for i in train), tuple(found.heldout[i] for i in heldout)


class Node:
    """A coordinator, and what its children keep; they are leaves' names or federations."""

    def __init__(self, bench: Bench, sharing: Sharing, children: tuple[str, ...]) -> None:
        self.bench, self.sharing, self.children = bench, sharing, children
        self.strategy = bench.strategy(sharing)
        self.state = self.strategy.broadcast(bench.start)
        self.memory = self.strategy.begin(self.state)
        self.kept: dict[str, bytes] = {}
        self.round = 1

    def adopt(self, model: bytes) -> None:
        """Go on from what the member's half made of the parent's state; its own residuals stay."""
        self.state = model + self.state[len(model) :]
        self.memory = self.strategy.begin(self.state)

    def starts(self) -> dict[str, bytes]:
        """Return what each child trains from, and would use now."""
        plan = self.bench.plan(self.sharing, self.round)
        return {each: self.bench.half.start(plan, self.state, self.kept.get(each, b"")) for each in self.children}

    def close(self, after: Mapping[str, bytes]) -> None:
        """What the children share is added up as integers, and makes the next state."""
        plan = self.bench.plan(self.sharing, self.round)
        begun = self.starts()
        vectors = [self.bench.half.share(plan, self.state, begun[each], after[each], ()) for each in self.children]
        self.kept = {each: after[each] for each in self.children}
        total = np.sum([np.rint(each * float(1 << ENCODING.fraction_bits)) for each in vectors], axis=0)
        summed = Aggregate(total.astype(np.int64), tuple(map(MemberId, self.children)), ENCODING)
        self.state, self.memory = self.strategy.advance(self.round, self.state, self.memory, summed)
        self.round += 1


def run(bench: Bench, arm: Arm) -> dict[str, float]:
    """Nats per byte of each leaf after ROUNDS * STEPS steps at every leaf."""
    if arm.kind == "local":
        models = dict.fromkeys(LEAVES, bench.start)
        for number in range(ROUNDS):
            models = bench.train(models, number, arm.noise)
    elif arm.kind == "flat":
        root = Node(bench, arm.sharing, tuple(LEAVES))
        for number in range(ROUNDS):
            root.close(bench.train(root.starts(), number, arm.noise))
        models = root.starts()
    else:
        below = {str(n): Node(bench, arm.sharing, group) for n, group in enumerate(arm.tree)}
        root = Node(bench, arm.sharing, tuple(below))
        for number in range(ROUNDS):
            if number % INNER == 0:
                _descend(root, below)
            after = bench.train({k: v for each in below.values() for k, v in each.starts().items()}, number, arm.noise)
            for each in below.values():
                each.close(after)
            if number % INNER == INNER - 1:
                root.close({name: each.state[: len(bench.start)] for name, each in below.items()})
        _descend(root, below)
        models = {k: v for each in below.values() for k, v in each.starts().items()}
    return {leaf: bench.score(leaf, models[leaf]) for leaf in LEAVES}


def _descend(root: Node, below: Mapping[str, Node]) -> None:
    """Every federation goes on from what it makes of the root's state."""
    for name, start in root.starts().items():
        below[name].adopt(start)


def interval(differences: list[float]) -> dict[str, float | None]:
    """The mean of paired differences and its 95 % interval by Student's t."""
    found = spread(differences)
    assert found is not None, "there is a seed"
    low, high = (None if each is None else round(each, 5) for each in (found.low, found.high))
    return {"mean": round(found.mean, 5), "low": low, "high": high}


def against(
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    one: str,
    other: str,
    leaves: Iterable[str] = tuple(LEAVES),
) -> dict[str, float | None]:
    """Nats per byte of one arm less another's, mean over leaves, paired by seed."""
    return interval(
        [float(np.mean([seed[one][leaf] - seed[other][leaf] for leaf in leaves])) for seed in results.values()]
    )


def compared(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The questions, as paired differences: below zero, the first arm is better. Only of arms that every seed has."""
    world, flat = "WorldLM-style", "flat FedAvg"
    rest = [leaf for leaf in LEAVES if leaf not in NOISED]
    far = [leaf for leaf in rest if leaf not in NATURAL[0]]
    asked: dict[str, tuple[str, str, Iterable[str]]] = {
        f"{world} - {other}": (world, other, tuple(LEAVES))
        for other, arm in ARMS.items()
        if other != world and arm.tree is NATURAL and not arm.noise
    }
    asked[f"{world} on the swapped tree - {flat}"] = (f"{world}, swapped", flat, tuple(LEAVES))
    asked[f"{world} on the swapped tree - on the natural one"] = (f"{world}, swapped", world, tuple(LEAVES))
    for title, leaves in (("the noised two", NOISED), ("the seven others", rest), ("the two other federations", far)):
        for noise in ("noise", "strong noise"):
            for arm in (flat, world, f"{world}, two key layers", f"{world}, all but embeddings keys"):
                asked[f"damage of {noise}, {arm}, {title}"] = (f"{arm}, {noise} on two", arm, leaves)
    found = {
        title: against(results, one, other, leaves)
        for title, (one, other, leaves) in asked.items()
        if all(one in seed and other in seed for seed in results.values())
    }
    kept = f"{world}, all but embeddings keys"
    for arm in (world, kept):
        title = f"damage of strong noise to the two other federations, {arm} - {flat}"
        arms = [each + end for each in (arm, flat) for end in (", strong noise on two", "")]
        if all(each in seed for seed in results.values() for each in arms):
            lost = [[float(np.mean([seed[each][leaf] for leaf in far])) for each in arms] for seed in results.values()]
            found[title] = interval([(a - b) - (c - d) for a, b, c, d in lost])
    return found


def of_seed(task: tuple[int, tuple[str, ...], Path]) -> None:
    """Some arms of one seed, each kept as soon as it is done."""
    seed, arms, kept = task
    torch.set_num_threads(1)
    bench = Bench(seed)
    for name in arms:
        found = {leaf: round(x, 5) for leaf, x in run(bench, ARMS[name]).items()}
        with kept.open("a") as file:
            file.write(json.dumps([seed, name, found]) + "\n")


def main() -> None:
    """Every arm and seed that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kept", type=Path, default=Path("build/worldlm.jsonl"), help="what is done; gone on with")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with some arms of one seed")
    parser.add_argument("--compose", action="store_true", help="train nothing: write what is kept")
    asked = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {str(seed): {} for seed in range(asked.seeds)}

    def read() -> None:
        for line in asked.kept.read_text().splitlines() if asked.kept.exists() else ():
            seed, name, found = json.loads(line)
            results[str(seed)][name] = found

    read()
    parts = max(1, asked.jobs // asked.seeds)
    tasks = [
        (seed, tuple(n for n in ARMS if n not in results[str(seed)])[part::parts], asked.kept)
        for seed in range(asked.seeds)
        for part in range(parts)
    ]
    if not asked.compose:
        asked.kept.parent.mkdir(parents=True, exist_ok=True)
        _all()
        with ProcessPoolExecutor(asked.jobs, get_context("fork")) as pool:
            list(pool.map(of_seed, tasks))
        read()
    complete = [name for name in ARMS if all(name in seed for seed in results.values())]
    told = {
        "command": "python -m audits.utility.worldlm audits/utility/worldlm.json",
        "what": "nats per byte on each leaf's held-out texts; differences are paired by seed, with 95 % intervals",
        "settings": {
            "model": MODEL, "keys": KEYS, "tokens": TOKENS, "batch": BATCH, "steps a round": STEPS, "rounds": ROUNDS,
            "rounds in a federation for one at the root": INNER, "records": RECORDS, "learning rate": float(RATE),
            "sharpness": float(FULL.sharpness), "clip": float(FULL.clip), "noise": NOISES,
        },
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("securefl", "torch", "numpy")}},
        "arms that were not run with every seed": [name for name in ARMS if name not in complete],
        "mean": {n: round(float(np.mean([list(r[n].values()) for r in results.values()])), 4) for n in complete},
        "paired": compared(results),
        "seeds": results,
    }  # fmt: skip
    asked.out.write_text(json.dumps(told, indent=1) + "\n")
    draw(told, asked.out.with_suffix(".png"))


def draw(told: Mapping[str, Any], out: Path) -> None:
    """The paired differences, with their intervals."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    strong = [name for name in told["paired"] if name.startswith("damage of strong noise")]
    parts = [[name for name in told["paired"] if name not in strong], strong]  # on scales of their own
    figure, places = plt.subplots(
        2, figsize=(8, 0.3 * len(told["paired"]) + 1.5), layout="constrained",
        height_ratios=[max(len(names), 1) for names in parts],
    )  # fmt: skip
    for axes, names in zip(places, parts, strict=True):
        for place, name in enumerate(names):
            span = told["paired"][name]
            axes.plot([span["low"], span["high"]], [place, place], color="#888888")
            axes.plot([span["mean"]], [place], "o", color="#1f5fa8")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.invert_yaxis()
    places[1].set_xlabel("nats per byte, paired by seed, 95 % interval; left of 0: the first is better")
    figure.savefig(out, dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
