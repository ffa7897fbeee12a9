"""Members whom no wire reaches: each exchange is a folder for each of them, and couriers bring folders back.

    CARRIED/to/NAME/TICKET/      what a courier takes to that party; gone once its answer is here
    CARRIED/from/NAME/TICKET/    what a courier brought back

A plan's patience is counted as everywhere: a federation of couriers writes hours or days. A package that comes late,
twice or to the wrong place changes nothing, and the right one is still awaited. So is one whose folder cannot be read
or written: a courier has one member's packages in its hands, and no other's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from securefl.protocol.messages import InProgress
from securefl.runtime import courier_packages
from securefl.runtime.answering import GONE, heard
from securefl.runtime.courier_packages import NotCarried, Way
from securefl.seams import Failure, Waiting
from securefl.telling import tell
from securefl.terms import MemberId, PublicKey
from securefl.terms.parties import COORDINATOR

if TYPE_CHECKING:
    from securefl.keys import Identity
    from securefl.terms import Hash

TO, FROM = "to", "from"
LOOK_S: Final = 2.0  # how often what was brought is looked at


class Couriers:
    """A folder for each peer, whose packages are signed.

    Args:
        folder: where couriers take and bring packages.
        identity: the coordinator's.
        known: asked for the keys of each peer that count, every time that packages are looked at: a key may be handed
            over, or revoked.
        look_s: how often what was brought is looked at.
        tell: is told of each package that is refused, and of each folder that cannot be used.
    """

    def __init__(
        self, folder: Path, identity: Identity, known: Mapping[MemberId, Callable[[], tuple[PublicKey, ...]]],
        look_s: float = LOOK_S, tell: Callable[[str], None] = tell,
    ) -> None:  # fmt: skip
        self._folder, self._identity, self._known = folder, identity, dict(known)
        self._look_s, self._tell = look_s, tell
        self._told: dict[Path, tuple[tuple[str, int], ...]] = {}  # what a refused package looked like
        self._seen: dict[Path, tuple[tuple[str, int], ...]] = {}
        self._unusable: dict[Path, str] = {}  # a folder, and why

    def prepare(self) -> None:
        """Make the folders that hold everybody's.

        Raises:
            OSError: this user may not.
        """
        for each in (TO, FROM):
            (self._folder / each).mkdir(parents=True, exist_ok=True)

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Lay out a package for each; yield each answer once a courier has brought it."""
        asked: dict[MemberId, Hash] = {}
        kept_back: dict[MemberId, bytes] = {}  # whose folder cannot be written now
        for member, request in outbound:
            if member not in self._known:
                yield member, GONE
                continue
            asked[member], kept_back[member] = courier_packages.ticket_of(request), request
            self._lay_out(asked, kept_back)
        while asked:
            self._lay_out(asked, kept_back)
            for member, ticket in list(asked.items()):
                answer = self._brought(member, ticket, waiting.most_bytes)
                if answer is not None:
                    del asked[member]
                    kept_back.pop(member, None)
                    self._forget(member, ticket)
                    yield member, answer
            if not asked or waiting.is_over or waiting.left() <= 0:
                break
            time.sleep(min(self._look_s, waiting.left()))
        for member, ticket in asked.items():
            self._forget(member, ticket)
            yield member, waiting.late

    def _lay_out(self, asked: Mapping[MemberId, Hash], kept_back: dict[MemberId, bytes]) -> None:
        """Lay out what is kept back; what cannot be written stays kept back."""
        for member, request in list(kept_back.items()):
            folder = self._folder / TO / member
            with self._used(folder):
                courier_packages.write(folder, self._identity, Way.ASKED, asked[member], COORDINATOR, member, request)
                del kept_back[member]

    def _brought(self, member: MemberId, ticket: Hash, most: int) -> bytes | Failure | None:
        """The answer of this peer to this request; None while none is here."""
        folder, known = self._folder / FROM / member, {member: self._known[member]()}
        with self._used(folder):
            for package in courier_packages.packages_in(folder):
                try:
                    manifest, data = courier_packages.read(package, Way.ANSWERED, COORDINATOR, known, most)
                except NotCarried as fault:
                    self._refuse(package, fault)
                    continue
                if manifest.ticket == ticket:
                    answer = heard(data)
                    if not isinstance(answer, InProgress):
                        return answer
        return None

    @contextmanager
    def _used(self, folder: Path) -> Iterator[None]:
        """Say once why one member's folder cannot be used, and go on: its package is not carried meanwhile."""
        try:
            yield
        except OSError as fault:
            why = f"{fault.filename or folder}: {fault.strerror}; let this user read and write {folder}"
            if self._unusable.get(folder) != why:
                self._tell(why)
            self._unusable[folder] = why
        else:
            self._unusable.pop(folder, None)

    def _refuse(self, package: Path, fault: NotCarried) -> None:
        """Say once why a package is refused; not of one that is still being copied."""
        try:
            looks = tuple(sorted((each.name, each.lstat().st_size) for each in package.iterdir()))
        except OSError:
            return
        if self._seen.get(package) == looks and self._told.get(package) != looks:
            self._told[package] = looks
            self._tell(str(fault))
        self._seen[package] = looks

    def _forget(self, member: MemberId, ticket: Hash) -> None:
        shutil.rmtree(courier_packages.place_of(self._folder / TO / member, ticket), ignore_errors=True)
