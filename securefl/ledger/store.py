"""Where a ledger lives: one database, append-only, every write one transaction that survives a power cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from sqlite3 import DatabaseError

import sqlalchemy as sa

from securefl import keys, merkle, wire
from securefl.errors import Forged, Malformed, Tampered
from securefl.ledger import databases
from securefl.ledger import heads as signing
from securefl.ledger.databases import Place
from securefl.ledger.migrate import migrate
from securefl.ledger.tables import heads, leaves
from securefl.terms import Entry, Head, Leaf, MemberId, PublicKey, SignedHead


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
    conn: sa.Connection, identity: keys.Identity, owner: MemberId, at: int, entries: Sequence[Entry]
) -> SignedHead:
    """The ledger with these entries at its end, under a new signed head."""
    row = conn.execute(sa.select(heads.c.frontier)).first()
    frontier: merkle.Frontier = merkle.Frontier() if row is None else wire.decode(row.frontier, merkle.Frontier)
    for entry in entries:
        data = wire.encode(Leaf(at, entry))
        values = {"position": frontier.size, "kind": type(entry).__name__, "leaf": data}
        conn.execute(sa.insert(leaves).values(**values))
        frontier = frontier.append(merkle.leaf_hash(data))
    signed = signing.sign(identity, Head(owner, frontier.size, frontier.root()))
    conn.execute(sa.delete(heads))
    conn.execute(sa.insert(heads).values(one=1, frontier=wire.encode(frontier), signed=wire.encode(signed)))
    return signed


def head(conn: sa.Connection) -> SignedHead | None:
    """The latest head; None for a ledger without entries."""
    row = conn.execute(sa.select(heads.c.signed)).first()
    return None if row is None else wire.decode(row.signed, SignedHead)


def raw(conn: sa.Connection) -> Iterator[bytes]:
    """Every leaf's bytes, in order."""
    for row in conn.execute(sa.select(leaves.c.leaf).order_by(leaves.c.position)):
        yield row.leaf


def entries(conn: sa.Connection) -> Iterator[Leaf]:
    """Every leaf, in order."""
    for data in raw(conn):
        yield wire.decode(data, Leaf)


def leaves_of(conn: sa.Connection, kinds: Sequence[str]) -> Iterator[Leaf]:
    """The leaves of these kinds, in order."""
    query = sa.select(leaves.c.leaf).where(leaves.c.kind.in_(kinds)).order_by(leaves.c.position)
    for row in conn.execute(query):
        yield wire.decode(row.leaf, Leaf)


def check(conn: sa.Connection, key: PublicKey, where: str = "ledger.db") -> None:
    """Nothing happens if the whole ledger is what its signed head says.

    Raises:
        Tampered: it is not.
    """
    frontier = merkle.Frontier()
    for index, row in enumerate(conn.execute(sa.select(leaves).order_by(leaves.c.position))):
        try:
            leaf: Leaf = wire.decode(row.leaf or b"", Leaf)  # a damaged page may hold nothing
        except Malformed as fault:
            raise Tampered(where, str(fault), index) from fault
        if row.position != index or row.kind != type(leaf.entry).__name__:
            raise Tampered(where, "an entry is missing, moved or relabelled", index)
        frontier = frontier.append(merkle.leaf_hash(row.leaf))
    stored = conn.execute(sa.select(heads)).first()
    if stored is None:
        if frontier.size:
            raise Tampered(where, "entries without a head")
        return
    try:
        signed: SignedHead = wire.decode(stored.signed or b"", SignedHead)
        signing.verify(key, signed)
        kept: merkle.Frontier = wire.decode(stored.frontier or b"", merkle.Frontier)
    except (Malformed, Forged) as fault:
        raise Tampered(where, str(fault)) from fault
    if (signed.head.size, signed.head.root) != (frontier.size, frontier.root()):
        raise Tampered(where, f"{frontier.size} entries do not give the root of the head over {signed.head.size}")
    if kept != frontier:
        raise Tampered(where, "the stored frontier is not that of the entries")
