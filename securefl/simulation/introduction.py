"""Introduce the parties of one machine to each other, by the signed documents that live ones exchange.

The coordinator invites, each party answers, the coordinator admits it and hands out the roster, and each party takes it
in: the functions behind `securefl site invite`, `join` and `roster`. Nothing else pins a key or lays out a policy. One
person runs all of them, so documents are taken from their own hand, and no fingerprint is compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from securefl import files, key_files, keys
from securefl.documents import federation_file, offer
from securefl.documents.introduction import from_own_hand
from securefl.errors import OperatorFault
from securefl.home import adoption, identity, introduced, peers
from securefl.home.adoption import Signatures
from securefl.home.clock import clock
from securefl.home.home import Home
from securefl.planning.plan import scheme_of
from securefl.planning.subfederation import check_policy
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.simulation import site_documents
from securefl.simulation.layout import SiteLayout
from securefl.simulation.site_documents import Roster, Route
from securefl.site import custody, joining
from securefl.terms import (
    MemberId,
    Participant,
)
from securefl.terms.parties import COORDINATOR, CUSTODIAN

if TYPE_CHECKING:
    from securefl.policy.load import Policy

DAYS: Final = 30  # that a document counts; an older one is signed anew
TURN: Final = "introducing"  # of a coordinator's home: who holds it introduces its parties
ONLY_ENCRYPTED = f"only {schemes.ENCRYPTED} have a custodian"


def introduce_tree(tree: Sequence[tuple[SiteLayout, Policy, Signatures]]) -> dict[Route, Roster]:
    """Introduce everybody in a tree, federation by federation: those below first, for a parent's document names them.

    Args:
        tree: every federation, the root first, with its policy and that one's signatures.

    Raises:
        OperatorFault, Unapproved: a home knows a party by another key, or would not adopt the policy.
    """
    rosters = dict[Route, Roster]()
    for places, policy, signatures in reversed(tree):
        rosters[places.route] = introduce(places, policy, signatures, rosters)
    return rosters


def introduce(
    places: SiteLayout, policy: Policy, signatures: Signatures, below: Mapping[Route, Roster] = MappingProxyType({})
) -> Roster:
    """Introduce the parties of one federation: each has everybody's key, the policy, and its SITE document then.

    Every home is asked before the first is written: one that knows a party by another key, or would not adopt the
    policy, leaves all as they were.

    Args:
        places: where everybody's home is.
        policy: the federation's.
        signatures: the policy's; None runs without.
        below: the rosters of the federations below.

    Raises:
        OperatorFault, Unapproved: a home knows a party by another key, or would not adopt the policy.
    """
    homes = {name: home_of(places, name) for name in places.parties}
    _check_homes(homes, places, policy, signatures)
    coordinator, federation = homes.pop(COORDINATOR), policy.federation
    own = {name: site_documents.own(below, places, name) for name in homes}
    sites = {name: site_documents.read(own[name], home.path) for name, home in homes.items()}
    with files.in_turn(coordinator.path / TURN):  # another run of these homes may offer to train something else
        offered = offer.text_of(site_documents.offered(places))
        invitation = introduced.invite(coordinator, policy, signatures, offered, DAYS)
        answers = [
            joining.answer(site, from_own_hand(invitation), DAYS, unsafe_unsigned=signatures is None, home=homes[name])
            for name, site in sites.items()
        ]
        for each in answers:
            introduced.admit(coordinator, federation, homes, from_own_hand(each))
        roster = from_own_hand(introduced.hand_out(coordinator, federation, homes, DAYS))
        found = {name: introduced.take_in(home, roster) for name, home in homes.items()}
        trusted = {
            name: joining.trust_in(site, found[name], joining.held_offer(homes[name], federation))
            for name, site in sites.items()
        }
    documents = {
        name: site_documents.write({**own[name], "federations": {federation: trusted[name]}}, home.path, federation)
        for name, home in homes.items()
    }
    if CUSTODIAN in homes:
        check_split(places, policy)
    cards = [each.document.card for each in answers]
    return Roster(policy, introduced.everybody(invitation.document.card, cards), documents)


def _check_homes(homes: Mapping[MemberId, Home], places: SiteLayout, policy: Policy, signatures: Signatures) -> None:
    """Check that each home knows the others by the keys they have, and would adopt the policy; nothing is written.

    Raises:
        OperatorFault, Unapproved: one does not, or would not.
    """
    regions = {each.name: each.region for each in places.loaded.file.members}
    seats = tuple(Participant(name, home.identity.public, regions.get(name, "")) for name, home in homes.items())
    for home in homes.values():
        peers.check(home.path, policy.federation, seats)
    for home in homes.values():
        adoption.adoptable(home, policy, signatures)


def check_split(places: SiteLayout, policy: Policy) -> None:
    """The key that was split bears the policy that the custodian agreed to, whatever it was split under."""
    cover, scheme = places.loaded.file.protection, scheme_of(places.loaded, policy)
    file = places.of(CUSTODIAN) / schemes.key_name(scheme)
    members = [MemberId(each.name) for each in places.loaded.file.members]
    custody.check_split(file, members, max(policy.protection.colluding, cover.colluding or 0))


def home_of(places: SiteLayout, name: str) -> Home:
    """The home of a party."""
    return Home.at(places.of(name), MemberId(name), clock)


def split_key(federation: Path, sites: Path | None, threshold: int, inside: str = "") -> None:
    """The custodian's decryption key is split among the members' homes, any ``threshold`` of which give it.

    ``inside`` is the way from the root of a tree to the federation whose key it is, such as ``west/coast``.

    Raises:
        OperatorFault: the federation has no custodian, it has no key yet, or the threshold is none.
    """
    places = SiteLayout(federation_file.load(federation), sites.resolve() if sites else None)
    for name in inside.split("/") if inside else ():
        if name not in places.loaded.below:
            known = ", ".join(places.loaded.below) or "none"
            raise OperatorFault(f"no federation {name} below", f"there are: {known}", f"{federation}: {inside}")
        places = places.inside(name)
    split_key_of(places, threshold)


def split_key_of(places: SiteLayout, threshold: int, cohort: int | None = None) -> None:
    """The same for the custodian of these homes; ``cohort`` members are asked at the least, all if it is not given.

    Raises:
        OperatorFault: as for ``split_key``.
    """
    scheme = places.loaded.file.protection.scheme
    if not scheme.has_custodian:
        holders = [name for name, each in places.loaded.below.items() if each.file.protection.scheme.has_custodian]
        remedy = f"name whose key it is with --inside: {', '.join(holders)}" if holders else ONLY_ENCRYPTED
        raise OperatorFault(f"{scheme} has no decryption key", remedy, str(places.loaded.path))
    file = places.of(CUSTODIAN) / schemes.key_name(scheme)
    if not custody.vault_of(file).is_file():
        custody.check_here(file)
    loaded = places.loaded
    policy = policies.load(loaded.folder / loaded.file.policy)
    colluding = max(policy.protection.colluding, loaded.file.protection.colluding or 0)
    custody.check_floor(threshold, cohort or len(loaded.file.members), colluding, str(loaded.path))
    homes = {MemberId(each.name): places.of(each.name) for each in places.loaded.file.members}
    dealer = key_files.load(identity.place(places.of(CUSTODIAN)))
    custody.split(file, threshold, homes, dealer, keys.Secret(os.urandom(32)))


def found_signatures(path: Path, policy: Policy, *, unsafe_unsigned: bool) -> Signatures:
    """The signatures beside a policy, and beside those above it; None if its own are too few and that was asked for."""
    return adoption.found_signatures(path, policy, clock(), unsafe_unsigned=unsafe_unsigned)


def descended(
    places: SiteLayout, policy: Policy, *, unsafe_unsigned: bool
) -> Iterator[tuple[SiteLayout, Policy, Signatures]]:
    """Every federation below, from the top, with its policy, which may stand under the one above.

    Raises:
        Loosens, Unapproved: a policy may not.
        OperatorFault: nor may another one, or parties share a home.
    """
    for name, inside in places.insides.items():
        path = inside.loaded.folder / inside.loaded.file.policy
        its = policies.load(path)
        check_policy(policy, its, f"{places.loaded.path}: members.{name}: {path}")
        yield inside, its, found_signatures(path, its, unsafe_unsigned=unsafe_unsigned)
        yield from descended(inside, its, unsafe_unsigned=unsafe_unsigned)
