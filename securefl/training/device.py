"""Where a model computes, and in which precision: CUDA where there is one; the CPU is the default and complete.

On CUDA the frozen base is bfloat16, while norms, adapter and head are float32, so each record's gradient is float32.
`python -m audits.speed.cuda` measures the private step there; audits/speed/cuda.json is of one GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn


def best() -> torch.device:
    """Return what a run takes on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def base_type(device: torch.device) -> torch.dtype:
    """The precision of frozen weights there."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def place(model: nn.Module, device: torch.device, base: torch.dtype, moving: Iterable[nn.Parameter] = ()) -> None:
    """The model is on ``device``, what is frozen in it in ``base``; norms, LoRA and what can ever move stay float32.

    A norm computes in float32 and gives back what it received; PEFT's LoRA layers do the same.
    """
    if device.type == "cuda":  # what cannot repeat itself there is found by `invariance`, and refused
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    model.to(device)
    if base == torch.float32:
        return
    kept = {id(parameter) for parameter in moving}
    for name, module in model.named_modules():
        norm, adapter = "Norm" in type(module).__name__, "lora_" in name
        for parameter in module.parameters(recurse=False):
            if not (norm or adapter or parameter.requires_grad or id(parameter) in kept):
                parameter.data = parameter.data.to(base)
        if norm:
            module.__dict__["forward"] = partial(_in_float32, module.forward)


def _in_float32(norm: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - a module's forward
    out: torch.Tensor = norm(values.float())
    return out.to(values.dtype)
