"""An adapter's folder as a bench leaves it, of a model with one small layer: what PEFT loads, and the state beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from securefl.audit import adapter_files
from securefl.terms import AdapterRule, Plan, adapter_start
from securefl.terms.layout import Layout, Tensor

LAYER, RANK, WIDTH = "layer.query", 4, 4
INNER = f"base_model.model.{LAYER}"
LAYOUT = Layout(
    (
        Tensor(f"encoder.{INNER}.lora_B.default.weight", (2, RANK)),
        Tensor("head.bias", (2,)),
        Tensor("head.weight", (2, 1)),
    ),
    AdapterRule.B_ONLY,
)


def leave(plan: Plan, state: bytes, folder: Path) -> None:
    """The files of this state, which is ``LAYOUT``'s."""
    folder.mkdir(exist_ok=True)
    values = {name: np.frombuffer(state, "<f4")[place] for name, place in LAYOUT.places().items()}
    b, bias, weight = (values[each.name].reshape(each.shape) for each in LAYOUT.tensors)
    a = adapter_start.orthonormal(plan.adapter.seed, f"encoder.{INNER}.lora_A.default.weight", (RANK, WIDTH))
    tensors = {f"{INNER}.lora_A.weight": a, f"{INNER}.lora_B.weight": b}
    facts = {"base": plan.model.name, "labels": plan.task.labels, "pooling": plan.adapter.pooling.words}
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": plan.adapter.alpha, "use_rslora": False, "bias": "none",
        "base_model_name_or_path": plan.model.name, "target_modules": [LAYER], "init_lora_weights": True,
        "modules_to_save": None, "rank_pattern": {},
    }  # fmt: skip
    (folder / adapter_files.STATE).write_bytes(state)
    (folder / adapter_files.LAYOUT).write_text(adapter_files.layout_text(LAYOUT))
    (folder / adapter_files.FACTORS).write_bytes(save(tensors, {"format": "pt"}))
    (folder / adapter_files.HEAD).write_bytes(
        save({"weight": weight, "bias": bias + 1}, {"securefl": json.dumps(facts)})
    )
    (folder / adapter_files.CONFIG).write_text(json.dumps(config))
    (folder / adapter_files.LABELS).write_text(json.dumps(plan.task.labels))
