"""What a coordinator checks of an answer before anything comes of it."""

from __future__ import annotations

from dataclasses import replace

from securefl.errors import Forged
from securefl.protocol import messages as m
from securefl.protocol import sight
from securefl.protocol.coordinator_state import Ports, Received, RunState


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
    sight.check_grown((course.heads.get(event.sender), course.former.get(event.sender)), event.frame.head)
    named = event.frame.envelope.receipt.head
    if named is not None:
        m.check_head(named, event.sender, key)
        m.check_progress(named, event.frame.head)


def with_seen(course: RunState, accept: m.Accept) -> RunState:
    """Take in what a peer saw of the others: whoever shows less from now on is left out of the run.

    Raises:
        Forged: a head is a stranger's, or not signed by its owner: everybody would refuse the acceptance that has it.
    """
    session, heads = course.session, dict(course.heads)
    everybody = (*session.roster, session.coordinator, *((session.custodian,) if session.custodian else ()))
    known = {seat.member: seat.key for seat in everybody}
    for seen in accept.seen:
        if seen.head.owner not in known:
            raise Forged(f"a head of {seen.head.owner}, who is no peer", "protocol.stranger")
        m.check_head(seen, seen.head.owner, known[seen.head.owner])
        before = heads.get(seen.head.owner)
        if seen.head.owner != session.coordinator.member and (before is None or before.head.size < seen.head.size):
            heads[seen.head.owner] = seen
    return replace(course, heads=heads)
