"""What of one ledger this process has read, hashed and found under the head that its owner gave the store.

Whoever administers the database may change every row. So nothing is asked of it but leaves in order: each is hashed and
decoded here, and believed once the tree of all of them is the one under that head. What was verified stays verified in
memory, so a transaction reads only what is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import sqlalchemy as sa

from securefl import merkle, wire
from securefl.errors import Forged, Malformed, Tampered
from securefl.ledger import heads as signing
from securefl.ledger.heads import StoredHead
from securefl.ledger.tables import heads, leaves
from securefl.merkle import Frontier
from securefl.terms import Hash, Head, Leaf, PublicKey

ROOTS = 1024  # of prefixes that are kept; peers show this ledger as it was a few rounds ago
HASH, AGAIN = 32, 1024  # bytes of a hash; leaves that are read again at once
LOST = "restore the newest copy of the database; a ledger that lost entries cannot go on, and its peers refuse it"


class Verified:
    """A prefix of one ledger, as it was when it was read last. ``where`` names its store in errors."""

    def __init__(self, key: PublicKey, where: str) -> None:
        self.keys: tuple[PublicKey, ...] = (key,)  # of whoever owns it: while it exchanges its key, two
        self._where = where
        self._hashes = bytearray()  # of every leaf, one after the other; what lies beyond the tree is nobody's
        self._next = 0  # the leaf to be read again next
        self._roots: dict[int, Hash] = {}  # of some of its prefixes
        self.tree = Frontier()
        self.stored: StoredHead | None = None

    def __copy__(self) -> Verified:
        made = Verified(self.keys[0], self._where)
        made.keys = self.keys
        made._hashes, made._next, made._roots = self._hashes, self._next, dict(self._roots)  # the first ones are shared
        made.tree, made.stored = self.tree, self.stored
        return made

    def unchanged(self, conn: sa.Connection) -> bool:
        """Return whether the store shows the head that was verified last, and nothing after it."""
        stored = conn.execute(sa.select(heads.c.signed)).first()
        if stored is None or self.stored is None or stored.signed != wire.encode(self.stored):
            return False
        later = sa.select(leaves.c.position).where(leaves.c.position >= self.tree.size).limit(1)
        return conn.execute(later).first() is None

    def again(self, conn: sa.Connection) -> None:
        """Read the next ``AGAIN`` verified leaves once more: no change stays unseen for long.

        Raises:
            Tampered: one is not what it was.
        """
        if self._next >= self.tree.size:
            self._next = 0
        first, end = self._next, min(self._next + AGAIN, self.tree.size)
        where = leaves.c.position.between(first, end - 1)
        rows = conn.execute(sa.select(leaves.c.position, leaves.c.leaf).where(where).order_by(leaves.c.position))
        expected = first
        for position, data in rows:
            if position != expected or merkle.leaf_hash(data or b"") != self._hash(position):
                raise Tampered(self._where, "not the entry that was here", expected)
            expected += 1
        if expected != end:
            raise Tampered(self._where, "an entry is gone", expected)
        self._next = end

    def holds(self, head: Head) -> bool:
        """Return whether a ledger with this head is a beginning of this one."""
        if head.size > self.tree.size:
            return False
        root = self._roots.get(head.size)
        if root is None:
            root = self._roots[head.size] = merkle.root([self._hash(index) for index in range(head.size)])
        return root == head.root

    def _hash(self, index: int) -> Hash:
        return Hash(bytes(self._hashes[index * HASH : (index + 1) * HASH]))

    def read(self, conn: sa.Connection, kept: Head | None = None) -> Iterator[tuple[Leaf, Frontier]]:
        """Take in the new leaves; yield each with the tree it ends. Read a copy: an error leaves it half read.

        Args:
            kept: a head that the owner signed and kept elsewhere.

        Raises:
            Tampered: the ledger is not what its signed head says, or not what it was.
        """
        del self._hashes[self.tree.size * HASH :]  # of another copy that was left half read
        stored = self._head(conn)
        head = stored.head if stored else None
        size, known = (head.size if head else 0), self.tree.size
        for least, who in ((known, "this process has read"), (kept.size if kept else 0, "this home has signed")):
            if size < least:
                raise Tampered(self._where, f"set back to {size} entries, and {who} {least}; {LOST}")
        if kept is not None and kept.size == known and known and kept.root != self.tree.root():
            raise Tampered(self._where, f"another ledger of {known} entries than this home has signed; {LOST}")
        rows = conn.execute(
            sa.select(leaves.c.position, leaves.c.leaf).where(leaves.c.position >= known).order_by(leaves.c.position)
        )
        for position, data in rows:
            index = self.tree.size
            try:
                leaf: Leaf = wire.decode(data or b"", Leaf)  # a damaged page may hold nothing
            except Malformed as fault:
                raise Tampered(self._where, str(fault), index) from fault
            if position != index:
                raise Tampered(self._where, "an entry is missing or moved", index)
            hashed = merkle.leaf_hash(data)
            self._hashes += hashed
            self.tree = self.tree.append(hashed)
            if kept is not None and kept.size == self.tree.size and kept.root != self.tree.root():
                raise Tampered(self._where, f"its first {kept.size} entries are not those this home has signed; {LOST}")
            yield leaf, self.tree
        if head is None and self.tree.size:
            raise Tampered(self._where, "entries without a head")
        if head is not None and (head.size, head.root) != (self.tree.size, self.tree.root()):
            what = f"{self.tree.size} entries do not give the root of the head over {head.size}"
            raise Tampered(self._where, what)
        self.stored = stored
        self._keep_root()

    def _keep_root(self) -> None:
        self._roots[self.tree.size] = self.tree.root()
        while len(self._roots) > ROOTS:
            del self._roots[next(iter(self._roots))]  # the oldest: it can be computed again

    def _head(self, conn: sa.Connection) -> StoredHead | None:
        row = conn.execute(sa.select(heads.c.signed)).first()
        if row is None:
            return None
        try:
            stored: StoredHead = wire.decode(row.signed or b"", StoredHead)
            _verify_by_one(self.keys, stored)
        except (Malformed, Forged) as fault:
            raise Tampered(self._where, str(fault)) from fault
        return stored


def _verify_by_one(own: tuple[PublicKey, ...], stored: StoredHead) -> None:
    for key in own[1:]:
        with suppress(Forged):
            signing.verify_stored(key, stored)
            return
    signing.verify_stored(own[0], stored)
