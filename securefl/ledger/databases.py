"""The two kinds of database a store can be in: a SQLite file, or a schema of its own in a PostgreSQL database.

A schema is named after its party and its home's first key. Coordinators and custodians are called alike in every
federation, and one server may serve many: the key is what each home has alone, and an exchange moves no ledger.

In both, a transaction takes its store's one lock before it reads: the transactions of a store happen one after the
other, what a decision read is what it commits on, and none fails because of another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import sqlalchemy as sa

from securefl import files
from securefl.errors import Missing, OperatorFault
from securefl.keys import Identity

URL_FILE, LOCAL = "store.url", "ledger.db"  # of a home
SIDES = ("", "-wal", "-shm", "-journal", "-turn")  # what SQLite and the queue before it keep, after the file's name
QUEUE = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
CACHE = "cache_size=-256"  # KiB a connection: a ledger is read once, and then as far as it grew
WAIT_S = 60  # for other transactions of the same store
MOST_SHOWN = 32  # characters of a party's name in its schema's
KEY_DIGITS = 20  # of the key's SHA-256, in hexadecimal; with what is around them, 62 bytes: PostgreSQL cuts at 63
VANISHED_S = 30  # after which PostgreSQL ends a transaction whose process says nothing
RESTORE = "restore the file from its backup"
ASK = "nothing was lost; mend what the server says, and the same command goes on from here"
URL = "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
BUSY = "another process holds this site for too long; wait for it"
SPACE = "free some space; nothing was lost, and the same command goes on from here"
REMEDIES = {
    "database or disk is full": SPACE,
    "disk I/O error": "look at the disk; nothing was lost, and the same command goes on from here",
    "attempt to write a readonly database": "make the file and its folder writable for the site's own user",
    "unable to open database file": "make the folder, and make it writable for the site's own user",
    "database is locked": BUSY,
    "file is not a database": "move the file away, or restore the ledger from its backup",
    "password authentication failed": f"correct user and password in {URL_FILE}",
    "no password supplied": f"write the password into {URL_FILE}: {URL}",
    "Connection refused": f"start the server, or correct {URL_FILE}; nothing was lost",
    "Is the server running": f"start the server, or correct {URL_FILE}; nothing was lost",
    "Name or service not known": f"correct the host in {URL_FILE}",
    "name resolution": f"correct the host in {URL_FILE}",
    "lock timeout": BUSY,
    "too many clients": "let the server have more connections, or run fewer sites on it",
    "permission denied": "let this user create a schema in the database, or own the site's",
    "No space left on device": SPACE,
    "read-only transaction": f"name the primary server in {URL_FILE}, not a copy of it",
    "FATAL: database": f"create the database, or correct {URL_FILE}",
}


@dataclass(frozen=True, slots=True)
class Remote:
    """A schema in a PostgreSQL database; one for each home."""

    url: sa.URL  # shown without its password
    schema: str

    def __str__(self) -> str:
        return f"postgresql://{self.url.host or ''}/{self.url.database or ''}, schema {self.schema}"


Place = Path | Remote


def place_of(home: Path, owner: str, identity: Identity) -> Place:
    """Return where the store of this home is: where its ``store.url`` says, else in the home itself.

    Args:
        home: its folder.
        owner: whose it is.
        identity: the home's own, which has its former keys: of each exchange of the key, the store is the same.

    Raises:
        OperatorFault: as for ``server_of``.
    """
    url = server_of(home)
    return home / LOCAL if url is None else Remote(url, schema_of(owner, identity.first))


def schema_of(owner: str, key: bytes) -> str:
    """Return the name of a home's schema: of small letters, digits and underscores, and 62 bytes at most.

    Two homes have two first keys, so they have two schemas, whatever their owners are called.
    """
    shown = re.sub(r"[^a-z0-9]", "_", owner.lower())[:MOST_SHOWN]
    return f"securefl_{shown}_{hashlib.sha256(b'securefl/schema/' + key).hexdigest()[:KEY_DIGITS]}"


def server_of(home: Path) -> sa.URL | None:
    """Return the database that a home's ``store.url`` names; None if its store is in the home.

    Raises:
        OperatorFault: the file can be read by others or holds no such URL, or a ledger was begun here already.
    """
    file, local = home / URL_FILE, home / LOCAL
    files.check(file)
    if not file.exists():
        return None
    if local.exists():
        remedy = f"remove {URL_FILE}: the account that was begun in ledger.db goes on there"
        raise OperatorFault(f"a ledger.db stands beside {URL_FILE}", remedy, str(home))
    text = file.read_text(errors="replace", encoding="utf-8").strip()
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise OperatorFault("not a database's URL", f"write {URL}", str(file)) from None
    if url.drivername not in {"postgresql", "postgresql+psycopg"} or not url.database:
        raise OperatorFault(f"no database of {url.drivername} that can be used", f"write {URL}", str(file))
    return url.set(drivername="postgresql+psycopg")


def engine_at(place: Place) -> sa.Engine:
    """Connections to this place; its ``begin`` is the store's one lock.

    Raises:
        Missing: the driver is not installed.
    """
    return _postgres(place) if isinstance(place, Remote) else _sqlite(place)


def _sqlite(path: Path) -> sa.Engine:
    """SQLite makes its log and its index beside the file with the file's own mode."""
    for each in SIDES:
        files.check(path.with_name(path.name + each))
    with contextlib.suppress(OSError):  # SQLite says better why it cannot be made
        files.file(path)
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, connect_args={"timeout": WAIT_S}, execution_options={"place": str(path)})

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:  # noqa: ANN401 - the driver's own types
        del record
        connection.isolation_level = None  # the driver begins nothing by itself; "begin" below does
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", CACHE):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _(conn: sa.Connection) -> None:
        conn.info["turn"] = _turn(path)
        conn.exec_driver_sql("BEGIN IMMEDIATE")

    @sa.event.listens_for(engine, "checkin")
    def _(connection: Any, record: Any) -> None:  # noqa: ANN401 - the driver's own types
        del connection
        turn = record.info.pop("turn", None)
        if turn is not None:
            turn.close()

    return engine


def _turn(path: Path) -> BinaryIO | None:
    """A place at the head of the queue before SQLite's lock, until it is closed or this process ends; or None.

    SQLite's own waiting is not a queue: among many writers some would never get the lock. The queue is a courtesy; what
    keeps transactions apart is SQLite's lock, which is asked for also by whoever waited here for too long.
    """
    try:
        file = os.fdopen(os.open(path.with_name(f"{path.name}-turn"), QUEUE, files.FILE), "ab")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting = threading.Thread(target=fcntl.flock, args=(file, fcntl.LOCK_EX), daemon=True)
        waiting.start()
        waiting.join(WAIT_S)
    return file


SETTINGS = """
SELECT set_config('search_path', %s, true), set_config('lock_timeout', %s, true),
  set_config('idle_in_transaction_session_timeout', %s, true),
  set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)
"""


def _postgres(place: Remote) -> sa.Engine:
    """READ COMMITTED on purpose: each statement sees what was committed before it, so also before the lock was had.

    A snapshot for the whole transaction would be taken by the statement that waits for the lock, before it is had.
    """
    url = place.url.update_query_dict({"connect_timeout": "10", **place.url.query})
    try:
        engine = sa.create_engine(
            url, isolation_level="READ COMMITTED", pool_pre_ping=True, execution_options={"place": str(place)}
        )
    except ModuleNotFoundError as fault:
        raise Missing("psycopg is not installed", "run: pip install 'securefl-core[postgres]'", str(place)) from fault
    lock = int.from_bytes(hashlib.sha256(b"securefl/store/" + place.schema.encode()).digest()[:8], "big", signed=True)
    path = engine.dialect.identifier_preparer.quote_identifier(place.schema)

    @sa.event.listens_for(engine, "begin")
    def _(conn: sa.Connection) -> None:
        conn.exec_driver_sql(SETTINGS, (path, f"{WAIT_S}s", f"{VANISHED_S}s"))
        conn.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (lock,))

    return engine


def prepare(conn: sa.Connection, place: Place) -> None:
    """There is somewhere to make tables in."""
    if isinstance(place, Remote) and not sa.inspect(conn).has_schema(place.schema):
        conn.execute(sa.schema.CreateSchema(place.schema))


def name_of(engine: sa.Engine) -> str:
    """Return what errors call this store; without a password."""
    return str(engine.get_execution_options()["place"])


def blame(engine: sa.Engine, fault: BaseException | None) -> NoReturn:
    """The driver's own words, and what to do.

    Raises:
        OperatorFault: always.
    """
    what = " ".join(str(fault).split())
    otherwise = RESTORE if engine.dialect.name == "sqlite" else ASK
    remedy = next((remedy for text, remedy in REMEDIES.items() if text in what), otherwise)
    raise OperatorFault(what, remedy, name_of(engine)) from fault
