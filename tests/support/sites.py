"""Parties of a small federation, introduced and each with its SITE document: whole sites, real homes, a real model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from securefl.documents import federation_file, site_file
from securefl.documents.site_file import Site
from securefl.errors import PeerFault
from securefl.home.introduced import Introduced as Everybody
from securefl.policy import load as policies
from securefl.policy.load import Policy
from securefl.seams import Failure
from securefl.simulation.introduction import found_signatures, introduce
from securefl.simulation.layout import SiteLayout
from securefl.site.build import Environment, build
from securefl.terms import MemberId
from tests.support.small import Small

NOW = 1_790_000_000


def stream(label: str) -> Callable[[int], bytes]:
    """Randomness that repeats, one stream for each party."""
    drawn = 0

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{label}/{drawn}".encode()).digest(size)

    return draw


@dataclass
class Introduced:
    """Everybody's home under ``folder`` / sites, with the keys of an earlier world if ``like`` is given."""

    small: Small
    folder: Path
    file: Path
    like: Introduced | None = None
    places: SiteLayout = field(init=False)
    policy: Policy = field(init=False)
    roster: Everybody = field(init=False)
    documents: dict[MemberId, Path] = field(init=False)

    def __post_init__(self) -> None:
        loaded = federation_file.load(self.file)
        self.places = SiteLayout(loaded, (self.folder / "sites").resolve())
        path = loaded.folder / loaded.file.policy
        policy = policies.load(path)
        for name in self.places.parties if self.like else ():
            home = self.places.of(name)
            home.mkdir(mode=0o700, parents=True)
            (self.folder / "sites").chmod(0o700)
            key = home / "identity.key"
            key.touch(mode=0o600)
            key.write_bytes((self.like.places.of(name) / "identity.key").read_bytes())
        signatures = found_signatures(path, policy, unsafe_unsigned=False)
        made = introduce(self.places, policy, signatures)
        self.policy, self.roster, self.documents = policy, made.everybody, dict(made.documents)

    def site(self, name: str, **fields: object) -> Site:
        """A party's SITE document, with other fields at its top."""
        document = yaml.safe_load(self.documents[MemberId(name)].read_text()) | fields
        path = self.folder / f"{name}.{len(list(self.folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return site_file.load(path)

    def agent(self, name: str, around: Environment | None = None, **fields: object):
        """The agent that a party's SITE document makes."""
        return build(self.site(name, **fields), around=around or Environment(stream(name), lambda: NOW))


class Wire:
    """A runtime of agents, each answer looked at as it comes."""

    def __init__(self, agents, seen=lambda member, request, answer: None) -> None:
        self.agents, self.seen = dict(agents), seen

    def exchange(self, outbound, patience_s: float) -> Iterator[tuple[MemberId, bytes | Failure]]:
        for member, request in outbound:
            try:
                answer = self.agents[member].handle(request)
            except PeerFault as fault:
                yield member, Failure(fault.rule)
                continue
            self.seen(member, request, answer)
            yield member, answer
