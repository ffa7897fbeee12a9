"""A coordinator makes one round of a run otherwise than the others, and one plan larger than a site will bear."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import check_of
from securefl import wire
from securefl.audit.verify import verify
from securefl.documents.site_parts import LimitsPart
from securefl.protocol import messages as m
from securefl.site.limits import Limits, bytes_beside_the_model
from securefl.terms import AdapterKind, Plan, Scheme
from tests.support import audited, worlds

MEMBER = "a"


class _Changed(audited.Story):
    """A run of which one round's plan is another; everybody pays what that one costs."""

    def __init__(self, number: int, how: Callable[[Plan], Plan]) -> None:
        super().__init__()
        self.number, self.how = number, how

    def plan(self, round_: int) -> Plan:
        plan = super().plan(round_)
        return self.how(plan) if round_ == self.number else plan


CHANGES: tuple[Callable[[Plan], Plan], ...] = (
    lambda plan: replace(plan, learning=replace(plan.learning, clip_l2=Fraction(1, 1000))),
    lambda plan: replace(plan, learning=replace(plan.learning, divisor=plan.learning.divisor * 40)),
    lambda plan: replace(plan, learning=replace(plan.learning, max_tokens=plan.learning.max_tokens + 1)),
    lambda plan: replace(plan, learning=replace(plan.learning, micro_batch=plan.learning.micro_batch + 1)),
    lambda plan: replace(plan, learning=replace(plan.learning, optimizer="adamw")),
    lambda plan: replace(plan, task=replace(plan.task, labels=plan.task.labels[::-1])),
    lambda plan: replace(plan, cover=replace(plan.cover, threshold=plan.cover.threshold + 1)),
    lambda plan: replace(plan, adapter=replace(plan.adapter, seed=plan.adapter.seed + 1)),
    lambda plan: replace(plan, adapter=replace(plan.adapter, kind=AdapterKind.RSLORA)),
)


def another_round(number: int, folder: Path) -> Outcome:
    """One round of three is trained under other terms; what a report says of the first plan would be false of it."""
    drawn = random.Random(f"terms {number}")  # noqa: S311 - trials that can be repeated
    story = _Changed(drawn.choice((2, 3)), CHANGES[number % len(CHANGES)])
    story.begin()
    for round_ in (1, 2, 3):
        story.round(round_)
    story.close()
    found = verify(story.export(folder / "run"))
    return Outcome(found.ok, check_of(found.why))


def more_than_it_bears(number: int, folder: Path) -> Outcome:
    """A plan is just within the memory that a site's document gives it, and its update takes more than that."""
    del folder
    scheme = (Scheme.MASKING, Scheme.CLEAR)[number % 2]
    world, peak = worlds.World(scheme=scheme, rounds=1, dimension=60_000 + number), list[int]()
    honest, asked = world.handle, list[Plan]()

    def handle(name: str, data: bytes) -> bytes:
        frame: m.Frame = wire.decode(data, m.Frame)
        if name != MEMBER or frame.envelope.receipt.kind != "Propose":
            return honest(name, data)
        asked.append(wire.decode(frame.envelope.body, m.Propose).plan)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        answer = honest(name, data)
        peak.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
        return answer

    world.handle = handle  # type: ignore[method-assign]
    end = world.play()
    assert end.outcome == "finished"
    plan = replace(asked[0], learning=replace(asked[0].learning, micro_batch=1))
    most = bytes_beside_the_model(plan)
    held = Limits(LimitsPart.model_validate({"memory": {"at_most": most}}), plan.learning.max_tokens)
    assert held.refusal(plan) is None
    return Outcome(peak[0] > most, "site.memory")


ATTEMPTS = (
    Attempt("a coordinator trains one round of a run under other terms", another_round),
    Attempt("a plan within a site's memory takes more of it", more_than_it_bears),
)
