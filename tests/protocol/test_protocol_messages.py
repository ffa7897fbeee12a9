"""The envelope and what is checked of it, part by part; and the bounds of what a message may say."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from securefl import wire
from securefl.errors import Forged, Malformed, PeerFault
from securefl.protocol import messages as m
from securefl.terms import (
    Hash,
    Head,
    MicroEpsilon,
    Participant,
    Reason,
    Receipt,
    RunId,
    Scheme,
    SignedHead,
    SignedReceipt,
    rules,
)
from tests.support.worlds import identity, signed_head

RUN, PLAN = RunId(bytes(16)), Hash(bytes(32))
REASON = Reason("training", "value", "limit", "fix")
ANSWER = m.enclose(
    identity("a"), "a", "coordinator", RUN, 1, m.Answered(1, b"shares"), PLAN, MicroEpsilon(7), (), signed_head("a", 3)
)  # fmt: skip
EXPECTED = {"sender": "a", "to": "coordinator", "run": RUN, "key": identity("a").public}
OTHERS = {"sender": "b", "to": "b", "run": RunId(b"1" * 16)}


def test_a_receipt_says_what_left_and_what_it_cost() -> None:
    body = wire.encode(m.Answered(1, b"shares"))
    digest = Hash(hashlib.sha256(body).digest())
    assert ANSWER.body == body
    assert ANSWER.receipt == Receipt(
        "a", "coordinator", RUN, 1, "Answered", PLAN, MicroEpsilon(7), digest, len(body), signed_head("a", 3)
    )
    plain = m.enclose(identity("a"), "a", "coordinator", RUN, 1, m.Bye("finished")).receipt
    assert (plain.plan, plain.cost, plain.head) == (None, MicroEpsilon(0), None)


@pytest.mark.parametrize("name", [b"", b"r", bytes(15), bytes(17)])
def test_a_run_that_nobody_could_name_is_no_run(name: bytes) -> None:
    """A run's price is settled, and its folders are made, by its name: the coordinator does not choose its length."""
    seat, run = Participant("coordinator", identity("c").public, ""), RunId(b"a run of 16 byte")
    good = wire.encode(m.Session(run, "f", PLAN, Scheme.CLEAR, 0, seat, None, ()))
    assert wire.decode(good, m.Session).run == run
    other = good.replace(b"\x50" + run, bytes([0x40 + len(name)]) + name)
    assert other != good
    with pytest.raises(Malformed):
        wire.decode(other, m.Session)


def refused(envelope: object, **changes: object) -> tuple[str, str]:
    """By which rules an envelope, and its receipt alone, are refused."""
    told = []
    for check, what in (
        (m.check, envelope),
        (m.check_receipt, SignedReceipt(envelope.receipt, envelope.signature)),
    ):
        try:
            check(what, **{**EXPECTED, **changes})
        except Forged as fault:
            told.append(fault.rule)
        else:
            told.append("")
    return tuple(told)


def test_an_envelope_is_checked_in_each_of_its_parts() -> None:
    assert refused(ANSWER) == ("", "")
    for name, other in OTHERS.items():
        assert refused(ANSWER, **{name: other}) == ("protocol.misdirected", "protocol.misdirected")
    assert refused(ANSWER, key=identity("b").public) == ("protocol.signature", "protocol.signature")
    assert refused(replace(ANSWER, signature=bytes(64))) == ("protocol.signature", "protocol.signature")
    assert refused(replace(ANSWER, body=ANSWER.body[:-1] + b"?")) == ("protocol.altered", "")
    for changes in ({"round": 2}, {"kind": "Bye"}, {"plan": None}, {"cost": MicroEpsilon(1)}, {"head": None}):
        told = refused(replace(ANSWER, receipt=replace(ANSWER.receipt, **changes)))
        assert told == ("protocol.signature", "protocol.signature")


def test_a_size_that_is_not_the_bodys_is_refused_though_it_is_signed() -> None:
    receipt = replace(ANSWER.receipt, size=ANSWER.receipt.size + 1)
    signed = replace(ANSWER, receipt=receipt, signature=identity("a").sign("receipt", wire.encode(receipt)))
    assert refused(signed) == ("protocol.altered", "")


def test_a_signature_over_something_else_is_none() -> None:
    told = identity("a").sign("head", wire.encode(ANSWER.receipt))
    assert refused(replace(ANSWER, signature=told)) == ("protocol.signature", "protocol.signature")
    head = signed_head("a", 3)
    with pytest.raises(Forged) as caught:
        m.check_head(
            SignedHead(head.head, identity("a").sign("receipt", wire.encode(head.head))), "a", identity("a").public
        )
    assert caught.value.rule == "protocol.signature"


def test_a_body_is_the_kind_of_message_that_its_receipt_says() -> None:
    assert m.opened(ANSWER, m.Answered) == m.Answered(1, b"shares")
    with pytest.raises(Forged) as caught:
        m.opened(replace(ANSWER, receipt=replace(ANSWER.receipt, kind="Bye")), m.Answered)
    assert caught.value.rule == "protocol.altered"
    with pytest.raises(PeerFault) as caught:
        m.opened(ANSWER, m.Bye)
    assert caught.value.rule == "protocol.malformed"


def test_a_head_is_its_owners() -> None:
    m.check_head(signed_head("a", 3), "a", identity("a").public)
    for head, owner, rule in (
        (signed_head("b", 3), "a", "protocol.misdirected"),
        (replace(signed_head("a", 3), signature=bytes(64)), "a", "protocol.signature"),
    ):
        with pytest.raises(Forged) as caught:
            m.check_head(head, owner, identity("a").public)
        assert caught.value.rule == rule


@given(known=st.integers(0, 5), shown=st.integers(0, 5), other=st.booleans())
def test_a_ledger_only_grows(known: int, shown: int, other: bool) -> None:
    before = signed_head("a", known)
    after = signed_head("a", shown, bytes(32) if other else b"")
    m.check_progress(None, after)
    if shown > known or (shown == known and not other):
        m.check_progress(before, after)
    else:
        with pytest.raises(Forged) as caught:
            m.check_progress(before, after)
        assert caught.value.rule == "protocol.ledger-set-back"


def test_a_head_that_is_signed_again_is_the_same_ledger() -> None:
    head = Head("a", 3, Hash(bytes(32)))
    m.check_progress(SignedHead(head, bytes(64)), SignedHead(head, b"2" * 64))


def test_how_long_and_how_many_the_words_of_a_message_may_be() -> None:
    assert len(m.Declined(1, (REASON,) * 100).reasons) == 100
    for count in (0, 101):
        with pytest.raises(ValueError, match=f"{count} reasons: a refusal has 1 to 100"):
            m.Declined(1, (REASON,) * count)
    assert len(m.Close("aborted", "w" * 2000, 0, b"", ()).why) == 2000
    with pytest.raises(ValueError, match="2001 characters; at most 2000"):
        m.Close("aborted", "w" * 2001, 0, b"", ())


@pytest.mark.parametrize("outcome", ["finished", "refused", "aborted", "lost", ""])
def test_a_run_has_three_ends(outcome: str) -> None:
    for made in (lambda: m.Close(outcome, "", 0, b"", ()), lambda: m.Bye(outcome)):
        if outcome in ("finished", "refused", "aborted"):
            assert made().outcome == outcome
        else:
            with pytest.raises(ValueError, match="finished, refused or aborted"):
                made()


@given(rule=st.sampled_from(sorted(rules.FAULTS)))
def test_what_is_said_in_place_of_an_answer_is_a_rule_and_its_sentence(rule: str) -> None:
    assert str(m.NoAnswer(rule)) == f"{rule}: {rules.FAULTS[rule]}"
    assert m.NoAnswer.by(Forged("the records of Ann", rule)) == m.NoAnswer(rule)


def test_no_other_word_is_said_in_place_of_an_answer() -> None:
    for rule in ("", "the records of Ann", *rules.DECISIONS):
        with pytest.raises(ValueError, match="not on the list"):
            m.NoAnswer(rule)
    assert m.NoAnswer.by(OSError("disk of Ann")).rule == "site.fault"


def test_no_step_is_told_by_itself_up_to_the_result() -> None:
    for steps in range(2, 301):
        told = [m.InProgress.coarse(done, steps).done for done in range(steps + 1)]
        assert told == sorted(told)
        heard = [done for done in range(1, steps + 1) if told[done] != told[done - 1]]
        ends = sorted({0, *heard, steps})  # the result is heard too
        assert all(after - before >= 2 for before, after in pairwise(ends)), (steps, ends)


@given(done=st.integers(0, 300), steps=st.integers(0, 300))
@example(done=3, steps=3)
@example(done=13, steps=13)
def test_progress_is_told_in_quarters_and_never_step_by_step(done: int, steps: int) -> None:
    if done > steps:
        with pytest.raises(ValueError, match=f"{done} steps of {steps}"):
            m.InProgress(done, steps)
        return
    assert m.InProgress(done, steps).done == done
    told = m.InProgress.coarse(done, steps)
    assert (told.steps, told.done <= done) == (steps, True)
    assert done - told.done < max(3, steps / 4 + 1)
    told_of = {m.InProgress.coarse(each, steps).done for each in range(steps + 1)}
    assert len(told_of) <= 5
    assert 1 not in told_of
    with pytest.raises(ValueError, match="steps of"):
        m.InProgress(-1, steps)


def test_the_kinds_of_what_leaves_have_the_names_that_plans_list() -> None:
    assert {each.name: each.value for each in m.Egress} == {each.name: each.name.lower() for each in m.Egress}
    assert {"weights"} == m.PRICED
