"""Whose keys a run is under at one site: who may ask, who is meant by a charter's names, and who signs here.

A run keeps the keys that it began with. A party that hands its key over goes on under the old one in runs that began
before, for as long as both count, and joins later ones under whichever the invitation names.
"""

from __future__ import annotations

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
    from securefl.protocol.key_line import KeyLine
    from securefl.terms import Participant, PublicKey, RunJoined

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
    seen = home.witnessed(conn, parties)
    return replace(charter, witnessed=seen.shown, former=seen.former)


def authentic(data: bytes, charter: member_state.SiteConfig, home: Home) -> m.Frame:
    """The frame, once its coordinator sent it by a key that counts; of anything else nothing is kept, and nothing ends.

    Raises:
        Malformed, Forged: it is no frame, or not from this site's coordinator to it, or by a key that does not count.
    """
    frame: m.Frame = wire.decode(data, m.Frame)
    check_asked(frame, charter, home)
    return frame


def check_asked(frame: m.Frame, charter: member_state.SiteConfig, home: Home) -> None:
    """Check that this site's coordinator asks it, by a key that counts now: in a run that began here, by the run's own.

    Raises:
        Forged: it is somebody else, or somebody else is asked; or its key does not count, by that name.
    """
    line, began = _coordinator(charter, home), _began(frame, charter, home)
    if began is not None:
        line = replace(line, counts=home.standing_in(charter.federation, began.policy))
    asking = line.speaker(lambda key: _holds(frame, charter, key))
    if began is not None and asking not in {replace(seat, region=asking.region) for seat in began.peers}:
        what = f"{asking.member} asks by another key than the one that the run began with: {asking.key.hex()[:16]}"
        raise Forged(what, "protocol.signature")


def is_from_coordinator(frame: m.Frame, charter: member_state.SiteConfig, home: Home) -> bool:
    """Return whether this charter's coordinator signed a frame to this site, by whichever of its keys."""
    try:
        _coordinator(charter, home).author(lambda key: _holds(frame, charter, key))
    except Forged:
        return False
    return True


def _coordinator(charter: member_state.SiteConfig, home: Home) -> KeyLine:
    return home.key_line(charter.federation, charter.coordinator, charter.policy_text)


def _holds(frame: m.Frame, charter: member_state.SiteConfig, key: PublicKey) -> None:
    m.check(frame.envelope, charter.coordinator.member, charter.me, frame.envelope.receipt.run, key)


def _began(frame: m.Frame, charter: member_state.SiteConfig, home: Home) -> RunJoined | None:
    """How the frame's run began here; None if it has not."""
    run = frame.envelope.receipt.run
    found = (each for _, each in home.live.now.opened if (each.run, each.federation) == (run, charter.federation))
    return next(found, None)


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
