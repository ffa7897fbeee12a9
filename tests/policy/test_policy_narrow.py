"""Policies under other policies: the laws of narrowing, chains of files, and decisions over all levels."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from audits.budget import oracle
from securefl.errors import OperatorFault
from securefl.policy import load, narrow
from securefl.policy.document import PolicyDocument
from securefl.policy.rule_table import RULES
from securefl.terms import Refusal
from tests.policy.test_policy_decide import PLAN_CHOICES, question
from tests.policy.test_policy_oracle import AROUND, PLAN, POLICY, changed, loosens

SAID = st.fixed_dictionaries({field: st.sampled_from(ladder) for field, ladder in oracle.LADDERS.items()})
LIMITS = {rule.name: rule.limits for rule in RULES}
POLICIES = SAID.map(lambda said: changed(POLICY, said))


def document(written: dict) -> PolicyDocument:
    return PolicyDocument.model_validate(written)


def met(parent: PolicyDocument, child: PolicyDocument) -> PolicyDocument | None:
    try:
        return narrow.meet(parent, child)
    except narrow.Apart:
        return None


def allowed(policy: PolicyDocument) -> tuple:
    """What a policy says, without the order in its lists."""
    return tuple(repr(narrow._set(narrow.value_at(policy, field))) for field in narrow.FIELDS)


# The table.


def test_every_field_says_how_it_narrows():
    assert set(narrow.ROWS) == set(narrow.FIELDS)
    assert "valid.from" in narrow.FIELDS and "budget.per_round.epsilon" in narrow.FIELDS


def test_a_field_without_a_row_is_never_tighter(monkeypatch):
    one = document(POLICY)
    monkeypatch.delitem(narrow.ROWS, "budget.epsilon")
    assert [each.field for each in narrow.loosened(one, one)] == ["budget.epsilon"]
    with pytest.raises(narrow.Apart, match=r"budget\.epsilon: nobody has said"):
        narrow.meet(one, one)


def test_a_child_may_drop_its_parents_trust_and_not_add_any():
    trusting, wary = (document(changed(POLICY, {"protection.trust": said})) for said in (["custodian"], []))
    assert narrow.loosened(trusting, wary) == ()
    assert [each.field for each in narrow.loosened(wary, trusting)] == ["protection.trust"]
    assert document({**POLICY, "protection": {k: v for k, v in POLICY["protection"].items() if k != "trust"}}) == wary


# Laws.


@given(POLICIES)
def test_narrowing_a_policy_by_itself_changes_nothing(written):
    one = document(written)
    assert narrow.narrow(one, one) == narrow.meet(one, one) == one


@given(POLICIES, POLICIES, POLICIES)
def test_narrowing_composes_in_any_grouping(a, b, c):
    a, b, c = map(document, (a, b, c))
    left, right = met(a, b), met(b, c)
    left, right = left and met(left, c), right and met(a, right)
    if left and right:
        assert allowed(left) == allowed(right)


@given(POLICIES, POLICIES)
def test_what_both_allow_tightens_both(a, b):
    a, b = document(a), document(b)
    both = met(a, b)
    if both:
        assert narrow.loosened(a, both) == narrow.loosened(b, both) == ()


@given(POLICIES, POLICIES)
def test_a_child_is_its_own_policy_if_it_tightens_and_refused_if_it_does_not(parent, child):
    up, low = document(parent), document(child)
    if loosens(parent, child):
        assert narrow.loosened(up, low)
        with pytest.raises(OperatorFault):
            narrow.narrow(up, low)
    else:
        assert narrow.narrow(up, low) == low


@given(POLICIES, POLICIES, st.sampled_from([(f, v) for f, values in PLAN_CHOICES.items() for v in values]))
def test_adding_a_policy_above_never_allows(parent, child, choice):
    plan = changed(PLAN, dict([choice]))
    alone = question(child, plan).rules()
    try:
        under = question([{**child, "parent": "above.yaml"}, {**parent, "federation": "above"}], plan).rules()
    except OperatorFault:
        return
    assert alone <= under


def test_a_stack_is_decided_as_the_oracle_decides_every_level():
    answers, wrong = oracle.compared(160, seed=random.randrange(2**32))
    assert not wrong
    assert min(answers[name] for name in ("granted", "refused", "not loaded")) >= 3


# Files.


def stack(folder: Path, *levels: dict) -> Path:
    """Policies above each other, the lowest first; the path of that one."""
    for index, changes in enumerate(levels):
        above = f"level-{index + 1}.yaml" if index + 1 < len(levels) else None
        written = changed(POLICY, {"federation": f"level-{index}", "parent": above, **changes})
        (folder / f"level-{index}.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return folder / "level-0.yaml"


def test_a_chain_of_files_is_one_policy_that_knows_its_levels(tmp_path):
    one = load.load(stack(tmp_path, {"budget.epsilon": 2}, {"training.rank.at_most": 16}, {"budget.epsilon": 16}))
    assert [level.federation for level in one.above] == ["level-1", "level-2"]
    assert (one.federation, one.budget.epsilon) == ("level-0", 2)
    assert [one.whose(LIMITS[rule]) for rule in ("budget.epsilon", "training.rank", "valid", "protection.cohort", "policy")] == [
        "level-0", "level-2", "level-2", "level-2", "level-0",
    ]  # fmt: skip


def test_a_chain_can_be_copied_as_one_text_and_keeps_its_hash(tmp_path):
    one = load.load(stack(tmp_path, {"budget.epsilon": 2}, {}))
    copy = tmp_path / "elsewhere" / "copy.yaml"
    copy.parent.mkdir()
    copy.write_bytes(one.text)
    assert load.load(copy) == load.parse(one.text, "a ledger") == one


def test_a_change_above_is_another_policy(tmp_path):
    first = load.load(stack(tmp_path, {"budget.epsilon": 2}, {}))
    (tmp_path / "level-1.yaml").write_bytes((tmp_path / "level-1.yaml").read_bytes() + b"# seen\n")
    assert load.load(tmp_path / "level-0.yaml").hash != first.hash


def test_a_child_that_loosens_is_refused_with_field_values_and_both_lines(tmp_path):
    path = stack(tmp_path, {"training.rank.at_most": 17, "context.regions": ["US", "EU"]}, {})
    lines = {name: (tmp_path / name).read_text().split("\n") for name in ("level-0.yaml", "level-1.yaml")}
    with pytest.raises(OperatorFault) as caught:
        load.load(path)
    rank, regions = str(caught.value).split("\n")
    low, up = (
        next(n for n, line in enumerate(each, 1) if "at_most: 1" in line and "rank" in each[n - 2])
        for each in lines.values()
    )
    assert rank == (
        f"{path}:{low}: training.rank.at_most: 17 is looser than 16 above it; write at most 16 ({tmp_path / 'level-1.yaml'}:{up})"
    )
    assert "context.regions: [US, EU] is looser than [US, CA] above it; write nothing but [US, CA]" in regions


def test_a_loosening_two_levels_up_is_found_too(tmp_path):
    path = stack(tmp_path, {"budget.epsilon": 2}, {"budget.epsilon": 9}, {"budget.epsilon": 8})
    with pytest.raises(OperatorFault, match=r"level-1\.yaml:\d+: budget\.epsilon: 9 is looser than 8"):
        load.load(path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "level-1.yaml").unlink(), r"level-0.yaml:\d+: parent: .*level-1.yaml: cannot be read"),
        (lambda folder: (folder / "level-1.yaml").write_text("a: ["), r"level-1.yaml:1: not YAML"),
        (lambda folder: stack(folder, {"parent": "level-0.yaml"}), r"in a circle: level-0.yaml -> level-0.yaml"),
        (lambda folder: stack(folder, {}, {}, {"parent": "level-1.yaml"}), r"in a circle: level-1.yaml -> level-2.yaml -> level-1.yaml"),
        (lambda folder: stack(folder, *([{}] * 9)), "more than 8 levels"),
        (lambda folder: stack(folder, {"parent": {"policy": "level-1.yaml", "hash": "00" * 32}}, {}), "the policy above has hash"),
        (lambda folder: stack(folder, {"federation": "level-1"}, {}), "level-1 stands above itself"),
        (lambda folder: stack(folder, {"parent": "a\0b.yaml"}, {}), "cannot be read|zero byte|character"),
    ],
)  # fmt: skip
def test_a_chain_that_does_not_hold_is_a_clear_error(tmp_path, spoil, told):
    stack(tmp_path, {}, {})
    spoil(tmp_path)
    with pytest.raises(OperatorFault, match=told):
        load.load(tmp_path / "level-0.yaml")


def test_a_parent_can_be_pinned_by_its_hash(tmp_path):
    above = load.load(stack(tmp_path, {}, {})).above
    pinned = load.load(tmp_path / "level-1.yaml").hash.hex()
    one = load.load(stack(tmp_path, {"parent": {"policy": "level-1.yaml", "hash": pinned}}, {}))
    assert one.above == above


def test_a_text_with_a_parent_missing_or_left_over_is_refused(tmp_path):
    text = load.load(stack(tmp_path, {}, {})).text
    low, up = text.split(load.ABOVE)
    for wrong in (low, up + load.ABOVE + up, load.ABOVE.join((low, up, up))):
        with pytest.raises(OperatorFault, match="the policy above is n"):
            load.parse(wrong, "copy.yaml")


# Decisions.


def test_a_reason_says_whose_rule_it_is():
    child = changed(POLICY, {"parent": "above.yaml", "training.rank.at_most": 8})
    answer = question(
        [child, changed(POLICY, {"federation": "alliance"})], changed(PLAN, {"rank": 9, "clip": "3/2"})
    ).decided()
    assert isinstance(answer, Refusal)
    told = {reason.rule: reason.limit for reason in answer.reasons}
    assert told == {
        "training.rank": "1 to 8 (of six-airlines)",
        "training.clip": "above 0, at most 1 (l2) (of alliance)",
    }


def test_an_error_on_any_level_never_allows():
    asked = question(
        [{**POLICY, "parent": "above.yaml"}, {**POLICY, "federation": "alliance"}], changed(PLAN, {"rank": 99}), AROUND
    )
    object.__setattr__(asked.policy, "above", (None,))
    assert asked.rules() == {"policy.error"}
