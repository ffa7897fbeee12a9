"""What turns private gradients into steps. It is handed noised values and public constants, so it costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from securefl.terms import Learning

NAMES = ("sgd", "adamw", "adamw-bc")
FLOOR = 0.01  # of the noise's variance: noise alone moves a tensor at most 10 times as far as Adam would
LEAST = 1e-16  # below this no second moment is believed: Adam's eps, squared


def optimizer_of(parameters: Sequence[nn.Parameter], learning: Learning) -> torch.optim.Optimizer:
    """The plan's optimizer: fresh, so nothing of one round is carried into the next. No weight decay."""
    rate = float(learning.learning_rate)
    if learning.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    if learning.optimizer == "adamw-bc":
        return AdamBC(parameters, rate)
    assert learning.optimizer == "adamw", "a plan's optimizer was checked when it was read"
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)


def tell_noise(optimizer: torch.optim.Optimizer, deviation: float) -> None:
    """The optimizer knows the deviation of the noise in every value of the gradients that are at the tensors."""
    for group in optimizer.param_groups:
        group["noise_variance"] = deviation * deviation


class AdamBC(torch.optim.Optimizer):
    """Adam whose second moment is the signal's: the noise's own variance is subtracted (Tang et al. 2023, DP-AdamBC).

    A step is rate * m / sqrt(max(v - noise, floor)), with m, v and noise the debiased running means of the gradient,
    its square and the noise's variance. Without noise it is Adam. Moments are float64.
    """

    BETAS = (0.9, 0.999)

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"lr": rate, "noise_variance": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 - torch's signature
        """Every tensor with a gradient has moved by one step."""
        assert closure is None, "private gradients are not computed twice"
        first, second = self.BETAS
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, state = parameter.grad.to(torch.float64), self.state[parameter]
                if not state:
                    state.update(steps=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient), noise=0.0)
                state["steps"] += 1
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].lerp_(gradient * gradient, 1 - second)
                state["noise"] += (1 - second) * (group["noise_variance"] - state["noise"])
                noise = state["noise"] / (1 - second ** state["steps"])
                floor = max(FLOOR * noise, LEAST)
                mean = state["mean"] / (1 - first ** state["steps"])
                moved = group["lr"] * mean / self.signal(parameter).clamp(min=floor).sqrt()
                parameter.sub_(moved.to(parameter.dtype))

    def signal(self, parameter: nn.Parameter) -> torch.Tensor:
        """The second moment without the noise's part, before the floor: about 0 where there is only noise."""
        state = self.state[parameter]
        corrected: torch.Tensor = (state["square"] - state["noise"]) / (1 - self.BETAS[1] ** state["steps"])
        return corrected
