"""What a home does with signed documents of introduction: it answers, admits, and pins the keys in them.

Everything is checked before anything is written: a document that is refused leaves a home as it was, but for what the
policy's own signers revoked (`home.adoption`). Documents are kept in the home, for they are what its pins are by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from securefl import files, keys
from securefl.documents import introduction
from securefl.documents.introduction import (
    Answer,
    Authentic,
    Card,
    Confirmed,
    Invitation,
    NotIntroduced,
    Role,
    Roster,
    Rule,
)
from securefl.errors import Fault, OperatorFault
from securefl.home import adoption, engine_key
from securefl.home.peers import known, pin
from securefl.home.peers import pinned as pinned_at
from securefl.policy import approvals
from securefl.policy import load as policies
from securefl.terms import MemberId, Participant
from securefl.terms.names import file_name
from securefl.terms.parties import COORDINATOR

if TYPE_CHECKING:
    from securefl.home.home import Home
    from securefl.policy.load import Policy

D = TypeVar("D", Invitation, Answer, Roster)
_parsed = lru_cache(maxsize=64)(policies.parse)  # the parties of one process are shown the same one
FOLDER = "introduced"  # of a home
INVITATION, ANSWER, ROSTER, ANSWERS = "invitation", "answer", "roster", "answers"


@dataclass(frozen=True, slots=True)
class Party:
    """Who a home's owner is in a federation."""

    name: MemberId
    role: Role
    region: str = ""


@dataclass(frozen=True, slots=True)
class Introduced:
    """Everybody in a federation, by documents whose authors are known."""

    coordinator: Participant
    custodian: Participant | None
    members: tuple[Participant, ...]

    @property
    def everybody(self) -> tuple[Participant, ...]:
        """All of them, the coordinator first."""
        return (self.coordinator, *((self.custodian,) if self.custodian else ()), *self.members)


def invite(
    home: Home, policy: Policy, signatures: tuple[approvals.Signature, ...] | None, offer: bytes, days: int
) -> Authentic[Invitation]:
    """A coordinator's invitation under this policy, which its home adopts; the one it holds, if that says the same.

    Raises:
        Unapproved, OperatorFault: this home would not adopt the policy.
    """
    adoption.propose(home, policy, signatures)
    card = _card(home, Party(COORDINATOR, Role.COORDINATOR), policy, days)
    made = Invitation(card, policy.text, adoption.evidence(policy, signatures), offer)
    held = kept(home, policy.federation, INVITATION, Invitation)
    if held is not None and _says_the_same(held.document, made):
        return held
    pin(home.path, policy.federation, (_seat(card),))
    found = introduction.sign(home.identity, made)
    _keep(home, policy.federation, INVITATION, found)
    return found


def accept(
    home: Home, me: Party, given: Confirmed[Invitation], days: int, *, unsafe_unsigned: bool = False
) -> Authentic[Answer]:
    """Adopt the policy of an invitation, pin its coordinator's key, and answer.

    Raises:
        NotIntroduced: by POLICY or KEY.
        Unapproved, OperatorFault: this home would not adopt the policy.
    """
    invitation = given.document
    policy, signatures = policy_of(invitation, home.clock(), unsafe_unsigned=unsafe_unsigned)
    _check_keys(home, policy.federation, (invitation.card,))
    adoption.propose(home, policy, signatures)
    pin(home.path, policy.federation, (_seat(invitation.card),))
    _keep(home, policy.federation, INVITATION, given.found)
    card = _card(home, me, policy, days)
    made = Answer(card, given.found.digest)
    held = kept(home, policy.federation, ANSWER, Answer)
    if held is not None and _says_the_same(held.document, made):
        return held  # the same, in its first words
    found = introduction.sign(home.identity, made)
    _keep(home, policy.federation, ANSWER, found)
    return found


def admit(home: Home, federation: str, invited: Collection[str], given: Confirmed[Answer]) -> None:
    """Keep an answer to this coordinator's own invitation, and pin its author's key.

    Raises:
        NotIntroduced: by STRANGER, FEDERATION, POLICY, INVITATION, KEY or DOUBLED.
        OperatorFault: this coordinator has invited nobody.
    """
    invitation, answer = _own_invitation(home, federation), given.document
    if answer.card.name not in invited:
        what = f"{answer.card.name}, and invited are {', '.join(sorted(invited))}"
        raise NotIntroduced(Rule.STRANGER, what, "write whom you invite under `members`")
    introduction.check_answer(given.found, invitation.document.card, invitation.digest)
    others = {each.document.card.name: each.document.card for each in admitted(home, federation).values()}
    earlier = others.pop(answer.card.name, answer.card)
    _check_keys(home, federation, (answer.card,))
    introduction.check_once([invitation.document.card, *others.values(), answer.card])
    if answer.card.issued < earlier.issued:
        what = f"an older answer of {answer.card.name} than the one that was admitted"
        raise NotIntroduced(Rule.DOUBLED, what, "keep the newer one")
    _keep(home, federation, f"{ANSWERS}/{answer.card.name}", given.found)
    pin(home.path, federation, (_seat(answer.card),))


def admitted(home: Home, federation: str) -> Mapping[str, Authentic[Answer]]:
    """Every answer to this coordinator's present invitation that was admitted, by name; none if it invited nobody."""
    invitation, found = taken_in(home, federation, INVITATION, Invitation), {}
    for path in sorted((_folder(home.path, federation) / ANSWERS).glob("*")):
        answer = taken_in(home, federation, f"{ANSWERS}/{path.name}", Answer)
        if answer is not None and invitation is not None and answer.document.invitation == invitation.digest:
            found[path.name] = answer
    return found


def hand_out(home: Home, federation: str, invited: Collection[str], days: int) -> Authentic[Roster]:
    """The roster of all who were invited; the one that was handed out before, if it says the same.

    The invitation's own time says until when it may be answered: whoever was admitted by then stands in the roster.

    Raises:
        OperatorFault: some have not answered, or their answers no longer count.
    """
    invitation, now = taken_in(home, federation, INVITATION, Invitation), home.clock()
    answers = {name: each for name, each in admitted(home, federation).items() if each.document.card.expires >= now}
    missing = sorted(set(invited) - set(answers))
    if missing or invitation is None:
        what = f"no answer of {', '.join(missing)} to the present invitation that still counts"
        raise OperatorFault(what, "take theirs in first: `securefl site join COORDINATOR ANSWER`", str(home.path))
    policy, _ = adoption.staged(home.path, federation, home.clock())
    card = _card(home, Party(COORDINATOR, Role.COORDINATOR), policy, days)
    made = Roster(card, invitation.digest, tuple(answers[name].encoded for name in sorted(invited)))
    held = kept(home, federation, ROSTER, Roster)
    if held is not None and _says_the_same(held.document, made):
        return held
    found = introduction.sign(home.identity, made)
    _keep(home, federation, ROSTER, found)
    return found


def everybody_in(home: Home, given: Confirmed[Roster]) -> Introduced:
    """Everybody in a federation whose invitation this home answered, by its roster; nothing is written.

    Raises:
        NotIntroduced: by KEY, FEDERATION, POLICY, INVITATION, DOUBLED or OWN; or an answer in it is not authentic.
    """
    roster, card = given.document, given.document.card
    invitation, own = _held(home, card.federation)
    if invitation.document.card.key != card.key:
        what = f"a roster under another key than the invitation's: {card.key.hex()[:16]}..."
        raise NotIntroduced(Rule.KEY, what, "find out who speaks in the coordinator's name")
    if card.policy != invitation.document.card.policy:
        what = f"a roster under the policy {card.policy.hex()[:16]}, and this party accepted another"
        raise NotIntroduced(Rule.POLICY, what, "join the newest invitation first")
    if roster.invitation != invitation.digest:
        what = "a roster of another invitation than the one that this party answered"
        raise NotIntroduced(Rule.INVITATION, what, "join the newest invitation first")
    answers = introduction.answers_of(given.found)
    if own.encoded not in {each.encoded for each in answers}:
        remedy = "ask its coordinator to admit this party's answer; else somebody answers in its name"
        raise NotIntroduced(Rule.OWN, "the answer that this party gave does not stand in it", remedy)
    cards = tuple(each.document.card for each in answers)
    _check_keys(home, card.federation, (card, *cards))
    return everybody(card, cards)


def take_in(home: Home, given: Confirmed[Roster]) -> Introduced:
    """Pin everybody's key, as the roster of a federation that this home answered has them.

    Raises:
        NotIntroduced: as for ``everybody_in``.
    """
    found, federation = everybody_in(home, given), given.document.card.federation
    pin(home.path, federation, found.everybody)
    _keep(home, federation, ROSTER, given.found)
    return found


def boxes(home: Home, federation: str) -> dict[MemberId, bytes]:
    """Return what shares are sealed to, by member: the boxes in the roster that this home took in.

    Raises:
        OperatorFault: it took in none.
    """
    held = roster_at(home.path, federation)
    cards = [each.document.card for each in introduction.answers_of(held)]
    return {MemberId(card.name): card.box for card in cards if card.role.has_records}


def roster_at(home: Path, federation: str) -> Authentic[Roster]:
    """Return the roster that was taken in, or handed out, in the home at this path.

    Raises:
        OperatorFault: it has none.
    """
    held = _taken_in(home, federation, ROSTER, Roster)
    if held is None:
        remedy = "join by signed documents: what a party says of itself stands on its own card"
        raise OperatorFault(f"no roster of {federation} is here", remedy, str(home))
    return held


def everybody(coordinator: Card, cards: Collection[Card]) -> Introduced:
    """Return who takes part, by cards that were checked; members in the order that they come in."""
    custodian = next((_seat(card) for card in cards if card.role is Role.CUSTODIAN), None)
    members = tuple(_seat(card) for card in cards if card.role.has_records)
    return Introduced(_seat(coordinator), custodian, members)


def policy_of(
    invitation: Invitation, now: int, *, unsafe_unsigned: bool
) -> tuple[Policy, tuple[approvals.Signature, ...] | None]:
    """The policy that is offered, and its signatures; None where they are too few and that was asked for.

    Raises:
        NotIntroduced: by POLICY or FEDERATION: it is not the one that the card names.
        Unapproved: it has not the signatures it needs.
        OperatorFault: it is no policy.
    """
    card, name = invitation.card, "the invitation's policy"
    policy = _parsed(invitation.policy, name)
    if policy.hash != card.policy:
        raise NotIntroduced(Rule.POLICY, "the card names another policy than is offered", "ask for a new invitation")
    if policy.federation != card.federation:
        what = f"the policy of {policy.federation} in an invitation to {card.federation}"
        raise NotIntroduced(Rule.FEDERATION, what, "ask for a new invitation")
    signatures = approvals.decode(invitation.approvals, "the invitation's approvals")
    if unsafe_unsigned and not approvals.judge(policy, signatures, now).signed:
        return policy, None
    approvals.require(policy, signatures, now)
    return policy, signatures


def kept(home: Home, federation: str, name: str, kind: type[D]) -> Authentic[D] | None:
    """A document that this home keeps; None if there is none, or its time to be handed out is over."""
    found = taken_in(home, federation, name, kind)
    return None if found is None or found.document.card.expires < home.clock() else found


def taken_in(home: Home, federation: str, name: str, kind: type[D]) -> Authentic[D] | None:
    """A document that this home took in while it counted; None if there is none.

    How long a document counts is asked when it comes: once it is in, the keys that were pinned by it count.
    """
    return _taken_in(home.path, federation, name, kind)


def _taken_in(home: Path, federation: str, name: str, kind: type[D]) -> Authentic[D] | None:
    path = _folder(home, federation) / name
    text = files.read(path)
    return None if text is None else introduction.read(text, kind, None, str(path))


def _held(home: Home, federation: str) -> tuple[Authentic[Invitation], Authentic[Answer]]:
    invitation = taken_in(home, federation, INVITATION, Invitation)
    own = taken_in(home, federation, ANSWER, Answer)
    if invitation is None or own is None:
        what = f"a roster of {federation}, and this party answered no invitation to it"
        raise NotIntroduced(Rule.INVITATION, what, "join the coordinator's invitation first")
    return invitation, own


def _own_invitation(home: Home, federation: str) -> Authentic[Invitation]:
    found = kept(home, federation, INVITATION, Invitation)
    if found is None:
        remedy = "invite first: `securefl site invite COORDINATOR`"
        raise OperatorFault(f"no invitation to {federation} that still counts", remedy, str(home.path))
    return found


def _card(home: Home, party: Party, policy: Policy, days: int) -> Card:
    now, box = home.clock(), keys.public_half(home.identity.box)
    return Card(
        party.name, party.role, party.region, home.identity.public, box, policy.federation, policy.hash, now,
        now + days * introduction.DAY_S, engine_key.said(home.path),
    )  # fmt: skip


def _says_the_same(held: Invitation | Answer | Roster, made: Invitation | Answer | Roster) -> bool:
    """Whether two documents differ in nothing but when they were signed and until when they count."""
    card = replace(made.card, issued=held.card.issued, expires=held.card.expires)
    return replace(made, card=card) == held


def _seat(card: Card) -> Participant:
    return Participant(MemberId(card.name), card.key, card.region)


def _check_keys(home: Home, federation: str, cards: Collection[Card]) -> None:
    """Check that nobody shows another key than this home has pinned.

    Raises:
        NotIntroduced: by KEY.
    """
    pinned = known(home.path, federation)
    for card in cards:
        if pinned.get(card.name, card.key.hex()) != card.key.hex():
            what = f"{card.name} under {card.key.hex()[:16]}..., and under {pinned[card.name][:16]}... before"
            remedy = "find out who answers in its name; if its key was replaced on purpose, remove its line there"
            raise NotIntroduced(Rule.KEY, what, remedy, str(pinned_at(home.path, federation)))


def _folder(home: Path, federation: str) -> Path:
    return home / FOLDER / file_name(federation)


def _keep(home: Home, federation: str, name: str, found: Authentic[D]) -> None:
    path = _folder(home.path, federation) / name
    try:
        files.folder(path.parent)
        files.keep(path, found.text.encode())
    except OSError as fault:
        raise Fault(f"{path}: cannot be written: {fault.strerror}") from fault
