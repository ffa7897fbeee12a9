"""Policies with cases beside them: every shipped case holds, and a wrong case is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefl.documents import strict
from securefl.errors import OperatorFault
from securefl.policy import cases, load
from securefl.policy.plan_document import draft
from securefl.terms import Scheme

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "policies"
FOLDERS = (POLICIES, ROOT / "examples" / "carriers", ROOT / "examples" / "worldlm")
SHIPPED = [(path, outcome) for folder in FOLDERS for path in cases.policies_in(folder) for outcome in cases.run(path)]


@pytest.mark.parametrize(
    ("path", "outcome"), SHIPPED, ids=[f"{path.stem}: {outcome.name}" for path, outcome in SHIPPED]
)
def test_a_shipped_case_is_decided_as_it_says(path, outcome):
    assert outcome.ok, outcome.why


def test_every_shipped_policy_has_cases_of_both_kinds():
    policies = {path for path in POLICIES.glob("*.yaml") if not path.name.endswith(".cases.yaml")}
    policies |= set((ROOT / "examples").glob("*/*.policy.yaml"))
    assert policies == {path for folder in FOLDERS for path in cases.policies_in(folder)}
    for policy in policies:
        assert {bool(outcome.rules) for path, outcome in SHIPPED if path == policy} == {True, False}


@pytest.fixture
def beside(tmp_path: Path):
    """A policy, and a function that writes cases beside it and runs them."""
    text = (POLICIES / "six-airlines.yaml").read_text()
    base = (POLICIES / "six-airlines.cases.yaml").read_text().split("cases:\n")[0]
    (tmp_path / "p.yaml").write_text(text)

    def run(*lines: str):
        (tmp_path / "p.cases.yaml").write_text(base + "cases:\n" + "".join(f"  - {line}\n" for line in lines))
        return cases.run(tmp_path / "p.yaml")

    return run


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("{name: a, expect: refuse, rules: [training.rank]}", "grant, not refuse"),
        ("{name: a, change: {rank: 99}, expect: grant}", "refuse, not grant: training.rank"),
        (
            "{name: a, change: {rank: 99}, expect: refuse, rules: [training.clip]}",
            "refused by training.rank; not training.clip",
        ),
        (
            "{name: a, change: {rank: 99, clip: 2}, expect: refuse, rules: [training.rank]}",
            "refused by training.clip, training.rank; not",
        ),
        ("{name: a, epsilon_round: 8.0000001, expect: grant}", "refuse, not grant: budget.per_round.epsilon"),
    ],
)
def test_a_case_that_is_decided_otherwise_fails(beside, case, why):
    (outcome,) = beside(case)
    assert not outcome.ok
    assert why in outcome.why


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("{name: a, change: {rnk: 17}, expect: grant}", ":19: rnk: unknown key; did you mean `rank`?"),
        ("{name: a, change: {rank: big}, expect: grant}", ":19: rank: found 'big'; write a whole number"),
        ("{name: a, expect: refuse}", ":19: cases.0: found a mapping; a refusal names its rules"),
        ("{name: a, expect: grant, rules: [valid]}", "a grant names none"), ("{name: a, expect: maybe}", "cases.0.expect: found 'maybe'"),
        ("{name: a, day: 2026-13-01, expect: grant}", "cases.0.day: found '2026-13-01'"), ("{name: a, epsilon_round: -1, expect: grant}", "cases.0.epsilon_round"),
    ],
)  # fmt: skip
def test_a_case_that_is_not_understood_is_refused_at_its_line(beside, case, told):
    with pytest.raises(OperatorFault) as caught:
        beside(case)
    assert told in str(caught.value)


def test_a_wrong_field_of_the_base_plan_is_told_at_its_own_line(beside, tmp_path):
    beside("{name: a, expect: grant}")
    path = tmp_path / "p.cases.yaml"
    path.write_text(path.read_text().replace("  steps: 4", "  stepps: 4"))
    with pytest.raises(OperatorFault, match=r"cases\.yaml:12: stepps: unknown key; did you mean `steps`\?"):
        cases.run(tmp_path / "p.yaml")


def test_a_folder_without_cases_is_told(tmp_path):
    with pytest.raises(OperatorFault, match="write cases beside a policy"):
        list(cases.policies_in(tmp_path))


def test_cases_without_their_policy_are_told(beside, tmp_path):
    beside("{name: a, expect: grant}")
    (tmp_path / "p.yaml").unlink()
    (path,) = cases.policies_in(tmp_path)
    with pytest.raises(OperatorFault, match="cannot be read"):
        cases.run(path)


def test_a_drafted_plan_says_what_was_written():
    text = b"""securefl_plan: 1
federation: f
purpose: p
regions: [US, EU]
members: 3
base_model: m
targets: [query]
sampling_rate: 1/20
noise_multiplier: 0.8
steps: 7
clip: 0.1
protection: ckks
min_cohort: 3
threshold: 3
colluding: 1
"""
    policy = load.load(POLICIES / "six-airlines.yaml").hash
    plan = draft(strict.parse(text, "plan.yaml"), policy)
    event = plan.learning.event
    assert (event.sampling_rate.denominator, event.noise_multiplier * 5, event.steps, plan.learning.clip_l2 * 10) == (
        20,
        4,
        7,
        1,
    )
    assert [seat.region for seat in plan.cohort] == ["US", "EU", "US"]
    assert len({seat.key for seat in plan.cohort} | {plan.cover.custodian}) == 4
    assert (plan.cover.scheme, plan.policy, plan.release) == (Scheme.CKKS, policy, ("weights",))


def test_a_file_without_a_case_tests_nothing_and_is_refused(tmp_path: Path):
    base = (POLICIES / "six-airlines.cases.yaml").read_text().split("cases:\n")[0]
    (tmp_path / "p.yaml").write_text((POLICIES / "six-airlines.yaml").read_text())
    (tmp_path / "p.cases.yaml").write_text(base + "cases: []\n")
    with pytest.raises(OperatorFault, match=r"p\.cases\.yaml:\d+: cases: .*at least 1"):
        cases.run(tmp_path / "p.yaml")
