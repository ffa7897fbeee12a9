"""Policies as documents: what is accepted, what is refused by name, what is noted."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
import yaml

from securefl.documents import strict
from securefl.errors import OperatorFault
from securefl.policy import load
from securefl.policy.document import PolicyDocument, schema_text
from securefl.terms import Accountant, Level, Limit, MicroEpsilon, RunId, Scheme
from tests.policy.test_policy_oracle import POLICY, changed

POLICIES = Path(__file__).parents[2] / "policies"
NOW = 1_780_272_000  # 2026-06-01


def policy(**changes) -> load.Policy:
    return load.parse(yaml.safe_dump(changed(POLICY, changes)).encode(), "policy.yaml")


def refusal(**changes) -> str:
    with pytest.raises(OperatorFault) as caught:
        policy(**changes)
    return str(caught.value)


def test_the_shipped_policies_load_and_only_the_unsafe_one_allows_clear():
    found = {path.stem: load.load(path) for path in POLICIES.glob("*.yaml") if not path.name.endswith(".cases.yaml")}
    assert {"six-airlines", "strict-clinical", "unsafe-clear-for-comparison"} <= set(found)
    assert {name for name, one in found.items() if Scheme.CLEAR in one.protection.schemes} == {
        "unsafe-clear-for-comparison"
    }
    for name, one in found.items():
        notes = load.check(one, NOW)
        assert all("clear" in note for note in notes), (name, notes)


def test_the_hash_is_of_every_byte():
    text = yaml.safe_dump(POLICY).encode()
    assert load.parse(text, "a").hash == load.parse(text, "b").hash == load.policy_hash(text)
    assert load.parse(text + b"# seen\n", "a").hash != load.parse(text, "a").hash
    assert load.parse(text, "a").text == text


def test_a_text_is_read_once_and_what_is_wrong_is_said_of_the_file_it_is_in(monkeypatch):
    above = yaml.safe_dump(POLICY | {"federation": "above"}).encode()
    below = yaml.safe_dump(POLICY | {"federation": "below", "parent": {"policy": "above.yaml"}}).encode()
    chain, times, parse = load.ABOVE.join([below, above]), [], strict.parse
    monkeypatch.setattr(strict, "parse", lambda text, name: times.append(text) or parse(text, name))
    load._read_before.cache_clear()
    assert load.parse(chain, "here/a.yaml") == load.parse(chain, "there/b.yaml")
    assert sorted(times) == sorted([below, above])
    looser = changed(yaml.safe_load(below), {"training.rank": {"at_most": 17}})
    loose = load.ABOVE.join([yaml.safe_dump(looser).encode(), above])
    wrong = load.ABOVE.join([below, above.replace(b"version: 1", b"version: one")])
    for name in ("here/a.yaml", "there/b.yaml"):
        for text, place in ((loose, name), (wrong, name.replace(Path(name).name, "above.yaml"))):
            with pytest.raises(OperatorFault, match=re.escape(place) + ":[0-9]+"):
                load.parse(text, name)


def test_limits_are_exactly_what_is_written():
    one = load.load(POLICIES / "six-airlines.yaml")
    assert (one.budget.delta, one.training.noise_multiplier.at_least) == (Fraction(1, 100_000), Fraction(1, 2))
    assert (one.valid.from_, one.valid.until) == (dt.date(2026, 1, 1), dt.date(2030, 12, 31))


def test_a_policy_cannot_be_changed_after_it_was_read():
    one = policy()
    with pytest.raises(ValueError, match="frozen"):
        one.budget.epsilon = Fraction(100)
    with pytest.raises(AttributeError):
        one.text = b""


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("parent", "alliance.yaml", "parent: the policy above is not here"), ("parent", 7, "parent: found 7"),
        ("parent", {"policy": "a.yaml", "hash": "12"}, "parent.hash: found '12'"), ("parent", {"file": "a.yaml"}, "parent.file: unknown key"),
        ("approvals", {"required": 2}, "2 must approve what one more wrote: name at least 3 keys"),
        ("approvals", {"required": False}, "approvals.required: found false; write a whole number"), ("approvals", {"required": -1}, "approvals.required: found -1"),
        ("approvals", {"required": 0, "keys": []}, "approvals.keys: found a list"), ("approvals", {"required": 0, "key": {}}, "approvals.key: unknown key"),
        ("approvals", {"required": 0, "keys": {"alice": "12"}}, "approvals.keys.alice: found '12'"),
        ("approvals", {"required": 0, "keys": {"alice": "12" * 32, "bob": "12" * 32}}, "two names have one key"),
        ("securefl_policy", 2, "securefl_policy: found 2"), ("securefl_policy", True, "securefl_policy: found true"),
        ("version", 0, "version: found 0"), ("version", True, "version: found true; write a whole number"), ("federation", "Six Airlines", "federation: found"),
        ("federation", "../up", "federation: found"), ("valid.from", "2026-02-30", "valid.from: found '2026-02-30'"), ("valid.until", "20301231", "a date such as"),
        ("valid.until", "2025-01-01", "valid: found a mapping; until 2025-01-01 is before valid.from 2026-01-01"),
        ("budget.epsilon", 0, "budget.epsilon: found 0"), ("budget.epsilon", -1, "budget.epsilon: found -1"), ("budget.epsilon", "8", "a number such as"),
        ("budget.delta", 1, "budget.delta: found 1"), ("budget.delta", 0, "budget.delta: found 0"), ("budget.overlap", 0, "budget.overlap: found 0"),
        ("budget.overlap", True, "budget.overlap: found true"), ("budget.unit", "user", "budget.unit: found 'user'; it should be 'record' or 'client'"),
        ("budget.per_round", None, "budget.per_round: found nothing"), ("training.mechanisms", ["gaussian"], "training.mechanisms.0: found 'gaussian'"),
        ("training.clip.norm", "linf", "training.clip.norm: found 'linf'"), ("training.rank.at_most", 1.5, "training.rank.at_most: found 1.5"),
        ("training.base_models", ["*"], "training.base_models.0: found '*'; no pattern is understood: write `any`"),
        ("training.base_models", ["sha256:ABC"], "write sha256: and 64"), ("training.modules", "query", "training.modules: found 'query'; write a list"),
        ("protection.schemes", ["maskign"], "protection.schemes.0: found 'maskign'"), ("protection.min_cohort", 1, "protection.min_cohort: found 1"),
        ("protection.colluding", -1, "protection.colluding: found -1"), ("release.to", "everybody", "release.to: found 'everybody'"),
        ("release.feilds", [], "release.feilds: unknown key; did you mean `fields`?"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(field, value, told):
    message = refusal(**{field: value})
    assert told in message
    assert message.startswith("policy.yaml:")


@pytest.mark.parametrize("field", sorted(set(POLICY) - {"parent", "approvals", "sharing", "keys"}))
def test_no_section_may_be_missing(field):
    document = copy.deepcopy(POLICY)
    del document[field]
    with pytest.raises(OperatorFault, match=f"{field}: missing"):
        load.parse(yaml.safe_dump(document).encode(), "policy.yaml")


@pytest.mark.parametrize(
    ("field", "value", "note"),
    [
        ("budget.per_round.epsilon", 9, "budget.per_round.epsilon"), ("budget.epsilon", 9, "budget.epsilon"), ("budget.unit", "client", "budget.unit"),
        ("protection.min_cohort", 2, "protection.min_cohort"), ("protection.threshold.at_least", 2, "protection.threshold.at_least"),
        ("protection.schemes", ["clear"], "protection.schemes"), ("valid.until", "2026-05-31", "valid.until"), ("valid.from", "2026-06-02", "valid.from"),
        ("training.mechanisms", [], "training.mechanisms"), ("training.adapters", [], "training.adapters"), ("training.rules", [], "training.rules"), ("training.clipping", [], "training.clipping"), ("training.modules", [], "training.modules"), ("training.base_models", [], "training.base_models"),
        ("protection.schemes", [], "protection.schemes"), ("context.purposes", [], "context.purposes"), ("context.regions", [], "context.regions"),
        ("release.fields", [], "release.fields"),
    ],
)  # fmt: skip
def test_what_can_never_be_met_is_noted(field, value, note):
    assert load.check(policy(), NOW) == ()
    assert any(told.startswith(f"{note}:") for told in load.check(policy(**{field: value}), NOW))


def test_every_field_says_in_the_schema_what_it_means():
    schema = PolicyDocument.model_json_schema()
    for name, part in {"PolicyDocument": schema, **schema["$defs"]}.items():
        for field, described in part.get("properties", {}).items():
            assert "description" in described or "$ref" in described, f"{name}.{field}"


def test_the_schema_beside_the_policies_is_the_one_the_code_makes():
    assert (POLICIES / "policy.schema.json").read_text() == schema_text()


@pytest.mark.parametrize("path", [path for path in POLICIES.glob("*.yaml") if not path.name.endswith(".cases.yaml")])
def test_shipped_policies_complete_from_the_schema_and_fit_it(path):
    first, *_ = path.read_text().split("\n")
    assert first == "# yaml-language-server: $schema=policy.schema.json"
    written = yaml.load(path.read_text(), yaml.BaseLoader)
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    written = json.loads(json.dumps(strict.read(path).value))
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "bugdet": {}}, schema)


@pytest.mark.parametrize(
    ("changes", "records", "note"),
    [
        ({}, 100_001, "budget.delta: 0.00001 is above 1/100001"),
        ({"budget.epsilon": "1/2000000"}, None, "budget.epsilon: shared by 1 overlapping data sets it is less than a millionth"),
        ({"budget.per_round.epsilon": "1/1000000", "budget.overlap": 2}, None, "budget.per_round.epsilon: shared by 2"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_met_and_a_delta_above_one_in_n_are_noted(changes, records, note):
    assert any(told_.startswith(note) for told_ in load.check(policy(**changes), NOW, records))
    assert load.check(policy(), NOW, 100_000) == ()


def test_a_gap_between_versions_is_noted():
    old = policy(**{"valid.until": "2026-03-31"})
    assert load.check(policy(**{"version": 2, "valid.from": "2026-04-01"}), NOW, before=old) == ()
    (gap,) = load.check(policy(**{"version": 2, "valid.from": "2026-04-03"}), NOW, before=old)
    assert gap.startswith("valid.from: for 2 days after 2026-03-31 no version is valid")
    (same,) = load.check(policy(**{"valid.from": "2026-04-01"}), NOW, before=old)
    assert same == "version: 1 does not follow 1: no site will change to it"


@pytest.mark.parametrize(
    "changes",
    [
        {"valid.until": "2026-06-01"}, {"valid.from": "2026-06-01"}, {"budget.per_round.epsilon": 8}, {"budget.per_run": None},
        {"budget.per_round.epsilon": "1/1000000"}, {"budget.per_round.epsilon": "1/500000", "budget.overlap": 2},
        {"budget.per_dataset.epsilon": 9}, {"protection.threshold.at_least": 3}, {"protection.min_cohort": 4},
        {"training.rules": [], "training.adapters": ["bottleneck"]}, {"training.modules": [], "training.adapters": ["head"]},
        {"protection.schemes": ["ckks"], "protection.threshold.at_least": 1}, {"protection.trust": [], "protection.schemes": ["masked-ckks"]},
        {"budget.unit": "client", "training.mechanisms": ["distributed-discrete-gaussian"]},
    ],
)  # fmt: skip
def test_what_just_fits_is_not_noted(changes):
    assert load.check(policy(**changes), NOW) == ()


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"training.mechanisms": []}, ["training.mechanisms"]),
        ({"budget.unit": "client"}, ["budget.unit"]),
        ({"budget.per_run.epsilon": 9}, ["budget.per_run.epsilon"]),
        ({"budget.epsilon": 9, "budget.per_round.epsilon": 10}, ["budget.per_round.epsilon", "budget.epsilon"]),
        ({"protection.trust": []}, ["protection.schemes"]),
        ({"protection.schemes": ["clear", "masking"]}, ["protection.schemes"]),
        ({"protection.min_cohort": 3, "protection.colluding": 2, "protection.threshold.at_least": 2},
         ["protection.min_cohort", "protection.threshold.at_least"]),
        ({f"budget.{each}.epsilon": "1/2000000" for each in ("per_round", "per_run", "per_dataset")} | {"budget.epsilon": "1/2000000"},
         ["budget.epsilon", "budget.per_round.epsilon", "budget.per_dataset.epsilon", "budget.per_run.epsilon"]),
        ({"training.losses": [], "training.optimizers": []}, ["training.losses", "training.optimizers"]),
    ],
)  # fmt: skip
def test_each_field_that_can_never_be_met_is_noted_once_and_no_other(changes, fields):
    assert [note.partition(":")[0] for note in load.check(policy(**changes), NOW)] == fields


def test_another_federations_version_follows_nothing():
    before = policy(**{"federation": "others", "valid.until": "2026-03-31"})
    (note,) = load.check(policy(**{"valid.from": "2026-04-01"}), NOW, before=before)
    assert note == "federation: six-airlines does not follow others"


@pytest.mark.parametrize("colluding", range(4))
@pytest.mark.parametrize("members", range(2, 9))
def test_the_safe_threshold_is_the_least_at_which_no_two_groups_share_only_colluders(members, colluding):
    least = load.safe_threshold(members, colluding)
    assert 2 * least > members + colluding >= 2 * (least - 1)


def test_so_many_policies_may_stand_above_each_other_and_no_more():
    def chain(levels):
        texts = []
        for number in range(levels):
            parent = {"policy": "above.yaml"} if number < levels - 1 else None
            texts.append(yaml.safe_dump(changed(POLICY, {"federation": f"level-{number}", "parent": parent})).encode())
        return load.ABOVE.join(texts)

    assert len(load.parse(chain(8), "policy.yaml").above) == 7
    with pytest.raises(OperatorFault, match="more than 8 levels"):
        load.parse(chain(9), "policy.yaml")


def test_limits_of_accounts_are_shared_out_among_overlapping_data_sets_and_name_who_set_them():
    one = policy(**{"budget.overlap": 3, "budget.per_run": None, "budget.bound": "renyi-filter"})
    run = RunId(bytes(16))
    share, delta = MicroEpsilon(2_666_666), Fraction(1, 300_000)
    assert one.caps("rows", run) == tuple(
        Limit(level, name, share, delta, Accountant.FILTER, "six-airlines")
        for level, name in ((Level.DATASET, "rows"), (Level.FEDERATION, "six-airlines"), (Level.RUN, run.hex()))
    )
    own = policy(**{"budget.per_run.epsilon": 2, "budget.per_dataset.epsilon": 9}).caps("rows", run)
    assert [limit.epsilon for limit in own] == [9_000_000, 8_000_000, 2_000_000]
    for number in range(2_000):
        one.caps(str(number), run)
    assert one.caps("rows", run)[0].name == "rows"
