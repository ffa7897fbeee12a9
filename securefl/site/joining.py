"""One site joins a federation by signed documents: it answers an invitation, then takes in the roster.

Until the roster is in, the site trusts nobody's updates and answers no request of the federation.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from securefl import files, keys
from securefl.documents import emit, offer, site_file, strict
from securefl.documents.introduction import Answer, Authentic, Confirmed, Invitation, NotIntroduced, Role, Roster, Rule
from securefl.documents.offer import WHOLE, Offer
from securefl.documents.site_file import Site
from securefl.documents.site_parts import JoinedFile
from securefl.errors import OperatorFault
from securefl.home import adoption, identity, introduced
from securefl.home.clock import clock
from securefl.home.introduced import Introduced, Party
from securefl.planning.plan import scheme_under
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.site import custody, key_share
from securefl.site.build import opened
from securefl.terms import Hash, MemberId, Participant, PublicKey
from securefl.terms.parties import CUSTODIAN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from securefl.home.home import Home
    from securefl.policy.load import Policy

HEAD = "Written by `securefl site join`: a federation that this site is in, as its roster and its invitation say."


def party_of(site: Site) -> Party:
    """Return who this site is to others."""
    if site.file.is_custodian:
        return Party(CUSTODIAN, Role.CUSTODIAN)
    role = Role.MEMBER if site.file.subfederation is None else Role.SUBFEDERATION
    assert site.file.region is not None, "a member's document has a region"
    return Party(MemberId(site.file.name), role, site.file.region)


def answer(
    site: Site, given: Confirmed[Invitation], days: int, *, unsafe_unsigned: bool = False, home: Home | None = None
) -> Authentic[Answer]:
    """Answer an invitation: its policy is adopted, and its coordinator's key pinned, in this site's home.

    Args:
        site: who answers.
        given: the invitation.
        days: for how long the answer counts.
        unsafe_unsigned: whether a policy without the signatures it needs will do.
        home: this site's, where it is open already.

    Raises:
        NotIntroduced: what is trained does not fit this site (OFFER), or as for ``introduced.accept``.
        Unapproved, OperatorFault: this home would not adopt the policy, or there is none.
    """
    check_home(site)
    federation = given.document.card.federation
    if federation in site.file.federations and not site_file.joined_at(site.home, federation).exists():
        what = f"{federation} stands under `federations` in {site.path}"
        raise OperatorFault(what, "remove its lines there: what is joined is written by this command", str(site.path))
    _check_offer(site, federation, offer.read(given.document.offer, "the invitation's offer"))
    return introduced.accept(home or opened(site), party_of(site), given, days, unsafe_unsigned=unsafe_unsigned)


def complete(site: Site, given: Confirmed[Roster], now: Callable[[], int] = clock) -> Introduced:
    """Take in the roster: everybody's key is pinned, and the site answers this federation from its next start.

    Raises:
        NotIntroduced: as for ``introduced.everybody_in``; or the roster is none of what was offered (OFFER).
        OperatorFault: this site has no home.
    """
    check_home(site)
    home, federation = opened(site, now), given.document.card.federation
    found = introduced.everybody_in(home, given)
    first = {"securefl_joined": 1, "federation": federation}
    text = emit.text_of({**first, **trust_in(site, found, held_offer(home, federation))}, HEAD)
    place = site_file.joined_at(site.home, federation)
    try:
        site_file.check_joined(site.file, strict.validate(strict.parse(text, str(place)), JoinedFile), str(place))
    except OperatorFault as fault:
        raise NotIntroduced(Rule.OFFER, str(fault), "ask its coordinator which roster is meant") from fault
    introduced.take_in(home, given)
    files.folder(place.parent)
    files.write(place, text)
    return found


def held_offer(home: Home, federation: str) -> Offer:
    """Return what is trained, as the invitation has it that this home answered.

    Raises:
        NotIntroduced: it answered none.
    """
    held = introduced.taken_in(home, federation, introduced.INVITATION, Invitation)
    if held is None:
        raise NotIntroduced(Rule.INVITATION, f"no invitation to {federation} is here", "join the invitation first")
    return offer.read(held.document.offer, "the invitation's offer")


def trust_in(site: Site, found: Introduced, offered: Offer) -> dict[str, Any]:
    """Return what a SITE document says of a federation whose roster and offer these are."""
    members = {seat.member: {"key": seat.key.hex(), "region": seat.region} for seat in found.members}
    custodian = {"custodian": found.custodian.key.hex()} if found.custodian else {}
    first = {"coordinator": found.coordinator.key.hex(), **custodian, "members": members}
    if site.file.is_custodian:
        tasks = {"tasks": offered.tasks} if offered.tasks else {}
        return {**first, **tasks, "protection": emit.fields_of(offered.protection)}
    what = ("tasks",) if offered.tasks else (*WHOLE, "probe")
    return {**first, **{name: part for name, part in emit.fields_of(offered).items() if name in what}}


def adopt(site: Site, path: Path, *, unsafe_unsigned: bool = False) -> Policy:
    """Lay out a later version of a policy, with the signatures beside it, for the next run of its federation here.

    Raises:
        Unapproved: it lacks signatures, by its own rules or those of the last signed version here.
        OperatorFault: it is of no federation of this site, no later version, or this site has no home.
    """
    check_home(site)
    policy = policies.load(path)
    if policy.federation not in site.file.federations:
        what = f"the policy of {policy.federation}, and this site is in {', '.join(site.file.federations) or 'none'}"
        raise OperatorFault(what, "join that federation first: `securefl site join`", str(path))
    signatures = adoption.found_signatures(path, policy, clock(), unsafe_unsigned=unsafe_unsigned)
    adoption.propose(opened(site), policy, signatures)
    return policy


def deal(site: Site, threshold: int, out: Path, federation: str | None = None) -> tuple[Path, ...]:
    """Split this custodian's key among the members of its federation, each share sealed to the box of its card.

    Raises:
        OperatorFault: this site holds no key, its members' cards are not known, or the threshold is none.
        BelowFloor: the policy assumes that so many collude.
    """
    check_home(site)
    name, trust = site.trusted(federation)
    if trust.protection is None:
        raise OperatorFault("only a custodian has a decryption key", "give its SITE document", str(site.path))
    home = opened(site)
    policy, _ = adoption.staged(home.path, name, home.clock())
    colluding = max(policy.protection.colluding, trust.protection.colluding or 0)
    custody.check_floor(threshold, len(trust.members), colluding, str(site.path))
    boxes = introduced.boxes(home, name)
    file = home.path / schemes.key_name(scheme_under(trust.protection, policy))
    return key_share.deal(file, threshold, boxes, home.identity, keys.Secret(os.urandom(32)), out)


def keep_share(site: Site, data: bytes, place: str) -> tuple[Hash, int]:
    """Keep a share that the custodian of one of this site's federations dealt to it: of which key, and the threshold.

    Raises:
        OperatorFault: it is none, another party's, or dealt under a key that does not count now.
    """
    check_home(site)
    home = opened(site)
    custodians = [
        home.key_line(name, Participant(CUSTODIAN, PublicKey(bytes.fromhex(each.custodian)), ""))
        for name, each in site.file.federations.items()
        if each.custodian
    ]
    statement = key_share.keep(home, custodians, data, place)
    return statement.key, statement.threshold


def check_home(site: Site) -> None:
    """Check that this party has a home and a key; raise OperatorFault otherwise."""
    identity.check(site.home, "this site", "make one: `securefl site init`, or `securefl keys init` at this path")


def _check_offer(site: Site, federation: str, found: Offer) -> None:
    """Check that this site can take part in what is offered.

    Raises:
        NotIntroduced: by OFFER.
    """
    if site.file.is_custodian:
        if not found.protection.scheme.has_custodian:
            what = f"protection {found.protection.scheme.value}, which has no custodian"
            raise NotIntroduced(Rule.OFFER, what, "ask its coordinator whom it means to invite")
        return
    assert site.file.model is not None, "a member's document has a model"
    if found.model != site.file.model.name:
        what = f"the model {found.model}, and this site has {site.file.model.name}"
        remedy = f"get that model, and write what it is called: {site.path}: model.name"
        raise NotIntroduced(Rule.OFFER, what, remedy)
    asked = [name for name, part in found.tasks.items() if site.file.name in part.members]
    strange = sorted(set(site.file.tasks.get(federation, {})) - set(asked))
    if strange:
        what = f"no task {', '.join(strange)} for {site.file.name}; offered are {', '.join(asked) or 'none'}"
        raise NotIntroduced(Rule.OFFER, what, f"correct {site.path}: tasks.{federation}, or ask its coordinator")
