"""What a rule tells whoever reads the decision: what the plan says, what is allowed, and the change that would do."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import yaml

from securefl.documents import strict
from securefl.errors import OperatorFault
from securefl.policy import load, narrow, tree
from securefl.policy.plan_document import draft
from securefl.policy.sharing_rules import largest_clip
from securefl.protection.honest_count import exponential
from securefl.terms import Accountant, Hash, Level, Plan
from tests.policy.test_policy_decide import explained, question
from tests.policy.test_policy_narrow import document, stack
from tests.policy.test_policy_oracle import PLAN, POLICY, changed

FULL = {"sampler": "full", "sampling_rate": None}
CLIENT = {"unit": "client", "noise_multiplier": "9/10"}
# Changes of the plan and of the policy; a rule; whether it holds, what the plan says, what is allowed, and what to do.
TOLD = [
    ({}, {}, "training.mechanisms", True, "poisson-gaussian", "poisson-gaussian", ""),
    ({}, {"training.mechanisms": ["distributed-discrete-gaussian"]}, "training.mechanisms", False, "poisson-gaussian", "distributed-discrete-gaussian", "set mechanism to distributed-discrete-gaussian"),
    (FULL, {}, "training.mechanisms", False, "full-batch-gaussian", "poisson-gaussian", "set mechanism to poisson-gaussian"),
    (FULL, {"training.mechanisms": ["full-batch-gaussian"]}, "training.mechanisms", True, "full-batch-gaussian", "full-batch-gaussian", ""),
    (CLIENT, {}, "training.mechanisms", False, "distributed-discrete-gaussian", "poisson-gaussian", "set mechanism to poisson-gaussian"),
    ({"clip": "101/100"}, {}, "training.clip", False, "1.01", "above 0, at most 1 (l2)", "lower clip to 1"),
    ({"clipping": "automatic"}, {}, "training.clipping", False, "automatic", "flat, quantile", "set clipping to flat or quantile"),
    ({"noise_multiplier": "49/100"}, {}, "training.noise_multiplier", False, "0.49", "at least 0.5", "raise noise_multiplier to 0.5"),
    ({"loss": "pseudo-labels"}, {}, "training.losses", False, "pseudo-labels", "own-label, fedlsd", "set loss to own-label or fedlsd"),
    ({"optimizer": "adamw-bc"}, {}, "training.optimizers", False, "adamw-bc", "sgd, adamw", "set optimizer to sgd or adamw"),
    ({"learning_rate": "1/101"}, {}, "training.learning_rate", False, "1/101", "0.01 to 2", "raise learning_rate to 0.01"),
    ({"learning_rate": 3}, {}, "training.learning_rate", False, "3", "0.01 to 2", "lower learning_rate to 2"),
    ({"divisor": 1001}, {}, "training.divisor", False, "1001", "1 to 1000", "lower divisor to 1000"),
    ({"divisor": 1}, {}, "training.divisor", True, "1", "1 to 1000", ""),
    ({"micro_batch": 129}, {}, "training.micro_batch", False, "129", "1 to 128", "lower micro_batch to 128"),
    ({"micro_batch": 1}, {}, "training.micro_batch", True, "1", "1 to 128", ""),
    ({"max_tokens": 3}, {}, "training.tokens", False, "3", "4 to 64", "raise max_tokens to 4"),
    ({"micro_tokens": 63}, {}, "training.tokens", False, "64, 63 at once", "4 to 64, 64 to 8192 at once", "raise micro_tokens to 64"),
    ({"kind": "rslora"}, {}, "training.adapters", False, "rslora", "lora, bottleneck, head", "set kind to lora or bottleneck or head"),
    ({"rule": "both"}, {}, "training.rules", False, "both", "b-only, svd", "set rule to b-only or svd"),
    ({"kind": "head", "rule": "svd", "targets": []}, {}, "training.rules", False, "svd", "b-only", "set rule to b-only"),
    ({"targets": ["query", "key"]}, {}, "training.modules", False, "key", "query, value, attention.output.dense", "leave out every target of key"),
    ({"targets": ["key"]}, {"training.modules": ["query", "value"]}, "training.modules", False, "key", "query, value", "set target to query or value"),
    ({"kind": "head"}, {}, "training.modules", False, "query, value", "no layer for kind head", "leave out every target of query, value"),
    ({"rank": 1}, {}, "training.rank", True, "1", "1 to 16", ""),
    ({"rank": 0}, {}, "training.rank", False, "0", "1 to 16", "raise rank to 1"),
    ({"rank": 17}, {}, "training.rank", False, "17", "1 to 16", "lower rank to 16"),
    ({"base_model": "large"}, {"training.base_models": ["small-bert"]}, "training.base_models", False, "large (sha256:0000000000000000...)", "small-bert", "use the model small-bert"),
    ({"base_model": "large"}, {"training.base_models": []}, "training.base_models", False, "large (sha256:0000000000000000...)", "nothing", "nothing is allowed: agree on another policy"),
    ({"home": ["encoder", "head"]}, {}, "sharing.home", False, "encoder", "head, blocks.1", "leave tensors encoder out"),
    ({"pull": "1/2"}, {}, "sharing.pull", False, "used", "not used", "leave pull out"),
    ({"pull": "1/2"}, {"sharing.pull": True}, "sharing.pull", True, "used", "used or not", ""),
    ({}, {"sharing.attention": True}, "sharing.attention", True, "not used", "used or not", ""),
    ({"weights": [{"sharpness": n} for n in (1, 2, 3)]}, {}, "sharing.weightings", False, "3", "at most 2", "keep 2 of the weights"),
    ({"weights": [{"sharpness": 9, "clip": 4}]}, {}, "sharing.weight_ratio", False, "1 : 2980.957988", "1 : 60", "lower clip of weights and attention to 2.047172"),
    ({"weights": [{"sharpness": 9, "clip": 4}]}, {"sharing.weight_ratio.at_most": 1}, "sharing.weight_ratio", False, "1 : 2980.957988", "1 : 1", "leave weights and attention out"),
    ({"protection": "clear"}, {}, "protection.schemes", False, "clear", "masking, ckks, bfv, masked-ckks, masked-bfv", "set protection to masking or ckks or bfv or masked-ckks or masked-bfv"),
    ({"min_cohort": 2}, {}, "protection.min_cohort", False, "2", "at least 3", "raise min_cohort to 3"),
    ({"members": 2}, {}, "protection.cohort", False, "2", "at least 3", "raise members to 3"),
    ({"members": 4, "min_cohort": 5}, {}, "protection.cohort", False, "4", "at least 5", "raise members to 5"),
    ({"colluding": 0}, {}, "protection.colluding", False, "0", "at least 1", "raise colluding to 1"),
    ({"min_cohort": 2, "colluding": 1}, {}, "protection.honest", False, "min_cohort 2 - colluding 1", "above the 1 sum of a round", "raise min_cohort to 3"),
    ({"weights": [{"sharpness": 1}, {"sharpness": 1}], "fraction_bits": 24}, {}, "protection.honest", False, "min_cohort 3 - colluding 1, weights up to 7.389 : 1", "above the 2 sums of a round", "raise min_cohort to 24"),
    ({"attention": {"keys": ["blocks.1"], "clip": 2}, "members": 7}, {}, "protection.whole_cohort", False, "weights that members keep, over any 3 of 7 members", "the whole cohort, or no weights that are kept", "raise min_cohort to 7"),
    ({"members": 7}, {}, "protection.whole_cohort", True, "7 members", "the whole cohort, or no weights that are kept", ""),
    ({"fraction_bits": 3}, {}, "protection.fresh", False, "noise that may be below the grid's 2**-3 at learning rate 1", "noise of at least one grid step", "raise learning_rate to 125/9"),
    ({"members": 4, "threshold": 5}, {}, "protection.threshold.reachable", False, "5", "at most the 4 members", "lower threshold to 4, or have 5 members"),
    ({"protection": "ckks", "custodian": False}, {}, "protection.custodian", False, "no custodian", "a key that no member holds", "name a custodian who is no member"),
    ({"protection": "ckks"}, {"protection.trust": []}, "protection.trust", False, "ckks, whose custodian can open a single update", "trust in nothing", "set protection to masked-ckks"),
    ({"protection": "bfv"}, {}, "protection.trust", True, "bfv, whose custodian can open a single update", "trust in custodian", ""),
    ({"protection": "masked-bfv"}, {"protection.trust": []}, "protection.trust", True, "masked-bfv, whose custodian opens noise and sums", "trust in nothing", ""),
    ({"members": 1, "value_bits": 32}, {}, "protection.capacity", True, "1 members", "at most 1 in this encoding", ""),
    ({"members": 2, "value_bits": 32}, {}, "protection.capacity", False, "2 members", "at most 1 in this encoding", "set ring_bits to 32 and value_bits to 31"),
    ({"members": 8, "value_bits": 30}, {}, "protection.capacity", False, "8 members", "at most 4 in this encoding", "set ring_bits to 32 and value_bits to 29"),
    ({"members": 9, "value_bits": 29}, {}, "protection.capacity", False, "9 members", "at most 8 in this encoding", "set ring_bits to 32 and value_bits to 28"),
    ({"members": 8, "value_bits": 29}, {}, "protection.capacity", True, "8 members", "at most 8 in this encoding", ""),
    ({"value_bits": 33}, {}, "protection.capacity", False, "6 members", "at most 0 in this encoding", "set ring_bits to 32 and value_bits to 29"),
    ({"value_bits": 0}, {}, "protection.capacity", False, "6 members", "at most 0 in this encoding", "set ring_bits to 32 and value_bits to 29"),
    ({"ring_bits": 1 << 40}, {}, "protection.capacity", False, "6 members", "at most 0 in this encoding", "set ring_bits to 64 and value_bits to 61"),
    ({"ring_bits": 64, "value_bits": 63}, {}, "protection.capacity", False, "6 members", "at most 2 in this encoding", "set ring_bits to 64 and value_bits to 61"),
    ({"ring_bits": 1, "value_bits": 1, "members": 3}, {}, "protection.capacity", False, "3 members", "at most 1 in this encoding", "set ring_bits to 1 and value_bits to 1"),
    ({**CLIENT, "fraction_bits": 14}, {}, "protection.capacity", True, "6 members, 81182 grid units each", "at most 256 in this encoding, in 24 bits", ""),
    ({**CLIENT, "fraction_bits": 14, "value_bits": 18}, {}, "protection.capacity", True, "6 members, 81182 grid units each", "at most 16384 in this encoding, in 18 bits", ""),
    ({**CLIENT, "fraction_bits": 14, "value_bits": 17}, {}, "protection.capacity", False, "6 members, 81182 grid units each", "at most 32768 in this encoding, in 17 bits", "set ring_bits to 32 and value_bits to 17 and fraction_bits to 13"),
    ({**CLIENT, "fraction_bits": 30, "honest": 3}, {}, "protection.capacity", False, "6 members, 4442399241 grid units each", "at most 256 in this encoding, in 24 bits", "set ring_bits to 32 and value_bits to 24 and fraction_bits to 20"),
    ({"value_bits": 32}, {}, "protection.grid", False, "fraction_bits 20, value_bits 32", "fraction_bits 12 to 24, value_bits 1 to 31", "lower value_bits to 31"),
    ({"release": ["weights", "accuracy", "loss"]}, {}, "release.fields", False, "accuracy, loss", "weights", "do not release accuracy, loss"),
    ({}, {"release.fields": ["weights", "accuracy"]}, "release.fields", True, "weights", "weights, accuracy", ""),
    ({"release": []}, {}, "release.fields", True, "nothing", "weights", ""),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "policy", "rule", "held", "value", "limit", "fix"), TOLD)
def test_a_rule_tells_what_the_plan_says_what_is_allowed_and_what_would_do(plan, policy, rule, held, value, limit, fix):
    asked = question(policy=changed(POLICY, policy), plan=changed(PLAN, plan))
    (check,) = [each for each in explained(asked) if each.rule == rule]
    assert (check.held, check.value, check.limit) == (held, value, limit)
    if not held:
        assert check.fix == fix


@pytest.mark.parametrize("ratio", [Fraction(1), Fraction(1000001, 10**6), Fraction(5), Fraction(60), Fraction(2980)])
def test_the_clip_that_is_told_is_the_largest_in_millionths_under_the_ratio(ratio):
    found = largest_clip(ratio)
    assert found * 10**6 == int(found * 10**6)
    assert exponential(2 * found) <= ratio < exponential(2 * (found + Fraction(1, 10**6)))


def test_a_tree_marks_what_failed_what_would_do_and_what_was_assumed_and_nothing_else():
    asked = question(plan=changed(PLAN, {"rank": 17, "base_model": "large"}))
    checks = [each for each in explained(asked) if each.rule in {"training.rank", "training.base_models", "valid"}]
    models = f"small-bert, sha256:{'ab' * 32}"
    assert tree.lines(tree.tree(checks), ("plan.model.digest", "plan.cohort")) == [
        "held   context",
        "  └─ held   valid: 2026-06-01 (allowed: 2026-01-01 to 2030-12-31)",
        "FAILED training",
        "  ├─ FAILED training.rank: 17 (allowed: 1 to 16)",
        "  │          to be allowed: lower rank to 16",
        f"  └─ FAILED training.base_models: large (sha256:{'0' * 16}...) (allowed: {models})  [assumed: plan.model.digest]",
        f"             to be allowed: use the model {models.replace(', ', ' or ')}",
    ]


# A price is of one policy's own limits.


def test_a_price_that_names_no_data_set_or_two_of_this_policy_is_no_price_of_it():
    asked = question()
    assert not asked.rules()
    mine = [cap for cap in asked.price.caps if cap.level is Level.DATASET and cap.by == asked.policy.federation]
    assert len(mine) == 1
    for caps in (
        tuple(cap for cap in asked.price.caps if cap not in mine),
        (*asked.price.caps, replace(mine[0], name="another")),
        (),
    ):
        assert "budget.price" in replace(asked, price=replace(asked.price, caps=caps)).rules()


# A plan's document.


def drafted(**changes) -> Plan:
    return draft(strict.parse(yaml.safe_dump(changed(PLAN, changes)).encode(), "plan.yaml"), Hash(bytes(32)))


def test_what_a_plan_leaves_out_has_the_value_that_the_schema_says():
    left = {
        name: value
        for name, value in PLAN.items()
        if name not in {"kind", "rule", "targets", "rank", "divisor", "release"}
    }
    plan = draft(strict.parse(yaml.safe_dump(left).encode(), "plan.yaml"), Hash(bytes(32)))
    learning, encoding, adapter = plan.learning, plan.cover.encoding, plan.adapter
    assert (plan.round, plan.dimension, plan.release, plan.task.labels) == (1, 1, ("weights",), ("no", "yes"))
    assert (learning.divisor, learning.learning_rate, learning.optimizer) == (1, 1, "sgd")
    assert (learning.max_tokens, learning.micro_batch, learning.micro_tokens) == (64, 64, None)
    assert (adapter.kind, adapter.rule, adapter.targets, adapter.rank, adapter.alpha) == ("lora", "b-only", (), 8, 16)
    assert (encoding.value_bits, encoding.fraction_bits, encoding.ring_bits) == (24, 20, 32)
    assert (plan.sharing.weightings, plan.sharing.home, plan.sharing.pull, plan.sharing.attention) == (
        (),
        (),
        None,
        None,
    )
    assert plan.cover.custodian is None and drafted(protection="ckks").cover.custodian is not None


@pytest.mark.parametrize(("field", "least"), [
    ("members", 1), ("dimension", 1), ("divisor", 1), ("max_tokens", 1), ("micro_batch", 1), ("micro_tokens", 1), ("steps", 1),
    ("round", 1), ("honest", 1),
])  # fmt: skip
def test_a_number_below_its_least_is_refused_with_file_line_and_field(field, least):
    assert drafted(**{field: least})
    with pytest.raises(OperatorFault, match=rf"plan\.yaml:\d+: {field}: .*greater than or equal to {least}"):
        drafted(**{field: least - 1})


@pytest.mark.parametrize("field", ["noise_multiplier", "clip", "learning_rate"])
@pytest.mark.parametrize("value", [0, -1, "0/3"])
def test_what_has_to_be_above_zero_is_refused_with_file_line_and_field(field, value):
    with pytest.raises(OperatorFault, match=rf"plan\.yaml:\d+: {field}: .*greater than 0"):
        drafted(**{field: value})


@pytest.mark.parametrize(("changes", "why"), [
    ({"attention": {"keys": ["blocks.1"]}, "pull": "1/2"}, "attention with weights, home or pull"),
    ({"unit": "client", "noise_multiplier": "1/1000000000"}, "below 1: use a finer grid"),
])  # fmt: skip
def test_fields_of_which_no_plan_can_be_made_are_refused_with_the_file_and_why(changes, why):
    with pytest.raises(OperatorFault, match=rf"(?s)no plan can be made of this: .*{re.escape(why)}") as fault:
        drafted(**changes)
    assert "plan.yaml" in str(fault.value)


# Policies above each other.


def test_a_file_of_a_federation_is_named_as_one_and_its_policy_with_it():
    text = yaml.safe_dump({"securefl_federation": 1, "policy": "agreed.yaml"}).encode()
    with pytest.raises(OperatorFault, match="a federation's file, not a policy") as fault:
        load.parse(text, "federation.yaml")
    assert "agreed.yaml" in str(fault.value) and "federation.yaml" in str(fault.value)


def test_each_of_three_levels_pins_all_that_stands_above_it(tmp_path):
    def pin(level: int) -> dict:
        texts = [(tmp_path / f"level-{n}.yaml").read_bytes() for n in range(level, 3)]
        return {"parent": {"policy": f"level-{level}.yaml", "hash": load.policy_hash(load.ABOVE.join(texts)).hex()}}

    stack(tmp_path, {}, {}, {})
    top, loose = pin(2), pin(1)
    stack(tmp_path, {}, top, {})
    middle = pin(1)
    assert len({str(each) for each in (top, loose, middle)}) == 3
    assert [each.federation for each in load.load(stack(tmp_path, middle, top, {})).above] == ["level-1", "level-2"]
    for wrong in (top, loose):  # of the level further up; of the file as it was without its own pin
        hash_ = wrong["parent"]["hash"]
        with pytest.raises(OperatorFault, match=r"level-0\.yaml:\d+: parent: the policy above has hash"):
            load.load(stack(tmp_path, {"parent": {"policy": "level-1.yaml", "hash": hash_}}, top, {}))


def test_the_lowest_of_two_levels_is_held_against_the_upper_one(tmp_path):
    two = stack(tmp_path, {"training.rank.at_most": 17}, {})
    with pytest.raises(OperatorFault, match="17 is looser than 16"):
        load.load(two)
    tight = load.load(stack(tmp_path, {"training.rank.at_most": 4, "release.fields": []}, {"training.rank.at_most": 8}))
    assert (tight.document.training.rank.at_most, tight.document.release.fields) == (4, ())


def test_a_chain_in_one_text_may_be_as_long_as_its_levels_together_and_no_level_longer_than_one(tmp_path, monkeypatch):
    parents = ("above", "above that", None)
    levels = [
        yaml.safe_dump(changed(POLICY, {"federation": f"level-{n}", "parent": above})).encode()
        for n, above in enumerate(parents)
    ]
    most = max(map(len, levels)) + 20
    monkeypatch.setattr(strict, "LIMIT_BYTES", most)  # as if a level might be no longer than these are
    path = tmp_path / "copy.yaml"
    path.write_bytes(load.ABOVE.join(level + b"#" * (most - len(level) - 1) + b"\n" for level in levels))
    assert len(load.load(path).above) == 2
    path.write_bytes(load.ABOVE.join([levels[0] + b"#" * most + b"\n", *levels[1:]]))
    with pytest.raises(OperatorFault, match=r"more than .* bytes"):
        load.load(path)


@pytest.mark.parametrize(("parent", "child", "found"), [
    ("pld", "pld", "pld"), ("pld", "renyi-filter", "renyi-filter"), ("renyi-filter", "pld", "renyi-filter"),
    ("renyi-filter", "renyi-filter", "renyi-filter"),
])  # fmt: skip
def test_a_bound_for_answers_that_follow_each_other_stays_below_whoever_asked_for_it(parent, child, found):
    upper, lower = (document(changed(POLICY, {"budget.bound": said})) for said in (parent, child))
    assert narrow.meet(upper, lower).budget.bound is Accountant(found)


def test_two_policies_that_allow_nothing_in_common_have_none_and_the_field_is_named():
    early, late = (
        document(changed(POLICY, {"valid": {"from": f"20{y}-01-01", "until": f"20{y}-12-31"}})) for y in (26, 28)
    )
    with pytest.raises(narrow.Apart, match="valid"):
        narrow.meet(early, late)
    slow, fast = (
        document(changed(POLICY, {"training.learning_rate": {"at_least": low, "at_most": high}}))
        for low, high in (("1/100", "1/10"), (1, 2))
    )
    with pytest.raises(narrow.Apart, match="learning_rate"):
        narrow.meet(slow, fast)
