"""Random stacks of policies, decided by the engine and by an oracle that shares no code with it.

A stack has up to four levels. Each level takes what its parent says and moves some fields along a ladder from loose
to tight, now and then the wrong way. The oracle (`tests/policy/test_policy_oracle.py`) asks every level on its own;
the engine narrows the stack to one policy and asks that. They agree if the same stacks are refused when they are
loaded, and the same rules refuse. And twice as many requests are decided and explained: a dry run says what the
decision says.

    python -m audits.budget.oracle [--quick] [--json]
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from audits.figures import figure, report
from securefl.errors import OperatorFault
from securefl.policy.decide import explain
from securefl.terms import Refusal
from tests.policy.test_policy_decide import AROUND_CHOICES, PLAN_CHOICES, possible, question
from tests.policy.test_policy_oracle import AROUND, PLAN, POLICY, broken_in_stack, changed

SEED, FULL, QUICK, LEVELS = 39, 5_000, 400, 4
NAMES = ("granted", "refused", "not loaded")
KEYS = {name: f"{index}" * 64 for index, name in enumerate(("alice", "bob", "carol"), 1)}
LADDERS: dict[str, list[Any]] = {
    "valid": [
        {"from": first, "until": last}
        for first, last in (
            ("2025-01-01", "2031-12-31"),
            ("2026-01-01", "2030-12-31"),
            ("2026-01-01", "2026-06-01"),
            ("2026-06-01", "2026-06-01"),
        )
    ],
    "budget.epsilon": [16, 8, 2, "19/10"],
    "budget.per_round.epsilon": [8, 4, "1000000/1000001", "1/3"],
    "budget.per_dataset.epsilon": [16, 8, "20000005/10000000", 1],
    "budget.delta": ["1/1000", "1/100000", "1/10000000"],
    "budget.overlap": [1, 2, 4],
    "budget.per_run": [None, {"epsilon": 16}, {"epsilon": 8}, {"epsilon": 4}, {"epsilon": "19/10"}],
    "budget.bound": ["pld", "renyi-filter"],
    "training.mechanisms": [
        ["distributed-discrete-gaussian", "full-batch-gaussian", "poisson-gaussian"],
        ["poisson-gaussian", "full-batch-gaussian"],
        ["poisson-gaussian"],
        ["poisson-gaussian", "poisson-gaussian"],
        [],
    ],
    "training.clip.at_most": [2, "1/1", "1/2", "1/3"],
    "training.noise_multiplier.at_least": ["1/4", "1/2", "9/10", 1],
    "training.modules": [["key", "query", "value", "attention.output.dense"], ["query", "value"], ["value"], []],
    "training.rank.at_most": [32, 16, 8, 7],
    "training.base_models": [["any"], ["small-bert", "sha256:" + "ab" * 32], ["sha256:" + "ab" * 32], []],
    "training.losses": [["fedlsd", "fedntd", "own-label"], ["own-label", "fedlsd"], ["own-label"], []],
    "training.optimizers": [["adamw", "adamw-bc", "sgd"], ["sgd", "adamw"], ["sgd"], []],
    "training.learning_rate": [
        {"at_least": low, "at_most": high} for low, high in (("1/1000", 9), ("1/100", 2), (1, 1), ("11/10", 2))
    ],
    "training.divisor.at_most": [10_000, 1000, 100, 99],
    "training.micro_batch.at_most": [256, 128, 64, 63],
    "training.tokens.at_most": [128, 64, 63],
    "training.base.norm_at_most": [2000, 1000, "1/2"],
    "sharing.home": [["blocks.1", "encoder", "head"], ["head", "blocks.1"], ["head"], []],
    "sharing.pull": [True, False],
    "sharing.attention": [True, False],
    "sharing.weightings": [3, 2, 1, 0],
    "sharing.probes": [["ab" * 32, "ef" * 32], ["ef" * 32], []],
    "sharing.weight_ratio.at_most": [3000, 60, 5, 1],
    "protection.grid.fraction_bits": [
        {"at_least": low, "at_most": high} for low, high in ((0, 40), (12, 24), (20, 20), (21, 24))
    ],
    "protection.grid.value_bits.at_most": [64, 31, 24, 23],
    "protection.schemes": [
        ["clear", "masking", "masked-ckks", "ckks"],
        ["ckks", "masking", "masked-ckks"],
        ["masking"],
        [],
    ],
    "protection.min_cohort": [2, 3, 4, 7],
    "protection.threshold.at_least": [1, 4, 5, 7],
    "protection.colluding": [0, 1, 2],
    "protection.trust": [["custodian"], []],
    "keys.max_age_days": [None, 365, 90, 30],
    "release.fields": [["weights", "accuracy"], ["weights"], []],
    "context.purposes": [["customer-service", "advertising"], ["customer-service"], []],
    "context.regions": [["CA", "EU", "US"], ["US", "CA"], ["US"], ["CA"], []],
    "approvals": [{"required": required, "keys": KEYS} for required in (0, 1, 2)],
}


def stack(drawn: random.Random) -> list[dict[str, Any]]:
    """Policies, the lowest first."""
    levels = drawn.randint(1, LEVELS)
    place = {field: drawn.choice((0, 0, 0, 0, 0, 0, 1)) for field in LADDERS}
    made: list[dict[str, Any]] = []
    for level in reversed(range(levels)):
        for field in drawn.sample(sorted(LADDERS), drawn.choice((0, 1, 1, 2, 3))):
            step = drawn.choice((1, 1, 1, 1, 1, 2, -1))
            place[field] = min(max(place[field] + step, 0), len(LADDERS[field]) - 1)
        said = {field: LADDERS[field][at] for field, at in place.items()}
        named = {"federation": "six-airlines" if level == 0 else f"level-{level}"}
        parent = {"parent": f"level-{level + 1}.yaml"} if made else {"parent": None}
        made.insert(0, changed(POLICY, {**said, **named, **parent}))
    return made


def asked(drawn: random.Random) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """A stack, a plan, and what stands around it."""
    plan = possible(changed(PLAN, dict(_some(drawn, PLAN_CHOICES, 2))))
    around = {**AROUND, **dict(_some(drawn, AROUND_CHOICES, 1))}
    return stack(drawn), plan, around


def _some(drawn: random.Random, choices: dict[str, list[Any]], most: int) -> Iterator[tuple[str, Any]]:
    for field in drawn.sample(sorted(choices), drawn.randint(0, most)):
        yield field, drawn.choice(choices[field])


def compared(count: int, seed: int = SEED) -> tuple[Counter[str], list[str]]:
    """Return how often each answer was given, and every disagreement."""
    drawn, answers, wrong = random.Random(seed), Counter[str](), list[str]()  # noqa: S311 - to be repeated
    for number in range(count):
        levels, plan, around = asked(drawn)
        due = broken_in_stack(levels, plan, around)
        try:
            found = question(levels, plan, around).rules()
        except OperatorFault:
            found = None
        answers["not loaded" if due is None else "refused" if due else "granted"] += 1
        answers[f"{len(levels)} levels"] += 1
        if found != due:
            wrong.append(f"stack {number}: the engine says {found}, the oracle {due}")
    return answers, wrong


def dry_runs(count: int, seed: int = SEED) -> tuple[int, list[str]]:
    """Requests decided, and those that a dry run answers differently: by a rule, its value, limit or fix."""
    drawn, made, wrong = random.Random(seed + 1), 0, list[str]()  # noqa: S311 - to be repeated
    while made < count:
        try:
            one = question(*asked(drawn))
        except OperatorFault:
            continue  # no policy, so nothing to decide
        made += 1
        answer = one.decided()
        reasons = answer.reasons if isinstance(answer, Refusal) else ()
        decided = [(reason.rule, reason.value, reason.limit, reason.fix) for reason in reasons]
        checks = explain(one.policy, one.plan, one.account, one.price, one.now)
        dry = [(check.rule, check.value, check.limit, check.fix) for check in checks if not check.held]
        if dry != decided:
            wrong.append(f"request {made}: decided {decided}, dry run {dry}")
    return made, wrong


def main() -> None:
    """Print the figures; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} stacks instead of {FULL}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count = QUICK if options.quick else FULL
    answers, wrong = compared(count)
    requests, apart = dry_runs(2 * count)
    least = count // 20
    figures = [
        figure("stacks decided", count, f">= {count}", sum(answers[name] for name in NAMES) == count),
        figure("stacks on which engine and oracle differ", len(wrong), "= 0", not wrong),
        figure("requests decided", requests, f">= {2 * count}", requests >= 2 * count),
        figure("requests whose dry run differs from the decision", len(apart), "= 0", not apart),
        *(figure(f"stacks {name}", answers[name], f">= {least}", answers[name] >= least) for name in NAMES),
    ]
    raise SystemExit(report(figures, as_json=options.json, wrong=[*wrong[:10], *apart[:10]]))


if __name__ == "__main__":
    main()
