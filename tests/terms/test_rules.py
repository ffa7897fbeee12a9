"""The names of rules are a closed list, and the code says no other; what a site says of a fault is on it too."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import errors, wire
from securefl.errors import Malformed, PeerFault
from securefl.protocol import messages as m
from securefl.seams import Unfinished
from securefl.terms import KINDS, Reason, rules

SOURCES = sorted((Path(rules.__file__).parents[1]).rglob("*.py"))
SAYING = {
    "Reason": 0,
    "Check": 0,
    "Rule": 0,
    "among": 0,
    "between": 0,
    "one_of": 0,
    "all_of": 0,
    "at_least": 0,
    "affordable": 0,
    "at_most": 0,
}
FAULTS = {"PeerFault", "Unsafe", "Forged", "OutOfTurn", "Malformed", "TooFew", "Mismatch"}


def said(tree: ast.AST) -> list[str]:
    """The names of rules that this code gives to reasons, checks and faults, as constants."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = (node.func.id if isinstance(node.func, ast.Name) else node.func.attr).lstrip("_")
            at = SAYING.get(name, 1 if name in FAULTS else None)
            if at is not None and len(node.args) > at and isinstance(node.args[at], ast.Constant):
                found.append(node.args[at].value)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            if any(isinstance(target, ast.Name) and target.id in {"rule", "RULE"} for target in node.targets):
                found.append(node.value.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("protocol."):
            found.append(node.value)
    return [each for each in found if isinstance(each, str)]


SAID = {(path.name, rule) for path in SOURCES if path.name != "rules.py" for rule in said(ast.parse(path.read_text()))}


def test_the_code_names_no_rule_that_is_not_on_the_list() -> None:
    assert len(SAID) > 100
    assert sorted((name, rule) for name, rule in SAID if rule not in rules.KNOWN) == []


def test_every_name_on_the_list_is_said_somewhere() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "rules.py")
    assert [rule for rule in sorted(rules.KNOWN) if f'"{rule}"' not in text and rule != rules.SITE] == []
    assert not set(rules.FAULTS) & rules.DECISIONS


def test_every_class_of_fault_has_a_known_rule() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PeerFault)]
    assert {each.rule for each in kinds} <= set(rules.FAULTS)
    assert Unfinished.rule in rules.DECISIONS


@given(st.text(max_size=40))
def test_no_reason_of_another_name_is_made_or_decoded(name: str) -> None:
    if name in rules.KNOWN:
        return
    with pytest.raises(ValueError, match="name of no rule"):
        Reason(name, "", "", "")
    known = wire.encode(Reason("training", "", "", ""))
    if name.isascii() and name.isprintable() and len(name) < 24:
        forged = known.replace(b"\x68training", bytes([0x60 + len(name)]) + name.encode())
        with pytest.raises(Malformed):
            wire.decode(forged, Reason)


@given(st.text(max_size=60), st.text(max_size=200))
def test_a_fault_says_a_name_and_a_sentence_of_the_list_whatever_it_holds(what: str, rule: str) -> None:
    sentences = {f"{name}: {sentence}" for name, sentence in rules.FAULTS.items()}
    for fault in (PeerFault(what, rule), RuntimeError(what), errors.OperatorFault(what), MemoryError(what)):
        assert str(m.NoAnswer.by(fault)) in sentences
    if rule not in rules.FAULTS:
        with pytest.raises(ValueError, match="not on the list"):
            m.NoAnswer(rule)


def test_every_message_has_a_kind_that_a_receipt_can_name() -> None:
    assert {each.__name__ for each in (*get_args(m.Request), *get_args(m.Reply))} == KINDS


@pytest.mark.parametrize("outcome", ["", "well", "finished "])
def test_a_run_ends_in_one_of_three_ways(outcome: str) -> None:
    with pytest.raises(ValueError, match="finished, refused or aborted"):
        m.Close(outcome, "", 0, b"", ())
    with pytest.raises(ValueError, match="finished, refused or aborted"):
        m.Bye(outcome)
