"""Bases and companies by which one record would change what another one adds to a sum."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import torch

from audits.protection import bases
from audits.protection.attempt import Attempt, Outcome
from securefl.terms import Model, PseudoLabels, Scorer, SoftLabels
from securefl.training import device, state, step
from securefl.training.data import Record
from securefl.training.losses import losses_of
from securefl.training.model import build
from securefl.training.trainer import SharedModel
from tests import tiny_models

STOPPED = "training.shapes"  # a record's shapes are its own, and rows are shown not to matter


def _moved(of: SharedModel, at: bytes, number: int) -> Outcome:
    found = bases.moved(of, at, number)
    return Outcome(found.by > 1 + bases.BEYOND or not found.exactly, STOPPED)


def _base(kind: str, family: str, number: int) -> Outcome:
    of = bases.model(family)
    return _moved(of, bases.base(of, kind, number), number)


@cache
def _narrow(family: str) -> SharedModel:
    """As a GPU places it: a bfloat16 base, adapter and head in float32."""
    with tempfile.TemporaryDirectory() as folder:
        built = build(tiny_models.saved(family, Path(folder)), tiny_models.TASK, tiny_models.adapter(family))
    device.place(built.model, torch.device("cpu"), torch.bfloat16, [each for _, each in built.stateful])
    return SharedModel(built, Model("narrow", bytes(32)), tiny_models.TASK, tiny_models.adapter(family))


def _bfloat16(number: int, folder: Path) -> Outcome:
    del folder
    of = _narrow(bases.MODELS[number % 3])
    return _moved(of, bases.base(of, bases.KINDS[number % 8], number), number)


def _rows(number: int, folder: Path) -> Outcome:
    """Sums with memory for 1, 5 and 32 rows, and the sample in another order: all are one."""
    del folder
    of = bases.model(bases.MODELS[number % 3])
    at, texts = bases.base(of, "sparse" if number % 2 else "rank one", number), (*bases.SHORT, *bases.LONG)
    shapes = of.shapes(bases.plan(of), at)
    first = bases.total(of, at, texts, shapes)
    others = [bases.total(of, at, texts, shapes, rows) for rows in (1, 5)] + [bases.total(of, at, texts[::-1], shapes)]
    return Outcome(not all(np.array_equal(first, each) for each in others), STOPPED)


def _taught(loss: SoftLabels | PseudoLabels, number: int) -> Outcome:
    """What the broadcast answers for a record, alone and beside others: one bit of it, or of what follows, differs."""
    of = bases.model(bases.MODELS[number % 3])
    at = bases.base(of, ("ordinary", "rank one", "sparse")[number % 3], number)
    rule = bases.plan(of)
    rule = replace(rule, round=2, learning=replace(rule.learning, loss=loss))
    shapes = of.shapes(rule, at)
    records = tuple(Record(text, len(text) % 3) for text in (*bases.SHORT, *bases.LONG))
    chosen = [records[i] for i in np.random.default_rng(number).permutation(len(records))]

    def told(which: tuple[Record, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = of._targets(rule, at, which, shapes)  # noqa: SLF001 - the member's own
        state.load(of._built, at)  # noqa: SLF001
        every, clip = range(len(which)), Fraction(1)
        model, parameters = of._wrapped, of._built.parameters  # noqa: SLF001
        summed = step.clipped_sum(model, parameters, encoded, every, 32, clip, losses=losses_of(loss, 2))
        assert encoded.teacher is not None
        return encoded.teacher, torch.from_numpy(summed.values)

    answers, sum_ = told(tuple(chosen))
    answers_without, sum_without = told(tuple(chosen[:-1]))
    answer, part = told((chosen[-1],))
    same = torch.equal(answers.nan_to_num(), torch.cat([answers_without, answer]).nan_to_num())
    return Outcome(not (same and torch.equal(sum_ - sum_without, part)), STOPPED)


def _full(number: int, folder: Path) -> Outcome:
    """Neighbours without padding, so that a model may drop the mask of the whole batch, change nothing."""
    del folder
    of = bases.model(bases.MODELS[number % 3])
    at = bases.base(of, ("ordinary", "sparse")[number % 2], number)
    shapes = of.shapes(bases.plan(of), at)
    full, near = "x" * (bases.TOKENS - 2 + number % 3), "y" * (bases.TOKENS - 3)
    with_it, without = (bases.total(of, at, texts, shapes) for texts in ((full, full[::-1], near), (full, full[::-1])))
    return Outcome(not np.array_equal(with_it - without, bases.total(of, at, (near,), shapes)), STOPPED)


SOFT = SoftLabels(Fraction(1), Fraction(1), Fraction(1, 2), Fraction(1, 2), 1)
PSEUDO = tuple(PseudoLabels(Fraction(1, 2), scorer, Fraction(2), Fraction(1, 2), 2) for scorer in Scorer)

ATTEMPTS = (
    Attempt("a base drowns what early layers know, and amplifies rounding", lambda n, _: _base("drowned", "bert", n)),
    Attempt("a base of a few huge numbers makes padding decide gradients", lambda n, _: _base("sparse", "llama", n)),
    Attempt("a base of rank one makes padding decide gradients", lambda n, _: _base("rank one", "bert", n)),
    Attempt("a base makes a kernel compute with denormal numbers", lambda n, _: _base("denormal", "gpt2", n)),
    Attempt("a frozen base in bfloat16 rounds one record by its neighbours' length", _bfloat16),
    Attempt("memory for other numbers of rows changes a sum", _rows),
    Attempt("neighbours without padding take a record to another kernel", _full),
    Attempt("a broadcast that teaches answers by the company a record is in", lambda n, _: _taught(SOFT, n)),
    Attempt("a pseudo label or its score follows from the company", lambda n, _: _taught(PSEUDO[n % 4], n)),
)
