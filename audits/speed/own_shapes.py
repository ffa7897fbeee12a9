"""What it costs that each record is computed in shapes of its own: a private step, beside padding together.

The arm `together` is how a step was taken before: its sample in parts of 64, padded to their longest record, head and
loss on single rows, norms and sum by ordinary reductions. The arm `own` is `step.private_gradient`. Both have the same
engine, weights, sample, noise and optimizer, and lengths as the airlines' messages have; they take turns in one process
on one thread, and a figure is the median of the paired ratios of CPU time.

    python -m audits.speed.own_shapes [--quick] [--turns N] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from audits.figures import figure, report
from securefl.terms import Adapter, Learning, PoissonGaussian
from securefl.training import step
from securefl.training.built import Built
from securefl.training.classifier import Classifier
from securefl.training.clipping import PrivateGradient, read
from securefl.training.engines.choose import wrap
from securefl.training.engines.engine import Engine
from securefl.training.model import assemble
from securefl.training.noise import ClippedSum, noised, poisson_sample, repeatable
from securefl.training.optimizers import optimizer_of
from securefl.training.shapes import Shapes
from tests.support import tiny_models

BAR = 1.10
MICRO = 64
MOST = 48
RATE = 16  # one record in so many is in a sample
WORDS = 1000
ONE = Fraction(1)
PER_MILLE = (  # of the airlines' messages that have 0, 1, 2 ... tokens
    0, 0, 0, 0, 0, 2, 5, 7, 10, 12, 12, 14, 14, 17, 17, 20, 17, 21, 22, 21, 20, 25, 24, 26, 26, 29, 31, 37, 37, 41, 41,
    50, 51, 52, 49, 41, 40, 30, 27, 24, 17, 14, 12, 9, 6, 6, 6, 5, 13,
)  # fmt: skip
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Setting:
    """A model, and how many records a site has: the largest and the second smallest airline's, or fewer."""

    name: str
    records: int
    turns: int = 7


SETTINGS = (
    Setting("BERT-tiny", 3032, 21),
    Setting("BERT-tiny", 1763, 21),
    Setting("BERT of MiniLM's size", 768),
    Setting("GPT-2 of MiniLM's size", 768),
    Setting("Llama of MiniLM's size", 768),
)
QUICK = (Setting("BERT-tiny", 960, 5),)


def encoder(name: str) -> nn.Module:
    """Random weights. BERT-tiny is 128 wide with 2 layers, MiniLM 384 with 6."""
    torch.manual_seed(0)
    size = {"vocab_size": WORDS, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    if name.startswith("GPT-2"):
        return GPT2Model(GPT2Config(vocab_size=WORDS, n_embd=384, n_layer=6, n_head=12))
    if name.startswith("Llama"):
        return LlamaModel(LlamaConfig(**size, intermediate_size=1536))
    if name == "BERT-tiny":
        size |= {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = BertConfig(**size, **DRY, intermediate_size=4 * size["hidden_size"])
    return BertModel(bert, add_pooling_layer=False)


def built(name: str) -> Built:
    """With the airlines' adapter, or one of rank 8 on a larger model."""
    targets = {"G": ("c_attn",), "L": ("q_proj", "v_proj")}.get(name[0], tiny_models.TARGETS["bert"])
    rank = 32 if name == "BERT-tiny" else 8
    made = assemble(encoder(name), tiny_models.tokenizer(), tiny_models.TASK, Adapter(targets, rank, 64, 1), name)
    made.model.train()
    return made


class Before(Classifier):
    """A head on single rows."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, labels)."""
        logits: torch.Tensor = self.head(self.pooled(ids, mask) - self.center)
        return logits


def drawn(count: int) -> step.Encoded:
    """Records with lengths as the airlines' messages have."""
    rand = np.random.default_rng(0)
    shares = np.array(PER_MILLE) / sum(PER_MILLE)
    lengths = rand.choice(len(PER_MILLE), size=count, p=shares)
    ids = tuple(tuple(rand.integers(1, WORDS, length).tolist()) for length in lengths)
    return step.Encoded(ids, tuple(rand.integers(0, 3, count).tolist()), 0, shapes=Shapes(MOST))


class Loose(Shapes):
    """As batches were padded before."""

    def padded(self, length: int) -> int:
        """No token more than the longest has."""
        return length


def together(
    engine: Engine, parameters: list[nn.Parameter], encoded: step.Encoded, sample: list[int]
) -> torch.Tensor:  # fmt: skip
    """The clipped sum as it was: the longest of a part decides how its records are padded."""
    loose = replace(encoded, shapes=Loose(MOST))
    order = sorted(sample, key=lambda i: len(encoded.ids[i]))
    total = torch.zeros(sum(each.numel() for each in parameters), dtype=torch.float64)
    for begin in range(0, len(order), MICRO):
        ids, mask, labels = loose.batch(order[begin : begin + MICRO])
        found = engine.gradients(
            parameters, lambda ids=ids, mask=mask, labels=labels: step.cross_entropy(engine(ids, mask), labels).sum()
        )
        flat = [each.reshape(len(each), -1) for each in found if each is not None]
        norms = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in flat]), dim=0
        )
        factors = (1 / norms.clamp(min=1e-300)).clamp(max=1.0)
        total += torch.cat([factors @ each.to(torch.float64) for each in flat])
    return total


def as_before(
    engine: Engine, parameters: list[nn.Parameter], encoded: step.Encoded, learning: Learning, turn: str
) -> PrivateGradient:  # fmt: skip
    """A noised gradient, padded together."""
    rand = repeatable(turn)
    sample = [int(i) for i in poisson_sample(rand, len(encoded.ids), learning.event.sampling_rate)]
    total = ClippedSum(together(engine, parameters, encoded, sample).numpy(), ONE)
    return read(learning, ONE, noised(total, learning.event, rand))


def now(
    engine: Engine, parameters: list[nn.Parameter], encoded: step.Encoded, learning: Learning, turn: str
) -> PrivateGradient:  # fmt: skip
    """A noised gradient, each record in its own shapes."""
    return step.private_gradient(engine, parameters, encoded, learning, ONE, repeatable(turn))


ARMS: dict[str, Callable[..., PrivateGradient]] = {"together": as_before, "own": now}


def ratio(setting: Setting) -> float:
    """The CPU time of `own` as a multiple of that of `together`: the median over turns."""
    learning = Learning(PoissonGaussian(ONE, Fraction(1, RATE), 1), ONE, 120, ONE, "sgd", MOST, MICRO)
    encoded, arms = drawn(setting.records), {}
    for name in ARMS:
        made = built(setting.name)
        if name == "together":
            made.model.__class__ = Before
        arms[name] = wrap(made.model), made.parameters, optimizer_of(made.parameters, learning)
    ratios = []
    for turn in range(setting.turns + 2):
        spent = {}
        for name in ("together", "own") if turn % 2 else ("own", "together"):
            engine, parameters, optimizer = arms[name]
            began = time.process_time()
            step.descend(optimizer, parameters, ARMS[name](engine, parameters, encoded, learning, str(turn)))
            spent[name] = time.process_time() - began
        ratios += [spent["own"] / spent["together"]] if turn >= 2 else []  # the first turns warm up
    return statistics.median(ratios)


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one small row, few turns")
    options.add_argument("--turns", type=int, help="of each row, instead of 21 and 7")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures = []
    for setting in QUICK if chosen.quick else SETTINGS:
        found = ratio(setting if chosen.turns is None else replace(setting, turns=chosen.turns))
        name = f"{setting.name}, samples of about {setting.records // RATE}: own shapes / padded together, CPU time"
        figures.append(figure(name, round(found, 3), f"<= {BAR}", found <= BAR))
        print(name, round(found, 3), file=sys.stderr, flush=True)
    return report(figures, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
