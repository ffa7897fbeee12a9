"""How many steps a member takes between two rounds, at one number of steps in all: what modules and whole models lose.

An arm trains either a module or a whole model for each task, so that arms differ in what is trained alone. A member
draws the same batches in every arm and cell of a seed and split, whatever the rounds are. Plain SGD: an optimizer with
a memory would forget it at each round, and so mean something else for one step than for many.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from audits.utility import fedyolo as y
from securefl.training.built import Built
from securefl.training.shared_base import Base
from securefl.training.step import Encoded

ARMS = ("module", "whole")
TUNED_ON = 99  # a seed that is not reported
GRID = {"module": (0.03, 0.1, 0.3, 1.0, 3.0), "whole": (0.003, 0.01, 0.03, 0.1, 0.3)}  # learning rates of SGD
BETWEEN, TRIED = 4, 48  # steps between rounds, and in all, at which a rate is chosen
PLOT = Path(__file__).with_name("local_steps.png")


@dataclass(frozen=True)
class Sweep:
    """What is swept."""

    steps: tuple[int, ...]  # between two rounds; each divides ``total``
    total: int  # of each member on each of its tasks
    seeds: tuple[int, ...]
    size: y.Size  # whose records are taken; rounds and steps are not


FULL = Sweep((1, 4, 16), 32, (1, 2, 3), y.FULL)
QUICK = Sweep((1, 2), 2, (1,), y.QUICK)


class Trained:
    """One task's model and the tensors of it that move."""

    def __init__(self, built: Built, rate: float) -> None:
        self._model, self._rate = built.model, rate
        self._moving = [parameter for _, parameter in built.stateful]
        self._learnt = list(built.parameters)
        self._start = [each.detach().clone() for each in self._moving]

    def rounds(self, owned: Mapping[str, Encoded], label: str, steps: int, total: int) -> None:
        """The model is what rounds of so many steps of each owner average to, from the start."""
        drawn = {who: _batches(f"{label} {who}", part, total) for who, part in owned.items()}
        now = [each.clone() for each in self._start]
        for first in range(0, total, steps):
            summed = [torch.zeros_like(each) for each in now]
            for who, part in owned.items():
                self._put(now)
                for batch in drawn[who][first : first + steps]:
                    self._step(part, batch)
                for entry, moved in zip(summed, self._moving, strict=True):
                    entry.add_(moved.detach())
            now = [each / len(owned) for each in summed]
        self._put(now)

    def _put(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._moving, values, strict=True):
                parameter.copy_(value)

    def _step(self, records: Encoded, batch: list[int]) -> None:
        ids, mask, labels = records.batch(batch)
        for parameter in self._learnt:
            parameter.grad = None
        torch.nn.functional.cross_entropy(self._model(ids, mask), labels).backward()
        with torch.no_grad():
            for parameter in self._learnt:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-self._rate)

    def accuracy(self, records: Encoded) -> float:
        """The share it gets right."""
        with torch.no_grad():
            parts = [range(n, min(n + 100, len(records.ids))) for n in range(0, len(records.ids), 100)]
            said = torch.cat([self._model(*records.batch(each)[:2]).argmax(1) for each in parts])
        return float((said == torch.tensor(records.labels)).float().mean())


def _batches(label: str, records: Encoded, total: int) -> list[list[int]]:
    drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(label.encode()).digest()[:8]))
    return [drawn.integers(0, len(records.ids), y.BATCH).tolist() for _ in range(total)]


def _trained(base: Base, arm: str, seed: int, rate: float) -> Trained:
    built = y.everything(base) if arm == "whole" else base.built(y.TASK, replace(y.MODULE, seed=seed))
    for part in built.model.modules():
        if isinstance(part, torch.nn.Embedding):
            part.sparse = True  # a batch touches few words of many
    return Trained(built, rate)


def _scores(model: Trained, records: y.World, label: str, steps: int, total: int) -> dict[str, float]:
    found = {}
    for task, owned in records.train.items():
        model.rounds(owned, f"{label} {task}", steps, total)
        found[task] = round(model.accuracy(records.test[task]), 6)
    return found


def extend(path: Path, *, quick: bool = False) -> None:
    """The sweep stands in the file at ``path``, under `local_steps`, beside what it holds. Goes on if interrupted."""
    sweep = QUICK if quick else FULL
    told = json.loads(path.read_text())
    mine = told.setdefault("local_steps", _about(sweep))
    if mine["sweep"] != _about(sweep)["sweep"]:
        raise SystemExit(f"{path} holds another sweep: take `local_steps` out of it")
    base = Base.load(yaml.safe_load(y.FILE.read_text())["model"], y.FILE.parent)
    began = time.process_time()

    def keep() -> None:
        nonlocal began
        mine["cpu_seconds"] = round(mine["cpu_seconds"] + time.process_time() - began)
        began = time.process_time()
        path.write_text(json.dumps(told, indent=1) + "\n")

    if not mine["rates"]:
        for each in _tuned(base, sweep, [(t["arm"], t["rate"]) for t in mine["tuned"]]):
            mine["tuned"].append(each)
            keep()
        mine["rates"] = {
            arm: max((each for each in mine["tuned"] if each["arm"] == arm), key=lambda t: t["accuracy"])["rate"]
            for arm in ARMS
        }
        keep()
    for split in y.SPLITS:
        for seed in sweep.seeds:
            done = {(c["arm"], c["steps"]) for c in mine["cells"] if (c["seed"], c["split"]) == (seed, split)}
            left = [(arm, steps) for arm in ARMS for steps in sweep.steps if (arm, steps) not in done]
            if not left:
                continue
            records = y.world(base, seed, y.SPLITS[split], sweep.size)
            models = {arm: _trained(base, arm, seed, mine["rates"][arm]) for arm in ARMS}
            for arm, steps in left:
                scores = _scores(models[arm], records, f"{seed} {split}", steps, sweep.total)
                mine["cells"].append({"seed": seed, "split": split, "arm": arm, "steps": steps, "accuracy": scores})
                print(json.dumps(mine["cells"][-1]), file=sys.stderr, flush=True)
                mine["figures"] = list(lines(mine["cells"], sweep))
                keep()
    if not quick:
        draw(mine["cells"], sweep, PLOT)


def _about(sweep: Sweep) -> dict[str, Any]:
    of = {"steps": list(sweep.steps), "total": sweep.total, "seeds": list(sweep.seeds), "records": sweep.size.train}
    return {
        "command": f"python -m audits.utility.fedyolo {' '.join(sys.argv[1:])}",
        "versions": {"python": platform.python_version(), **{each: version(each) for each in ("numpy", "torch")}},
        "sweep": of, "tuned_at": {"seed": TUNED_ON, "split": "even", "steps": BETWEEN, "total": TRIED},
        "tuned": [], "rates": {}, "cells": [], "cpu_seconds": 0,
    }  # fmt: skip


def _tuned(base: Base, sweep: Sweep, done: Sequence[tuple[str, float]]) -> Iterator[dict[str, Any]]:
    """The even split's mean accuracy at each rate that is not done, on a seed of its own."""
    records = y.world(base, TUNED_ON, y.SPLITS["even"], sweep.size)
    total = min(TRIED, sweep.total * BETWEEN)
    for arm in ARMS:
        for rate in (each for each in GRID[arm] if (arm, each) not in done):
            scores = _scores(_trained(base, arm, TUNED_ON, rate), records, f"{TUNED_ON} even", BETWEEN, total)
            yield {"arm": arm, "rate": rate, "accuracy": round(y.average(scores), 4)}
            print(arm, rate, y.average(scores), file=sys.stderr, flush=True)


def lines(cells: Sequence[Mapping[str, Any]], sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Each cell's mean; what many steps lose against the fewest, and how much more of it whole models lose."""
    found = _found(cells)

    def told(name: str, values: Sequence[float]) -> dict[str, Any]:
        middle, half = y.spread(values)
        spans = {} if len(values) < 2 else {"low": round(middle - half, 4), "high": round(middle + half, 4)}
        return {"name": name, "mean": round(middle, 4), **spans, "by_seed": [round(each, 4) for each in values]}

    fewest = sweep.steps[0]
    for split in y.SPLITS:
        seeds = _whole(found, split, sweep)
        if not seeds:
            continue
        at = {(arm, steps): [found[seed, split, arm, steps] for seed in seeds] for arm in ARMS for steps in sweep.steps}
        for (arm, steps), values in at.items():
            yield told(f"{split}, {arm}, {steps} steps a round: accuracy, mean over tasks", values)
        for steps in sweep.steps:
            pairs = zip(at["module", steps], at["whole", steps], strict=True)
            yield told(f"{split}, {steps} steps a round: module - whole", [one - other for one, other in pairs])
        lost = {}
        for (arm, steps), values in at.items():
            if steps != fewest:
                pairs = zip(at[arm, fewest], values, strict=True)
                lost[arm, steps] = [few - many for few, many in pairs]
                yield told(f"{split}, {arm}: lost from {fewest} to {steps} steps a round", lost[arm, steps])
        for steps in sweep.steps[1:]:
            pairs = zip(lost["whole", steps], lost["module", steps], strict=True)
            name = f"{split}, {fewest} to {steps} steps a round: lost by whole models - lost by modules"
            yield told(name, [whole - module for whole, module in pairs])


def _found(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str, str, int], float]:
    return {(c["seed"], c["split"], c["arm"], c["steps"]): y.average(c["accuracy"]) for c in cells}


def _whole(found: Mapping[tuple[int, str, str, int], float], split: str, sweep: Sweep) -> list[int]:
    """The seeds of a split with every cell."""
    cells = [(arm, steps) for arm in ARMS for steps in sweep.steps]
    return [seed for seed in sweep.seeds if all((seed, split, *cell) in found for cell in cells)]


def draw(cells: Sequence[Mapping[str, Any]], sweep: Sweep, out: Path) -> None:
    """Accuracy by steps between rounds: a line a seed, a thick one for their mean."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    found = _found(cells)
    splits = {split: seeds for split in y.SPLITS if len(seeds := _whole(found, split, sweep)) == len(sweep.seeds)}
    figure, panels = plt.subplots(
        1, len(splits), figsize=(4 * len(splits), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (split, seeds) in zip(panels[0], splits.items(), strict=True):
        for arm, color in zip(ARMS, ("#1f5fa8", "#c0562f"), strict=True):
            by_seed = [[found[seed, split, arm, steps] for steps in sweep.steps] for seed in seeds]
            for each in by_seed:
                axes.plot(sweep.steps, each, color=color, linewidth=0.7, alpha=0.5)
            middle = [statistics.mean(each) for each in zip(*by_seed, strict=True)]
            name = "a module" if arm == "module" else "a whole model"
            axes.plot(sweep.steps, middle, "o-", color=color, label=f"{name} for each task", linewidth=2)
        axes.set_xscale("log")
        axes.set_xticks(sweep.steps, [str(each) for each in sweep.steps])
        axes.minorticks_off()
        axes.set_title("even split" if split == "even" else "Dirichlet(0.1) by label", fontsize=10)
        axes.set_xlabel(f"steps between two rounds, {sweep.total} in all")
    panels[0][0].set_ylabel("accuracy, mean over tasks")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=120)
    plt.close(figure)
