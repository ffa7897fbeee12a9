"""Whether a plan can be trained on the model that is loaded here: said before a record is read or anything reserved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from securefl.errors import PeerFault
from securefl.shown import plain
from securefl.terms import (
    Adapter,
    CrossEntropy,
    DistributedDiscreteGaussian,
    Hash,
    Learning,
    Model,
    NotTrueDistillation,
    Plan,
    Sharing,
    Task,
)
from securefl.training import language, optimizers
from securefl.wire import layout_digest

if TYPE_CHECKING:
    from securefl.terms.layout import Layout


class Mismatch(PeerFault):
    """The plan is for another model, task or adapter than the one that is loaded here."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is loaded at a site."""

    model: Model
    task: Task
    adapter: Adapter
    layout: Layout
    start: Hash  # of the first state
    longest: int | None  # tokens that the model has positions for; None: any number
    taken: int  # tokens of a record that a prompt's pattern takes


def check(plan: Plan, here: Loaded) -> None:
    """Check that this plan is for what is loaded here, and asks what a training here can do.

    Raises:
        Mismatch: it is not, or does not; with what it says and what is here.
    """
    _check_names(plan, here)
    learning = plan.learning
    try:  # once more: what was built right can have been changed in memory
        replace(learning, event=replace(learning.event))
    except (ValueError, TypeError) as fault:
        raise Mismatch(f"the plan has no event that noise can be drawn for: {fault}") from fault
    if isinstance(learning.event, DistributedDiscreteGaussian) and plan.sharing != Sharing():
        raise Mismatch("an update noised where it leaves is shared whole and unweighted: its norm is priced")
    if here.task.kind == language.KIND and (learning.loss != CrossEntropy() or plan.sharing.weightings):
        raise Mismatch("a language model has no labels: no loss compares them, and no score of members does")
    compares_others = isinstance(learning.loss, NotTrueDistillation) and not learning.loss.true_label
    if compares_others and len(here.task.labels) < 3:
        raise Mismatch("of two labels, one is not the record's own: there is nothing to compare without it")
    if here.taken >= learning.max_tokens:
        raise Mismatch(f"max_tokens {learning.max_tokens} leaves no room for a text: the pattern takes {here.taken}")
    for wrong in _impossible(learning, here.longest):
        raise Mismatch(f"no training here can do this: {wrong}")


def _impossible(learning: Learning, longest: int | None) -> Iterator[str]:
    """Yield what a plan asks that no training can do: each field with its value and its bound."""
    if learning.optimizer not in optimizers.NAMES:
        yield f"optimizer {plain(learning.optimizer)}, which is none of {', '.join(optimizers.NAMES)}"
    if learning.micro_tokens is not None and learning.micro_tokens < learning.max_tokens:
        yield f"micro_tokens {learning.micro_tokens}, below max_tokens {learning.max_tokens}"
    if not 2**-64 <= learning.clip_l2 <= 2**64:
        yield f"clip_l2 {float(learning.clip_l2):.4g}, which is not from 2**-64 to 2**64"
    if learning.learning_rate <= 0:
        yield f"learning_rate {float(learning.learning_rate):.4g}, which is not above 0"
    for name in ("divisor", "micro_batch", "max_tokens"):
        if getattr(learning, name) < 1:
            yield f"{name} {getattr(learning, name)}, below 1"
    if longest is not None and learning.max_tokens > longest:
        yield f"max_tokens {learning.max_tokens}, of a model of {longest} positions"


def _check_names(plan: Plan, here: Loaded) -> None:
    for what, asked, has in (
        ("the base model's digest", plan.model.digest, here.model.digest),
        ("task", plan.task, here.task),
        ("adapter", plan.adapter, here.adapter),
        ("dimension", plan.dimension, here.layout.dimension(plan.round, plan.sharing)),
        ("the state's layout", plan.layout, layout_digest(here.layout)),
        ("the first state", plan.start if here.adapter.kind.starts_alike else here.start, here.start),
    ):
        if asked != has:
            said, found = (each.hex()[:16] if isinstance(each, bytes) else each for each in (asked, has))
            raise Mismatch(f"the plan's {what} is {said}; what is loaded here, {here.model.name}, has {found}")
