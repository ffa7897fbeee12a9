"""One backward pass: where autograd would add a linear layer's weight gradient up over records, keep it apart.

The product that makes the gradient is the ordinary one, cut at the records, so it costs no more flops; hooks and second
passes are not needed, and recomputed activations (both kinds of gradient checkpointing) work.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from securefl.training.engines.engine import Engine, at_least_float32, expanding, keep


class Fast(Engine):
    """For models whose trainable tensors are all in ``nn.Linear``, or expanded by their own modules."""

    name = "fast"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _trained(layer)]

    def on(self) -> None:
        """The trained layers keep their gradients apart."""
        for layer in self._layers:
            layer.__dict__["forward"] = partial(_linear, layer)

    def off(self) -> None:
        """The trained layers are plain linear layers."""
        for layer in self._layers:
            layer.__dict__.pop("forward", None)

    def collect(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """Return what the pass kept; nothing for a tensor that was also used where it is not kept apart."""
        return None if parameter.grad is not None else super().collect(parameter)


def outside(model: nn.Module) -> str | None:
    """The first trainable tensor this engine cannot serve, by name."""
    own = {name for name, _ in expanding(model)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = model.get_submodule(name.rpartition(".")[0])
        plain = type(owner).forward is nn.Linear.forward and "forward" not in vars(owner)
        if parameter.requires_grad and name not in own and not plain:
            return name
    return None


def _trained(layer: nn.Linear) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return what the layer gives, (batch, ..., out); on the way back it keeps (batch, out, in) and (batch, out)."""
    if not torch.is_grad_enabled():
        return functional.linear(x, layer.weight, layer.bias)
    out: torch.Tensor = _Linear.apply(x, layer.weight, layer.bias, layer)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: nn.Linear,
    ) -> torch.Tensor:  # fmt: skip
        """Return what the layer gives: (batch, ..., out)."""
        ctx.save_for_backward(x, weight)
        ctx.layer = layer  # its own tensors, not what checkpointing saves in their place
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:  # noqa: ANN401
        """The gradient of ``x``; the layer's tensors get none, and their records' gradients are kept apart."""
        (back,) = given  # (batch, ..., out)
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        with torch.autocast(back.device.type, enabled=False):  # else a backward inside autocast would round again
            to_x = (back @ weight.to(back.dtype)).to(x.dtype) if needs_x else None
            if x.dim() >= 2:  # a tensor without rows has no records: the preflight finds its gradient missing
                rows = at_least_float32(back).reshape(len(back), -1, back.shape[-1])  # (batch, positions, out)
                if needs_weight:
                    values = at_least_float32(x).reshape(len(x), -1, x.shape[-1])  # (batch, positions, in)
                    keep(ctx.layer.weight, torch.bmm(rows.mT, values.to(rows.dtype)))
                if needs_bias:
                    keep(ctx.layer.bias, rows.sum(1))
        return to_x, None, None, None
