"""Can a coordinator choose what is asked of kept things, round by round, and solve enough sums for single members?"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from math import comb, exp
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from securefl.strategy import worldlm
from securefl.strategy.member import MemberStrategy
from securefl.terms import Attention, Plan, Sharing, Weighting
from securefl.training.local_state import own_weights
from tests.support.nested import LAYOUT
from tests.support.worlds import World

_REACH = Fraction(19, 100)  # two weights differ by 1.47 at most
_STILL = 1e-9  # a round that hardly moves a model, nor costs anything
_KEY = ("l0",)
_NEAR = 0.02


def _agree(weighting: Weighting, base: bytes, after: bytes) -> float:
    """How alike two states are, in (0, 1], as `SharedModel.agreement` is of what they say."""
    del weighting
    apart = np.frombuffer(base, "<f4").astype(float) - np.frombuffer(after, "<f4")
    return exp(-float(np.mean(apart**2)))


class _Run:
    """Members that keep a model, and the weights that leave them, as they are; whoever asks adds them up."""

    def __init__(self, number: int, pull: Fraction | None, long: float = 0.1) -> None:
        self.rand = np.random.default_rng(number)
        self.half, size = MemberStrategy(LAYOUT), LAYOUT.entries
        members = int(self.rand.integers(3, 5))
        spread = np.linspace(0.3, 1.2, members) * self.rand.uniform(0.9, 1.1, members)
        self.own = [(each * self.rand.normal(0, 1, size)).astype("<f4").tobytes() for each in spread]
        self.weights = [b""] * members
        self.base = self.rand.normal(0, long, size).astype("<f4").tobytes()
        self.pull = pull

    def asked(self, sharing: Sharing, step: float = _STILL) -> float:
        """One round's sum of the members' weights."""
        plan = replace(World().coordinator.state.course.plan, sharing=sharing)
        return sum(self._weight(plan, member, step) for member in range(len(self.own)))

    def _weight(self, plan: Plan, member: int, step: float) -> float:
        begun = self.half.start(plan, self.base, self.own[member])
        change = (1 + member) * step * self.rand.normal(0, 1, LAYOUT.entries)
        after = (np.frombuffer(begun, "<f4") + change).astype("<f4").tobytes()
        if plan.sharing.attention is not None:
            return float(self.half.share(plan, self.base, begun, after, ())[-1])
        kept = self.weights[member]
        (weight,), self.weights[member] = own_weights(self.half, plan, _agree, self.base, begun, after, kept)
        return weight


def _solved(sums: list[float]) -> np.ndarray:
    """The scores whose exponentials have these power sums, at 1, 2, .. steps of sharpness, by Newton's identities."""
    count = len(sums)
    powers = [float(count), *sums]
    low = [sum(comb(k, j) * (-1) ** (k - j) * powers[j] for j in range(k + 1)) for k in range(count + 1)]
    symmetric = [1.0]
    for k in range(1, count + 1):
        symmetric.append(sum((-1) ** (j - 1) * symmetric[k - j] * low[j] for j in range(1, k + 1)) / k)
    roots = np.roots([(-1) ** k * symmetric[k] for k in range(count + 1)])
    return np.sort(np.log1p(np.maximum(roots.real, -0.99)) * count / float(_REACH))


def _read(found: np.ndarray, truth: Iterable[float]) -> Outcome:
    """Whether every member's own is known, up to whose it is."""
    wanted = np.sort(np.array(list(truth)))
    known = found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= _NEAR)
    return Outcome(known and float(np.ptp(wanted)) > 2 * _NEAR, "protection.fresh")


def kept_models(number: int, folder: Path) -> Outcome:
    """Ask how much each one's own model agrees with a chosen state, by as many sharpnesses as there are members."""
    del folder
    run = _Run(number, Fraction(0))
    count, sums = len(run.own), []
    for k in range(1, count + 1):
        weighting = Weighting(_REACH * k / count, _REACH)
        sums.append(run.asked(Sharing((weighting,), pull=run.pull)) * exp(float(_REACH)))
    weighting = Weighting(_REACH, _REACH)
    return _read(_solved(sums), (_agree(weighting, run.base, each) for each in run.own))


def kept_keys(number: int, folder: Path) -> Outcome:
    """Ask how alike each one's own key tensor and a chosen one are, by as many sharpnesses as there are members."""
    del folder
    run = _Run(number, None, long=1e-6)  # so short that what members mix of it and of their own is their own
    count, sums = len(run.own), []
    (key,) = LAYOUT.keys(Attention(_KEY, _REACH, _REACH))
    chosen = np.frombuffer(run.base, "<f4")[key]
    for k in range(1, count + 1):
        attention = Attention(_KEY, _REACH * k / count, _REACH)
        sums.append(run.asked(Sharing(attention=attention)) * exp(float(_REACH)))
    return _read(_solved(sums), (worldlm.cosine(np.frombuffer(each, "<f4")[key], chosen) for each in run.own))


def kept_weights(number: int, folder: Path) -> Outcome:
    """Raise the least weight bit by bit: the sum of remembered weights has a bend where each of them is."""
    del folder
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    run, slow = _Run(number, None), Fraction(1, 10**9)
    run.asked(Sharing((Weighting(_REACH, _REACH, renewal=Fraction(drawn.randint(5, 9), 10)),)), step=0.3)
    truth = [float(np.frombuffer(each[-8:], "<f8")[0]) for each in run.weights]
    clips = [_REACH * k / 100 for k in range(100, 0, -1)]
    sums = [run.asked(Sharing((Weighting(Fraction(1), each, renewal=slow),))) for each in clips]
    least = [exp(-2 * float(each)) for each in clips]
    below = [round((sums[k + 1] - sums[k]) / (least[k + 1] - least[k])) for k in range(len(clips) - 1)]
    found = [least[k] for k, each in enumerate(below) for _ in range(each - (below[k - 1] if k else 0))]
    return _read(np.sort(np.array(found)), truth)


ATTEMPTS = (
    Attempt("kept models are solved for from sums at several sharpnesses", kept_models),
    Attempt("kept key tensors are solved for from sums at several sharpnesses", kept_keys),
    Attempt("remembered weights are solved for from sums under several clips", kept_weights),
)
