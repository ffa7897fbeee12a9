"""A coordinator invites parties to its federation, admits who answers, and hands out the roster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securefl.documents import offer
from securefl.documents.introduction import Answer, Authentic, Card, Confirmed, Invitation, NotIntroduced, Roster, Rule
from securefl.errors import OperatorFault
from securefl.home import adoption, identity, introduced
from securefl.home.clock import clock
from securefl.home.home import Home
from securefl.home.introduced import Introduced
from securefl.policy import load as policies
from securefl.terms import MemberId, Participant, PublicKey
from securefl.terms.parties import COORDINATOR, CUSTODIAN


class Invited(Protocol):
    """One party, as its coordinator's document has it."""

    @property
    def key(self) -> str | None:
        """Its public key, if it is known without an answer."""
        ...

    @property
    def region(self) -> str | None:
        """Where it stands, if that is known without an answer."""
        ...


class InvitingFile(Protocol):
    """What a coordinator's document says of its federation."""

    @property
    def name(self) -> str:
        """As its policy says."""
        ...

    @property
    def parties(self) -> Mapping[str, Invited]:
        """Everybody who is invited, by name."""
        ...

    @property
    def members(self) -> Mapping[str, Invited]:
        """Its members, by name."""
        ...

    @property
    def offer(self) -> offer.Offer:
        """What its invitation says is trained."""
        ...


class Inviting(Protocol):
    """A coordinator, by its document: of a federation of its own, or of one that is a site of another."""

    @property
    def file(self) -> InvitingFile:
        """What the document says."""
        ...

    @property
    def path(self) -> Path:
        """The document."""
        ...

    @property
    def home(self) -> Path:
        """The folder of the coordinator's key and ledger."""
        ...

    @property
    def policy(self) -> Path:
        """The policy's file."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """Whom a coordinator knows: by an answer that it admitted, or by what its own document says."""

    everybody: Introduced | None
    missing: tuple[str, ...]  # invited, and of no known key or region


def opened(coordinator: Inviting, now: Callable[[], int] = clock) -> Home:
    """This coordinator's home.

    Raises:
        OperatorFault: it has none, or it cannot be used.
        Tampered: its ledger is not what it signed.
    """
    identity.check(coordinator.home, "this coordinator", "make one: `securefl coordinator init`")
    return Home.at(coordinator.home, COORDINATOR, now)


def invite(
    coordinator: Inviting, days: int, *, unsafe_unsigned: bool = False, now: Callable[[], int] = clock
) -> Authentic[Invitation]:
    """The invitation to this federation, under the policy that the document names.

    Raises:
        Unapproved: the policy lacks signatures.
        OperatorFault: the policy is another federation's, or may not follow the one that this home adopted.
    """
    home, policy = opened(coordinator, now), policies.load(coordinator.policy)
    if policy.federation != coordinator.file.name:
        what = f"the policy of {policy.federation}, and the federation is called {coordinator.file.name}"
        raise OperatorFault(what, "write one name into both", f"{coordinator.path}: policy")
    signatures = adoption.found_signatures(coordinator.policy, policy, now(), unsafe_unsigned=unsafe_unsigned)
    return introduced.invite(home, policy, signatures, offer.text_of(coordinator.file.offer), days)


def admit(coordinator: Inviting, given: Confirmed[Answer], now: Callable[[], int] = clock) -> None:
    """Admit a party that answered: its key is pinned in this coordinator's home.

    Raises:
        NotIntroduced: as for ``introduced.admit``; or its key or region is not the one in the document (KEY, OFFER).
    """
    home = opened(coordinator, now)
    _check_document(coordinator, given.document.card, home)
    introduced.admit(home, coordinator.file.name, coordinator.file.parties, given)


def roster(coordinator: Inviting, days: int, now: Callable[[], int] = clock) -> Authentic[Roster]:
    """The roster of everybody in the document.

    Raises:
        OperatorFault: some have not answered.
    """
    return introduced.hand_out(opened(coordinator, now), coordinator.file.name, coordinator.file.parties, days)


def _check_document(coordinator: Inviting, card: Card, home: Home) -> None:
    """Check that a party's card says nothing else than this coordinator's document; raise NotIntroduced otherwise.

    A key that was handed over to another one, by a notice in this home's ledger, is the same party's.
    """
    due = coordinator.file.parties.get(card.name)
    same = {None, *(key.hex() for key in home.line(coordinator.file.name, card.key))}
    if due is not None and due.key not in same:
        what = f"{card.name} under {card.key.hex()[:16]}..., and the document has {str(due.key)[:16]}..."
        raise NotIntroduced(Rule.KEY, what, "find out which is its own", str(coordinator.path))
    if due is not None and due.region not in (None, card.region):
        what = f"{card.name} in region {card.region}, and the document has {due.region}"
        raise NotIntroduced(Rule.OFFER, what, "find out which is right", str(coordinator.path))


def known(coordinator: Inviting, home: Home) -> Known:
    """Everybody in the document, by key and region: whoever was admitted stays so when its answer's time is over.

    Raises:
        NotIntroduced: the document has come to name another key or region than a party's answer does (KEY, OFFER).
    """
    answers = introduced.admitted(home, coordinator.file.name)
    found, missing = dict[str, Participant](), list[str]()
    for name, part in coordinator.file.parties.items():
        answer = answers.get(name)
        if answer is not None:
            _check_document(coordinator, answer.document.card, home)
        key = answer.document.card.key.hex() if answer else part.key
        region = answer.document.card.region if answer else part.region
        if key is None or (region is None and name != CUSTODIAN):
            missing.append(name)
        else:
            seat = Participant(MemberId(name), PublicKey(bytes.fromhex(key)), region or "")
            found[name] = home.live.now.standings.current(coordinator.file.name, seat)
    if missing:
        return Known(None, tuple(missing))
    members = tuple(found[name] for name in coordinator.file.members)
    own = Participant(COORDINATOR, home.identity.public, "")
    return Known(Introduced(own, found.get(CUSTODIAN), members), ())
