"""How fast a decision is, and a price that was computed before. CPU time of one core; nothing else is measured.

python -m audits.speed.decide [--quick] [--json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from audits.figures import figure, report
from securefl.policy.decide import decide
from securefl.privacy import accountant
from securefl.privacy.account import Account
from securefl.terms import Grant, PoissonGaussian
from tests.policy.test_policy_decide import question
from tests.policy.test_policy_oracle import PLAN, POLICY, changed

FULL, QUICK = 20_000, 2_000
A_SECOND, P99_MS, PRICE_MS = 5_000, 2.0, 20.0


def spans(count: int, call: Callable[[int], object]) -> list[float]:
    """CPU milliseconds of each call, sorted."""
    taken = []
    for number in range(count):
        before = time.process_time_ns()
        call(number)
        taken.append((time.process_time_ns() - before) / 1e6)
    return sorted(taken)


def measured(count: int) -> list[dict[str, object]]:
    """The figures; every decision is about a plan that was never seen before."""
    asked = [
        question(POLICY, PLAN),
        question([{**POLICY, "parent": "a.yaml"}, changed(POLICY, {"federation": "above"})]),
    ]
    figures: list[dict[str, object]] = []
    for one, name in zip(asked, ("one policy", "two levels"), strict=True):
        questions = []
        for number in range(count):
            plan = replace(one.plan, round=number + 2)
            price = replace(one.price, plan=accountant.wire.plan_hash(plan))
            questions.append((plan, price))
        assert isinstance(decide(one.policy, *_rest(one, *questions[0])), Grant)
        taken = spans(count, lambda number, one=one, q=questions: decide(one.policy, *_rest(one, *q[number])))
        rate, p99 = count / (sum(taken) / 1000), taken[int(count * 0.99)]
        figures += [
            figure(f"decisions a second, {name}", round(rate), f">= {A_SECOND}", holds=rate >= A_SECOND),
            figure(f"99th percentile of a decision, {name} (ms)", round(p99, 3), f"< {P99_MS}", holds=p99 < P99_MS),
        ]
    event = PoissonGaussian(Fraction(1, 16), Fraction(1), 8)
    plan = replace(asked[0].plan, learning=replace(asked[0].plan.learning, event=event))
    accountant.price(plan, Account(), "d", 1e-5)
    taken = spans(200, lambda number: accountant.price(replace(plan, round=number + 2), Account(), "d", 1e-5))
    p99 = taken[197]
    return [
        *figures,
        figure("a cached price, 99th percentile (ms)", round(p99, 3), f"<= {PRICE_MS}", holds=p99 <= PRICE_MS),
    ]


def _rest(one: object, plan: object, price: object) -> tuple[object, ...]:
    return (plan, one.account, price, one.now)  # type: ignore[attr-defined]


def main() -> None:
    """Print the figures; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description="How fast a decision is.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} decisions instead of {FULL}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measured(QUICK if options.quick else FULL)
    raise SystemExit(report(figures, as_json=options.json))


if __name__ == "__main__":
    main()
