"""What is shown of an account is what a decision holds it to: by the policies of those who were charged there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from securefl.audit import explain, replay
from securefl.policy.decide import decide
from securefl.privacy.accountant import price
from securefl.terms import PoissonGaussian, RunId, RunJoined
from tests.support.audited import EVENT, NOW, POLICY, Story, digest

STRICT = POLICY.replace("federation: harbour", "federation: canal").replace("epsilon: 8, delta", "epsilon: 1, delta")
STRICT = STRICT.replace("per_dataset: {epsilon: 8}", "per_dataset: {epsilon: 1}").replace(
    "{epsilon: 4}", "{epsilon: 1}"
)


def opened(story: Story, policy: str, federation: str) -> None:
    """North joins a run under another policy, which charges nothing."""
    (own,) = [each for each in story.parties["north"].truth if isinstance(each, RunJoined)]
    run = RunId(digest("another run")[:16])
    story.note("north", replace(own, run=run, federation=federation, policy=policy.encode()))


def limits(run: Path) -> dict[str, float]:
    return {each["member"]: each["limit"] for each in replay.accounts(run) if each["level"] == "dataset"}


def told(rounds: int) -> Story:
    story = Story()
    story.begin()
    for number in range(1, rounds + 1):
        story.round(number)
    return story


def test_a_policy_under_which_nothing_was_charged_limits_no_account_that_was(tmp_path: Path) -> None:
    story = told(1)
    before = limits(story.export(tmp_path / "before"))
    opened(story, STRICT, "canal")
    after = limits(story.export(tmp_path / "after"))
    assert before == after == dict.fromkeys(before, 8.0)


def test_of_an_account_that_was_never_charged_every_policy_may_be_the_first(tmp_path: Path) -> None:
    story = told(0)
    opened(story, STRICT, "canal")
    assert limits(story.export(tmp_path))["north"] == 1.0
    assert limits(tmp_path)["south"] == 8.0


@pytest.mark.parametrize(("federation", "policy", "state"), [
    ("canal", STRICT, explain.State.ON), ("harbour", STRICT.replace("canal", "harbour").replace("version: 1", "version: 2"), explain.State.OFF),
])  # fmt: skip
def test_an_account_above_its_limit_is_a_protection_that_did_not_hold(
    tmp_path: Path, federation: str, policy: str, state: explain.State
) -> None:
    story = told(2)
    story.close()
    opened(story, policy, federation)
    found = explain.explain(story.leave(tmp_path))
    (line,) = [each for each in found.lines if each.name == "epsilon"]
    assert line.state is state
    assert found.breached is (state is explain.State.OFF)


@pytest.mark.parametrize("changed", [False, True])
def test_a_refusal_says_why_a_plan_that_differs_costs_more_than_the_sum(changed: bool) -> None:
    story = Story(
        policy=POLICY.replace("epsilon: 8, delta", "epsilon: 1.7, delta").replace("{epsilon: 8}", "{epsilon: 1.7}")
    )
    story.begin()
    story.round(1)
    plan, account = story.plan(2), story.parties["north"].account()
    event = (
        PoissonGaussian(EVENT.sampling_rate * 2, EVENT.noise_multiplier, EVENT.steps)
        if changed
        else replace(EVENT, steps=400)
    )
    plan = replace(plan, learning=replace(plan.learning, event=event))
    due = price(
        plan, account, "north-data", float(story.policy.budget.delta_share), story.policy.caps("north-data", plan.run)
    )
    (fix,) = {
        each.fix.partition(" until ")[0]
        for each in decide(story.policy, plan, account, due, NOW).reasons
        if each.rule == "budget.epsilon"
    }
    assert ("keep to the plan that was charged before" in fix) is changed
