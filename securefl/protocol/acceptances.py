"""What everybody who is shown an acceptance asks of it: the coordinator as it comes, each member as it is passed on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from securefl import keys
from securefl.errors import Forged
from securefl.keys import Secret
from securefl.protocol import messages as m
from securefl.terms import Participant


def parties(session: m.Session) -> Mapping[str, Participant]:
    """Everybody in a run by name: its members, its coordinator, and its custodian if it has one."""
    custodian = (session.custodian,) if session.custodian else ()
    return {seat.member: seat for seat in (*session.roster, session.coordinator, *custodian)}


def checked(frame: m.Frame, session: m.Session) -> m.Accept:
    """One acceptance of a run: its sender's, with the head of its ledger, a box that opens, and what it saw of others.

    Of a member it is a few keys and a head for each party, so whoever is shown all of them can read them.

    Raises:
        Forged: it is of a stranger, or altered; it shows no ledger; its box agrees on nothing; it has material, which a
            custodian alone gives out; or a head of a stranger, of its own sender, or two of one party.
    """
    receipt, known = frame.envelope.receipt, parties(session)
    sender, coordinator = receipt.sender, session.coordinator.member
    if sender not in known or sender == coordinator:
        raise Forged(f"an acceptance of {sender}, who is no peer", "protocol.stranger")
    m.check(frame.envelope, sender, coordinator, session.run, known[sender].key)
    accept = m.opened(frame.envelope, m.Accept)
    assert isinstance(accept, m.Accept)
    if frame.head is None:
        raise Forged(f"an acceptance of {sender} without its ledger's head", "protocol.no-ledger")
    keys.agree(Secret(hashlib.sha256(accept.box).digest()), accept.box)  # found now, a weak key ends nobody's run
    if accept.material and known[sender] != session.custodian:
        raise Forged(f"{sender} gives out a key to encrypt with, and is no custodian")
    owners = [seen.head.owner for seen in accept.seen]
    if sender in owners or len(set(owners)) != len(owners) or not known.keys() >= set(owners):
        what = f"{sender} saw heads of itself, of somebody who is no peer, or two of one party: {', '.join(owners)}"
        raise Forged(what, "protocol.stranger")
    return accept
