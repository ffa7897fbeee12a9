"""LP-FL-style learning against full parameters: soft labels, noisy soft labels, and bytes on the wire.

Four publishers' sentences, a share of which keep their label. Every arm starts from the same masked language model and
is scored by its own head. `lora` trains B alone (rank 4, query and value); `full` trains both blocks whole (weights and
biases but attention's key biases, which have no gradient; embeddings and the language model's head stay, so bytes and
forgetting of a whole model are understated). `own labels`: the unlabelled records say nothing. `soft`: they learn from
the broadcast. Rounds are plain: no protection, equal means. Private arms, of LoRA alone, run the real private step with
the noise that keeps all rounds within epsilon 8 at delta 1e-5 for each member, whatever has a label; noise and samples
are drawn from the seed here, so that a figure can be made again.

Bytes are read from the receipts of whole federations, masked and signed: `--bytes`.

    python -m audits.utility.lpfl [--seeds 3] [--jobs 2] [--tune] > audits/utility/lpfl.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from securefl.compare.results import spread
from securefl.documents import federation_file
from securefl.documents.federation import Loaded
from securefl.planning.plan import FirstState, plan_of
from securefl.policy import load as policies
from securefl.privacy.calibration import calibrate
from securefl.protocol.messages import state_digest
from securefl.simulation import federation
from securefl.terms import Adapter, AdapterKind, Learning, Plan, PoissonGaussian, RunId, SoftLabels
from securefl.terms.records import Record
from securefl.training import data
from securefl.training.noise import repeatable
from securefl.training.shapes import Shapes
from securefl.training.shared_model import SharedModel
from securefl.training.step import Encoded
from securefl.wire import layout_digest

HERE = Path(__file__).parents[2] / "examples" / "publishers" / "federation.yaml"
RECORDS, HELD, LABELLED = 2000, 250, Fraction(1, 4)  # of each member; the share that keeps its label
ROUNDS, TOKENS, CLIP = 8, 32, Fraction(8)
STEPS, RATE = {False: 16, True: 4}, {False: Fraction(1, 16), True: Fraction(1, 4)}  # of a round; private: few and large
WEIGHT = Fraction(1, 3)  # three in four have no label: together they weigh what the others do
TEMPERATURE = Fraction(1)
FIRST, LAST = Fraction(9, 10), Fraction(7, 10)
EPSILON, DELTA = 8.0, 1e-5
FLIPS = (20, 40)  # percent of soft labels that are turned round
ADAPTERS = {
    "lora": Adapter(("query", "value"), 4, 16, 1),
    "full": Adapter(("encoder.layer",), 1, 1, 1, AdapterKind.FULL),
}
WHERE = {False: "without privacy", True: "epsilon 8"}
RATES = {  # the better of two or three on a seed that no figure is from
    ("lora", False): (Fraction(1, 150), "adamw"),
    ("full", False): (Fraction(1, 10000), "adamw"),
    ("lora", True): (Fraction(1, 6), "sgd"),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    kind: str
    soft: bool
    private: bool
    seed: int
    flipped: int = 0  # percent
    chosen: tuple[Fraction, str] | None = None  # rate of learning and optimizer; the arm's own if not given

    @property
    def arm(self) -> str:
        """What the table calls it."""
        flips = f", {self.flipped} % flipped" if self.flipped else ""
        learned = "own and soft labels" if self.soft else "own labels"
        return f"{self.kind}, {learned}{flips}, {WHERE[self.private]}"


def share(use: str, text: str) -> float:
    """A number in [0, 1) of a text and what it is drawn for, alone."""
    return int.from_bytes(hashlib.sha256(f"{use}\0{text}".encode()).digest()[:8], "big") / 2**64


class Turned(SharedModel):
    """A model whose soft labels are counted against the truth, and turned round for some texts."""

    truth: Mapping[str, int]
    threshold: float
    cell: Cell
    told: list[tuple[int, int, int, int]]  # unlabelled; right of them; sure; right of the sure: members, rounds

    def _targets(self, plan: Plan, base: bytes, records: tuple[Record, ...], shapes: Shapes) -> Encoded:
        records = self.distinct(records, plan.learning.max_tokens)  # what has a row in what is encoded
        encoded = super()._targets(plan, base, records, shapes)
        teacher = encoded.teacher
        if teacher is None or not self.cell.soft:
            return encoded
        rows = [i for i, record in enumerate(records) if record.label == data.UNKNOWN]
        use, part = f"flip {self.cell.seed} {plan.round}", self.cell.flipped / 100
        turned = [i for i in rows if share(use, records[i].text) < part]
        right = teacher[rows].argmax(1) == torch.tensor([self.truth[records[i].text] for i in rows])
        sure = (teacher[rows] / float(TEMPERATURE)).softmax(1).amax(1) >= self.threshold
        self.told.append((len(rows), int(right.sum()), int(sure.sum()), int((right & sure).sum())))
        teacher = teacher.clone()
        teacher[turned] = teacher[turned].flip(1)
        return replace(encoded, teacher=teacher)


Members = Mapping[str, tuple[Record, ...]]


def records_of(cell: Cell, loaded: Loaded) -> tuple[Members, Mapping[str, int], tuple[Record, ...]]:
    """Return what each member trains on, the truth that most of it is without, and what is held out."""
    members, truth, held = {}, {}, []
    for each in loaded.file.members:
        found = found_at(each.name)
        mine = sorted(found.train, key=lambda record: share("kept", record.text))[:RECORDS]
        held += sorted(found.heldout, key=lambda record: share("kept", record.text))[:HELD]
        truth |= {record.text: record.label for record in mine}
        drawn = [share(f"labelled {cell.seed}", record.text) < LABELLED for record in mine]
        given = [r if own else replace(r, label=data.UNKNOWN) for r, own in zip(mine, drawn, strict=True)]
        if not (cell.soft or cell.private):  # what says nothing would only be in the mean
            given = [record for record in given if record.label != data.UNKNOWN]
        members[each.name] = tuple(given)
    return members, truth, tuple(held)


@cache
def noise() -> Fraction:
    """With which all rounds are within epsilon, for each member."""
    return calibrate(EPSILON, DELTA, RATE[True], ROUNDS * STEPS[True])


@cache
def found_at(name: str) -> data.Records:
    """A publisher's sentences that have a label."""
    loaded = federation_file.load(HERE)
    source = loaded.data[name].model_copy(update={"labelled": None, "unlabelled": "drop"})
    return data.load(source, loaded.folder, loaded.file.task.labels)


def perform(cell: Cell) -> dict[str, Any]:
    """Accuracy on what is held out, and what the soft labels were worth, round by round."""
    torch.set_num_threads(1)
    began = time.process_time()
    loaded = federation_file.load(HERE)
    adapter = ADAPTERS[cell.kind]
    shared = Turned.load(loaded.file.model, loaded.folder, loaded.file.task.task(), adapter)
    shared.cell, shared.told = cell, []
    members, shared.truth, held_out = records_of(cell, loaded)
    policy = policies.load(loaded.folder / loaded.file.policy)
    layout, begun = layout_digest(shared.layout), state_digest(shared.initial())
    first = FirstState(shared.model, shared.dimension, layout=layout, start=begun)
    drawn = plan_of(loaded, policy, RunId(bytes(16)), first, None)
    soft = SoftLabels(WEIGHT, TEMPERATURE, FIRST, LAST, ROUNDS)
    silent = replace(soft, temperature=Fraction(100), first=Fraction(1), last=Fraction(1))  # nothing is ever so sure
    rate, optimizer = cell.chosen or RATES[cell.kind, cell.private]
    event = PoissonGaussian(RATE[cell.private], noise(), STEPS[cell.private])
    learning = Learning(event, CLIP, int(RECORDS * event.sampling_rate), rate, optimizer, TOKENS, 64, loss=soft)
    if not cell.soft:
        learning = replace(learning, loss=silent)
    state = shared.initial()
    curve = [shared.evaluate(state, held_out, TOKENS).accuracy]
    for number in range(1, ROUNDS + 1):
        plan = replace(drawn, adapter=adapter, learning=learning, round=number, dimension=shared.dimension)
        shared.threshold = float(soft.threshold(number))
        before = np.frombuffer(state, "<f4").astype(np.float64)
        changes = []
        for name, records in members.items():
            if cell.private:
                changes.append(shared.train(plan, state, records, repeatable(f"{cell.seed} {number} {name}")).values)
            else:
                label = int(share(f"{cell.seed} {number}", name) * 2**32)
                after = shared.train_without_privacy(plan, state, records, label)
                changes.append(np.frombuffer(after, "<f4").astype(np.float64) - before)
        state = (before + np.mean(changes, axis=0)).astype("<f4").tobytes()
        curve.append(shared.evaluate(state, held_out, TOKENS).accuracy)
    told, size = shared.told, len(members)
    rounds = [tuple(map(sum, zip(*told[i : i + size], strict=True))) for i in range(0, len(told), size)]
    labels = {
        "soft_right": [round(right / total, 4) for total, right, _, _ in rounds],
        "sure": [round(sure / total, 4) for total, _, sure, _ in rounds],
        "sure_right": [round(both / sure, 4) if sure else None for _, _, sure, both in rounds],
    }
    return {
        "arm": cell.arm, "seed": cell.seed, "accuracy": [round(each, 4) for each in curve],
        **(labels if cell.soft else {}), "learning_rate": str(rate), "optimizer": optimizer,
        "noise": float(noise()) if cell.private else None, "held_out": len(held_out),
        "cpu_s": round(time.process_time() - began, 1),
    }  # fmt: skip


def measured_bytes() -> dict[str, Any]:
    """Two federations, masked, whole, one round each: what their members' receipts say was sent."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        policy = yaml.safe_load((HERE.parent / "../../policies/publishers.yaml").read_text())
        policy["training"] |= {
            "adapters": ["lora", "full"], "modules": ["query", "value", "encoder.layer"],
            "noise_multiplier": {"at_least": 0.5},
        }  # fmt: skip
        (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
        for kind, adapter in ADAPTERS.items():
            file = yaml.safe_load(HERE.read_text())
            file["policy"], file["data"]["limit"] = "policy.yaml", 60
            file["adapter"] = {"kind": adapter.kind.value, "targets": list(adapter.targets), "rank": adapter.rank,
                               "alpha": adapter.alpha, "seed": adapter.seed}  # fmt: skip
            del file["training"]["epsilon"]
            file["training"] |= {"rounds": 1, "steps": 1, "max_tokens": 16, "noise_multiplier": 1}
            for member in file["members"]:
                member["data"]["file"] = str((HERE.parent / member["data"]["file"]).resolve())
            (folder / f"{kind}.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
            result = federation.run(
                federation_file.load(folder / f"{kind}.yaml"), folder / f"{kind}-run", sites=folder / f"{kind}-sites"
            )
            assert result.outcome == "finished", result.why
            (one,) = result.report["rounds"]
            found[kind] = {"up": one["bytes_up"], "down": one["bytes_down"]}
    for way in ("up", "down"):
        found[f"ratio_{way}"] = round(found["full"][way] / found["lora"][way], 1)
    return found


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval (Student's t) over seeds."""
    found = spread(values)
    assert found is not None, "there is a seed"
    low, high = (None if each is None else round(each, 4) for each in (found.low, found.high))
    return {"mean": round(found.mean, 4), "low": low, "high": high, "by_seed": [round(each, 4) for each in values]}


def summary(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Arms, paired differences, soft labels and robustness."""
    last = {(run["arm"], run["seed"]): run["accuracy"][-1] for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    arms = [arm for arm in dict.fromkeys(run["arm"] for run in runs) if all((arm, seed) in last for seed in seeds)]
    yield "start", round(statistics.fmean(run["accuracy"][0] for run in runs), 4)
    yield "arms", {arm: interval([last[arm, seed] for seed in seeds]) for arm in arms}

    def change(one: Cell, other: Cell) -> list[float] | None:
        if one.arm not in arms or other.arm not in arms:
            return None
        return [last[one.arm, seed] - last[other.arm, seed] for seed in seeds]

    def spanned(values: list[float] | None) -> dict[str, Any] | str:
        return "not run for every seed" if values is None else interval(values)

    pairs = {}
    for kind, private in RATES:
        own, soft = (Cell(kind, each, private, 0) for each in (False, True))
        pairs[f"{kind}, {WHERE[private]}: soft labels less own labels"] = spanned(change(soft, own))
    for each in (False, True):
        lora, full = (Cell(kind, each, False, 0) for kind in ADAPTERS)
        pairs[f"{'own and soft' if each else 'own'} labels, without privacy: lora less full"] = spanned(
            change(lora, full)
        )
    for kind, private in RATES:
        for each in (False, True):
            arm = Cell(kind, each, private, 0).arm
            pairs[f"{arm}: end less start"] = spanned(
                [run["accuracy"][-1] - run["accuracy"][0] for run in runs if run["arm"] == arm] if arm in arms else None
            )
    yield "paired", pairs
    drops = {}
    for percent in FLIPS:
        lost = {
            kind: change(Cell(kind, True, False, 0), Cell(kind, True, False, 0, percent)) for kind in ADAPTERS
        }  # fmt: skip
        for kind, each in lost.items():
            drops[f"{kind}, {percent} % flipped"] = spanned(each)
        lora, full = lost["lora"], lost["full"]
        more = None if lora is None or full is None else [b - a for a, b in zip(lora, full, strict=True)]
        drops[f"full less lora, {percent} % flipped"] = spanned(more)
    yield "drop", drops
    rises = {
        arm: interval([run["soft_right"][-1] - run["soft_right"][0] for run in runs if run["arm"] == arm])
        for arm in arms
        if any("soft_right" in run for run in runs if run["arm"] == arm)
    }
    yield "soft_label_accuracy_last_less_first_round", rises


def cells(seeds: int) -> list[Cell]:
    """All runs: an arm is told of once all of its seeds are there, so the plainest come first."""
    every = range(1, seeds + 1)
    plain = [Cell(kind, soft, private, seed) for kind, private in RATES for soft in (False, True) for seed in every]
    return [*plain, *(Cell(kind, True, False, seed, each) for each in FLIPS for kind in ADAPTERS for seed in every)]


def tuning() -> list[Cell]:
    """Learning rates and optimizers, on a seed that no figure is from."""
    grid = {
        ("lora", False): ((Fraction(1, 500), "adamw"), (Fraction(1, 150), "adamw")),
        ("full", False): ((Fraction(1, 10000), "adamw"),),
        ("lora", True): tuple((rate, "sgd") for rate in (Fraction(1, 40), Fraction(1, 6), Fraction(1, 3))),
    }
    return [
        Cell(kind, True, private, 100, chosen=each) for (kind, private), every in grid.items() for each in every
    ]  # fmt: skip


def draw(runs: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Round by round: the share of right soft labels, and accuracy on what is held out; a line is a mean over seeds."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, places = plt.subplots(1, 2, figsize=(11, 4))
    for name, what, place in (("soft_right", "right soft labels", places[0]), ("accuracy", "held-out", places[1])):
        for kind, private in RATES:
            color = {"lora": "#1f5fa8", "full": "#b8541a"}[kind]
            for soft, style in ((True, "-"), (False, ":")):
                arm = Cell(kind, soft, private, 0).arm
                found = np.array([run[name] for run in runs if run["arm"] == arm and name in run])
                if not len(found):
                    continue
                rounds = np.arange(found.shape[1]) + (name == "soft_right")
                shade = "#6fa8dc" if private else color
                place.fill_between(rounds, found.min(0), found.max(0), color=shade, alpha=0.12, linewidth=0)
                place.plot(rounds, found.mean(0), style, color=shade, label=arm)
        place.set_xlabel("round" if name == "soft_right" else "rounds done")
        place.set_ylabel(f"share: {what}")
    figure.legend(
        *places[1].get_legend_handles_labels(), loc="upper center", ncols=3, fontsize=7, bbox_to_anchor=(0.5, 0)
    )
    figure.suptitle(
        "LP-FL-style: soft labels of the broadcast model, and what members learn (bands: all seeds)", fontsize=10
    )
    figure.savefig(out, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> int:
    """Print the result as JSON; 0 if the soft labels rose and the bytes are a hundredth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--done", type=Path, help="what this printed on stderr before: not run again")
    parser.add_argument("--finish", action="store_true", help="run no more: sum up what is done")
    parser.add_argument("--plot", type=Path, default=Path("audits/utility/lpfl.png"))
    parser.add_argument("--bytes", action="store_true", help="nothing but the bytes")
    given = parser.parse_args()
    if given.bytes:
        print(json.dumps({"bytes": measured_bytes()}))
        return 0
    torch.set_num_threads(1)  # before it forks
    lines = [json.loads(line) for line in given.done.read_text().splitlines()] if given.done else []
    runs = [line for line in lines if "arm" in line]
    done = {(run["arm"], run["seed"]) for run in runs}
    todo = [] if given.finish else [cell for cell in cells(given.seeds) if (cell.arm, cell.seed) not in done]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("fork")) as pool:
        for ended in as_completed([pool.submit(perform, cell) for cell in (tuning() if given.tune else todo)]):
            run = ended.result()
            print(json.dumps(run), file=sys.stderr, flush=True)
            runs.append(run)
    if given.tune:
        return 0
    sent = next((line["bytes"] for line in lines if "bytes" in line), None) or measured_bytes()
    runs.sort(key=lambda run: (run["arm"], run["seed"]))
    found = dict(summary(runs))
    rise = found["soft_label_accuracy_last_less_first_round"][Cell("lora", True, False, 0).arm]
    holds = {
        "bytes: full at least 100 times lora, both ways": min(sent["ratio_up"], sent["ratio_down"]) >= 100,
        "soft-label accuracy rises (lora, without privacy; 95 % interval above 0)": (rise["low"] or -1) > 0,
    }
    libraries = ("numpy", "torch", "transformers", "peft", "opacus", "dp-accounting")
    result = {
        "command": f"python -m audits.utility.lpfl {' '.join(sys.argv[1:])}".strip(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "machine": f"{os.cpu_count()} cores",
        "settings": {
            "members": 4, "records": RECORDS, "labelled": str(LABELLED), "rounds": ROUNDS,
            "clip of private steps": str(CLIP),
            "steps a round": {WHERE[private]: steps for private, steps in STEPS.items()},
            "sampling_rate": {WHERE[private]: str(rate) for private, rate in RATE.items()},
            "weight": str(WEIGHT), "tokens": TOKENS, "temperature": str(TEMPERATURE),
            "threshold": [str(FIRST), str(LAST)],
            "epsilon": EPSILON, "delta": DELTA, "model": "BERT-tiny",
            "learning rate, optimizer": {f"{kind}, {WHERE[private]}": [str(rate), optimizer]
                                         for (kind, private), (rate, optimizer) in RATES.items()},
            "adapters": {kind: asdict(adapter) for kind, adapter in ADAPTERS.items()},
        },
        "bytes": sent, **found, "holds": holds, "runs": runs,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    draw(runs, given.plot)
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
