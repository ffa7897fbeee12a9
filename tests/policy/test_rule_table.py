"""The table of rules says what each rule reads: every read is declared, every declared read happens."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import re
import types
from collections import defaultdict

import pytest
from pydantic import BaseModel

from audits.speed import cedar_policy
from securefl import wire
from securefl.policy.load import Policy
from securefl.policy.narrow import FIELDS, OWN, ROWS
from securefl.policy.rule import Question
from securefl.policy.rule_table import RULES, inputs_of
from securefl.terms import Adapter, Learning, Level, Model, Plan, Price, ProtectionSpec, Sharing, rules
from tests.policy.test_policy_decide import AGREEMENTS, CHOICES, dictionaries, question
from tests.policy.test_policy_oracle import POLICY, changed

# Names that a decision of a plan is never refused by: they are told where there is no plan yet, or none any more.
NO_RULE = {
    "approvals.duplicate", "approvals.early", "approvals.expired", "approvals.forged", "approvals.replayed",
    "approvals.revoked", "approvals.self", "approvals.stranger", "plan.dimension", "policy.error", "policy.version",
    "protocol.no-answer", "training", "training.unfinished",
}  # fmt: skip
# A price follows from the plan's event and, its totals, from what the account holds already.
FOLLOWS = {
    "price.round": {"price", "plan.learning.event"}, "price.after": {"price", "account"}, "price.above": {"price", "account"},
    "price.caps": {"price"}, "price.plan": {"price"}, "price.account": {"price"}, "name": {"plan"}, "now": {"the day"}, "base": {"plan.base"},
}  # fmt: skip
OPENED = (
    Plan,
    Model,
    Adapter,
    Learning,
    ProtectionSpec,
    Sharing,
    Price,
    Question,
)  # what is followed into; a scheme or event is one value


def watched(value, path: str, read: set[str]):
    """The same value, which notes each field that is read of it."""
    if isinstance(value, BaseModel | Policy):
        return Watched(value, path, read)
    if type(value) not in OPENED:
        return value
    made = object.__new__(spy(type(value)))
    object.__setattr__(made, "noted", (path, read))
    inner = "" if type(value) is Question else path
    for field in dataclasses.fields(value):
        object.__setattr__(made, field.name, watched(getattr(value, field.name), f"{inner}{field.name}.", read))
    return made


@functools.cache
def spy(of: type) -> type:
    """A class whose objects pass for objects of ``of``."""
    fields = {field.name for field in dataclasses.fields(of)}

    def get(self, name):
        found = object.__getattribute__(self, name)
        if name in fields and not isinstance(found, (*OPENED, Watched)):
            path, read = object.__getattribute__(self, "noted")
            read.add(f"{path}{name}")
        return found

    def alike(one, other) -> bool:
        return all(getattr(one, name) == getattr(other, name) for name in fields)

    return type(of.__name__, (of,), {"__getattribute__": get, "__eq__": alike, "__hash__": None})


class Watched:
    """A policy or a section of it: notes each field that is read, and lends its methods its own eyes."""

    def __init__(self, value, path: str, read: set[str]) -> None:
        self._value, self._path, self._read = value, path, read
        self._caps = {}  # a policy's kept answers, so that none is older than this look

    def __getattr__(self, name: str):
        own = inspect.getattr_static(type(self._value), name, None)
        if isinstance(own, property):
            return own.fget(self)
        if isinstance(own, types.FunctionType):
            return types.MethodType(own, self)
        found = getattr(self._value, name)
        if isinstance(self._value, Policy):
            return watched(found, "", self._read) if name == "document" else found
        path = f"{self._path}{name.removesuffix('_')}"
        if path in FIELDS:
            self._read.add(f"policy.{path}")
            return found
        return watched(found, f"{path}.", self._read)


@functools.cache
def reads() -> dict[str, set[str]]:
    """What each rule was seen to read, over every choice there is and a policy with one above it."""
    seen: dict[str, set[str]] = defaultdict(set)
    asked = [
        question(**dictionaries([*around, choice])) for choice, around in zip(CHOICES, itertools.cycle(AGREEMENTS))
    ]
    asked.append(question([changed(POLICY, {"parent": "a.yaml"}), changed(POLICY, {"federation": "above"})]))
    for each in asked:
        whole = Question(each.policy, each.plan, wire.plan_hash(each.plan), each.account, each.price, each.now, b"")
        read: set[str] = set()
        spied = watched(whole, "", read)
        for rule in RULES:
            read.clear()
            rule.check(rule.name, spied)
            seen[rule.name] |= read
    return seen


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_reads_what_it_says_and_nothing_else(rule):
    found = {
        each for read in reads()[rule.name] if not read.startswith("policy.") for each in FOLLOWS.get(read, {read})
    }
    undeclared = {each for each in found if not any(f"{each}.".startswith(f"{of}.") for of in rule.inputs)}
    assert not undeclared, f"{rule.name} reads {undeclared}"
    unread = {of for of in rule.inputs if not any(f"{each}.".startswith(f"{of}.") for each in found)}
    assert not unread, f"{rule.name} never reads {unread}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_holds_its_inputs_against_the_limits_it_says_and_no_others(rule):
    read = {each.removeprefix("policy.") for each in reads()[rule.name] if each.startswith("policy.")}
    limits = {field for field in read if ROWS[field] is not OWN}
    assert limits == {field for field in rule.limits if ROWS[field] is not OWN}
    assert set(rule.limits) <= set(FIELDS)


def test_every_rule_stands_once_in_the_table_under_a_name_that_ledgers_know():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(names) == {name for name in rules.DECISIONS if not name.startswith("site.")} - NO_RULE
    assert inputs_of("training.rank") == ("plan.adapter.rank", "plan.adapter.kind")
    assert inputs_of("no rule") == ()


def test_a_cost_is_compared_with_one_number_whoever_promised_it():
    """A limit that two data sets share says the same as the cap that a price carries for each of them."""
    asked = question(changed(POLICY, {"budget.overlap": 3}))
    (cap,) = [cap for cap in asked.policy.caps("d", asked.plan.run) if cap.level is Level.FEDERATION]
    budget = asked.policy.budget
    assert cap.epsilon == budget.share(budget.epsilon)
    for cost in (cap.epsilon, cap.epsilon + 1):
        price = dataclasses.replace(
            asked.price, after=dict.fromkeys(Level, cost),
            caps=(*asked.price.caps, dataclasses.replace(cap, by="another")),
        )  # fmt: skip
        refused = dataclasses.replace(asked, price=price).rules()
        assert ("budget.epsilon" in refused) is ("budget.others.epsilon" in refused) is (cost > cap.epsilon)


def test_the_policy_in_cedar_has_our_names_for_its_rules_and_no_budget():
    """What `audits.speed.decide` measures beside ours decides by rules of the table."""
    named = re.findall(r'@id\("([^"]+)"\) forbid', cedar_policy.text(question().policy))
    assert len(named) == len(set(named)) > 30
    assert set(named) <= {rule.name for rule in RULES if not rule.name.startswith("budget.")}
