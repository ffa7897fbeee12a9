"""One home's ledger while a process has it open: what was verified, what follows, and what a transaction adds."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.errors import Tampered
from securefl.home.ledger_view import LedgerView
from securefl.ledger import anchor
from securefl.ledger.verified import LOST, Verified

if TYPE_CHECKING:
    import sqlalchemy as sa

    from securefl.home.body_files import Known
    from securefl.keys import Identity, Secret
    from securefl.merkle import Frontier
    from securefl.terms import Head, Leaf, RunId, SignedHead

RUNS = 4  # whose states stay in memory


class Live:
    """Only what was committed and read back is kept; the home's lock lets one transaction at a time use the rest."""

    def __init__(self, identity: Identity, where: str) -> None:
        self._where, self.identity = where, identity
        self.verified, self._view = Verified(identity.public, where), LedgerView()
        self.now, self.tree = self._view, self.verified.tree  # with what this transaction wrote
        self.signed: SignedHead | None = None  # of what is committed, and kept in the home
        self.written: Head | None = None
        self._last: object = None  # of the head that is kept, as it looked
        self.looks: object = None  # of the key's file, as it was read
        self.saved: dict[RunId, Known | None] = {}  # states this transaction wrote; None: without bodies
        self._known: dict[RunId, Known] = {}  # states that stand, latest last
        self.fresh: dict[RunId, Secret | None] = {}  # keys of the states this transaction wrote; None: a run is over

    def begin(self, conn: sa.Connection, kept: Head | None) -> None:
        """Verify what is new since the last transaction, against the signed head and the one that was ``kept``.

        Raises:
            Tampered: the ledger is not what was signed, or less than what was read or kept before.
            AccountFault: charges do not fit together.
        """
        ahead = kept is not None and kept.size > self.verified.tree.size
        if ahead or not self.verified.unchanged(conn):
            verified = copy(self.verified)
            view = self._view.with_all(verified.read(conn, kept))
            self.verified, self._view = verified, view
        if kept is not None and not self.verified.holds(kept):  # also if the store shows what was read before
            raise Tampered(self._where, f"its first {kept.size} entries are not those this home has signed; {LOST}")
        self.now, self.tree, self.written = self._view, self.verified.tree, None
        self.fresh, self.saved = {}, {}

    def wrote(self, head: Head, written: Sequence[tuple[Leaf, Frontier]]) -> None:
        """Let the rest of this transaction see what it wrote."""
        self.now = self.now.with_all(written)
        self.tree, self.written = written[-1][1], head

    def behind(self, home: Path) -> bool:
        """Return whether another process has written to this home since this one looked."""
        looks = anchor.looks(home)
        if looks == self._last:
            return False
        self._last = looks
        return True

    def take(self, identity: Identity, *, exchanging: bool) -> None:
        """Go on under this identity: its key was exchanged, by whatever process.

        Args:
            identity: with those before it.
            exchanging: whether the store's head may still be under the one before.
        """
        if identity.public != self.identity.public:
            self.signed = None  # it is signed anew
        self.identity = identity
        self.verified.keys = (identity.public, *(each.public for each in identity.former[: int(exchanging)]))

    def knows(self, run: RunId) -> Known | None:
        """The state with bodies that this process wrote or read last; it may not stand any more."""
        return self.saved[run] if run in self.saved else self._known.get(run)

    def know(self, run: RunId, known: Known | None) -> None:
        """Remember what stands; of a few runs, for it can be read again."""
        self._known.pop(run, None)
        if known is not None:
            self._known[run] = known
        while len(self._known) > RUNS:
            del self._known[next(iter(self._known))]

    @property
    def committed(self) -> Head | None:
        """The head of what this transaction found."""
        return None if self.verified.stored is None else self.verified.stored.head
