"""One exchange as a folder that a courier takes: a frame, and a signed manifest that says whose it is and how long.

Between two machines that no wire joins a person carries it, on a medium that anybody may have had. What is in it is
the same frame that a socket carries. The manifest says on arrival what a broken connection says elsewhere: that it is
whole, from whom, and for whom.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final

from securefl import keys, wire
from securefl.errors import Fault, Forged, Malformed
from securefl.protocol import messages as m
from securefl.terms import Hash, MemberId, PublicKey
from securefl.terms.names import SignatureBytes

LABEL: Final = "carried"
MANIFEST, FRAME = "manifest", "frame"
MOST_MANIFEST: Final = 4096  # bytes
MOST_SIGNATURES: Final = 8
TICKET: Final = 32  # bytes


class Way(StrEnum):
    """Which way a package goes."""

    ASKED = "asked"
    ANSWERED = "answered"


class Rule(StrEnum):
    """Why a package is not taken in. Nothing was done with it then."""

    FORM = "carry.form"  # no manifest, or none in its one encoding
    MISDIRECTED = "carry.misdirected"  # for another party, or from one that is not known here
    SIGNATURE = "carry.signature"  # not signed by who it says it is from
    TRUNCATED = "carry.truncated"  # a part of it is missing
    ALTERED = "carry.altered"  # other bytes than the manifest names


class NotCarried(Fault):
    """A package that is refused, by a named rule."""

    exit_code: ClassVar[int] = 4

    def __init__(self, rule: Rule, what: str, place: Path) -> None:
        self.rule = rule
        super().__init__(f"{place}: {rule.value}: {what}; ask for the package again")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package holds. ``ticket`` names the request, of an answer too."""

    way: Way
    ticket: Hash
    sender: MemberId
    to: MemberId
    digest: Hash  # SHA-256 of the frame
    size: int  # its bytes


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest under its sender's keys, newest first: in an overlap, some readers know an earlier one alone."""

    manifest: Manifest
    signatures: tuple[SignatureBytes, ...]


def ticket_of(request: bytes) -> Hash:
    """Name a request by its message: the ledger's head beside it may have grown when it is asked again."""
    try:
        frame: m.Frame = wire.decode(request, m.Frame)
    except Malformed:
        return Hash(hashlib.sha256(request).digest())
    return Hash(hashlib.sha256(wire.encode(frame.envelope)).digest())


def place_of(folder: Path, ticket: Hash) -> Path:
    """Return where the package of a ticket lies in a folder."""
    return folder / ticket.hex()[:32]


def write(
    folder: Path, identity: keys.Identity, way: Way, ticket: Hash, sender: MemberId, to: MemberId, data: bytes
) -> Path:
    """Write a package into ``folder``, whole or not at all; one of the same ticket is replaced.

    Raises:
        OSError: it cannot be written.
    """
    manifest = Manifest(way, ticket, sender, to, Hash(hashlib.sha256(data).digest()), len(data))
    signed = signed_by(identity, manifest)
    place = place_of(folder, ticket)
    beside = place.with_name(f".{place.name}.{os.getpid()}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True, mode=0o700)
    for name, content in ((FRAME, data), (MANIFEST, wire.encode(signed))):
        with (beside / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if any((place / name).exists() for name in (FRAME, MANIFEST)):  # a package; what else lies in it stays
        (place / MANIFEST).unlink(missing_ok=True)  # until the new one is there, it is whole for nobody
        for name in (FRAME, MANIFEST):
            (beside / name).rename(place / name)
        beside.rmdir()
        return place
    if place.exists():
        place.rmdir()  # nothing that is no package is replaced
    beside.rename(place)
    return place


def signed_by(identity: keys.Identity, manifest: Manifest) -> SignedManifest:
    """The manifest under this identity's newest keys; which of them count, whoever reads it knows."""
    data = wire.encode(manifest)
    return SignedManifest(manifest, tuple(each.sign(LABEL, data) for each in identity.every[:MOST_SIGNATURES]))


def packages_in(folder: Path) -> tuple[Path, ...]:
    """Return the packages in a folder, by name; those that are being written are not among them."""
    if not folder.is_dir():
        return ()
    return tuple(each for each in sorted(folder.iterdir()) if each.is_dir() and not each.name.startswith("."))


def read(
    package: Path, way: Way, me: MemberId, known: Mapping[MemberId, tuple[PublicKey, ...]], most: int
) -> tuple[Manifest, bytes]:
    """The manifest and the frame of a package.

    Args:
        package: its folder.
        way: which way it must go.
        me: for whom it must be.
        known: the keys of everybody it may be from.
        most: bytes that its frame may have.

    Raises:
        NotCarried: 1. FORM; 2. MISDIRECTED; 3. SIGNATURE; 4. TRUNCATED; 5. ALTERED.
    """
    try:
        signed: SignedManifest = wire.decode(_bytes(package / MANIFEST, MOST_MANIFEST), SignedManifest)
    except Malformed as fault:
        raise NotCarried(Rule.FORM, f"its manifest is none: {fault}", package) from fault
    manifest = signed.manifest
    if (manifest.way, manifest.to) != (way, me) or manifest.sender not in known:
        what = f"{manifest.way.value} by {manifest.sender}, for {manifest.to}; this is {me}"
        raise NotCarried(Rule.MISDIRECTED, what, package)
    if len(signed.signatures) > MOST_SIGNATURES:
        raise NotCarried(Rule.FORM, f"{len(signed.signatures)} signatures", package)
    if not any(_signed_by(key, signed) for key in known[manifest.sender]):
        raise NotCarried(Rule.SIGNATURE, f"no key of {manifest.sender} that counts here signed it", package)
    if len(manifest.ticket) != TICKET:
        raise NotCarried(Rule.FORM, f"a ticket of {len(manifest.ticket)} bytes", package)
    data = _bytes(package / FRAME, most)
    if len(data) < manifest.size:
        raise NotCarried(Rule.TRUNCATED, f"{len(data)} of {manifest.size} bytes", package)
    if hashlib.sha256(data).digest() != manifest.digest:
        raise NotCarried(Rule.ALTERED, "its frame is another one", package)
    if way is Way.ASKED and ticket_of(data) != manifest.ticket:
        raise NotCarried(Rule.FORM, "its ticket names another request", package)
    return manifest, data


def _signed_by(key: PublicKey, signed: SignedManifest) -> bool:
    for signature in signed.signatures:
        with suppress(Forged):
            keys.verify(key, LABEL, wire.encode(signed.manifest), signature)
            return True
    return False


def _bytes(path: Path, most: int) -> bytes:
    """At most ``most`` bytes of a file that is one: no link, no pipe, whatever a medium holds."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as fault:
        raise NotCarried(Rule.TRUNCATED, f"without its {path.name}", path.parent) from fault
    except OSError as fault:
        raise NotCarried(Rule.FORM, f"its {path.name} cannot be read: {fault.strerror}", path.parent) from fault
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise NotCarried(Rule.FORM, f"its {path.name} is no file of at most {most} bytes", path.parent)
        with os.fdopen(opened, "rb", closefd=False) as file:
            return file.read(most)
    except OSError as fault:
        raise NotCarried(Rule.FORM, f"its {path.name} cannot be read: {fault.strerror}", path.parent) from fault
    finally:
        os.close(opened)
