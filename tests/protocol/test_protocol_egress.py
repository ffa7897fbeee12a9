"""What leaves a site is a closed list: a field that is not on it has no encoding."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from typing import get_args

import pytest

from securefl.errors import Unsafe
from securefl.protocol import messages as m
from securefl.terms import MemberId, MicroEpsilon, Reason, RunId
from tests.support.worlds import identity

REASON = Reason("training", "value", "limit", "fix")
SENT = {
    m.Accept: m.Accept(b"box", b""), m.Enrolled: m.Enrolled(1, b"keys"), m.Submitted: m.Submitted(1, b"sealed", b"keys"),
    m.Declined: m.Declined(1, (REASON,)), m.Answered: m.Answered(1, b"shares"), m.Bye: m.Bye("finished"),
}  # fmt: skip
UNSIGNED = {m.NoAnswer, m.InProgress}


def enclosed(message: object, release: tuple[str, ...] = ("weights",)) -> bytes:
    return m.enclose(
        identity("a"), MemberId("a"), MemberId("coordinator"), RunId(bytes(16)), 1, message, release=release
    ).body  # type: ignore[arg-type]


def test_every_field_of_every_reply_is_on_the_list_and_nothing_else_is():
    assert set(m.EGRESS) - UNSIGNED == set(get_args(m.Reply)) == set(SENT), "what is no answer is not enclosed"
    for kind, listed in m.EGRESS.items():
        assert set(listed) == {field.name for field in fields(kind)}
        assert kind in UNSIGNED or enclosed(SENT[kind])


@pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("added", ["loss", "accuracy", "records", "norms", "seconds"])
def test_a_reply_with_one_more_field_cannot_be_encoded(kind: type, added: str):
    wider = make_dataclass(kind.__name__, [(added, int, 0)], bases=(kind,), frozen=True)
    sent = SENT[kind]
    told = wider(*(getattr(sent, field.name) for field in fields(kind)), 42)
    with pytest.raises(Unsafe, match="not on the list"):
        enclosed(told)


@dataclass(frozen=True)
class Metrics:
    """What a careless site would like to send."""

    accuracy: int


def test_a_message_of_another_type_cannot_be_encoded():
    for told in (Metrics(93), REASON, MicroEpsilon(1), {"loss": 1}, b"anything"):
        with pytest.raises(Unsafe, match="not on the list"):
            enclosed(told)


@pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)
def test_a_field_of_another_type_than_its_own_cannot_be_encoded(kind: type):
    for field in fields(kind):
        for value in (0.25, Metrics(93), {"loss": 1}, (Metrics(93),), None):
            values = {each.name: getattr(SENT[kind], each.name) for each in fields(kind)} | {field.name: value}
            with pytest.raises(
                (Unsafe, ValueError, TypeError),
                match=r"on the list|no Reason|no SignedHead|a refusal has|a run ends|len|unhashable",
            ):
                enclosed(kind(**values))


def test_an_update_leaves_only_under_a_plan_that_lists_it():
    assert enclosed(SENT[m.Submitted])
    for release in ((), ("accuracy",), ("Weights",)):
        with pytest.raises(Unsafe, match="the plan does not list `weights`"):
            enclosed(SENT[m.Submitted], release)
