"""What a private step costs beside an ordinary one: the same model, batch and optimizer, with and without privacy.

Arms take turns in one process on one thread; a figure is the median of the paired ratios of CPU time to the ordinary
step of the same turn (LoRA by PEFT, AdamW), so what else the machine does falls out. A private step is one backward
pass with a gradient for each record, clip, sum, noise from AES-256-CTR, and the same AdamW. Memory is the growth of a
process that does nothing else.

    python -m audits.speed.step [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from securefl.terms import PoissonGaussian
from securefl.training.engines.choose import wrap
from securefl.training.noise import ClippedSum, noised, repeatable
from securefl.training.step import clipped

BAR = 1.03
CLIP = Fraction(1)
VOCABULARY = 1000
ARMS = ("plain", "fast", "opacus", "ghost")


@dataclass(frozen=True)
class Setting:
    """One row of the table: a model of MiniLM's size (384 wide, 6 layers, 12 heads) and a batch."""

    family: str
    batch: int
    tokens: int
    rank: int

    def __str__(self) -> str:
        return f"{self.family} T={self.tokens} B={self.batch} r={self.rank}"


SETTINGS = (
    *(Setting("bert", batch, tokens, rank) for tokens, batch in ((32, 32), (128, 16)) for rank in (4, 8, 32)),
    Setting("gpt2", 8, 128, 8),
    Setting("llama", 8, 128, 8),
)
QUICK = (Setting("bert", 16, 32, 8),)


class Pooled(nn.Module):
    """An encoder and a linear head on the mean of its positions."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(384, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, 3)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head(hidden.mean(1))


def model(setting: Setting) -> Pooled:
    """LoRA on queries and values, random weights; the same at every call."""
    torch.manual_seed(0)
    if setting.family == "bert":
        encoder: nn.Module = BertModel(
            BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=384,
                num_hidden_layers=6,
                num_attention_heads=12,
                intermediate_size=1536,
            ),
            add_pooling_layer=False,
        )
        targets = ["query", "value"]
    elif setting.family == "gpt2":
        encoder = GPT2Model(GPT2Config(vocab_size=VOCABULARY, n_embd=384, n_layer=6, n_head=12))
        targets = ["c_attn"]
    else:
        encoder = LlamaModel(
            LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                num_key_value_heads=4, intermediate_size=1024,
            )
        )  # fmt: skip
        targets = ["q_proj", "v_proj"]
    encoder.config.use_cache = False
    lora = LoraConfig(r=setting.rank, lora_alpha=2 * setting.rank, target_modules=targets, lora_dropout=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Pooled(get_peft_model(encoder, lora)).train()
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made


def step(arm: str, setting: Setting) -> Callable[[], None]:
    """One step of an arm, to be called again and again."""
    made = model(setting)
    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (setting.batch, setting.tokens), generator=drawn)
    mask, labels = torch.ones_like(ids), torch.randint(0, 3, (setting.batch,), generator=drawn)
    parameters = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    losses = nn.CrossEntropyLoss(reduction="none")
    if arm == "plain":

        def plain() -> None:
            optimizer.zero_grad()
            losses(made(ids, mask), labels).mean().backward()
            optimizer.step()

        return plain
    if arm == "ghost":
        return _ghost(made, optimizer, ids, mask, labels)
    engine = wrap(made, arm)
    event, rand = PoissonGaussian(Fraction(1), Fraction(1), 1), repeatable("speed")

    def private() -> None:
        gradients = engine.gradients(parameters, lambda: losses(engine(ids, mask), labels).sum())
        total = clipped([each for each in gradients if each is not None], float(CLIP)).numpy()
        values = noised(ClippedSum(total, CLIP), event, rand).values / setting.batch
        parts = torch.split(torch.from_numpy(values.astype(np.float32)), [each.numel() for each in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()

    return private


def _ghost(
    made: nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """Opacus's ghost clipping: norms in a first backward pass, the clipped sum in a second."""
    wrapped = GradSampleModuleFastGradientClipping(made, max_grad_norm=1.0, use_ghost_clipping=True)
    private = DPOptimizerFastGradientClipping(
        optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(ids)
    )
    criterion = DPLossFastGradientClipping(wrapped, private, nn.CrossEntropyLoss(reduction="mean"))

    def ghost() -> None:
        private.zero_grad()
        criterion(wrapped(ids, mask), labels).backward()
        private.step()

    return ghost


def ratios(setting: Setting, turns: int) -> dict[str, float]:
    """Each arm's CPU time as a multiple of the ordinary step's: the median over turns."""
    steps = {arm: step(arm, setting) for arm in ARMS}
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(turns + 2):
        spent = {}
        for place in range(len(ARMS)):
            arm = ARMS[(turn + place) % len(ARMS)]
            began = time.process_time()
            steps[arm]()
            spent[arm] = time.process_time() - began
        if turn >= 2:  # the first turns warm up
            for arm in ARMS:
                found[arm].append(spent[arm] / spent["plain"])
    return {arm: statistics.median(values) for arm, values in found.items()}


def memory(arm: str, setting: Setting) -> float:
    """MiB by which three steps of one arm lift a fresh process."""
    done = subprocess.run(  # noqa: S603 - this file itself
        [sys.executable, "-m", "audits.speed.step", "--grow", arm, json.dumps(vars(setting))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def grow(arm: str, setting: Setting) -> float:
    """In this process: the peak after three steps less the peak before the first."""
    made = step(arm, setting)
    before = _peak()
    for _ in range(3):
        made()
    return _peak() - before


def _peak() -> float:
    """MiB this process held at the most: of its own memory map, for a child's ``ru_maxrss`` begins at its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> int:
    """All rows; 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small row, few turns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=None)
    parser.add_argument("--grow", nargs=2, metavar=("ARM", "SETTING"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.grow:
        print(grow(given.grow[0], Setting(**json.loads(given.grow[1]))))
        return 0
    figures: list[dict[str, Any]] = []
    for setting in QUICK if given.quick else SETTINGS:
        turns = given.turns or (5 if given.quick else 15)
        for arm, ratio in ratios(setting, turns).items():
            if arm == "plain":
                continue
            bar = BAR if arm == "fast" else None
            holds = ratio <= BAR if arm == "fast" else True
            figures.append({"name": f"{setting}: {arm} / plain", "value": round(ratio, 3), "bar": bar, "holds": holds})
            if not given.json:
                print(f"{setting!s:<24}{arm:<8}{ratio:.3f}{'' if holds else f'  above {BAR}'}", flush=True)
    if not given.quick:
        for arm in ARMS:
            grown = memory(arm, SETTINGS[4])
            figures.append(
                {"name": f"{SETTINGS[4]}: {arm}, MiB grown", "value": round(grown), "bar": None, "holds": True}
            )
            if not given.json:
                print(f"{SETTINGS[4]!s:<24}{arm:<8}{grown:.0f} MiB", flush=True)
    if given.json:
        command = "python -m audits.speed.step --json" + (" --quick" if given.quick else "")
        names = ("torch", "transformers", "peft", "opacus", "numpy")
        print(
            json.dumps(
                {"figures": figures, "command": command, "versions": {name: version(name) for name in names}}, indent=1
            )
        )
    return 0 if all(figure["holds"] for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
