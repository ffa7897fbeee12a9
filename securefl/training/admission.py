"""Whether a plan can be trained on the model that is loaded here: said before a record is read or anything reserved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from securefl.errors import PeerFault
from securefl.terms import (
    Adapter,
    CrossEntropy,
    DistributedDiscreteGaussian,
    Hash,
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
    possible = (
        learning.optimizer in optimizers.NAMES,
        learning.micro_tokens is None or learning.micro_tokens >= learning.max_tokens,
        2**-64 <= learning.clip_l2 <= 2**64 and learning.learning_rate > 0,
        learning.divisor >= 1 and learning.micro_batch >= 1 and learning.max_tokens >= 1,
        here.longest is None or learning.max_tokens <= here.longest,
    )
    if not all(possible):
        raise Mismatch(f"no training here can do {learning} with a model of {here.longest} positions")


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
