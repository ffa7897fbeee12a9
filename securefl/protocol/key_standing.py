"""Whose keys count, now: what signed notices say of them, folded. Each round asks; a "no" has a name.

Only the holder of a key says anything of it. A notice counts from when it was written into the ledger of whoever asks.
A key is handed over once: the first successor that a party has written down stays, whatever else is signed later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Final

from securefl import keys, wire
from securefl.errors import Forged, PeerFault
from securefl.protocol import messages as m
from securefl.terms import (
    Departure,
    Handover,
    MemberId,
    Notice,
    Participant,
    PublicKey,
    Revocation,
    SignedNotice,
)

LABEL: Final = "key-notice"
REVOKED, HANDED_OVER, LEFT = "protocol.key-revoked", "protocol.key-handed-over", "protocol.party-left"
SKEW_S: Final = 300  # how far ahead of this clock its author's may be
MOST_OVERLAP_S: Final = 90 * 24 * 3600
MOST_HANDOVERS: Final = 1024  # of one line of keys in one federation: whoever hands over for ever fills no ledger
Named = tuple[str, PublicKey]  # a federation, and a key in it


class NotTaken(PeerFault):
    """A notice that is refused, by a named rule. Nothing was written."""

    exit_code: ClassVar[int] = 4


def revocation(seat: Participant, counts: Callable[[Participant], None]) -> Forged | None:
    """Why a party is refused whose key was revoked: what it signed before that counts no more either.

    Args:
        seat: the party.
        counts: raises Forged for a key that does not count now.

    Returns:
        the refusal; None where the key counts, and where anything else ended it.
    """
    try:
        counts(seat)
    except Forged as fault:
        return fault if fault.rule == REVOKED else None
    return None


@dataclass(frozen=True, slots=True)
class Standings:
    """What is known of keys, by notices that were taken in."""

    handovers: Mapping[Named, Handover] = field(default_factory=lambda: MappingProxyType({}))
    revoked: frozenset[Named] = frozenset()
    left: frozenset[tuple[str, MemberId]] = frozenset()

    def after(self, notice: Notice) -> Standings:
        """What is known with this notice too; it was checked before."""
        name = (notice.federation, notice.key)
        if isinstance(notice, Handover):
            return self if name in self.handovers else replace(self, handovers={**self.handovers, name: notice})
        if isinstance(notice, Revocation):
            return replace(self, revoked=self.revoked | {name})
        return replace(self, left=self.left | {(notice.federation, notice.party)})

    def chain(self, federation: str, key: PublicKey) -> tuple[PublicKey, ...]:
        """This key and its successors, oldest first."""
        found = [key]
        while (handed := self.handovers.get((federation, found[-1]))) and handed.successor not in found:
            found.append(handed.successor)
        return tuple(found)

    def line(self, federation: str, key: PublicKey) -> tuple[PublicKey, ...]:
        """Every key of this key's line: those that were handed over to it, itself, and its successors; oldest first."""
        before = {each.successor: each.key for (of, _), each in self.handovers.items() if of == federation}
        first, seen = key, {key}
        while (earlier := before.get(first)) is not None and earlier not in seen:
            first = earlier
            seen.add(first)
        return self.chain(federation, first)

    def current(self, federation: str, seat: Participant) -> Participant:
        """The party, under the newest key that its own was handed over to."""
        return replace(seat, key=self.chain(federation, seat.key)[-1])

    def check(self, federation: str, seat: Participant, now: int) -> None:
        """Check that this party still takes part, and speaks by this key.

        A revocation ends every key that was handed over to the revoked one too: whoever has a home has all of them.

        Raises:
            Forged: it has left, or the key was revoked, or one that it was handed over to; or it was handed over
                longer ago than the overlap.
        """
        if any((federation, key) in self.revoked for key in self.chain(federation, seat.key)):
            raise Forged(f"a key of {seat.member} that was revoked: {seat.key.hex()[:16]}", REVOKED)
        if (federation, seat.member) in self.left:  # after that: a stolen key stays one, left or not
            raise Forged(f"{seat.member} has left {federation}", LEFT)
        handed = self.handovers.get((federation, seat.key))
        if handed is not None and now > handed.until:
            what = f"a key of {seat.member} that was handed over, {now - handed.until} s after both counted"
            raise Forged(f"{what}: {seat.key.hex()[:16]}", HANDED_OVER)

    def counts(self, federation: str, seat: Participant, now: int) -> bool:
        """Whether this party still takes part, and speaks by this key."""
        try:
            self.check(federation, seat, now)
        except Forged:
            return False
        return True

    def admit(self, signed: SignedNotice, federation: str, known: Mapping[MemberId, PublicKey], now: int) -> bool:
        """Check that a notice may be taken in; return whether it says anything new.

        Args:
            signed: what its author sent.
            federation: the one that it must be of.
            known: each party's key, any of its chain.
            now: seconds since 1970.

        Raises:
            NotTaken: 1. another federation's; 2. of a key that is not this party's here; 3. not signed by it, or by
                the successor; 4. of a time that has not come, or with too long an overlap; 5. the key was revoked, or
                handed over, to another where it is to be handed over again; or too often.
        """
        notice = signed.notice
        if notice.federation != federation:
            raise NotTaken(f"a notice of {notice.federation}, where {federation} is expected", "keys.federation")
        own = known.get(notice.party)
        if own is None or not self.is_one_party(federation, own, notice.key):
            raise NotTaken(f"{notice.key.hex()[:16]} is no key of {notice.party} here", "keys.stranger")
        check_signatures(signed)
        if notice.issued > now + SKEW_S:
            raise NotTaken(f"{notice.party} signed it {notice.issued - now} s from now", "keys.early")
        if isinstance(notice, Handover):
            return self._admit_handover(notice)
        if isinstance(notice, Departure):
            if (federation, notice.key) in self.revoked:
                raise NotTaken(f"signed by a key of {notice.party} that was revoked", "keys.revoked")
            if (federation, notice.key) in self.handovers:  # all that it can still say is that it is revoked
                raise NotTaken(f"signed by a key of {notice.party} that was handed over", "keys.handed-over")
            return (federation, notice.party) not in self.left
        return (federation, notice.key) not in self.revoked

    def _admit_handover(self, notice: Handover) -> bool:
        name = (notice.federation, notice.key)
        if not notice.issued <= notice.until <= notice.issued + MOST_OVERLAP_S:
            what = f"an overlap of {notice.until - notice.issued} s; at most {MOST_OVERLAP_S} are"
            raise NotTaken(what, "keys.overlap")
        if name in self.revoked:
            raise NotTaken(f"signed by a key of {notice.party} that was revoked", "keys.revoked")
        before = self.handovers.get(name)
        if before is not None:
            if before.successor != notice.successor:
                what = f"{notice.party}'s key was handed over to {before.successor.hex()[:16]} before"
                raise NotTaken(what, "keys.second-successor")
            return False
        taken = {each.successor for (of, _), each in self.handovers.items() if of == notice.federation}
        if notice.successor in taken or notice.successor == notice.key:
            raise NotTaken(f"{notice.successor.hex()[:16]} is somebody's key already", "keys.second-successor")
        if len(self.line(notice.federation, notice.key)) > MOST_HANDOVERS:
            raise NotTaken(f"{notice.party} handed its key over {MOST_HANDOVERS} times", "keys.too-many")
        return True

    def is_one_party(self, federation: str, one: PublicKey, other: PublicKey) -> bool:
        """Whether one of these keys was handed over to the other, step by step."""
        return other in self.chain(federation, one) or one in self.chain(federation, other)


def sign(identity: keys.Identity, notice: Notice, successor: keys.Identity | None = None) -> SignedNotice:
    """The notice under the key that it is of, and under its successor."""
    assert notice.key == identity.public, "a party speaks of its own key"
    data = wire.encode(notice)
    return SignedNotice(notice, identity.sign(LABEL, data), b"" if successor is None else successor.sign(LABEL, data))


def check_signatures(signed: SignedNotice) -> None:
    """Check that the key signed what is said of it, and a hand-over its successor too, with the head that is theirs.

    Raises:
        NotTaken: otherwise.
    """
    notice, data = signed.notice, wire.encode(signed.notice)
    try:
        keys.verify(notice.key, LABEL, data, signed.signature)
        if isinstance(notice, Handover):
            keys.verify(notice.successor, LABEL, data, signed.by_successor)
            if notice.head is not None:
                m.check_head(notice.head, notice.party, notice.successor)
    except Forged as fault:
        raise NotTaken(f"{notice.party}'s key did not sign this: {fault}", "keys.signature") from fault
    if not isinstance(notice, Handover) and signed.by_successor:
        raise NotTaken("a successor's signature on what has none", "keys.signature")
