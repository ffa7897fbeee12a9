"""What a federation below makes of its parent's plan: a run, and how its rounds train. An auditor derives the same."""

from __future__ import annotations

from dataclasses import replace

from securefl import wire
from securefl.errors import PeerFault
from securefl.terms import AdapterRule, Learning, MemberId, Plan, PseudoLabels, RunId, SoftLabels, Unit


def run_below(plan: Plan, name: MemberId) -> RunId:
    """The name of the run that member ``name`` makes of this plan of its parent."""
    return RunId(wire.digest("run-below", (wire.plan_hash(plan), name))[:16])


def learning_below(plan: Plan, rounds: int) -> Learning:
    """Return how a round inside trains: as the parent's plan says, its steps shared out among the rounds inside.

    So the parent's price covers all of them, for every record below.

    Raises:
        PeerFault: this plan cannot be trained by so many rounds inside.
    """
    event, learning = plan.learning.event, plan.learning
    if event.unit is Unit.CLIENT:
        raise PeerFault("unit client prices one member's update, and a federation's is of many: use unit record")
    if plan.adapter.rule not in (AdapterRule.B_ONLY, AdapterRule.BOTH):
        raise PeerFault(f"rule {plan.adapter.rule.value} counts rounds of one run: use b-only in a tree")
    if event.steps % rounds:
        raise PeerFault(f"{event.steps} steps do not make {rounds} equal rounds, and no more are paid for")
    if isinstance(learning.loss, SoftLabels):  # the schedule follows the parent's rounds
        threshold = learning.loss.threshold(plan.round)
        learning = replace(learning, loss=replace(learning.loss, first=threshold, last=threshold, rounds=1))
    if isinstance(learning.loss, PseudoLabels):
        first = 1 if plan.round >= learning.loss.first else rounds + 1  # from the first round inside, or not yet
        learning = replace(learning, loss=replace(learning.loss, first=first))
    return replace(learning, event=replace(event, steps=event.steps // rounds))
