"""What an engine is: a model around a model, whose backward pass leaves one gradient per record at every tensor.

A module whose trainable tensors are in no layer that an engine knows can deliver their gradients itself: it names them
in ``expands`` and calls ``expanded`` on each of them in its forward pass. That works under every engine.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.training.engines.refusals import refuse_packing


class Uneven(OperatorFault):
    """One tensor is used on other rows than the records'."""

    def __init__(self, parameter: nn.Parameter, rows: tuple[int, int]) -> None:
        what = f"one tensor of shape {tuple(parameter.shape)} is used on {rows[0]} rows and on {rows[1]}"
        super().__init__(what, "let every use of it have one row for each record")
        self.parameter, self.rows = parameter, rows


class Engine(nn.Module):
    """``inner``, called as ever: outside of ``gradients`` a backward pass gives ordinary gradients.

    The tensors that are trainable when an engine is made are the ones it serves: ``close`` it, and make another, when
    others become trainable.
    """

    name: ClassVar[str]
    inner: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self._expanded = [parameter for _, parameter in expanding(model)]

    def forward(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the model takes and gives
        """Return what the model gives.

        Raises:
            OperatorFault: several records stand in one row.
        """
        refuse_packing(named)
        return self.inner(*given, **named)

    def gradients(
        self, parameters: Sequence[nn.Parameter], loss: Callable[[], torch.Tensor]
    ) -> list[torch.Tensor | None]:
        """Each record's gradient of the summed ``loss``, per tensor: (batch, *shape), at least float32.

        ``None`` stands for a tensor that got none, or got a part of it where records cannot be told apart. What an
        earlier pass left behind, one that was interrupted or had no backward half, plays no part.
        """
        forget(parameters)
        self.on()
        self._mark(kept=True)
        try:
            backward(loss())
            return [self.collect(parameter) for parameter in parameters]
        finally:
            self._mark(kept=False)
            self.off()
            forget(parameters)

    def _mark(self, *, kept: bool) -> None:
        for parameter in self._expanded:
            parameter.kept_by_record = kept  # type: ignore[attr-defined]

    def collect(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """Return what the pass kept for this tensor."""
        found: torch.Tensor | None = getattr(parameter, "grad_sample", None)
        return None if found is None else at_least_float32(found)

    def close(self) -> None:
        """The model is as it was before it had an engine; this one is of no more use."""
        for parameter in self.inner.parameters():
            for mark in ("grad_sample", "kept_by_record"):
                parameter.__dict__.pop(mark, None)

    @abstractmethod
    def on(self) -> None:
        """Gradients are kept per record, and nothing of an earlier pass is left."""

    @abstractmethod
    def off(self) -> None:
        """Gradients are ordinary ones."""


def backward(loss: torch.Tensor) -> None:
    """Gradients of ``loss`` are at the tensors. The first layer's input needs none, and its hook fires all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]


def forget(parameters: Sequence[nn.Parameter]) -> None:
    """No gradient of any record is left at the tensors."""
    for parameter in parameters:
        parameter.grad = None
        parameter.grad_sample = None  # type: ignore[attr-defined]


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def keep(parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    """One more part of each record's gradient, (batch, *shape), stands at the tensor; parts of one pass add up.

    Raises:
        Uneven: two parts of one pass are for different numbers of records.
    """
    before: torch.Tensor | None = getattr(parameter, "grad_sample", None)
    if before is not None and before.shape != gradient.shape:
        raise Uneven(parameter, (len(before), len(gradient)))
    total = gradient if before is None else before + gradient
    parameter.grad_sample = total  # type: ignore[attr-defined]


def expanding(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainable tensors whose modules call ``expanded`` on them, with their names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        if parameter.requires_grad and last in getattr(model.get_submodule(path), "expands", ()):
            yield name, parameter


def expanded(parameter: nn.Parameter, batch: int) -> torch.Tensor:
    """The tensor once for each record, (batch, *shape); what flows back to a record's own copy is its gradient.

    Outside of an engine's ``gradients`` the tensor gets an ordinary gradient. To be read, not written into.
    """
    if getattr(parameter, "kept_by_record", False) and parameter.requires_grad and torch.is_grad_enabled():
        copies: torch.Tensor = _Expanded.apply(parameter, batch)  # type: ignore[no-untyped-call]
        return copies
    return parameter.unsqueeze(0).expand(batch, *parameter.shape)


class _Expanded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, batch: int) -> torch.Tensor:  # noqa: ANN401 - autograd's context
        """One copy for each record."""
        ctx.parameter = parameter
        return parameter.unsqueeze(0).expand(batch, *parameter.shape)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[None, None]:  # noqa: ANN401 - autograd's context
        """Each copy's gradient stays its own; the tensor gets none."""
        keep(ctx.parameter, at_least_float32(given[0]))
        return None, None
