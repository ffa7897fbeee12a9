"""Whether a task, an adapter and a strategy fit each other: one answer for a simulation, a coordinator and a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from securefl.terms import AdapterKind, AdapterRule, Pooling

if TYPE_CHECKING:
    from securefl.documents.strategy import StrategyPart
    from securefl.documents.task import AdapterPart, TaskPart


def misfits(task: TaskPart, adapter: AdapterPart, strategy: StrategyPart) -> Iterator[tuple[str, str]]:
    """Yield what of them cannot be trained together, and what would do."""
    kind, rule = adapter.kind, adapter.rule
    if rule is AdapterRule.ALTERNATING and strategy.momentum:
        what = "momentum with the rule alternating needs the state before last, which is not kept"
        yield what, "set strategy.momentum to 0, or use another rule"
    rests = kind.has_factors and rule in (AdapterRule.ALTERNATING, AdapterRule.SVD)
    if rests and (strategy.kind != "fedavg" or strategy.keeps):
        what = f"adapter.rule {rule.value} changes what its numbers mean from round to round"
        yield what, f"use b-only with {strategy.kind} and with own models"
    if strategy.average_last > 1 and rule is not AdapterRule.B_ONLY:
        what = f"the mean of states under adapter.rule {rule.value} is not that of the products BA"
        yield what, "leave strategy.average_last out, or use b-only"
    if strategy.loss.kind == "fedntd" and len(task.labels) < 3:
        yield "strategy.loss fedntd compares the labels a record does not have", "use fedlsd for two labels"
    if len(set(task.labels)) != len(task.labels):
        yield "a label stands twice", "write each once"
    strange = [each.label for each in strategy.probe if each.label not in task.labels]
    if strange:
        what = f"strategy.probe has the label {strange[0]}, which is none of {', '.join(task.labels)}"
        yield what, "write one of them"
    if task.kind != "classification":
        yield from _without_head(task, adapter, strategy)


def _without_head(task: TaskPart, adapter: AdapterPart, strategy: StrategyPart) -> Iterator[tuple[str, str]]:
    """Yield the same of tasks that train no head of their own."""
    kind = adapter.kind
    if task.kind == "prompt" and not kind.has_targets:
        what = f"task.kind prompt trains no head and reads a fixed gap, which kind {kind.value} has not"
        yield what, "use lora, rslora or bottleneck"
    if adapter.pooling is not Pooling.MEAN:
        yield f"adapter.pooling is what a head is shown, and task.kind {task.kind} has none", "leave it out"
    if task.kind != "language":
        return
    if kind not in (AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.FULL):
        yield f"adapter.kind {kind.value} is for classifiers", "use lora, rslora or full"
    if strategy.loss.kind != "own-label" or strategy.weights:
        yield "a language model has no labels to compare", "leave strategy.loss and weights out"
