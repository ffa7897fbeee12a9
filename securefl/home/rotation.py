"""A party exchanges its key: the old one vouches for the new one, in every federation that the home is in.

Runs that began go on under the old key until the overlap is over; later ones begin under the new one. Whoever took the
hand-over in accepts both until then. The account and the ledger stay: the hand-over names the ledger's head under the
new key, so a new key is no new ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from securefl.errors import OperatorFault
from securefl.home import identity, ring
from securefl.home.peers import federations, follow
from securefl.ledger import heads
from securefl.protocol import key_standing
from securefl.terms import Handover
from securefl.terms.names import FederationName

if TYPE_CHECKING:
    from securefl.home.home import Home
    from securefl.terms import SignedNotice


def rotate(home: Home, overlap_s: int) -> tuple[SignedNotice, ...]:
    """Exchange the home's key; what the other parties of each federation are to take in.

    Args:
        home: whose key.
        overlap_s: how long the old key still ends the runs that it began.

    Raises:
        OperatorFault: the home is in no federation, or the overlap is none that peers accept.
        NotTaken: the key was revoked in a federation, or handed over already: nothing was exchanged.
    """
    among = federations(home.path)
    if not among:
        what = "a key that no federation knows"
        raise OperatorFault(what, "make a new home, or join a federation first", str(home.path))
    if not 0 <= overlap_s <= key_standing.MOST_OVERLAP_S:
        raise OperatorFault(f"an overlap of {overlap_s} s", f"give 0 to {key_standing.MOST_OVERLAP_S}", str(home.path))
    with identity.in_turn(home.path):
        if ring.pending(home.path):
            home.exchange_key()  # that another process began
        with home.transaction():
            old = home.identity  # as another process left it
        new = ring.drawn(home.path)
        with home.transaction():
            now, head = home.clock(), home.head()
            signed = None if head is None else heads.sign(new, head.head)
            notices = tuple(
                key_standing.sign(
                    old,
                    Handover(FederationName(name), home.owner, old.public, now, new.public, now + overlap_s, signed),
                    new,
                )
                for name in among
            )
            for notice in notices:
                home.live.now.standings.admit(notice, notice.notice.federation, {home.owner: old.public}, now)
        ring.begin(home.path, notices)
        home.exchange_key()
        follow(home.path, home.current)
    return notices
