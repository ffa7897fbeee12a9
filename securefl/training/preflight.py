"""Before a record is read: does this model give one gradient per record, and nothing but its own?

Run on synthetic text. What fails is refused with the tensor, its layer and the fix.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.training.model import Built
from securefl.training.step import Encoded, per_record_gradients

TEXTS = (
    "the flight was late and nobody told us",
    "thank you",
    "when does the desk at gate twelve open tomorrow morning before the first departure",
    "no",
    "my bag has not arrived, number 4711",
)
TOLERANCE = 1e-4  # relative, against a record-at-a-time loop
COUPLING = 1e-5  # relative change of one record's gradient when another record changes

COUPLED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def wrap(model: nn.Module) -> nn.Module:
    """The model with Opacus's hooks: every trainable tensor gets ``grad_sample``.

    Raises:
        OperatorFault: a layer mixes records, or a trainable tensor belongs to no layer Opacus knows.
    """
    from opacus.grad_sample import GradSampleModule  # noqa: PLC0415

    for name, module in model.named_modules():
        if isinstance(module, COUPLED):
            raise OperatorFault(f"`{name}` is a {type(module).__name__}: it mixes records", "use a model with LayerNorm")
    known = {id(p) for kind in (nn.Linear, nn.LayerNorm) for m in model.modules() if isinstance(m, kind) for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            owner = model.get_submodule(name.rpartition(".")[0])
            what = f"the trainable tensor `{name}` belongs to a {type(owner).__name__}"
            raise OperatorFault(what, "freeze it, or use adapters whose tensors are linear layers (LoRA)")
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # frozen inputs need no gradient
    wrapped: nn.Module = GradSampleModule(model, loss_reduction="sum")
    return wrapped


def check(built: Built, wrapped: nn.Module, encode: Callable[[tuple[str, ...], tuple[int, ...]], Encoded], labels: int) -> None:
    """Nothing happens, and the model is as it was, if every record has a gradient of its own.

    Raises:
        OperatorFault: naming the first tensor for which this does not hold.
    """
    encoded = encode(TEXTS, tuple(i % labels for i in range(len(TEXTS))))
    parameters = [parameter for _, parameter in built.trainable]
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}
    _off_zero(parameters)
    try:
        together = _gradients(built, wrapped, encoded, list(range(len(TEXTS))))
        _equal_to_a_loop(built, wrapped, encoded, together)
        _uncoupled(built, wrapped, encoded, together)
        _moves(built, wrapped, before, together)
    finally:
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                parameter.copy_(before[name])
                parameter.grad = None


def _off_zero(parameters: list[nn.Parameter]) -> None:
    """At zero, B's and the head's gradients hide mistakes: check at a point that is not."""
    generator = torch.Generator().manual_seed(0)  # of a test point, not of noise
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def _gradients(built: Built, wrapped: nn.Module, encoded: Encoded, indices: list[int]) -> list[torch.Tensor]:
    """Per tensor: (records, numel)."""
    parameters = [parameter for _, parameter in built.trainable]
    try:
        flat = per_record_gradients(wrapped, parameters, encoded.batch(indices))
    except (AttributeError, ValueError, RuntimeError, TypeError):
        for name, parameter in built.trainable:
            found = getattr(parameter, "grad_sample", None)
            if not isinstance(found, torch.Tensor) or found.shape[:1] != (len(indices),):
                owner = type(wrapped.get_submodule("_module." + name.rpartition(".")[0])).__name__
                what = f"`{name}` ({owner}) has no gradient for each of {len(indices)} records"
                raise OperatorFault(what, "freeze it, or turn off what recomputes or replaces its layer") from None
        raise
    return list(torch.split(flat, [parameter.numel() for parameter in parameters], dim=1))


def _equal_to_a_loop(built: Built, wrapped: nn.Module, encoded: Encoded, together: list[torch.Tensor]) -> None:
    for record in range(len(TEXTS)):
        alone = _gradients(built, wrapped, encoded, [record])
        for (name, _), batch, one in zip(built.trainable, together, alone, strict=True):
            if _apart(batch[record], one[0]) > TOLERANCE:
                what = f"`{name}`: record {record}'s gradient in a batch is not the one it has alone"
                raise OperatorFault(what, "find what couples records: batch statistics, routing, packing, a batch-mean loss")


def _uncoupled(built: Built, wrapped: nn.Module, encoded: Encoded, together: list[torch.Tensor]) -> None:
    changed = Encoded((*encoded.ids[:-1], encoded.ids[0]), encoded.labels, encoded.pad)
    others = _gradients(built, wrapped, changed, list(range(len(TEXTS))))
    for (name, _), batch, other in zip(built.trainable, together, others, strict=True):
        for record in range(len(TEXTS) - 1):
            if _apart(batch[record], other[record]) > max(COUPLING, TOLERANCE / 10):
                what = f"`{name}`: record {record}'s gradient changes with another record"
                raise OperatorFault(what, "find what couples records: batch statistics, routing, packing, a batch-mean loss")


def _moves(built: Built, wrapped: nn.Module, before: dict[str, torch.Tensor], together: list[torch.Tensor]) -> None:
    trained = {f"_module.{name}" for name, _ in built.trainable}
    for (name, _), gradient in zip(built.trainable, together, strict=True):
        if not bool((gradient != 0).any()):
            raise OperatorFault(f"`{name}` never gets a gradient", "leave its layer out of the adapter's targets")
    for name, parameter in wrapped.named_parameters():
        if name not in trained and not torch.equal(parameter, before[name]):
            raise OperatorFault(f"the frozen tensor `{name}` moved", "find what writes to it during the forward pass")


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = max(float(a.norm()), float(b.norm()), 1e-12)
    return float((a - b).norm()) / scale
