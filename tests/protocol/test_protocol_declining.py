"""What a site says of its refusals outside: the words of plan and policy, and of the rest a name alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.protocol import declining
from securefl.terms import Reason, rules

CLOSED = {  # of other federations, of the site itself, of its records and ledger: the words stay there
    "approvals.duplicate", "approvals.early", "approvals.expired", "approvals.forged", "approvals.replayed",
    "approvals.revoked", "approvals.self", "approvals.stranger",
    "budget.above.epsilon", "budget.others.epsilon", "budget.per_dataset.epsilon", "budget.price", "budget.unit",
    "policy.authority", "policy.error", "policy.version",
    "site.fault", "site.full", "site.labels", "site.learning_rate", "site.losses", "site.memory", "site.micro_batch", "site.patience", "site.sharing", "site.tokens",
    "training", "training.unfinished",
}  # fmt: skip
WORDS = st.text(max_size=8).filter(lambda word: word not in rules.DECISIONS)
ANY_REASON = st.builds(Reason, st.sampled_from(sorted(rules.DECISIONS)), *[WORDS] * 3)


def test_of_every_rule_it_is_said_whether_its_words_leave() -> None:
    kept = {rule for rule in rules.KNOWN if not declining.is_open(rule) and not rule.startswith("protocol.")}
    assert kept == CLOSED
    assert not any(declining.is_open(rule) for rule in rules.KNOWN if rule.startswith("protocol."))


@given(st.lists(ANY_REASON, max_size=8), st.text(max_size=8))
def test_what_leaves_does_not_depend_on_words_that_stay(reasons: list[Reason], word: str) -> None:
    other = [
        each if declining.is_open(each.rule) else Reason(each.rule, f"it is {word}", word, word) for each in reasons
    ]
    assert declining.told(reasons) == declining.told(other)


@given(st.lists(ANY_REASON, max_size=8))
def test_every_rule_is_told_in_order_and_nothing_twice(reasons: list[Reason]) -> None:
    told = declining.told(reasons)
    assert declining.told((*reasons, *reversed(reasons))) == told
    assert [each.rule for each in declining.told({each.rule: each for each in reasons}.values())] == list(
        dict.fromkeys(each.rule for each in reasons)
    )
    for each in told:
        assert each in reasons if declining.is_open(each.rule) else each == declining.constant(each.rule)


def test_a_constant_says_its_rule_and_at_most_one_rule_below() -> None:
    words = ("what was asked", "what this site allows", "ask the site: its own ledger says more")
    assert declining.constant("training.unfinished") == Reason("training.unfinished", *words)
    assert declining.constant("training", "budget.epsilon") == Reason("training", "budget.epsilon", *words[1:])
    with pytest.raises(AssertionError):
        declining.constant("training", "the records of Ann")


@pytest.mark.parametrize(
    ("rule", "value", "said"),
    [
        ("training", "budget.epsilon", "budget.epsilon"),
        ("training", "the records of Ann", "what was asked"),
        ("budget.price", "budget.epsilon", "what was asked"),
        ("training.unfinished", "budget.epsilon", "what was asked"),
    ],
)
def test_a_rule_below_is_named_only_by_what_was_declined_unread(rule: str, value: str, said: str) -> None:
    assert declining.told([Reason(rule, value, "", "")]) == (
        Reason(rule, said, "what this site allows", "ask the site: its own ledger says more"),
    )


@pytest.mark.parametrize(
    ("names", "one"),
    [
        ((), ""),
        (("training.unfinished",), ""),
        (("protocol.stranger", "no rule"), ""),
        (("training.rank", "budget.epsilon", "valid"), "budget.epsilon"),
        (("training.unfinished", "valid", "training.unfinished"), "valid"),
    ],
)
def test_a_node_names_one_decision_of_all_below(names: tuple[str, ...], one: str) -> None:
    assert declining.one_below(names) == one
