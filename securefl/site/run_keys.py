"""Whose keys a run is under at one site: who may ask, who is meant by a charter's names, and who signs here.

A run keeps the keys that it began with. A party that hands its key over goes on under the old one in runs that began
before, for as long as both count, and joins later ones under whichever the invitation names.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from securefl import wire
from securefl.errors import Forged, PeerFault
from securefl.protocol import custodian, member_state
from securefl.protocol import messages as m

if TYPE_CHECKING:
    import sqlalchemy as sa

    from securefl import keys
    from securefl.home.home import Home
    from securefl.terms import Participant

P = TypeVar("P", member_state.Ports, custodian.Ports)
State = member_state.State | custodian.State


def with_ledger(ports: P, home: Home, state: State, frame: m.Frame | None = None) -> P:
    """Return what a machine asks of its own ledger, answered by its home; and the key that signs in this run."""
    signer, charter = signer_of(home, state, frame), _charter(state)
    return replace(
        ports, identity=signer, holds=home.holds, head=lambda: home.head_under(signer),
        standing=home.standing_in(charter.federation, charter.policy_text),
    )  # fmt: skip


def signer_of(home: Home, state: State, frame: m.Frame | None = None) -> keys.Identity:
    """Return who signs for this party in a run: the key that the run began with."""
    session = _session(state) or (None if frame is None else _invited_to(frame))
    if session is None:
        return home.identity
    seats = (*session.roster, *filter(None, (session.custodian,)))
    own = next((seat.key for seat in seats if seat.member == home.owner), home.identity.public)
    return home.identity.under(own) or home.identity


def refreshed(
    charter: member_state.SiteConfig, home: Home, conn: sa.Connection, frame: m.Frame
) -> member_state.SiteConfig:
    """The charter with every key as it is now; as the invitation has it, where that key was handed over, or is to be.

    Whether a key counts is asked with each round; here only whose it is.
    """
    known, session = home.live.now.standings, _invited_to(frame)
    named = () if session is None else (*session.roster, session.coordinator, *filter(None, (session.custodian,)))
    shown = {seat.member: seat for seat in named}

    def of(seat: Participant) -> Participant:
        other = shown.get(seat.member, seat)
        same = known.is_one_party(charter.federation, seat.key, other.key)
        return replace(seat, key=other.key) if same else known.current(charter.federation, seat)

    charter = replace(
        charter, coordinator=of(charter.coordinator), peers=tuple(map(of, charter.peers)),
        custodian=None if charter.custodian is None else of(charter.custodian),
    )  # fmt: skip
    parties = (*charter.peers, charter.coordinator, *filter(None, (charter.custodian,)))
    seen = home.witnessed(conn, charter.federation, parties)
    return replace(charter, witnessed=seen.shown, former=seen.former)


def authentic(data: bytes, charter: member_state.SiteConfig, home: Home) -> m.Frame:
    """The frame, once the coordinator's signature over it holds; before that no store is opened and nothing is kept.

    Raises:
        Malformed, Forged: it is no frame, or not from this site's coordinator to it.
    """
    frame: m.Frame = wire.decode(data, m.Frame)
    check_asked(frame, charter, home)
    return frame


def check_asked(frame: m.Frame, charter: member_state.SiteConfig, home: Home) -> None:
    """Check that this site's coordinator asks it, by any key that it handed over: whether that counts is asked later.

    Raises:
        Forged: it is somebody else, or somebody else is asked.
    """
    coordinator = charter.coordinator
    for key in reversed(home.line(charter.federation, coordinator.key)):
        with suppress(Forged):
            m.check(frame.envelope, coordinator.member, charter.me, frame.envelope.receipt.run, key)
            return
    m.check(frame.envelope, coordinator.member, charter.me, frame.envelope.receipt.run, coordinator.key)


def _charter(state: State) -> member_state.SiteConfig:
    if isinstance(
        state, member_state.Idle | custodian.Idle | custodian.Holding | custodian.Decrypting | custodian.Left
    ):
        return state.charter
    return state.seat.charter


def _session(state: State) -> m.Session | None:
    if isinstance(state, member_state.Idle | custodian.Idle):
        return None
    if isinstance(state, custodian.Holding | custodian.Decrypting | custodian.Left):
        return state.session
    return state.seat.session


def _invited_to(frame: m.Frame) -> m.Session | None:
    """The session that a frame invites to; None of another message, which the machine judges."""
    if frame.envelope.receipt.kind != m.Invite.__name__:
        return None
    try:
        invite = m.opened(frame.envelope, m.Invite)
    except PeerFault:
        return None
    assert isinstance(invite, m.Invite)
    return invite.session
