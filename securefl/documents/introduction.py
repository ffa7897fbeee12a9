"""Signed public documents by which parties who share no disk come to know each other.

A coordinator invites, each party answers, and the coordinator hands out the roster of all answers. Each document is
under its author's own key, which proves nothing of whose key that is. People do: whoever takes a document in compares
its fingerprint with its author by telephone first, and the roster's with the other members. Nothing in a document is
secret. It says nothing of records, and no path.

A fingerprint is 100 bits of scrypt over the document's digest, as five groups of four characters in base 32. To find
another document with the fingerprint of a given one takes 2**100 trials. Whoever makes both documents needs 2**50, a
tenth of a second and 32 MiB each: scrypt is there for that.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Final, Generic, TypeVar

from securefl import keys, wire
from securefl.documents.armour import armoured, unarmoured
from securefl.errors import Fault, Forged, Malformed
from securefl.terms import Hash, PublicKey
from securefl.terms.names import NAME_FORM, BoxKey, FederationName, SignatureBytes
from securefl.terms.parties import COORDINATOR, CUSTODIAN

LABEL: Final = "introduction"
DAY_S: Final = 24 * 3600
SKEW_S: Final = 300  # how far ahead of this clock its author's may be
LIMIT_BYTES: Final = 4 * 1024 * 1024  # of a document's text
BEGIN, END = "-----BEGIN SECUREFL DOCUMENT-----", "-----END SECUREFL DOCUMENT-----"
BITS: Final = 100  # of a fingerprint
_REMEMBERED: Final = 512  # documents whose signatures this process has verified
_GROUP: Final = 4  # characters, 20 bits


class Role(StrEnum):
    """What a party is in a federation."""

    MEMBER = "member"
    SUBFEDERATION = "sub-federation"  # a member that is a federation itself
    CUSTODIAN = "custodian"
    COORDINATOR = "coordinator"

    @property
    def has_records(self) -> bool:
        """Whether its updates are summed: it is a member, whatever stands behind it."""
        return self in (Role.MEMBER, Role.SUBFEDERATION)


class Rule(StrEnum):
    """Why a document is not taken in. Nothing was written then."""

    FORM = "introduction.form"  # not a document, or not in its one encoding
    KIND = "introduction.kind"  # another kind of document than is expected here
    SIGNATURE = "introduction.signature"  # forged, or altered after it was signed
    ROLE = "introduction.role"  # said by a party that may not say it
    EARLY = "introduction.early"  # of a time that has not come
    EXPIRED = "introduction.expired"
    FINGERPRINT = "introduction.fingerprint"  # not the one that was compared
    FEDERATION = "introduction.federation"  # another federation's
    POLICY = "introduction.policy"  # for another policy than was agreed
    INVITATION = "introduction.invitation"  # for another invitation than is held here
    KEY = "introduction.key"  # a known party under another key
    DOUBLED = "introduction.doubled"  # one name, or one key, twice; or an older answer after a newer one
    STRANGER = "introduction.stranger"  # of a party that was not invited
    OWN = "introduction.own"  # a roster without this party's own answer
    OFFER = "introduction.offer"  # what is trained is not what this party has


class NotIntroduced(Fault):
    """A document of introduction that is refused, by a named rule. Nothing was written."""

    exit_code: ClassVar[int] = 4

    def __init__(self, rule: Rule, what: str, remedy: str, place: str = "") -> None:
        self.rule, self.remedy = rule, remedy
        super().__init__(f"{f'{place}: ' if place else ''}{rule.value}: {what}; {remedy}")


@dataclass(frozen=True, slots=True)
class Card:
    """Who signs a document: what a party says of itself."""

    name: str
    role: Role
    region: str  # empty for a coordinator and a custodian
    key: PublicKey  # its identity, under which the document is
    box: BoxKey
    federation: FederationName
    policy: Hash  # the policy that it accepts
    issued: int  # seconds since 1970
    expires: int  # the last second that the document counts
    engine_key: Hash | None = None  # of the certificate by which an engine knows it: SHA-256 of the public key, DER


@dataclass(frozen=True, slots=True)
class Invitation:
    """A coordinator's: which policy, with its signatures, and what is trained."""

    card: Card
    policy: bytes  # its text, with those above it
    approvals: bytes  # its signatures, as they stand beside it; empty without
    offer: bytes  # what is trained: the text of ``documents.offer``


@dataclass(frozen=True, slots=True)
class Answer:
    """A member's or custodian's, to one invitation."""

    card: Card
    invitation: Hash


@dataclass(frozen=True, slots=True)
class Roster:
    """A coordinator's: everybody's own answer, so that each party learns the others' keys."""

    card: Card
    invitation: Hash
    answers: tuple[bytes, ...]  # each an ``Answer`` under its own party's key, encoded; by name


Document = Invitation | Answer | Roster
D = TypeVar("D", Invitation, Answer, Roster)


@dataclass(frozen=True, slots=True)
class Signed:
    """A document under its author's key."""

    document: Document
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class Authentic(Generic[D]):
    """A document whose signature holds under the key in it, whose author may say it, and whose time is now."""

    document: D
    encoded: bytes

    @property
    def digest(self) -> Hash:
        """What other documents name it by."""
        return Hash(hashlib.sha256(self.encoded).digest())

    @property
    def text(self) -> str:
        """The document as a file or a mail has it."""
        return armoured(self.encoded, BEGIN, END)

    @property
    def fingerprint(self) -> str:
        """What people read out to each other: 5 groups of 4 characters."""
        slow = hashlib.scrypt(
            self.digest, salt=b"securefl/1/introduction", n=2**15, r=8, p=1, maxmem=2**26, dklen=(BITS + 7) // 8
        )
        shown = base64.b32encode(slow).decode()[: BITS // 5]
        return "-".join(shown[at : at + _GROUP] for at in range(0, len(shown), _GROUP))


@dataclass(frozen=True, slots=True)
class Confirmed(Generic[D]):
    """A document whose author is known by other means than the document. Only such a one is taken in."""

    found: Authentic[D]

    @property
    def document(self) -> D:
        """What it says."""
        return self.found.document


def confirmed(found: Authentic[D], typed: str) -> Confirmed[D]:
    """The document, once ``typed`` is its fingerprint; blanks, dashes and small letters do not matter.

    Raises:
        NotIntroduced: it is another one.
    """
    if re.sub(r"[\s-]", "", typed).upper() != found.fingerprint.replace("-", ""):
        remedy = "have its author, whose voice you know, read it out; never take it from where the document came from"
        raise NotIntroduced(Rule.FINGERPRINT, f"{typed[:40]!r} is not the fingerprint of this document", remedy)
    return Confirmed(found)


def from_own_hand(found: Authentic[D]) -> Confirmed[D]:
    """The document, of a party that the same person runs, in this very process: there is nobody to call."""
    return Confirmed(found)


def sign(identity: keys.Identity, document: D) -> Authentic[D]:
    """The document under this identity, whose key stands in it."""
    assert document.card.key == identity.public, "a party signs its own card"
    signature = identity.sign(LABEL, wire.encode(document))
    return Authentic(document, wire.encode(Signed(document, signature)))


def read(text: bytes, expected: type[D], now: int | None, place: str = "") -> Authentic[D]:
    """The document in a text, of the kind that is expected.

    Args:
        text: what ``Authentic.text`` gave.
        expected: the kind.
        now: seconds since 1970; None for a document that was taken in while it counted.
        place: what an error calls the document.

    Raises:
        NotIntroduced: by FORM, KIND, SIGNATURE, ROLE, EARLY or EXPIRED.
    """
    return _narrowed(read_any(text, now, place), expected, place)


def read_any(
    text: bytes, now: int | None, place: str = ""
) -> Authentic[Invitation] | Authentic[Answer] | Authentic[Roster]:
    """The document in a text, of whatever kind.

    Raises:
        NotIntroduced: as for ``read``, but for KIND.
    """
    return authentic(_unarmoured(text, place), now, place)


def authentic(
    encoded: bytes, now: int | None, place: str = ""
) -> Authentic[Invitation] | Authentic[Answer] | Authentic[Roster]:
    """The document in these bytes, once checks 1 to 4 hold.

    Raises:
        NotIntroduced: 1. FORM: it is no document; 2. SIGNATURE: its key did not sign it; 3. ROLE: its author may not
            say it, or is not called as its role is; 4. EARLY or EXPIRED.
    """
    document = _signed(encoded, place).document
    card = document.card
    _check_role(document, place)
    if now is not None:
        _check_time(card, now, place)
    if isinstance(document, Invitation):
        return Authentic(document, encoded)
    if isinstance(document, Answer):
        return Authentic(document, encoded)
    return Authentic(document, encoded)


@lru_cache(maxsize=_REMEMBERED)
def _signed(encoded: bytes, place: str) -> Signed:
    """The document in these bytes, once checks 1 and 2 hold: what they give once, they give always.

    Every member of a roster is shown every answer. Where one process has many homes, each is verified once.

    Raises:
        NotIntroduced: by FORM or SIGNATURE.
    """
    try:
        signed: Signed = wire.decode(encoded, Signed)
    except Malformed as fault:
        raise NotIntroduced(Rule.FORM, str(fault), "ask its author to send it again", place) from fault
    card = signed.document.card
    try:
        keys.verify(card.key, LABEL, wire.encode(signed.document), signed.signature)
    except Forged as fault:
        what = f"{card.name}'s key did not sign this"
        raise NotIntroduced(Rule.SIGNATURE, what, "ask its author to send it again", place) from fault
    return signed


def _check_time(card: Card, now: int, place: str) -> None:
    if card.issued > now + SKEW_S:
        remedy = "compare this machine's clock with its author's"
        raise NotIntroduced(Rule.EARLY, f"{card.name} signed it {card.issued - now} s from now", remedy, place)
    if card.expires < now:
        what = f"{card.name}'s word ended {now - card.expires} s ago"
        raise NotIntroduced(Rule.EXPIRED, what, "ask its author for a new one", place)


def answers_of(roster: Authentic[Roster], place: str = "") -> tuple[Authentic[Answer], ...]:
    """Every party's own answer in a roster: to its invitation, for its federation and policy, each party once.

    Each counted when the roster was signed. How long an answer may be admitted is over soon; a roster stands longer.

    Raises:
        NotIntroduced: one is not authentic, or by FEDERATION, POLICY, INVITATION or DOUBLED.
    """
    document = roster.document
    signed = document.card.issued
    found = tuple(_narrowed(authentic(each, signed, place), Answer, place) for each in document.answers)
    for each in found:
        check_answer(each, document.card, document.invitation, place)
    check_once([document.card, *(each.document.card for each in found)], place)
    return found


def check_answer(answer: Authentic[Answer], inviting: Card, invitation: Hash, place: str = "") -> None:
    """Check that this answers that invitation, of the coordinator with that card.

    Raises:
        NotIntroduced: by FEDERATION, POLICY or INVITATION.
    """
    card = answer.document.card
    if card.federation != inviting.federation:
        what = f"{card.name} answers {card.federation}, and this is {inviting.federation}"
        raise NotIntroduced(Rule.FEDERATION, what, "ask for the answer that is meant for this federation", place)
    if card.policy != inviting.policy:
        what = f"{card.name} accepts the policy {card.policy.hex()[:16]}, and {inviting.policy.hex()[:16]} is offered"
        raise NotIntroduced(Rule.POLICY, what, "send it the newest invitation, and ask for an answer to that", place)
    if answer.document.invitation != invitation:
        what = f"{card.name} answers another invitation"
        raise NotIntroduced(Rule.INVITATION, what, "send it the newest one, and ask for an answer to that", place)


def check_once(cards: Iterable[Card], place: str = "") -> None:
    """Check that no name and no key is two parties'.

    Raises:
        NotIntroduced: by DOUBLED.
    """
    names, owners = set[str](), dict[bytes, str]()
    for card in cards:
        for key in (card.key, card.box):
            if owners.setdefault(key, card.name) != card.name:
                what = f"one key of {card.name} and {owners[key]}"
                raise NotIntroduced(Rule.DOUBLED, what, "each party makes its own: `securefl site init`", place)
        if card.name in names:
            raise NotIntroduced(Rule.DOUBLED, f"{card.name} twice", "keep the one that is theirs", place)
        names.add(card.name)


def _narrowed(
    found: Authentic[Invitation] | Authentic[Answer] | Authentic[Roster], expected: type[D], place: str
) -> Authentic[D]:
    document = found.document
    if not isinstance(document, expected):
        what = f"{_called(type(document))} of {document.card.name}, where {_called(expected)} is expected"
        raise NotIntroduced(Rule.KIND, what, "give the document that is asked for", place)
    return Authentic(document, found.encoded)


def _called(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AI' else 'a'} {kind.__name__.lower()}"


def _check_role(document: Document, place: str) -> None:
    card = document.card
    fixed = {Role.COORDINATOR: COORDINATOR, Role.CUSTODIAN: CUSTODIAN}.get(card.role)
    if isinstance(document, Answer) == (card.role is Role.COORDINATOR):
        what = f"{_called(type(document))} by a {card.role.value}"
        remedy = "coordinators invite and hand out rosters; members and custodians answer"
        raise NotIntroduced(Rule.ROLE, what, remedy, place)
    reserved = card.name in (COORDINATOR, CUSTODIAN)
    named_well = card.name == fixed if fixed else re.match(NAME_FORM, card.name) and not reserved and card.region
    if not named_well:
        what = f"a {card.role.value} called {card.name!r}, of region {card.region!r}"
        raise NotIntroduced(Rule.ROLE, what, "a member has a name of its own and a region; a custodian neither", place)


def _unarmoured(text: bytes, place: str) -> bytes:
    try:
        return unarmoured(text, BEGIN, END, LIMIT_BYTES)
    except ValueError as fault:
        what, remedy = f"not a document of introduction: {fault}", "give the whole file that its author sent"
        raise NotIntroduced(Rule.FORM, what, remedy, place) from fault
