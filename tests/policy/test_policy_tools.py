"""What people expect of a policy language: checks, trees, differences, coverage, simulations, schemas and forecasts."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings

from securefl.audit import forecast
from securefl.audit.simulate import simulate
from securefl.cli.main import main
from securefl.errors import OperatorFault
from securefl.planning.plan import price_in
from securefl.planning.preview import foresee
from securefl.policy import cases, load, tree
from securefl.policy.decide import decide
from securefl.policy.difference import difference
from securefl.policy.rule_table import RULES
from securefl.privacy.account import Account
from securefl.privacy.accountant import epsilon_filter, epsilon_pld
from securefl.terms import Grant, Reserved, RunId, RunJoined
from tests.policy.test_policy_decide import explained, question
from tests.policy.test_policy_narrow import POLICIES as ANY_POLICIES
from tests.policy.test_policy_narrow import document
from tests.policy.test_policy_oracle import PLAN, POLICY, changed, loosens
from tests.support.audited import EVENT, told
from tests.support.audited import POLICY as HARBOUR
from tests.support.small import POLICY as SMALL

SHIPPED = Path(__file__).parents[2] / "policies"
NOW = 1_780_272_000  # 2026-06-01


def policy(**changes) -> load.Policy:
    return load.parse(yaml.safe_dump(changed(POLICY, changes)).encode(), "policy.yaml")


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict:
    """What a command answers with --json."""
    try:
        main([*map(str, arguments), "--json"])
        found = 0
    except SystemExit as stop:
        found = int(stop.code or 0)
    assert found == code
    return json.loads(capsys.readouterr().out)


# Explain.


@pytest.mark.parametrize("scheme", ["masking", "ckks"])
def test_every_rule_says_what_it_looks_at_and_stands_in_one_branch(scheme):
    checks = explained(question(plan=changed(PLAN, {"protection": scheme, "rank": 99})))
    assert {check.rule for check in checks} <= {rule.name for rule in RULES}
    branches = tree.tree(checks)
    assert [branch.part for branch in branches] == ["context", "training", "sharing", "protection", "release", "budget"]
    assert [check for branch in branches for check in branch.checks] == list(checks)
    assert [branch.part for branch in branches if not branch.held] == ["training"]


def test_explain_shows_a_tree_with_what_was_assumed(capsys, tmp_path):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(POLICY))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(changed(PLAN, {"rank": 99, "purpose": "sales"})))
    answer = said(capsys, "policy", "explain", tmp_path / "p.yaml", tmp_path / "plan.yaml", code=3)
    failed = [rule["rule"] for part in answer["tree"] for rule in part["rules"] if not rule["held"]]
    assert failed == [reason["rule"] for reason in answer["reasons"]] == ["context.purposes", "training.rank"]
    assert "account" in answer["missing"]


# Diff.


@settings(max_examples=60)
@given(ANY_POLICIES, ANY_POLICIES)
def test_a_difference_allows_more_exactly_where_the_later_policy_loosens(a, b):
    changes = difference(document(a), document(b))
    assert any(change.effect in ("allows", "both") for change in changes) == loosens(a, b)
    assert any(change.effect in ("forbids", "both") for change in changes) == loosens(b, a)
    assert difference(document(a), document(a)) == ()


def test_a_difference_is_told_in_words_and_as_json(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(POLICY))
    later = {"version": 2, "budget.epsilon": 9, "training.rank.at_most": 4, "context.regions": ["US", "EU"]}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(changed(POLICY, later)))
    answer = said(capsys, "policy", "diff", tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert (answer["allows"], answer["forbids"]) == (
        ["budget.epsilon", "context.regions"], ["training.rank.at_most", "context.regions"],
    )  # fmt: skip
    assert {change["field"]: change["words"] for change in answer["changes"]} == {
        "version": "2 instead of 1",
        "budget.epsilon": "at most 9 instead of at most 8: more is allowed",
        "training.rank.at_most": "at most 4 instead of at most 16: less is allowed",
        "context.regions": "EU becomes allowed; CA becomes forbidden",
    }


# Test.


def test_rules_that_refuse_no_case_are_named(capsys, tmp_path):
    assert cases.unrefused(SHIPPED / "six-airlines.yaml", cases.run(SHIPPED / "six-airlines.yaml")) == ()
    for name in ("six-airlines.yaml", "six-airlines.cases.yaml"):
        lines = (SHIPPED / name).read_text().split("\n")
        (tmp_path / name).write_text(
            "\n".join(
                line
                for line in lines
                if "training.rank]" not in line and "everything is" not in line and "training.rank," not in line
            )
        )
    assert said(capsys, "policy", "test", tmp_path)["unrefused"] == {"six-airlines": ["training.rank"]}
    said(capsys, "policy", "test", tmp_path, "--every-rule", code=4)


# Simulate.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return told(rounds=3).export(tmp_path_factory.mktemp("run"))


def test_a_policy_would_have_allowed_what_was_done_under_it(run):
    answers = simulate(load.parse(HARBOUR.encode(), "harbour.yaml"), run)
    assert len(answers) == 12
    assert not any(answer.reasons for answer in answers)


def test_a_stricter_policy_would_have_refused_some_of_it(run, capsys, tmp_path):
    total = epsilon_pld((EVENT, EVENT), 1e-5)
    later = HARBOUR.replace("epsilon: 8, delta", f"epsilon: {total + 0.01:.3f}, delta").replace(
        "2026-01-01", "2028-01-01"
    )
    (tmp_path / "later.yaml").write_text(later.replace("version: 1", "version: 2"))
    answer = said(capsys, "policy", "simulate", tmp_path / "later.yaml", run)
    assert (answer["plans"], answer["refused"]) == (12, 4)
    assert {
        (row["round"], *(reason["rule"] for reason in row["reasons"]))
        for row in answer["answers"]
        if row["decision"] == "refuse"
    } == {(3, "budget.epsilon")}


def test_nothing_can_be_said_of_another_federation(run):
    with pytest.raises(OperatorFault, match="no plan of other was ever reserved"):
        simulate(load.parse(HARBOUR.replace("federation: harbour", "federation: other").encode(), "p"), run)


# Forecast.


def test_so_many_rounds_as_are_forecast_fit_and_one_more_does_not(run):
    (outlook,) = forecast.outlooks(run / "ledger" / "north.ledger")
    tight = replace(outlook, spent=tuple(replace(each, limit=Fraction(4)) for each in outlook.spent))
    left, rule = tight.rounds_left(Fraction(3))
    more = replace(EVENT, noise_multiplier=Fraction(3))
    assert (rule, left > 5) == ("budget.epsilon", True)
    assert epsilon_filter([EVENT] * 3 + [more] * left, 1e-5) <= 4, "another noise: held by the filter"
    assert epsilon_filter([EVENT] * 3 + [more] * (left + 2), 1e-5) > 4
    left, rule = tight.rounds_left(EVENT.noise_multiplier)
    assert epsilon_pld([EVENT] * (3 + left), 1e-5) <= 4 < epsilon_pld([EVENT] * (3 + left + 2), 1e-5)


def test_the_noise_that_rounds_need_is_enough_and_a_little_less_is_not(run):
    (outlook,) = forecast.outlooks(run / "ledger" / "north.ledger")
    noise = outlook.noise_for(100)
    assert noise is not None
    assert outlook.rounds_left(noise)[0] >= 100 > outlook.rounds_left(noise - Fraction(2, forecast.TICKS))[0]
    assert outlook.noise_for(1) <= 1


def test_a_forecast_is_a_table_json_and_a_picture(run, capsys, tmp_path):
    for name, start in (("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")):
        answer = said(
            capsys,
            "budget",
            "forecast",
            run / "ledger" / "north.ledger",
            "--noise",
            1,
            "--rounds",
            50,
            "--plot",
            tmp_path / name,
        )
        assert (tmp_path / name).read_bytes().startswith(start)
    (row,) = answer["forecasts"]
    assert row["member"] == "north" and row["rounds_left"][0]["rounds"] > 0
    assert row["noise_needed"][0]["rounds"] == 50
    with pytest.raises(SystemExit):
        main(["budget", "forecast", str(run), "--noise", "1", "--rounds", "50"])
    assert capsys.readouterr().out.count("rounds left, then budget.epsilon refuses") == 4
    said(capsys, "budget", "forecast", run, "--noise", 0, code=2)
    said(capsys, "budget", "forecast", run, "--plot", "plot.gif", code=2)


def test_a_forecast_asks_every_limit_that_a_decision_asks():
    """So many rounds as are forecast are granted on one account, in a run of their own; one more is not."""
    for changes, rule in (
        ({"budget.per_run": {"epsilon": 2}}, "budget.per_run.epsilon"),
        ({"budget.per_dataset.epsilon": 2}, "budget.per_dataset.epsilon"),
        ({"budget.epsilon": 2}, "budget.epsilon"),
    ):
        asked = question(
            changed(POLICY, {"budget.overlap": 1, **changes}),
            changed(PLAN, {"steps": 9, "sampling_rate": "1/20", "noise_multiplier": 2}),
        )
        price, account = price_in(asked.policy, "d"), Account.of(())
        first = replace(asked.plan, run=RunId(b"f" * 16))
        cost = price(first, account)
        entries = (
            RunJoined(first.run, "six-airlines", "member", asked.policy.text, "d", ()),
            Reserved(first, "d", cost, b""),
        )
        ledger = SimpleNamespace(
            name="a", owner="a", leaves=[SimpleNamespace(entry=each) for each in entries],
            each=lambda kind, of=entries: [(at, each) for at, each in enumerate(of) if isinstance(each, kind)],
        )  # fmt: skip
        (outlook,) = forecast._of(ledger)
        left, forbidden = outlook.rounds_left(first.learning.event.noise_multiplier)
        assert forbidden == rule
        account, granted = Account.of(entries), 0
        while True:
            plan = replace(first, run=RunId(b"g" * 16), round=granted + 1)
            cost = price(plan, account)
            answer = decide(asked.policy, plan, account, cost, asked.now)
            if not isinstance(answer, Grant):
                break
            account, granted = account.apply(Reserved(plan, "d", cost, answer.nonce)), granted + 1
        assert granted == left > 0
        assert {reason.rule for reason in answer.reasons} == {rule}


def test_what_others_were_promised_above_is_forecast_too():
    upper = changed(POLICY, {"federation": "top"})
    own, other = (changed(POLICY, {"parent": "top.yaml", "federation": name}) for name in ("six-airlines", "another"))
    account, entries = Account.of(()), []
    for number, written in enumerate((own, changed(other, {"budget.epsilon": "3/2", "budget.per_round.epsilon": 1}))):
        asked = question([written, upper], changed(PLAN, {"federation": written["federation"]}))
        plan = replace(asked.plan, run=RunId(bytes([number]) * 16))
        reserved = Reserved(plan, "d", price_in(asked.policy, "d")(plan, account), b"")
        entries += [RunJoined(plan.run, plan.federation, "member", asked.policy.text, "d", ()), reserved]
        account = account.apply(reserved)
    ledger = SimpleNamespace(
        name="a", owner="a", leaves=[SimpleNamespace(entry=each) for each in entries],
        each=lambda kind: [(at, each) for at, each in enumerate(entries) if isinstance(each, kind)],
    )  # fmt: skip
    (promised,) = {cap for cap in entries[3].price.caps if cap.by == "another" and cap.name == "top"}
    (outlook,) = (each for each in forecast._of(ledger) if each.federation == "six-airlines")
    others = [each for each in outlook.spent if each.rule == "budget.others.epsilon"]
    assert {each.limit for each in others} >= {Fraction(promised.epsilon, 1_000_000)}
    assert len({each.events for each in others}) == 1, "both federations' plans count on top's account"


def test_explain_prices_the_true_dimension_or_grants_nothing(small, tmp_path):
    training = {
        "unit": "client", "rounds": 1, "steps": 2, "sampling_rate": "1/4", "noise_multiplier": 0.6, "update_clip": 0.5,
        "learning_rate": 0.1, "optimizer": "sgd", "max_tokens": 16, "micro_batch": 16,
    }  # fmt: skip
    text = SMALL.replace("unit: record", "unit: client").replace("[poisson-g", "[distributed-discrete-g")
    text = text.replace("epsilon: 20, delta", "epsilon: 11, delta").replace("{epsilon: 10}", "{epsilon: 11}")
    changes = {"training": training, "protection": {"scheme": "masking", "fraction_bits": 6}}
    file = small.file("explained.yaml", policy=text, **changes)
    (told,) = foresee(small.folder / "explained.yaml.policy.yaml", file).parts.values()
    assert told.decision == "refuse", "at dimension 1 it would be granted"
    assert "plan.dimension" not in told.missing
    assert "budget.epsilon" in {reason.rule for reason in told.reasons}
    assert "training.base" in {check.rule for check in told.checks}
    gone = small.file("gone.yaml", policy=text, **changes, model="./no-model-is-here")
    (told,) = foresee(small.folder / "gone.yaml.policy.yaml", gone).parts.values()
    assert told.decision == "refuse" and "plan.dimension" in told.missing
    assert "plan.dimension" in {reason.rule for reason in told.reasons}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(changed(POLICY, CLIENTS)))
    plan = changed(PLAN, {"unit": "client", "fraction_bits": 14, "clip": "1/10", "noise_multiplier": 9})
    for dimension, rules in (({}, {"plan.dimension"}), ({"dimension": 1}, set())):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, **dimension}))
        (told,) = foresee(tmp_path / "p.yaml", tmp_path / "plan.yaml").parts.values()
        assert {reason.rule for reason in told.reasons} == rules


CLIENTS = {"budget.unit": "client", "training.mechanisms": ["distributed-discrete-gaussian"]}
