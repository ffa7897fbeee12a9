"""How fast a decision is, and a price that was computed before; beside Cedar's engine where ``cedarpy`` is installed.

CPU time of one core. `pip install securefl-core[bench]` brings cedarpy. What each decides: ours holds every rule
against the plan, prices and budgets too, hashes the plan, and words every value and limit; Cedar holds the rules
without budgets, over numbers that are worked out for it beforehand (see ``cedar_policy``), and names the rules that
refuse.

python -m audits.speed.decide [--quick] [--beside-cedar] [--json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from statistics import median
from typing import Any

from audits.figures import figure, report
from audits.speed import cedar_policy
from securefl.policy.decide import decide
from securefl.privacy import accountant
from securefl.privacy.account import Account
from securefl.terms import Grant, Plan, PoissonGaussian, Price, Refusal
from tests.policy.test_policy_decide import Question, dictionaries, priced, question
from tests.policy.test_policy_oracle import PLAN, POLICY, changed

FULL, QUICK = 20_000, 2_000
A_SECOND, P99_MS, PRICE_MS = 5_000, 2.0, 20.0
RATIO, BATCH = 0.5, 200  # of Cedar's decisions a second; decisions between one engine's turn and the other's


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


def _rest(one: Question, plan: Plan, price: Price) -> tuple[Any, ...]:
    return (plan, one.account, price, one.now)


def beside_cedar(count: int) -> list[dict[str, object]]:
    """Both engines on the same plans, batch after batch; nothing where cedarpy is not installed.

    Every second plan is refused, by one rule or more. Cedar's policies and entities are parsed before the clock runs.
    """
    try:
        import cedarpy  # noqa: PLC0415
    except ImportError:
        return []
    one = question(POLICY, PLAN)
    today = datetime.fromtimestamp(one.now, UTC).date()
    policies = cedarpy.PolicySet.from_str(cedar_policy.text(one.policy))
    entities = cedarpy.Entities.from_json_str("[]")
    refused = [
        question(**dictionaries([("plan", field, value)])).plan
        for field, value in (("rank", 17), ("purpose", "advertising"), ("min_cohort", 1), ("clip", "101/100"))
    ]
    ratios, alike, total = [], 0, 0
    for start in range(0, count, BATCH):
        plans = [
            replace(refused[number // 2 % len(refused)] if number % 2 else one.plan, round=number + 2)
            for number in range(start, start + BATCH)
        ]
        prices = [priced(one.policy, plan, one.account) for plan in plans]
        requests = [cedar_policy.request(plan, today) for plan in plans]
        before = time.process_time_ns()
        ours = [decide(one.policy, *_rest(one, plan, price)) for plan, price in zip(plans, prices, strict=True)]
        between = time.process_time_ns()
        theirs = cedarpy.is_authorized_batch(requests, policies, entities)
        ratios.append((time.process_time_ns() - between) / (between - before))
        for answer, other in zip(ours, theirs, strict=True):
            assert not other.diagnostics.errors, other.diagnostics.errors
            names = {reason.rule for reason in answer.reasons} if isinstance(answer, Refusal) else set()
            alike += (isinstance(answer, Grant) and other.allowed) or names == _named(other)
            total += 1
    ratio = median(ratios)
    return [
        figure("decisions on which ours and Cedar's name the same rules", alike, f"= {total}", holds=alike == total),
        figure(
            "our decisions a second, with budgets, to Cedar's without (cedarpy)", round(ratio, 2), f">= {RATIO}",
            holds=ratio >= RATIO,
        ),
    ]  # fmt: skip


def _named(answer: Any) -> set[str]:  # noqa: ANN401 - cedarpy has no types
    """The rules by which Cedar refuses; none where it allows."""
    told = answer.diagnostics.id_annotations_by_reason
    return set() if answer.allowed else {told.get(each, each) for each in answer.diagnostics.reasons}


def main() -> None:
    """Print the figures; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description="How fast a decision is.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} decisions instead of {FULL}")
    parser.add_argument("--beside-cedar", action="store_true", help="the ratio alone; it asks for cedarpy")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count = QUICK if options.quick else FULL
    ratio = beside_cedar(count)
    if options.beside_cedar and not ratio:
        parser.error("cedarpy is not installed: pip install 'securefl-core[bench]'")
    figures = ratio if options.beside_cedar else measured(count) + ratio
    raise SystemExit(report(figures, as_json=options.json, beside=("cedarpy",) if ratio else ()))


if __name__ == "__main__":
    main()
