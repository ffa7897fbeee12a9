"""Where a ledger lives: one SQLite file, append-only, every write one transaction that survives a power cut.

WAL with synchronous=FULL; writers take the lock before they read, so what a decision read is what it commits on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import DatabaseError
from typing import Any, NoReturn

import sqlalchemy as sa

from securefl import keys, wire
from securefl.errors import Forged, Malformed, OperatorFault, Tampered
from securefl.ledger import heads as signing
from securefl.ledger import merkle
from securefl.terms import Entry, Head, Leaf, MemberId, PublicKey, SignedHead

SCHEMA = 1
RESTORE = "restore the file from its backup"
REMEDIES = {
    "database or disk is full": "free some space; nothing was lost, and the same command goes on from here",
    "disk I/O error": "look at the disk; nothing was lost, and the same command goes on from here",
    "attempt to write a readonly database": "make the file and its folder writable for the site's own user",
    "unable to open database file": "make the folder, and make it writable for the site's own user",
    "database is locked": "another process holds this site for too long; wait for it",
    "file is not a database": "move the file away, or restore the ledger from its backup",
}
metadata = sa.MetaData()
leaves = sa.Table(
    "leaves",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
)
heads = sa.Table(
    "head",
    metadata,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    sa.Column("frontier", sa.LargeBinary, nullable=False),
    sa.Column("signed", sa.LargeBinary, nullable=False),
)


def open_store(path: Path) -> sa.Engine:
    """The store at ``path``, with its tables.

    Raises:
        OperatorFault: the file is no such store, is of a newer version, or cannot be written.
    """
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:  # noqa: ANN401 - the driver's own types
        del record
        connection.isolation_level = None  # the driver begins nothing by itself; "begin" below does
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with begin(engine) as conn:
        found = conn.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found > SCHEMA:
            what = f"a store of version {found}; this program knows {SCHEMA}"
            raise OperatorFault(what, "update securefl", str(path))
        if found == 0 and sa.inspect(conn).get_table_names():
            raise OperatorFault("another program's database", "choose a path of its own for the ledger", str(path))
        metadata.create_all(conn)
        conn.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")
    return engine


@contextmanager
def begin(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction: everything in the block, or nothing.

    Raises:
        OperatorFault: the disk is full, the file cannot be written, or it is no database.
    """
    try:
        with engine.begin() as conn:
            yield conn
    except sa.exc.DBAPIError as fault:
        _blame(engine, fault.orig)
    except DatabaseError as fault:  # while connecting: the driver's own error
        _blame(engine, fault)


def _blame(engine: sa.Engine, fault: BaseException | None) -> NoReturn:
    what = str(fault)
    raise OperatorFault(what, REMEDIES.get(what, RESTORE), str(engine.url.database)) from fault


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
            leaf: Leaf = wire.decode(row.leaf, Leaf)
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
        signed: SignedHead = wire.decode(stored.signed, SignedHead)
        signing.verify(key, signed)
        kept: merkle.Frontier = wire.decode(stored.frontier, merkle.Frontier)
    except (Malformed, Forged) as fault:
        raise Tampered(where, str(fault)) from fault
    if (signed.head.size, signed.head.root) != (frontier.size, frontier.root()):
        raise Tampered(where, f"{frontier.size} entries do not give the root of the head over {signed.head.size}")
    if kept != frontier:
        raise Tampered(where, "the stored frontier is not that of the entries")
