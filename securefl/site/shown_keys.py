"""Hold the keys that a SITE document names against those that the parties showed to this site's homes when they met.

A key that was handed over to another one, by a notice in a home's ledger, is the same party's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securefl import key_files
from securefl.coordinator import inviting
from securefl.documents import site_file, strict
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.home.peers import known, pinned
from securefl.ledger import anchor
from securefl.site import node
from securefl.site.build import check_own_key, opened
from securefl.terms import PublicKey
from securefl.terms.parties import COORDINATOR, CUSTODIAN

if TYPE_CHECKING:
    from securefl.documents.site_file import Site
    from securefl.documents.site_parts import TrustPart
    from securefl.home.home import Home

Named = Mapping[str, tuple[str, str]]  # parties, each with its field and its key in hex


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document, which is read again where something in it is wrong."""

    path: Path
    before: tuple[str, ...]  # the fields that lead to it

    def place(self, field: str) -> str:
        """Return file, line and field."""
        where = (*self.before, *field.split("."))
        document = strict.read(self.path)
        return f"{document.name}:{document.line_of(where)}: {'.'.join(where)}"


def check_trusted(site: Site, federation: str, trust: TrustPart) -> None:
    """Check the keys of one federation that this site is in, its own among them.

    Raises:
        OperatorFault: one is not what its party showed; with file, line and both keys.
    """
    if identity.is_made(site.home):
        check_own_key(site, federation, trust, key_files.load(identity.place(site.home)))
    said: dict[str, tuple[str, str]] = {COORDINATOR: (COORDINATOR, trust.coordinator)}
    said |= {CUSTODIAN: (CUSTODIAN, trust.custodian)} if trust.custodian else {}
    said |= {name: (f"members.{name}.key", each.key) for name, each in trust.members.items()}
    joined = site_file.joined_at(site.home, federation)
    part = Part(joined, ()) if joined.exists() else Part(site.path, ("federations", federation))
    has_ledger = identity.is_made(site.home) and anchor.read(site.home) is not None
    home = opened(site) if has_ledger else None
    try:
        _check(site.home, federation, part, said, home)
    finally:
        if home is not None:
            home.engine.dispose()


def check_below(own: node.Node) -> None:
    """Check the keys that a node's document names of the parties of its sub-federation.

    Raises:
        OperatorFault: one is not what its party showed to the sub-federation's coordinator; as for ``check_trusted``.
        NotIntroduced: or not what its answer says.
    """
    custodian, members = own.file.inside.custodian, own.file.members
    said = {name: (f"members.{name}.key", part.key) for name, part in members.items() if part.key}
    said |= {CUSTODIAN: ("custodian", custodian.key)} if custodian is not None and custodian.key else {}
    home = inviting.opened(own) if identity.is_made(own.home) else None
    try:
        _check(own.home, own.file.name, Part(own.path, ("subfederation",)), said, home)
        if home is not None:
            inviting.known(own, home)
    finally:
        if home is not None:
            home.engine.dispose()


def _check(home: Path, federation: str, document: Part, said: Named, ledger: Home | None) -> None:
    pins = known(home, federation)
    wrong = [
        f"{document.place(field)}: {name} has the key {key[:16]}... here, "
        f"and showed {pins[name][:16]}... to this home before"
        for name, (field, key) in said.items()
        if pins.get(name, key) not in _line(ledger, federation, key)
    ]
    if wrong:
        remedy = "find out from its owner which is right, by another way than these documents"
        raise OperatorFault("; ".join(wrong), f"{remedy}; {pinned(home, federation)} holds the other")


def _line(home: Home | None, federation: str, key: str) -> Collection[str]:
    if home is None:
        return (key,)
    with home.transaction():
        return {each.hex() for each in home.line(federation, PublicKey(bytes.fromhex(key)))}
