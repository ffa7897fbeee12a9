"""Before a record is read: does this model give one gradient per record, and nothing but its own?

Run on synthetic text. What fails is refused with the tensor, its layer and the fix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Learning, Loss, PoissonGaussian, PseudoLabels, SoftLabels
from securefl.terms.records import UNKNOWN
from securefl.training import pseudo_labels, step
from securefl.training.built import Built
from securefl.training.engines.engine import Engine, Uneven, backward, forget
from securefl.training.losses import taught
from securefl.training.noise import gaussian, repeatable
from securefl.training.step import Encoded, Losses, cross_entropy, per_record_gradients

TEXTS = (
    "the flight was late and nobody told us",
    "thank you",
    "when does the desk at gate twelve open tomorrow morning before the first departure",
    "no",
    "my bag has not arrived, number 4711",
)
ALL = range(len(TEXTS))
TOLERANCE = 1e-4  # relative, against a record-at-a-time loop
COUPLING = 1e-5  # relative change of one record's gradient when another record changes or is removed
SMALL = 1e-2  # share of a record's whole gradient; a tensor's part below it is held against that share: it is rounding
ROUNDING = 5e-2  # instead of both, where a bfloat16 base meets another shape of batch
UNCOUPLE = "find what couples records: batch statistics, routing, packing, a loss that is averaged over the batch"


def check(
    built: Built, wrapped: Engine, encode: Callable[[tuple[str, ...], tuple[int, ...]], Encoded], labels: int,
    losses: Losses = cross_entropy,
) -> None:  # fmt: skip
    """Check that every record has a gradient of its own, and leave the model as it was.

    Raises:
        OperatorFault: naming the first tensor for which this does not hold.
    """
    encoded = encode(TEXTS, tuple(i % labels for i in ALL))
    before = {name: tensor.detach().clone() for name, tensor in built.model.state_dict().items()}
    _off_zero([parameter for _, parameter in built.stateful])
    try:
        together = _gradients(built, wrapped, encoded, list(ALL), losses)
        _uncoupled(built, wrapped, encoded, together, losses)
        _apart_from_the_absent(built, wrapped, encoded, together, losses)
        _equal_to_a_loop(built, encoded, together, losses)
        _moves(built, wrapped, encoded, losses)
    finally:
        built.model.load_state_dict(before)
        forget(built.parameters)


def with_answers(plain: Encoded, loss: Loss, labels: int) -> Encoded:
    """Synthetic records, with made-up answers of a broadcast model where the loss asks for them."""
    if not taught(loss):
        return plain
    if isinstance(loss, SoftLabels):  # every second record has no label
        plain = replace(plain, labels=tuple(y if n % 2 else UNKNOWN for n, y in enumerate(plain.labels)))
    said = 8 * torch.sin(torch.arange(1.0, 1 + len(plain.ids) * labels)).view(len(plain.ids), -1)
    if isinstance(loss, PseudoLabels):
        said = pseudo_labels.answers(loss, loss.first, said, said)
    return replace(plain, teacher=said)


def _off_zero(parameters: list[nn.Parameter]) -> None:
    """At zero, B's and the head's gradients hide mistakes: check at a point that is not."""
    rand = repeatable("preflight")
    with torch.no_grad():
        for parameter in parameters:
            drawn = 0.05 * gaussian(rand, parameter.numel())
            parameter.add_(torch.from_numpy(drawn.astype(np.float32)).view_as(parameter).to(parameter))


def _gradients(
    built: Built, wrapped: Engine, encoded: Encoded, indices: list[int], losses: Losses
) -> list[torch.Tensor]:
    """Per tensor: (records, *shape)."""
    batch = encoded.batch(indices)
    if len(batch[0]) != len(indices):
        what = f"the collator makes {len(batch[0])} rows of {len(indices)} records"
        raise OperatorFault(what, "let it pad, one record a row")
    try:
        found = per_record_gradients(wrapped, built.parameters, batch, losses)
    except Uneven as fault:
        name = next(name for name, each in built.trainable if each is fault.parameter)
        what = f"{_layer(built, name)} is used on {fault.rows[0]} rows and on {fault.rows[1]} of {len(indices)} records"
        even = ", ".join(_even_layers(built, batch)) or "none"
        raise OperatorFault(
            what, f"leave it out of the targets; layers with one row for each record: {even}"
        ) from fault
    for (name, parameter), gradient in zip(built.trainable, found, strict=True):
        if getattr(gradient, "shape", None) != (len(indices), *parameter.shape):
            what = f"{_layer(built, name)} has no gradient for each of {len(indices)} records"
            raise OperatorFault(what, "leave it out of the targets, or turn off what recomputes or replaces its layer")
    return found


def _even_layers(built: Built, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> list[str]:
    """The names that targets may have, of linear layers that are run on one row for each record and nothing else."""
    seen: dict[str, set[int]] = {}

    def looking(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, given: seen.setdefault(name, set()).update(each.shape[0] for each in given[:1])

    named = [(name, each) for name, each in built.model.encoder.named_modules() if isinstance(each, nn.Linear)]
    hooks = [each.register_forward_pre_hook(looking(name)) for name, each in named if "lora_" not in name]
    try:
        with torch.no_grad():
            built.model(*(each.to(built.parameters[0].device) for each in batch[:2]))
    finally:
        for hook in hooks:
            hook.remove()
    rows: dict[str, set[int]] = {}
    for name, sizes in seen.items():
        rows.setdefault(name.removesuffix(".base_layer").rpartition(".")[2], set()).update(sizes)
    return sorted(name for name, sizes in rows.items() if sizes == {len(batch[0])})


def _uncoupled(built: Built, wrapped: Engine, encoded: Encoded, together: list[torch.Tensor], losses: Losses) -> None:
    """The last record becomes another one: of another length, with another label."""
    last = len(TEXTS) - 1
    labels = (
        *encoded.labels[:last],
        next((label for label in encoded.labels if label != encoded.labels[last]), encoded.labels[last]),
    )
    teacher = encoded.teacher if encoded.teacher is None else encoded.teacher[[*range(last), 1]]
    changed = replace(encoded, ids=(*encoded.ids[:last], encoded.ids[1]), labels=labels, teacher=teacher)
    others, least = _gradients(built, wrapped, changed, list(ALL), losses), _least(together)
    for (name, _), batch, other in zip(built.trainable, together, others, strict=True):
        for record in range(last):
            if not _apart(batch[record], other[record], least[record]) <= COUPLING:  # NaN is refused too
                what = f"{_layer(built, name)}: record {record}'s gradient changes with another record"
                raise OperatorFault(what, UNCOUPLE)


def _apart_from_the_absent(
    built: Built, wrapped: Engine, encoded: Encoded, together: list[torch.Tensor], losses: Losses
) -> None:
    """One record is left out: the last, then the longest, so that the padding is another too."""
    limit, least = _rounding(built, COUPLING), _least(together)
    for absent in (len(TEXTS) - 1, max(ALL, key=lambda i: len(encoded.ids[i]))):
        rest = [i for i in ALL if i != absent]
        others = _gradients(built, wrapped, encoded, rest, losses)
        for (name, _), batch, other in zip(built.trainable, together, others, strict=True):
            for place, record in enumerate(rest):
                if not _apart(batch[record], other[place], least[record]) <= limit:
                    what = f"{_layer(built, name)}: record {record}'s gradient changes when another record is removed"
                    raise OperatorFault(what, UNCOUPLE)


def _equal_to_a_loop(built: Built, encoded: Encoded, together: list[torch.Tensor], losses: Losses) -> None:
    """Against one plain backward pass for each record, without the engine."""
    limit, least = _rounding(built, TOLERANCE), _least(together)
    for record in ALL:
        ids, mask, labels = (each.to(built.parameters[0].device) for each in encoded.batch([record]))
        forget(built.parameters)
        backward(losses(built.model(ids, mask), labels).sum())
        for (name, parameter), batch in zip(built.trainable, together, strict=True):
            if parameter.grad is None or not _apart(batch[record], parameter.grad, least[record]) <= limit:
                what = f"{_layer(built, name)}: record {record}'s gradient in a batch is not the one it has alone"
                raise OperatorFault(what, UNCOUPLE)


def _rounding(built: Built, limit: float) -> float:
    """The limit for batches of different shapes: a narrow base rounds them differently."""
    exact = all(parameter.dtype in (torch.float32, torch.float64) for parameter in built.model.parameters())
    return limit if exact else ROUNDING


def _moves(built: Built, wrapped: Engine, encoded: Encoded, losses: Losses) -> None:
    """After one real step, noise and all, the trainable tensors have moved and nothing else has."""
    one = Fraction(1)
    learning = Learning(PoissonGaussian(one, one, 1), one, len(TEXTS), one, "sgd", 64, 2)
    before = {name: tensor.detach().clone() for name, tensor in built.model.state_dict().items()}
    step.run(wrapped, built.parameters, encoded, learning, repeatable("preflight step"), losses=losses)
    trained = {name for name, _ in built.trainable}
    for name, tensor in built.model.state_dict().items():
        if torch.equal(tensor, before[name]) == (name in trained):
            what = "is trained and did not move" if name in trained else "is frozen and moved"
            remedy = "find what holds or writes to it outside the optimizer"
            raise OperatorFault(f"{_layer(built, name)} {what}", remedy)


def _layer(built: Built, name: str) -> str:
    owner = built.model.get_submodule(name.rpartition(".")[0])
    return f"`{name}` ({type(owner).__name__})"


def _least(gradients: list[torch.Tensor]) -> list[float]:
    """For each record, the norm below which a tensor's part of its gradient is too small to be told from rounding."""
    squares = torch.stack([gradient.flatten(1).double().square().sum(1) for gradient in gradients])
    return [SMALL * float(whole) ** 0.5 for whole in squares.sum(0)]


def _apart(a: torch.Tensor, b: torch.Tensor, least: float) -> float:
    scale = max(float(a.norm()), float(b.norm()), least, 1e-12)
    return float((a - b).norm()) / scale
