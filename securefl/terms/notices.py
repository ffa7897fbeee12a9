"""What the owner of a key says of it: handed over, revoked, or gone with its owner. Each is of one federation."""

from __future__ import annotations

from dataclasses import dataclass

from securefl.terms.heads import SignedHead
from securefl.terms.names import FederationName, MemberId, PublicKey, SignatureBytes


@dataclass(frozen=True, slots=True)
class Handover:
    """From now on another key speaks for this party; this one still does until the overlap is over."""

    federation: FederationName
    party: MemberId
    key: PublicKey
    issued: int  # seconds since 1970
    successor: PublicKey
    until: int  # the last second of the overlap
    head: SignedHead | None  # of the party's ledger before this, under the successor: a new key is no new ledger


@dataclass(frozen=True, slots=True)
class Revocation:
    """This key speaks for nobody any more."""

    federation: FederationName
    party: MemberId
    key: PublicKey
    issued: int


@dataclass(frozen=True, slots=True)
class Departure:
    """The party has left: no later round of any run includes it, under whatever key."""

    federation: FederationName
    party: MemberId
    key: PublicKey
    issued: int


Notice = Handover | Revocation | Departure


@dataclass(frozen=True, slots=True)
class SignedNotice:
    """A notice under the key that it is of; a hand-over under its successor too, so that nobody takes another's key."""

    notice: Notice
    signature: SignatureBytes
    by_successor: bytes = b""  # 64 bytes for a hand-over; empty for all others
