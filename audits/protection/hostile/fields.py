"""A coordinator turns one knob of a plan that was agreed to: each is held by a rule of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from securefl.documents import federation_file
from securefl.planning import explain
from securefl.planning.plan import FirstState, price_in
from securefl.policy import load
from securefl.policy.decide import decide
from securefl.privacy.account import Account
from securefl.terms import (
    Attention,
    FixedPoint,
    Hash,
    Model,
    NotTrueDistillation,
    Plan,
    PseudoLabels,
    Refusal,
    Scorer,
    Sharing,
    SoftLabels,
    Weighting,
)

ROOT = Path(__file__).parents[3]
Turn = Callable[[random.Random, Plan], Plan]


@lru_cache(maxsize=1)
def agreed() -> tuple[load.Policy, Plan]:
    """The six airlines' own policy, and the first plan that their example makes."""
    policy = load.load(ROOT / "policies" / "six-airlines.yaml")
    loaded = federation_file.load(ROOT / "examples" / "airlines" / "federation.yaml")
    return policy, explain.first_plan(loaded, policy, FirstState(Model(loaded.file.model, Hash(bytes(32))), 1000))


def asked(plan: Plan, base: bytes = b"") -> set[str]:
    """The rules by which an airline refuses the plan; none where it would train."""
    policy, _ = agreed()
    account = Account.of(())
    price = price_in(policy, "own")(plan, account)
    answer = decide(policy, plan, account, price, 1_790_000_000, base)
    return {reason.rule for reason in answer.reasons} if isinstance(answer, Refusal) else set()


def turned(turn: Turn, *rules: str) -> Callable[[int, Path], Outcome]:
    """A trial: the plan as agreed is granted, and with the knob turned it is refused by one of these rules."""

    def trial(number: int, folder: Path) -> Outcome:
        del folder
        drawn = random.Random(number)  # noqa: S311 - to be repeated
        _, plan = agreed()
        if asked(plan):
            raise AssertionError("the plan as it was agreed is refused, so nothing is tried here")
        found = asked(turn(drawn, plan)) & set(rules)
        return Outcome(not found, min(found, default=""))

    return trial


def _learning(**changes: Callable[[random.Random], object]) -> Turn:
    def turn(drawn: random.Random, plan: Plan) -> Plan:
        made = {name: draw(drawn) for name, draw in changes.items()}
        return replace(plan, learning=replace(plan.learning, **made))  # type: ignore[arg-type]

    return turn


def _sharing(draw: Callable[[random.Random], Sharing]) -> Turn:
    return lambda drawn, plan: replace(plan, sharing=draw(drawn))


def _grid(draw: Callable[[random.Random], FixedPoint]) -> Turn:
    return lambda drawn, plan: replace(plan, cover=replace(plan.cover, encoding=draw(drawn)))


def _huge(number: int, folder: Path) -> Outcome:
    """The base is far away, or no number at all."""
    del folder
    drawn = np.random.default_rng(number)
    state = drawn.normal(0, 1, 1000).astype("<f4")
    far = state * np.float32(10.0 ** drawn.integers(3, 30))
    far[drawn.integers(1000)] = drawn.choice([np.nan, np.inf, -np.inf, far[0]])
    if asked(agreed()[1], (state / 100).tobytes()):
        raise AssertionError("a base as it should be is refused, so nothing is tried here")
    found = asked(agreed()[1], far.tobytes())
    return Outcome("training.base" not in found, min(found, default=""))


def _attentive(drawn: random.Random) -> Sharing:
    return Sharing(attention=Attention(("head",), Fraction(drawn.randint(1, 100)), Fraction(4)))


def _weighted(drawn: random.Random) -> Sharing:
    return Sharing((Weighting(Fraction(drawn.randint(1, 999)), Fraction(drawn.randint(1, 4))),))


def _probed(drawn: random.Random) -> Sharing:
    return Sharing((Weighting(Fraction(1), Fraction(1, 100), probe=Hash(drawn.randbytes(32))),))


def _far(drawn: random.Random) -> Fraction:
    return Fraction(1, 2 ** drawn.randint(20, 62))


ATTEMPTS = (
    Attempt(
        "the coordinator turns plain averaging into models that never leave their member",
        turned(
            _sharing(lambda drawn: Sharing(home=(drawn.choice(["encoder", "head", "lora_B"]),), pull=Fraction(0))),
            "sharing.home",
        ),
    ),
    Attempt(
        "the coordinator lets members keep models of their own and pulls them a little",
        turned(_sharing(lambda drawn: Sharing(pull=Fraction(drawn.randint(0, 9), 10))), "sharing.pull"),
    ),
    Attempt(
        "the coordinator singles one member out by attention",
        turned(
            _sharing(
                lambda drawn: Sharing(attention=Attention(("head",), Fraction(drawn.randint(1, 100)), Fraction(4)))
            ),
            "sharing.attention",
        ),
    ),
    Attempt(
        "the coordinator singles one member out by weights",
        turned(
            _sharing(
                lambda drawn: Sharing((Weighting(Fraction(drawn.randint(1, 999)), Fraction(drawn.randint(1, 4))),))
            ),
            "sharing.weight_ratio",
        ),
    ),
    Attempt(
        "the coordinator weighs members by a probe of its own",
        turned(
            _sharing(
                lambda drawn: Sharing((Weighting(Fraction(1), Fraction(1, 100), probe=Hash(drawn.randbytes(32))),))
            ),
            "sharing.probes",
        ),
    ),
    Attempt("the coordinator's steps go nowhere", turned(_learning(learning_rate=_far), "training.learning_rate")),
    Attempt(
        "the coordinator's steps go too far",
        turned(_learning(learning_rate=lambda drawn: Fraction(2 ** drawn.randint(4, 60))), "training.learning_rate"),
    ),
    Attempt(
        "the coordinator divides the sum away",
        turned(_learning(divisor=lambda drawn: 2 ** drawn.randint(14, 62)), "training.divisor"),
    ),
    Attempt(
        "the coordinator changes what a record's loss is",
        turned(
            _learning(
                loss=lambda drawn: drawn.choice(
                    [
                        NotTrueDistillation(Fraction(1000), Fraction(1, 100), drawn.random() < 1 / 2),
                        SoftLabels(Fraction(1000), Fraction(1, 100), Fraction(0), Fraction(0), 1),
                        PseudoLabels(Fraction(1000), Scorer.NONE, Fraction(1, 100), Fraction(1, 1000), 1),
                    ]
                )
            ),
            "training.losses",
        ),
    ),
    Attempt(
        "the coordinator changes how members step",
        turned(_learning(optimizer=lambda drawn: drawn.choice(["adamw-bc", "lion", ""])), "training.optimizers"),
    ),
    Attempt(
        "the coordinator asks for more memory than a site has",
        turned(_learning(micro_batch=lambda drawn: 2 ** drawn.randint(9, 60)), "training.micro_batch"),
    ),
    Attempt(
        "the coordinator asks for longer texts, or more of them at once",
        turned(
            lambda drawn, plan: _learning(
                **(
                    {"max_tokens": lambda drawn: 2 ** drawn.randint(8, 60)}
                    if drawn.random() < 1 / 2
                    else {"micro_tokens": lambda drawn: 2 ** drawn.randint(16, 60)}
                )
            )(drawn, plan),
            "training.tokens",
        ),
    ),
    Attempt(
        "the coordinator makes the grid so coarse that nothing is added",
        turned(_grid(lambda drawn: FixedPoint(24, drawn.randint(0, 17), 64)), "protection.grid"),
    ),
    Attempt(
        "the coordinator makes the grid so fine or so wide that one member moves everything",
        turned(
            _grid(
                lambda drawn: (
                    FixedPoint(24, drawn.randint(21, 62), 64)
                    if drawn.random() < 1 / 2
                    else FixedPoint(drawn.randint(25, 60), 20, 64)
                )
            ),
            "protection.grid",
        ),
    ),
    Attempt("the coordinator starts from a state that is huge or no number", _huge),
)
