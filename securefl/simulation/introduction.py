"""Introduce the parties of one machine to each other: keys are pinned, policies adopted, the custodian's key split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from securefl import key_files, keys
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from securefl.home import adoption, identity
from securefl.home.clock import clock
from securefl.home.home import Home
from securefl.home.peers import pin
from securefl.planning.plan import scheme_of
from securefl.planning.subfederation import check_policy
from securefl.policy import approvals
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.simulation.layout import SiteLayout
from securefl.site import custody
from securefl.terms import (
    MemberId,
    Participant,
)
from securefl.terms.parties import COORDINATOR, CUSTODIAN

if TYPE_CHECKING:
    from securefl.policy.load import Policy

ONLY_ENCRYPTED = f"only {schemes.ENCRYPTED} have a custodian"


def introduce(
    places: SiteLayout, policy: Policy, signatures: tuple[approvals.Signature, ...] | None
) -> tuple[Participant, Participant | None, tuple[Participant, ...]]:
    """Every party's seat: coordinator, custodian if the scheme has one, members.

    In one process the introduction happens here. Each home pins the keys it was first shown, and its ledger holds the
    policies it agreed to; a later run that shows others is refused. ``signatures`` are the policy's; None runs without.
    """
    file = places.loaded.file
    homes = {name: home_of(places, name) for name in places.parties}
    seats = tuple(
        Participant(MemberId(member.name), homes[MemberId(member.name)].identity.public, member.region)
        for member in file.members
    )
    coordinator = Participant(COORDINATOR, homes[COORDINATOR].identity.public, "")
    custodian = Participant(CUSTODIAN, homes[CUSTODIAN].identity.public, "") if CUSTODIAN in homes else None
    for home in homes.values():
        pin(home.path, policy.federation, (coordinator, *((custodian,) if custodian else ()), *seats))
    adoption.propose_to_all(homes.values(), policy, signatures)
    if custodian:
        check_split(places, policy)
    return coordinator, custodian, seats


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


def found_signatures(path: Path, policy: Policy, *, unsafe_unsigned: bool) -> tuple[approvals.Signature, ...] | None:
    """The signatures beside a policy, and beside those above it; None if its own are too few and that was asked for."""
    return adoption.found_signatures(path, policy, clock(), unsafe_unsigned=unsafe_unsigned)


def descended(
    places: SiteLayout, policy: Policy, *, unsafe_unsigned: bool
) -> Iterator[tuple[SiteLayout, Policy, tuple[approvals.Signature, ...] | None]]:
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
