"""Does every opened value hold enough honest inputs, of like weight and with noise of their own round?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.strategy.member import MemberStrategy
from securefl.terms import Attention, FixedPoint, Plan, Sharing, Weighting
from tests.support.nested import LAYOUT
from tests.support.worlds import World

Change = Callable[[random.Random, Plan], Plan]


def _weights(drawn: random.Random, plan: Plan) -> Plan:
    return replace(plan, sharing=Sharing((Weighting(Fraction(9), Fraction(drawn.randint(2, 16), 4)),)))


def _attention(drawn: random.Random, plan: Plan) -> Plan:
    sharing = Sharing(attention=Attention(("head",), Fraction(100), Fraction(drawn.randint(2, 16), 4)))
    return replace(plan, sharing=sharing, cover=replace(plan.cover, min_cohort=5))


def _near(drawn: random.Random) -> Fraction:
    return Fraction(1, drawn.randint(20, 1000))


def _kept_attention(drawn: random.Random, plan: Plan) -> Plan:
    return replace(plan, sharing=Sharing(attention=Attention(("head",), Fraction(5), _near(drawn))))


def _kept_weights(drawn: random.Random, plan: Plan) -> Plan:
    return replace(plan, sharing=Sharing((Weighting(Fraction(1), _near(drawn), renewal=Fraction(1, 2)),)))


def _own_model(drawn: random.Random, plan: Plan) -> Plan:
    return replace(plan, sharing=Sharing((Weighting(Fraction(1), _near(drawn)),), pull=Fraction(0)))


def _slow(drawn: random.Random, plan: Plan) -> Plan:
    rate = Fraction(1, 2 ** drawn.randint(20, 70))
    optimizer = drawn.choice(["sgd", "adamw", "adamw-bc"])
    return replace(plan, learning=replace(plan.learning, learning_rate=rate, optimizer=optimizer))


def _divided_away(drawn: random.Random, plan: Plan) -> Plan:
    learning = replace(plan.learning, learning_rate=Fraction(1), divisor=2 ** drawn.randint(20, 40))
    return replace(plan, learning=learning)


def _coarse(drawn: random.Random, plan: Plan) -> Plan:
    sharing = Sharing((Weighting(Fraction(9), Fraction(1, 5)),))
    encoding = FixedPoint(24, drawn.randint(0, 2), 32)
    return replace(plan, sharing=sharing, cover=replace(plan.cover, encoding=encoding))


def sized(plan: Plan) -> Plan:
    """The plan with as many values as its sums have, each with its weight behind."""
    copies = len(plan.sharing.weightings)
    weighted = copies * (plan.dimension + 1) if copies else plan.dimension
    return replace(plan, dimension=plan.dimension + 1 if plan.sharing.attention else weighted)


def plan_is_refused(change: Change, least: int, number: int, folder: Path) -> Outcome:
    """A coordinator proposes its own plan to members as they are, without asking any policy."""
    del folder
    drawn = random.Random(number)  # noqa: S311 - shapes, not keys
    world = World(names=("a", "b", "c", "d", "e"), rounds=1, min_cohort=least, threshold=4)
    state = world.coordinator.state
    plan = sized(change(drawn, state.course.plan))
    world.coordinator.saved = wire.encode(replace(state, course=replace(state.course, plan=plan)))
    world.play()
    trained = sum(party.trained for party in world.parties.values())
    rules = {fault.rule for _, fault in world.faults}
    return Outcome(trained > 0, ", ".join(sorted(rules)))


def one_left_out(number: int, folder: Path) -> Outcome:
    """A coordinator leaves one member out, and says that the others are the whole cohort."""
    del folder
    drawn = random.Random(number)  # noqa: S311
    world = World(names=("a", "b", "c", "d", "e"), rounds=1, min_cohort=4, threshold=4)
    world.deaf.add((drawn.choice(world.names), drawn.choice(["Invite", "Enrol"])))
    state = world.coordinator.state
    plan = sized(drawn.choice([_kept_weights, _own_model])(drawn, state.course.plan))
    world.coordinator.saved = wire.encode(replace(state, course=replace(state.course, plan=plan)))
    world.play()
    rules = {fault.rule for _, fault in world.faults}
    return Outcome(sum(party.trained for party in world.parties.values()) > 0, ", ".join(sorted(rules)))


def solved(number: int, folder: Path) -> Outcome:
    """Two sums over cohorts that differ by one, of models that were kept and hardly trained: is one's model left?"""
    del folder
    rand = np.random.default_rng(number)
    half, members, size = MemberStrategy(LAYOUT), int(rand.integers(4, 9)), LAYOUT.entries
    own = rand.normal(0, 1, (members, size)).astype("<f4")
    base = rand.normal(0, 10.0 ** rand.integers(-3, 3), size).astype("<f4").tobytes()
    pull = Fraction(int(rand.integers(0, 3)), 4)
    plan = replace(World().coordinator.state.course.plan, sharing=Sharing(pull=pull))

    def sent(member: int, step: float) -> np.ndarray:
        begun = half.start(plan, base, own[member].tobytes())
        after = (np.frombuffer(begun, "<f4") + step * rand.normal(0, 1, size)).astype("<f4").tobytes()
        return half.share(plan, base, begun, after, ())

    step = 2.0 ** -float(rand.integers(1, 60))
    everybody = sum(sent(member, step) for member in range(members))
    others = sum(sent(member, step) for member in range(members - 1))
    left, wanted = everybody - others, own[-1] - np.frombuffer(base, "<f4")
    wanted = wanted * (1 - float(pull))
    off = float(np.linalg.norm(left - wanted) / np.linalg.norm(wanted))
    return Outcome(off < 0.5, "protection.fresh")


ATTEMPTS = (
    Attempt("weights single one member out", partial(plan_is_refused, _weights, 3)),
    Attempt("attention singles one member out of a full cohort", partial(plan_is_refused, _attention, 5)),
    Attempt("weights round to nothing on a coarse grid", partial(plan_is_refused, _coarse, 3)),
    Attempt("attention over any four of five", partial(plan_is_refused, _kept_attention, 4)),
    Attempt("weights that are moved, over any four of five", partial(plan_is_refused, _kept_weights, 4)),
    Attempt("weights of own models, over any four of five", partial(plan_is_refused, _own_model, 4)),
    Attempt("weights that are kept, over a cohort without one", one_left_out),
    Attempt("a learning rate at which noise vanishes", partial(plan_is_refused, _slow, 3)),
    Attempt("a divisor at which noise vanishes", partial(plan_is_refused, _divided_away, 3)),
    Attempt("kept models are solved for from two cohorts", solved),
)
