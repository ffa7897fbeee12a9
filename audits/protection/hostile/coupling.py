"""Bases and companies by which one record would change what another one adds to a sum.

Each attack has two arms: `own`, which is a member's code, and `together`, a control that computes as was done before.
`tests/training/test_training_coupling.py` demands that every one of them breaks the control.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import torch

from audits.protection import bases
from audits.protection.attempt import Attempt, Outcome
from audits.protection.bases import Values
from securefl.terms import CrossEntropy, Loss, Model, Plan, PseudoLabels, Scorer, SoftLabels
from securefl.terms.records import Record
from securefl.training import adapter_tensors, device, pseudo_labels, step
from securefl.training.losses import losses_of, taught
from securefl.training.model import build
from securefl.training.shared_model import SharedModel
from tests.support import tiny_models

STOPPED = "its own part alone"  # what one record more was seen to add to a sum, bit for bit
Texts = tuple[str, ...]
SEVERAL = "sparse", "rank one"


@dataclass(frozen=True, slots=True)
class Case:
    """A base, a plan's loss, a company of records, and one record more that shall change what the others add."""

    of: SharedModel
    at: bytes
    some: Texts
    one: str
    loss: Loss = field(default_factory=CrossEntropy)

    def excess(self, arm: Arm) -> float:
        """How far one record more moves the sum beside its own part, in clips, or an answer; 0 if by no bit."""
        with_it, without, alone = (arm(self, texts) for texts in ((*self.some, self.one), self.some, (self.one,)))
        moved = float(np.linalg.norm(with_it.sum - without.sum - alone.sum))
        answers = np.concatenate([without.answers, alone.answers])
        return max(moved, float(np.abs(np.nan_to_num(with_it.answers) - np.nan_to_num(answers)).max(initial=0.0)))


@dataclass(frozen=True, slots=True)
class Given:
    """What records come to together."""

    sum: Values  # clipped gradients, in clips
    answers: Values  # (records, columns): what the broadcast model teaches; no columns without a loss that asks


Arm = Callable[[Case, Texts], Given]


def own(case: Case, texts: Texts, rows: int = 32) -> Given:
    """As a member computes it."""
    of, rule = case.of, _rule(case)
    records = tuple(Record(text, len(text) % 3) for text in texts)
    encoded = of._targets(rule, case.at, records, of.shapes(rule, case.at))  # noqa: SLF001 - the member's own
    adapter_tensors.load(of._built, case.at)  # noqa: SLF001
    model, parameters, losses = of._wrapped, of._built.parameters, losses_of(case.loss, rule.round)  # noqa: SLF001
    made = step.clipped_sum(model, parameters, encoded, range(len(texts)), rows, Fraction(1), losses=losses)
    return Given(made.values, _answers(encoded, len(texts)))


def together(case: Case, texts: Texts, rows: int = 64) -> Given:
    """The control: as it was computed before, in parts of ``rows`` records that are padded to their longest one."""
    of, rule = case.of, _rule(case)
    plain = bases.encode(of, texts, bases.Loose(bases.TOKENS))
    parts = [range(len(texts))[begin : begin + rows] for begin in range(0, len(texts), rows)]
    encoded = replace(plain, teacher=_taught_together(case, rule, plain) if taught(case.loss) else None)
    adapter_tensors.load(of._built, case.at)  # noqa: SLF001
    model, parameters, losses = of._wrapped, of._built.parameters, losses_of(case.loss, rule.round)  # noqa: SLF001
    total = np.zeros(of.dimension)
    for part in parts:
        found = step.per_record_gradients(model, parameters, encoded.batch(part), losses)
        total += step.clipped(found, 1.0).numpy()
    return Given(total, _answers(encoded, len(texts)))


def _taught_together(case: Case, rule: Plan, plain: step.Encoded) -> torch.Tensor:
    adapter_tensors.load(case.of._built, case.at)  # noqa: SLF001
    ids, mask, _ = plain.batch(range(len(plain.ids)))
    with torch.no_grad():
        said = torch.round(case.of._built.model(ids, mask) * 1024) / 1024  # noqa: SLF001
    if not isinstance(case.loss, PseudoLabels):
        return said
    return pseudo_labels.answers(case.loss, rule.round, said, case.of._logits(case.of._public()))  # noqa: SLF001


def _rule(case: Case) -> Plan:
    rule = bases.plan(case.of)
    return replace(rule, round=2, learning=replace(rule.learning, loss=case.loss))


def _answers(encoded: step.Encoded, records: int) -> Values:
    return np.zeros((records, 0)) if encoded.teacher is None else encoded.teacher.numpy()


def _crowded(of: SharedModel, kind: str, number: int, loss: Loss | None = None) -> Case:
    """Many short records, and a long one more."""
    drawn = np.random.default_rng([number, 7])
    some = tuple(drawn.permutation(bases.CROWD)[: drawn.integers(48, len(bases.CROWD) + 1)].tolist())
    return Case(of, bases.base(of, kind, number), some, str(drawn.choice(bases.LONG)), loss or CrossEntropy())


def _base(kind: str, family: str) -> Callable[[int], Case]:
    return lambda number: _crowded(bases.model(family), kind, number)


@cache
def _narrow(family: str) -> SharedModel:
    """As a GPU places it: a bfloat16 base, adapter and head in float32."""
    with tempfile.TemporaryDirectory() as folder:
        built = build(tiny_models.saved(family, Path(folder)), tiny_models.TASK, tiny_models.adapter(family))
    device.place(built.model, torch.device("cpu"), torch.bfloat16, [each for _, each in built.stateful])
    return SharedModel(built, Model("narrow", bytes(32)), tiny_models.TASK, tiny_models.adapter(family))


def _bfloat16(number: int) -> Case:
    return _crowded(_narrow(bases.MODELS[number % 3]), bases.KINDS[number % 8], number)


def _full(number: int) -> Case:
    """Neighbours without padding, so that a model may drop the mask of the whole batch."""
    of = bases.model(bases.MODELS[number % 3])
    full, near = "x" * (bases.TOKENS - 2 + number % 3), "y" * (bases.TOKENS - 3)
    return Case(of, bases.base(of, ("ordinary", "sparse")[number % 2], number), (near,), full)


def _teaching(loss: Callable[[int], Loss]) -> Callable[[int], Case]:
    """A broadcast whose answers shall follow from the company: its own records' answers, and what they add."""
    return lambda number: _crowded(
        bases.model(bases.MODELS[number % 3]), ("drowned", *SEVERAL)[number // 3 % 3], number, loss(number)
    )


def _rows(number: int, folder: Path) -> Outcome:
    """Sums with memory for 1, 5 and 32 rows, and the sample in another order: all are one."""
    del folder
    return Outcome(bool(cut(own, number)), STOPPED)


def cut(arm: Callable[[Case, Texts, int], Given], number: int) -> float:
    """How far a sum moves, in clips, if a sample is cut otherwise or comes in another order."""
    case = _crowded(bases.model(bases.MODELS[number % 3]), SEVERAL[number % 2], number)
    texts = (*case.some, case.one)
    first = arm(case, texts, 32).sum
    others = [arm(case, texts, rows).sum for rows in (1, 5)] + [arm(case, texts[::-1], 32).sum]
    return max(float(np.linalg.norm(first - each)) for each in others)


SOFT = SoftLabels(Fraction(1), Fraction(1), Fraction(1, 2), Fraction(1, 2), 1)
PSEUDO = tuple(PseudoLabels(Fraction(1, 2), scorer, Fraction(2), Fraction(1, 2), 2) for scorer in Scorer)

CASES: dict[str, Callable[[int], Case]] = {
    "a base drowns what early layers know, and amplifies rounding": _base("drowned", "bert"),
    "a base of a few huge numbers makes padding decide gradients": _base("sparse", "llama"),
    "a base of rank one makes padding decide gradients": _base("rank one", "bert"),
    "a base makes a kernel compute with denormal numbers": _base("denormal", "gpt2"),
    "a frozen base in bfloat16 rounds one record by its neighbours' length": _bfloat16,
    "neighbours without padding take a record to another kernel": _full,
    "a broadcast that teaches answers by the company a record is in": _teaching(lambda _: SOFT),
    "a pseudo label or its score follows from the company": _teaching(lambda number: PSEUDO[number % 4]),
}


def _attempt(name: str, case: Callable[[int], Case]) -> Attempt:
    return Attempt(name, lambda number, _: Outcome(bool(case(number).excess(own)), STOPPED))


ATTEMPTS = (
    *(_attempt(name, case) for name, case in CASES.items()),
    Attempt("memory for other numbers of rows changes a sum", _rows),
)
