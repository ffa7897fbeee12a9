"""What it costs that each record is computed in shapes of its own: a step's clipped sum, beside padding together.

The arm `together` is how a sample was cut before: in parts of 64, padded to their longest record, norms and sum by
ordinary reductions. The arm `own` is `step.clipped_sum`. Both have the same engine, model and sample, lengths as the
airlines' messages have; they take turns in one process on one thread, and a figure is the median of the paired ratios
of CPU time. Noise and optimizer are left out: they are the same, and would only bring the ratio nearer to 1.

    python -m audits.speed.own_shapes [--quick] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from audits.figures import figure, report
from audits.speed import step as private
from securefl.training import step
from securefl.training.engines.choose import wrap
from securefl.training.engines.engine import Engine
from securefl.training.shapes import Shapes, copied

BAR = 1.10
MICRO = 64
MOST = 48
PER_MILLE = (  # of the airlines' messages that have 0, 1, 2 ... tokens
    0, 0, 0, 0, 0, 2, 5, 7, 10, 12, 12, 14, 14, 17, 17, 20, 17, 21, 22, 21, 20, 25, 24, 26, 26, 29, 31, 37, 37, 41, 41,
    50, 51, 52, 49, 41, 40, 30, 27, 24, 17, 14, 12, 9, 6, 6, 6, 5, 13,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A model and how many records a sample has."""

    family: str
    sample: int


SETTINGS = (
    Setting("bert-tiny", 190),
    Setting("bert-tiny", 110),
    Setting("bert", 48),
    Setting("gpt2", 48),
    Setting("llama", 48),
)
QUICK = (Setting("bert-tiny", 60),)


class Own(nn.Module):
    """An encoder and a linear head on the mean of a record's tokens."""

    def __init__(self, encoder: nn.Module, head: nn.Linear, *, copies: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.copies = encoder, head, copies

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, 3)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        logits: torch.Tensor = self.head(copied(mean))[:, 0] if self.copies else self.head(mean)
        return logits


def model(family: str, *, copies: bool) -> Own:
    """LoRA on queries and values as in `audits.speed.step`; BERT-tiny is 128 wide and has 2 layers."""
    if family != "bert-tiny":
        made = private.model(private.Setting(family, 0, 0, 8))
        return Own(made.encoder, made.head, copies=copies).train()
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    torch.manual_seed(0)
    encoder = BertModel(
        BertConfig(vocab_size=private.VOCABULARY, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        add_pooling_layer=False,
    )  # fmt: skip
    lora = LoraConfig(r=32, lora_alpha=64, target_modules=["query", "value", "attention.output.dense"])
    return Own(get_peft_model(encoder, lora), nn.Linear(128, 3), copies=copies).train()  # type: ignore[arg-type]


def drawn(count: int, turn: int) -> step.Encoded:
    """A sample with lengths as the airlines' messages have."""
    rand = np.random.default_rng(turn)
    shares = np.array(PER_MILLE) / sum(PER_MILLE)
    lengths = rand.choice(len(PER_MILLE), size=count, p=shares)
    ids = tuple(tuple(rand.integers(1, private.VOCABULARY, length).tolist()) for length in lengths)
    return step.Encoded(ids, tuple(rand.integers(0, 3, count).tolist()), 0, shapes=Shapes(MOST))


def together(engine: Engine, parameters: list[nn.Parameter], encoded: step.Encoded) -> torch.Tensor:
    """The clipped sum as it was: the longest of a part decides how its records are padded."""
    order = sorted(range(len(encoded.ids)), key=lambda i: len(encoded.ids[i]))
    total = torch.zeros(sum(each.numel() for each in parameters), dtype=torch.float64)
    for begin in range(0, len(order), MICRO):
        part = order[begin : begin + MICRO]
        lengths = np.array([len(encoded.ids[i]) for i in part])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, encoded.pad, dtype=np.int64)
        ids[mask] = np.concatenate([encoded.ids[i] for i in part])
        labels = torch.tensor([encoded.labels[i] for i in part])
        rows, shown = torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
        found = engine.gradients(
            parameters,
            lambda rows=rows, shown=shown, labels=labels: step.cross_entropy(engine(rows, shown), labels).sum(),
        )
        flat = [each.reshape(len(each), -1) for each in found if each is not None]
        norms = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in flat]), dim=0
        )
        factors = (1 / norms.clamp(min=1e-300)).clamp(max=1.0)
        total += torch.cat([factors @ each.to(torch.float64) for each in flat])
    return total


def ratio(setting: Setting, turns: int) -> float:
    """The CPU time of `own` as a multiple of that of `together`: the median over turns."""
    arms = {}
    for name in ("together", "own"):
        made = model(setting.family, copies=name == "own")
        arms[name] = (wrap(made), [each for each in made.parameters() if each.requires_grad])
    ratios = []
    for turn in range(turns + 2):
        encoded, spent = drawn(setting.sample, turn), {}
        for name in ("together", "own") if turn % 2 else ("own", "together"):
            engine, parameters = arms[name]
            began = time.process_time()
            if name == "own":
                step.clipped_sum(engine, parameters, encoded, range(setting.sample), MICRO, Fraction(1))
            else:
                together(engine, parameters, encoded)
            spent[name] = time.process_time() - began
        ratios += [spent["own"] / spent["together"]] if turn >= 2 else []  # the first turns warm up
    return statistics.median(ratios)


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one small row, few turns")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures = []
    for setting in QUICK if chosen.quick else SETTINGS:
        small = setting.family == "bert-tiny"
        found = ratio(setting, (5 if chosen.quick else 21) if small else 7)
        name = f"{setting.family}, {setting.sample} records: own shapes / padded together, CPU time"
        figures.append(figure(name, round(found, 3), f"<= {BAR}", found <= BAR))
    return report(figures, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
