"""Opacus (Yousefpour et al. 2021): hooks on every layer with a trainable tensor, and a rule for each kind of layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from securefl.training.engines.engine import Engine, expanding


class Opacus(Engine):
    """For models with other trainable layers than linear ones, as far as Opacus has a rule for them."""

    name = "opacus"
    hooked: Any  # opacus.grad_sample.GradSampleModule

    def __init__(self, model: nn.Module) -> None:
        from opacus.grad_sample import GradSampleModule  # noqa: PLC0415

        super().__init__(model)
        own = [parameter for _, parameter in expanding(model)]
        for parameter in own:  # no layer's rule is for them, so no hook is set on their modules
            parameter.requires_grad = False
        hooked = GradSampleModule(model, loss_reduction="sum")
        for parameter in own:
            parameter.requires_grad = True
        hooked.disable_hooks()
        self.__dict__["hooked"] = hooked  # not a submodule: ``inner`` is the model already

    def on(self) -> None:
        """The hooks work, and find nothing of an earlier pass."""
        self._clear()
        self.hooked.enable_hooks()

    def off(self) -> None:
        """The hooks do nothing."""
        self.hooked.disable_hooks()
        self._clear()

    def collect(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """Return what the hooks left; nothing where they left the parts of several passes."""
        found = getattr(parameter, "grad_sample", None)
        return super().collect(parameter) if isinstance(found, torch.Tensor) else None

    def close(self) -> None:
        """The hooks are gone."""
        self.hooked.cleanup()
        super().close()

    def _clear(self) -> None:
        for module in self.inner.modules():
            module.__dict__.pop("activations", None)
            module.__dict__.pop("max_batch_len", None)
        for parameter in self.inner.parameters():
            parameter._forward_counter = 0  # type: ignore[attr-defined]  # noqa: SLF001 - Opacus's own
            parameter.__dict__.pop("_current_grad_sample", None)
