"""Where a ledger lives: one database, append-only, every write one transaction that survives a power cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from sqlite3 import DatabaseError

import sqlalchemy as sa

from securefl import keys, merkle, wire
from securefl.ledger import databases
from securefl.ledger import heads as signing
from securefl.ledger.databases import Place
from securefl.ledger.heads import StoredHead
from securefl.ledger.migrate import migrate
from securefl.ledger.tables import heads, leaves
from securefl.ledger.verified import Verified
from securefl.merkle import Frontier
from securefl.terms import Entry, Head, Leaf, MemberId, PublicKey


def open_store(place: Place) -> sa.Engine:
    """The store at ``place``, with today's tables.

    Raises:
        OperatorFault: what is there is no such store, is of a newer version, or cannot be reached or written.
    """
    engine = databases.engine_at(place)
    with begin(engine) as conn:
        databases.prepare(conn, place)
        migrate(conn, databases.name_of(engine))
    return engine


@contextmanager
def begin(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction: everything in the block, or nothing.

    Raises:
        OperatorFault: the database cannot be reached or written, or is none.
    """
    try:
        with engine.begin() as conn:
            yield conn
    except sa.exc.DBAPIError as fault:
        databases.blame(engine, fault.orig)
    except DatabaseError as fault:  # while connecting: the driver's own error
        databases.blame(engine, fault)


def append(
    conn: sa.Connection, tree: Frontier, identity: keys.Identity, owner: MemberId, at: int, entries: Sequence[Entry]
) -> tuple[StoredHead, tuple[tuple[Leaf, Frontier], ...]]:
    """Write these entries after the verified ``tree``, under a new head; say each with the tree it ends.

    The store is sent the head for itself alone: whether this will be committed is not certain yet.
    """
    written = []
    for entry in entries:
        leaf = Leaf(at, entry)
        data = wire.encode(leaf)
        conn.execute(sa.insert(leaves).values(position=tree.size, leaf=data))
        tree = tree.append(merkle.leaf_hash(data))
        written.append((leaf, tree))
    stored = signing.sign_stored(identity, Head(owner, tree.size, tree.root()))
    conn.execute(sa.delete(heads))
    conn.execute(sa.insert(heads).values(one=1, signed=wire.encode(stored)))
    return stored, tuple(written)


def raw(conn: sa.Connection) -> Iterator[bytes]:
    """Every leaf's bytes, in order, as the database has them."""
    for row in conn.execute(sa.select(leaves.c.leaf).order_by(leaves.c.position)):
        yield row.leaf


def read(conn: sa.Connection, key: PublicKey, where: str = "ledger.db") -> tuple[Verified, tuple[Leaf, ...]]:
    """The whole ledger, once it is what the head says that ``key`` gave its store.

    Raises:
        Tampered: it is not.
    """
    verified = Verified(key, where)
    return verified, tuple(leaf for leaf, _ in verified.read(conn))
