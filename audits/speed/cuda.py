"""The private step on a GPU: in which shapes records are computed there, what one record can move, and what it costs.

On CUDA the frozen base is bfloat16. For each model: whether a record's clipped gradient is a function of that record
alone, bit for bit, in the shapes that preflight settles on; whether a whole step repeats itself; how far it is from the
CPU's float32; and the wall time of a step on both, in turns. Without a GPU it measures nothing, and says so.

    python -m audits.speed.cuda [--quick] [--json]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from audits.figures import figure, report
from audits.speed.own_shapes import drawn
from securefl.terms import Adapter, Learning, PoissonGaussian
from securefl.training import adapter_tensors, device, step
from securefl.training.noise import repeatable
from securefl.training.shapes import Shapes
from securefl.training.shared_model import SharedModel
from tests.support import tiny_models

MOST = 48
MICRO = 64
ONE = Fraction(1)
TURNS = 3
WORDS = 1000


@dataclass(frozen=True)
class Size:
    """A model's width, depth and heads, and how many records a site has, of which one in eight is in a step."""

    name: str
    width: int
    depth: int
    heads: int
    records: int


SIZES = (
    Size("BERT-tiny", 128, 2, 2, 1024),
    Size("BERT of MiniLM's size", 384, 6, 12, 512),
    Size("Llama of MiniLM's size", 384, 6, 12, 512),
)
QUICK = (Size("BERT-tiny", 128, 2, 2, 256),)


def encoder(size: Size) -> nn.Module:
    """Random weights, the same on every machine."""
    torch.manual_seed(0)
    same = {"vocab_size": WORDS, "hidden_size": size.width, "num_hidden_layers": size.depth}
    if size.name.startswith("Llama"):
        few = {"num_attention_heads": size.heads, "num_key_value_heads": 4}
        return LlamaModel(LlamaConfig(**same, **few, intermediate_size=4 * size.width))
    return BertModel(
        BertConfig(**same, num_attention_heads=size.heads, intermediate_size=4 * size.width), add_pooling_layer=False
    )


def loaded(size: Size, where: str, folder: Path) -> SharedModel:
    """The model with an adapter of rank 8, on this device."""
    targets = {"L": ("q_proj", "v_proj")}.get(size.name[0], tiny_models.TARGETS["bert"])
    with patch.object(device, "best", lambda: torch.device(where)):
        return SharedModel.load(str(folder), folder, tiny_models.TASK, Adapter(targets, 8, 16, 1))


def gradient(of: SharedModel, encoded: step.Encoded, sample: list[int]) -> np.ndarray:
    """The clipped sum of these records at the state that is loaded."""
    wrapped, parameters = of._wrapped, of._built.parameters  # noqa: SLF001 - the step's own parts, as a trainer has them
    return np.asarray(step.clipped_sum(wrapped, parameters, encoded, sample, MICRO, ONE).values)


def seconds(of: SharedModel, encoded: step.Encoded, learning: Learning, turn: int) -> float:
    """The wall time of one noised gradient; what a GPU still does is waited for."""
    began = time.perf_counter()
    step.private_gradient(of._wrapped, of._built.parameters, encoded, learning, ONE, repeatable(str(turn)))  # noqa: SLF001
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def alone_everywhere(of: SharedModel, encoded: step.Encoded, tries: int) -> tuple[float, int]:
    """The most that one record more moved the sum, and how often not by just its own part."""
    drawn_, most, inexact = np.random.default_rng(3), 0.0, 0
    for _ in range(tries):
        chosen = drawn_.permutation(len(encoded.ids))[: drawn_.integers(2, 70)].tolist()
        change = gradient(of, encoded, chosen) - gradient(of, encoded, chosen[:-1])
        most = max(most, float(np.linalg.norm(change)))
        inexact += not np.array_equal(change, gradient(of, encoded, chosen[-1:]))
    return most, inexact


def measured(size: Size, *, tries: int) -> Iterator[dict[str, object]]:
    """Every figure of one model."""
    learning = Learning(PoissonGaussian(ONE, Fraction(1, 8), 1), ONE, 120, ONE, "sgd", MOST, MICRO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder(size).save_pretrained(folder)
        tiny_models.tokenizer().save_pretrained(folder)
        models = {where: loaded(size, where, folder) for where in ("cpu", "cuda")}
    gpu = models["cuda"]
    base = gpu.initial()
    ordinary = (0.05 * np.random.default_rng(1).normal(size=gpu.dimension)).astype("<f4").tobytes()
    shapes = gpu.shapes(tiny_models.plan(gpu, max_tokens=MOST, micro_batch=MICRO), base, ordinary)
    encoded = replace(drawn(size.records), shapes=shapes)
    for of in models.values():
        adapter_tensors.load(of._built, ordinary)  # noqa: SLF001
    yield figure(f"{size.name}: rows a batch may have at the most", max(shapes.counts), ">= 1", True)
    most, inexact = alone_everywhere(gpu, encoded, tries)
    yield figure(f"{size.name}: most that one record moved the sum, clips", most, "<= 1 + 1e-9", most <= 1 + 1e-9)
    yield figure(f"{size.name}: of {tries} samples, moved by more than its own part", inexact, "0", inexact == 0)
    some = list(range(min(64, size.records)))
    first, again = gradient(gpu, encoded, some), gradient(gpu, encoded, some)
    same = bool(np.array_equal(first, again))
    yield figure(f"{size.name}: a step repeated gives the same bits", int(same), "1", same)
    there = gradient(models["cpu"], replace(encoded, shapes=Shapes(MOST)), some)
    apart = float(np.linalg.norm(first - there) / np.linalg.norm(there))
    yield figure(
        f"{size.name}: clipped sum, GPU with a bfloat16 base against CPU in float32", apart, "<= 0.1", apart <= 0.1
    )
    spent: dict[str, list[float]] = {"cpu": [], "cuda": []}
    for turn in range(TURNS + 1):
        for where, of in models.items():
            took = seconds(of, replace(encoded, shapes=shapes if where == "cuda" else Shapes(MOST)), learning, turn)
            spent[where] += [took] if turn else []
    ratio = statistics.median(cpu / cuda for cpu, cuda in zip(spent["cpu"], spent["cuda"], strict=True))
    yield figure(f"{size.name}: a step on the GPU, ms", 1e3 * statistics.median(spent["cuda"]), "> 0", True)
    yield figure(f"{size.name}: a step on this machine's CPU / on its GPU, wall time", ratio, "> 0", True)


def main() -> int:
    """0 if every figure holds, 1 if one does not, 2 where there is no GPU."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one small model")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here that this torch can use: nothing was measured", file=sys.stderr)
        return 2
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may not repeat itself
    warnings.simplefilter("ignore")
    print(torch.cuda.get_device_name(), file=sys.stderr, flush=True)
    figures = []
    for size in QUICK if chosen.quick else SIZES:
        for one in measured(size, tries=12):
            print(one["name"], one["value"], file=sys.stderr, flush=True)
            figures.append(one)
    return report(figures, as_json=chosen.json, beside=("torch", "transformers"), on=torch.cuda.get_device_name())


if __name__ == "__main__":
    raise SystemExit(main())
