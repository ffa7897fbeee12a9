"""What parties say of their keys: a home says it of its own, and takes in what others said of theirs.

Both are entries of its ledger, from which each round is judged. A notice travels as a signed text, by whatever way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from securefl import wire
from securefl.documents.armour import armoured, unarmoured
from securefl.errors import Malformed, OperatorFault, PeerFault
from securefl.home import ageing
from securefl.home.ageing import Age
from securefl.home.peers import federations, known, replaced
from securefl.keys import fingerprint
from securefl.ledger.verified import Verified
from securefl.protocol import key_standing
from securefl.protocol.key_standing import NotTaken
from securefl.shown import short
from securefl.terms import (
    Departure,
    Handover,
    MemberId,
    Noticed,
    Participant,
    PublicKey,
    Revocation,
    SignedHead,
    SignedNotice,
)
from securefl.terms.entries import heads_in
from securefl.terms.names import FederationName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from securefl.home.home import Home

BEGIN, END = "-----BEGIN SECUREFL KEY NOTICE-----", "-----END SECUREFL KEY NOTICE-----"
LIMIT_BYTES: Final = 8192


def revoke(home: Home, federation: str, key: str | None = None) -> SignedNotice:
    """A key speaks for this home's owner no more in this federation.

    Args:
        home: whose key.
        federation: where it is to count no more.
        key: which, in hex, or its fingerprint: a former one stays revocable for ever. None: the only one that counts.
            Where several do, because the overlap of a rotation is not over, none is guessed: one of them was stolen,
            and the other is what the owner goes on by.

    Raises:
        OperatorFault: the home is in no such federation, ``key`` is none of its own, or it is not said which.
    """
    name = _check_in(home, federation)
    with home.transaction():
        known_, own, now = home.live.now.standings, home.identity, home.clock()
    line = known_.line(name, own.public)
    seats = [Participant(home.owner, each.public, "") for each in own.every if each.public in line]
    if key is None:
        meant = [seat.key for seat in seats if known_.counts(name, seat, now)] or [own.public]
    else:
        meant = [seat.key for seat in seats if key.lower() in (seat.key.hex(), fingerprint(seat.key))]
    if len(meant) != 1:
        what = f"{home.owner} has {len(meant) or 'no'} {'such keys' if key else 'keys that count'} in {name}"
        shown = ", ".join(f"{fingerprint(s.key)}{' (present)' if s.key == own.public else ''}" for s in seats)
        raise OperatorFault(what, f"say which: `--key` with one of {shown}", str(home.path))
    signer = home.under(meant[0])
    return _written(home, key_standing.sign(signer, Revocation(name, home.owner, signer.public, home.clock())))


def leave(home: Home, federation: str) -> SignedNotice:
    """This home's owner takes part in no later round of this federation.

    Raises:
        OperatorFault: the home is in no such federation.
        NotTaken: its key was revoked there: whoever cannot sign cannot leave, and takes part in nothing either.
    """
    notice = Departure(_check_in(home, federation), home.owner, home.identity.public, home.clock())
    return _written(home, key_standing.sign(home.identity, notice))


def take(home: Home, federation: str, signed: SignedNotice) -> bool:
    """Take in what another party said of its key; return whether that was new. From now on each round asks for it.

    Raises:
        NotTaken: by a named rule; nothing was written.
    """
    if federation not in federations(home.path):
        raise NotTaken(f"this home is in no federation {short(federation)}", "keys.federation")
    with home.transaction() as conn:
        now = home.clock()
        is_new = home.live.now.standings.admit(signed, federation, _keys(home, federation), now)
        notice = signed.notice
        if isinstance(notice, Handover) and home.live.now.is_another_ledger(notice, _heads_seen(home, conn)):
            what = f"{notice.party} hands over a ledger that is not the one it has shown"
            raise NotTaken(f"{what}; ask its owner which copy of its home was put back", "keys.another-ledger")
        if is_new:
            home.record(conn, (Noticed(signed),))
    if isinstance(notice, Handover):
        newest = home.live.now.standings.current(federation, Participant(notice.party, notice.key, ""))
        if known(home.path, federation).get(notice.party) != newest.key.hex():
            replaced(home.path, federation, newest)
    return is_new


@dataclass(frozen=True, slots=True)
class Listed:
    """One party's key, as a home knows it."""

    federation: str
    party: str
    key: PublicKey
    fingerprint: str
    since: int | None  # seconds since 1970, when this home first began a run with it or took it in; None: not yet
    standing: str  # "counts", or why not
    age: Age


def listed(home: Home) -> tuple[Listed, ...]:
    """Every key that this home knows, in the order of federations and names."""
    found = list[Listed]()
    with home.transaction():
        view, now = home.live.now, home.clock()
    for federation in federations(home.path):
        most_s = ageing.most_s(home, federation)
        for age in ageing.ages(home, federation, most_s):
            seat = Participant(age.party, age.key, "")
            try:
                view.standings.check(federation, seat, now)
                view.ages.check(seat, now, most_s)
            except PeerFault as fault:
                why = str(fault)
            else:
                why = "counts"
            found.append(
                Listed(federation, age.party, age.key, fingerprint(age.key), view.ages.since.get(age.key), why, age)
            )
    return tuple(found)


def text_of(signed: SignedNotice) -> str:
    """The notice as a file or a mail has it."""
    return armoured(wire.encode(signed), BEGIN, END)


def read(text: bytes, place: str) -> SignedNotice:
    """The notice in a text; whose it is, is not asked here.

    Raises:
        NotTaken: there is none.
    """
    try:
        signed: SignedNotice = wire.decode(unarmoured(text, BEGIN, END, LIMIT_BYTES), SignedNotice)
    except (Malformed, ValueError) as fault:
        what = f"{place}: not a notice of a key: {fault}; ask its author to send it again"
        raise NotTaken(what, "keys.form") from fault
    return signed


def _keys(home: Home, federation: str) -> Mapping[MemberId, PublicKey]:
    pinned = known(home.path, federation)
    return {MemberId(name): PublicKey(bytes.fromhex(key)) for name, key in pinned.items()}


def _heads_seen(home: Home, conn: sa.Connection) -> Iterator[SignedHead]:
    """Every head that stands in a home's ledger, which is read again: in memory only the longest are kept."""
    verified = home.live.verified
    again = Verified(verified.keys[0], str(home.path))
    again.keys = verified.keys
    for leaf, _ in again.read(conn, home.live.committed):
        yield from heads_in(leaf.entry)


def _check_in(home: Home, federation: str) -> FederationName:
    pinned = known(home.path, federation)
    if home.owner not in pinned:
        among = ", ".join(federations(home.path)) or "none"
        raise OperatorFault(f"{home.owner} is in no federation {federation}", f"it is in {among}", str(home.path))
    return FederationName(federation)


def _written(home: Home, signed: SignedNotice) -> SignedNotice:
    take(home, signed.notice.federation, signed)
    return signed
