"""What a coordinator checks of an answer before anything comes of it.

What it passes on is checked as those check it who are given it, by the same functions: so one party's word is refused
as it comes and counts as none, or nobody refuses it.
"""

from __future__ import annotations

from dataclasses import replace

from securefl.errors import Forged
from securefl.protocol import answers, seen_heads
from securefl.protocol import messages as m
from securefl.protocol.acceptances import parties
from securefl.protocol.coordinator_state import Ports, Received, RunState
from securefl.terms import MemberId


def check_answer(course: RunState, event: Received, ports: Ports) -> None:
    """The answer is from the peer it came from, under the key the run began with, and its ledger did not shrink.

    That key counts now: it was not revoked, its overlap with a successor is not over, and its owner has not left.
    """
    session = course.session
    peers = (*session.roster, *((session.custodian,) if session.custodian else ()))
    known = {seat.member: seat for seat in peers}
    if event.sender not in known:
        raise Forged(f"{event.sender} is no peer of this run")
    key = known[event.sender].key
    ports.standing(known[event.sender])
    m.check(event.frame.envelope, event.sender, session.coordinator.member, session.run, key)
    if event.frame.head is None:
        raise Forged(f"{event.sender} shows no ledger")
    m.check_head(event.frame.head, event.sender, key)
    seen_heads.check_grown((course.heads.get(event.sender), course.former.get(event.sender)), event.frame.head)
    seen_heads.check_named(event.frame.envelope.receipt, key, event.frame.head)


def check_reply(course: RunState, event: Received) -> None:
    """The answer is to the request that is open, and its receipt names no less of a ledger than was shown before.

    Of an answer that came before, or too late, this is not asked: it is ignored.
    """
    receipt = event.frame.envelope.receipt
    answers.check(course.unanswered[event.sender], event.frame.envelope)
    seen_heads.named((course.heads.get(event.sender), course.former.get(event.sender)), receipt)
    if receipt.kind == m.Submitted.__name__:
        seen_heads.paying(receipt)


def check_enrolment(course: RunState, sender: MemberId, enrolled: bytes, round_: int, ports: Ports) -> None:
    """A member's keys and shares for this round are such that each peer takes them, as far as they can be seen into."""
    session = course.session
    joined = tuple(sorted(seat.member for seat in session.roster if seat.member in course.accepts))
    seat = next(each for each in session.roster if each.member == sender)
    plan = replace(course.plan, round=round_)
    ports.protection(session.scheme).admit(plan, seat, joined, enrolled)


def with_seen(course: RunState, accept: m.Accept) -> RunState:
    """Take in what a peer saw of the others: whoever shows less from now on is left out of the run.

    Raises:
        Forged: a head is a stranger's, or not signed by its owner: everybody would refuse the acceptance that has it.
    """
    heads, known = dict(course.heads), parties(course.session)
    for seen in accept.seen:
        if seen.head.owner not in known:
            raise Forged(f"a head of {seen.head.owner}, who is no peer", "protocol.stranger")
        m.check_head(seen, seen.head.owner, known[seen.head.owner].key)
        before = heads.get(seen.head.owner)
        longer = before is None or before.head.size < seen.head.size
        if seen.head.owner != course.session.coordinator.member and longer:
            heads[seen.head.owner] = seen
    return replace(course, heads=heads)
