"""Where each party's home is, when one person runs all of them on one machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from securefl.documents.federation import Loaded
from securefl.documents.inherit import BELOW
from securefl.errors import OperatorFault
from securefl.terms import (
    MemberId,
)
from securefl.terms.parties import COORDINATOR, CUSTODIAN, ROLES


@dataclass(frozen=True, slots=True)
class SiteLayout:
    """Where everybody's home is."""

    loaded: Loaded
    sites: Path | None
    route: tuple[str, ...] = ()  # the members that lead here from the root of a tree
    root: SiteLayout | None = None

    def __post_init__(self) -> None:
        if self.loaded.file.is_live:
            what = "its members are live, and run on machines of their own: nothing here can stand in for them"
            remedy = "check each one's own with `securefl site check`; to simulate them, write `data` in place of `key`"
            raise OperatorFault(what, remedy, f"{self.loaded.path}: members")

    @property
    def top(self) -> SiteLayout:
        """The root of the tree."""
        return self.root or self

    def of(self, name: str) -> Path:
        """The home of a party: in a tree, what a file names as a home is one home, whoever names it."""
        own = {member.name: member.site for member in self.loaded.file.members}.get(name)
        if own is not None and self.sites is None:
            return self.loaded.folder / own
        if own is not None and self.top.sites is not None and self.top.loaded.below:
            return self.top.sites / "named" / named(self.loaded.folder / own, name)
        return (self.sites or self.loaded.folder / self.loaded.file.sites) / name

    def inside(self, name: str) -> SiteLayout:
        """The homes of the federation that a member is."""
        sites = None if self.sites is None else self.of(name) / BELOW
        return SiteLayout(self.loaded.below[name], sites, (*self.route, name), self.top)

    @property
    def insides(self) -> dict[str, SiteLayout]:
        """Those of every federation that is a member."""
        return {name: self.inside(name) for name in self.loaded.below}

    @property
    def parties(self) -> tuple[MemberId, ...]:
        """Members, coordinator, and custodian if there is one."""
        custodian = (CUSTODIAN,) if self.loaded.file.protection.scheme.has_custodian else ()
        return (*(MemberId(each.name) for each in self.loaded.file.members), COORDINATOR, *custodian)


def folder_of(out: Path, places: SiteLayout) -> Path:
    """Return the output folder of one federation: the root's is `out/`, a child's `out/below/NAME/`."""
    return out.joinpath(*(part for name in places.route for part in (BELOW, name)))


def check_homes(parties: Iterable[tuple[tuple[str, ...], str, Path]]) -> None:
    """Check that each home is one party's alone; members of one name may be one site, coordinators may not.

    Args:
        parties: the way to each party's federation, its name, and its home.

    Raises:
        OperatorFault: two parties of the tree would share one.
    """
    homes: dict[Path, str] = {}
    for route, name, path in parties:
        party = f"{name} of {'/'.join(route) or 'the root'}" if name in ROLES else name
        _check_home(homes, path, party)


def _check_home(homes: dict[Path, str], path: Path, party: str) -> None:
    other = homes.setdefault(path.resolve(), party)
    if other != party:
        raise OperatorFault(
            f"{party} and {other} would share a home", "give each federation `sites` of its own", str(path)
        )


def named(path: Path, name: str) -> str:
    """The folder's name for a home that a file names, where sites are kept elsewhere: one for each such home."""
    return f"{name}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
