"""The store: what was acknowledged is there after any crash, and what was changed behind its back is found."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securefl import keys, merkle, wire
from securefl.errors import Forged, OperatorFault, Tampered
from securefl.ledger import databases, heads, migrate, store
from securefl.ledger.tables import heads as heads_table
from securefl.ledger.tables import metadata
from securefl.terms import Closed, Entry, Hash, Head, Leaf, MemberId, Released, RunId, SignedHead
from tests.support.stores import Stores

IDENTITY = keys.Identity(keys.Secret(bytes(range(32))))
OTHER = keys.Identity(keys.Secret(bytes(32)))
OWNER = MemberId("north")
RUN = RunId(bytes(16))
NUMBERS = itertools.count()


def entry(number: int) -> Entry:
    return Released(RUN, number, Hash(bytes(32)))


def add(engine: sa.Engine, *entries: Entry) -> heads.StoredHead:
    with store.begin(engine) as conn:
        return write(conn, *entries)


def write(conn: sa.Connection, *entries: Entry) -> heads.StoredHead:
    verified, _ = store.read(conn, IDENTITY.public)
    stored, _ = store.append(conn, verified.tree, IDENTITY, OWNER, 1_000, entries)
    return stored


def look(engine: sa.Engine) -> list[Leaf]:
    with store.begin(engine) as conn:
        return list(store.read(conn, IDENTITY.public)[1])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4), max_size=5))
def test_what_went_in_comes_out_in_order_and_under_the_tree_of_the_rfc(
    stores: Stores, batches: list[list[int]]
) -> None:
    engine = store.open_store(stores.place(f"north{next(NUMBERS)}"))
    stored = None
    for batch in batches:
        stored = add(engine, *(entry(number) for number in batch))
    expected = [Leaf(1_000, entry(number)) for batch in batches for number in batch]
    assert look(engine) == expected
    with store.begin(engine) as conn:
        assert store.read(conn, IDENTITY.public)[0].stored == stored
    if stored is not None:
        root = merkle.root([merkle.leaf_hash(wire.encode(leaf)) for leaf in expected])
        assert stored.head == Head(OWNER, len(expected), root)
        heads.verify_stored(IDENTITY.public, stored)
    engine.dispose()


def test_a_head_holds_under_its_owners_key_and_as_it_was_signed() -> None:
    signed = heads.sign(IDENTITY, Head(OWNER, 3, Hash(bytes(32))))
    heads.verify(IDENTITY.public, signed)
    for key, bad in (
        (OTHER.public, signed),
        (IDENTITY.public, SignedHead(Head(OWNER, 4, Hash(bytes(32))), signed.signature)),
        (IDENTITY.public, SignedHead(signed.head, IDENTITY.sign("receipt", wire.encode(signed.head)))),
        (IDENTITY.public, SignedHead(signed.head, heads.sign_stored(IDENTITY, signed.head).signature)),
    ):
        with pytest.raises(Forged, match="north's head over"):
            heads.verify(key, bad)
    with pytest.raises(Forged, match="north's head over"):
        heads.verify_stored(IDENTITY.public, heads.StoredHead(signed.head, signed.signature))


def test_a_block_that_fails_leaves_nothing(stores: Stores) -> None:
    engine = store.open_store(stores.place())
    add(engine, entry(1))
    with pytest.raises(ZeroDivisionError), store.begin(engine) as conn:
        write(conn, entry(2))
        1 / 0  # noqa: B018
    assert look(engine) == [Leaf(1_000, entry(1))]


def test_writers_at_the_same_time_never_lose_an_entry(stores: Stores) -> None:
    engines = [store.open_store(stores.place()) for _ in range(4)]

    def write(engine: sa.Engine, base: int) -> None:
        for number in range(10):
            add(engine, entry(base + number))

    threads = [threading.Thread(target=write, args=(engine, 100 * n)) for n, engine in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [leaf.entry.round for leaf in look(engines[0])]
    assert sorted(found) == sorted(100 * n + k for n in range(4) for k in range(10))
    for n in range(4):
        assert [number for number in found if number // 100 == n] == [100 * n + k for k in range(10)]


CHILD = """
import sys
from pathlib import Path
from tests.ledger.test_ledger_store import IDENTITY, add, databases, entry, store
engine = store.open_store(databases.place_of(Path(sys.argv[1]), "north", IDENTITY))
number = int(sys.argv[2])
while True:
    print(add(engine, entry(number), entry(number + 1)).head.size, flush=True)
    number += 2
"""


def test_kill_9_while_appending_leaves_what_was_acknowledged_and_at_most_one_step_more(stores: Stores) -> None:
    home, size = stores.home(), 0
    for kill_after in (1, 7, 3, 12):
        child = subprocess.Popen([sys.executable, "-c", CHILD, home, str(size)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(kill_after):
            size = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        told = [int(line) for line in child.stdout if line.endswith("\n")]
        size = told[-1] if told else size
        child.wait()
        child.stdout.close()
        engine = store.open_store(databases.place_of(home, OWNER, IDENTITY))
        found = [leaf.entry.round for leaf in look(engine)]
        assert len(found) in (size, size + 2)
        assert found == list(range(len(found)))
        size = len(found)
        engine.dispose()
    assert size >= 2 * (1 + 7 + 3 + 12)


TAMPERINGS = {
    "an entry deleted": ("DELETE FROM leaves WHERE position = 1", "missing or moved", 1),
    "the tail cut off": ("DELETE FROM leaves WHERE position = 3", "do not give the root", None),
    "two entries swapped": (
        "UPDATE leaves SET leaf = (SELECT leaf FROM leaves AS o WHERE o.position = 3 - leaves.position) WHERE position IN (1, 2)",
        "do not give the root", None,
    ),
    "an entry changed": ("UPDATE leaves SET leaf = (SELECT leaf FROM leaves WHERE position = 0) WHERE position = 1", "do not give the root", None),
    "an entry damaged": ("UPDATE leaves SET leaf = :zero WHERE position = 2", "not a Leaf", 2),
    "an entry moved to the end": ("UPDATE leaves SET position = 4 WHERE position = 1", "missing or moved", 1),
    "the head gone": ("DELETE FROM head", "without a head", None),
    "the head damaged": ("UPDATE head SET signed = :zero", "not a StoredHead", None),
    "the head emptied": ("UPDATE head SET signed = :none", "not a StoredHead", None),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_is_changed_behind_its_back_is_found(stores: Stores, name: str) -> None:
    engine = store.open_store(stores.place())
    add(engine, *(entry(number) for number in range(4)))
    look(engine)
    statement, why, place = TAMPERINGS[name]
    with store.begin(engine) as conn:
        assert (
            conn.execute(
                sa.text(statement),
                {"zero": bytes(1)} if ":zero" in statement else {"none": b""} if ":none" in statement else {},
            ).rowcount
            > 0
        )
    with pytest.raises(Tampered, match=why) as caught:
        look(engine)
    assert caught.value.entry == place
    assert caught.value.exit_code == 4


def test_an_older_head_is_found(stores: Stores) -> None:
    engine = store.open_store(stores.place())
    old = add(engine, entry(0))
    add(engine, entry(1))
    with store.begin(engine) as conn:
        conn.execute(sa.update(heads_table).values(signed=wire.encode(old)))
    with pytest.raises(Tampered, match="2 entries do not give the root of the head over 1"):
        look(engine)


def test_a_ledger_under_another_key_is_found(stores: Stores) -> None:
    engine = store.open_store(stores.place())
    add(engine, entry(0))
    with store.begin(engine) as conn, pytest.raises(Tampered, match="does not hold under key"):
        store.read(conn, OTHER.public)


def test_an_empty_store_is_in_order_and_has_no_head(stores: Stores) -> None:
    engine = store.open_store(stores.place())
    assert look(engine) == []
    with store.begin(engine) as conn:
        assert store.read(conn, IDENTITY.public)[0].stored is None


def test_a_path_with_odd_characters_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a?b=c %41#.db"
    add(store.open_store(path), entry(0))
    assert path.exists()


def test_files_that_are_no_store_are_refused_with_what_to_do(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.touch(mode=0o600)
    garbage.write_bytes(b"no database at all, and long enough to be read as one" * 50)
    with pytest.raises(OperatorFault, match="not a database; move the file away"):
        store.open_store(garbage)
    assert garbage.read_bytes().startswith(b"no database"), "left as it was"

    strange = tmp_path / "strange.db"
    strange.touch(mode=0o600)
    with sqlite3.connect(strange) as conn:
        conn.execute("CREATE TABLE bookings (flight TEXT)")
    with pytest.raises(OperatorFault, match="another program's database"):
        store.open_store(strange)

    with pytest.raises(OperatorFault, match="make the folder"):
        store.open_store(tmp_path / "absent" / "ledger.db")


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    engine = store.open_store(tmp_path / "ledger.db")
    add(engine, entry(0))
    with pytest.raises(OperatorFault, match=r"full; free some space.*goes on from here"), store.begin(engine) as conn:
        tree = store.read(conn, IDENTITY.public)[0].tree
        conn.exec_driver_sql("PRAGMA max_page_count = 1")  # SQLite's own way to say that nothing more fits
        store.append(conn, tree, IDENTITY, OWNER, 1_000, [Closed(RUN, "aborted", "x" * 1_000)] * 100)
    assert look(engine) == [Leaf(1_000, entry(0))]


def test_a_store_that_may_not_be_written_is_named(stores: Stores) -> None:
    engine = store.open_store(stores.place())
    statement, remedy = {
        "sqlite": ("PRAGMA query_only = ON", "make the file and its folder writable"),
        "postgresql": ("SET TRANSACTION READ ONLY", "name the primary server in store.url"),
    }[engine.dialect.name]
    with pytest.raises(OperatorFault, match=remedy), store.begin(engine) as conn:
        conn.exec_driver_sql(statement)
        write(conn, entry(0))
    assert engine.dialect.name == "sqlite" or look(engine) == []


def test_a_store_that_another_process_holds_too_long_is_named(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "WAIT_S", 1)
    place = stores.place()
    engine, other = store.open_store(place), store.open_store(place)
    with store.begin(engine), pytest.raises(OperatorFault, match="another process holds this site"):  # noqa: SIM117
        with store.begin(other):
            pass
    add(other, entry(0))
    assert look(engine) == [Leaf(1_000, entry(0))]


def test_a_newer_store_is_refused_and_left_as_it_is(stores: Stores) -> None:
    place = stores.place()
    engine = store.open_store(place)
    add(engine, entry(0))
    with store.begin(engine) as conn:
        conn.execute(sa.text(f"UPDATE {migrate.TABLE} SET version_num = '0099'"))
    with pytest.raises(OperatorFault, match="a store of version 0099; this program knows.*update securefl"):
        store.open_store(place)
    assert look(engine) == [Leaf(1_000, entry(0))]
    with store.begin(engine) as conn:
        assert conn.execute(sa.text(f"SELECT version_num FROM {migrate.TABLE}")).scalar_one() == "0099"


def older(place: databases.Place) -> sa.Engine:
    """A store of version 0001, with an entry."""
    engine = databases.engine_at(place)
    blob = {"sqlite": "BLOB", "postgresql": "BYTEA"}[engine.dialect.name]
    data = wire.encode(Leaf(1_000, entry(0)))
    signed = wire.encode(heads.sign_stored(IDENTITY, Head(OWNER, 1, merkle.root([merkle.leaf_hash(data)]))))
    with store.begin(engine) as conn:
        databases.prepare(conn, place)
        for statement in (
            f"CREATE TABLE leaves (position INTEGER PRIMARY KEY, kind VARCHAR NOT NULL, leaf {blob} NOT NULL)",
            "CREATE INDEX ix_leaves_kind ON leaves (kind)",
            f"CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), frontier {blob} NOT NULL, signed {blob} NOT NULL)",
            f"CREATE TABLE {migrate.TABLE} (version_num VARCHAR(32) NOT NULL)",
            f"INSERT INTO {migrate.TABLE} VALUES ('0001')",
        ):
            conn.exec_driver_sql(statement)
        conn.execute(sa.text("INSERT INTO leaves VALUES (0, 'Released', :leaf)"), {"leaf": data})
        conn.execute(sa.text("INSERT INTO head VALUES (1, :frontier, :signed)"), {"frontier": b"", "signed": signed})
    return engine


def tables(engine: sa.Engine) -> set[str]:
    with store.begin(engine) as conn:
        return set(sa.inspect(conn).get_table_names())


def test_an_older_store_becomes_todays_and_keeps_its_entries(stores: Stores) -> None:
    place = stores.place()
    older(place).dispose()
    engine = store.open_store(place)
    assert look(engine) == [Leaf(1_000, entry(0))]
    assert tables(engine) == {*metadata.tables, migrate.TABLE}
    with store.begin(engine) as conn:
        assert conn.execute(sa.text(f"SELECT version_num FROM {migrate.TABLE}")).scalar_one() == migrate.VERSIONS[-1]


def test_a_migration_that_is_killed_left_nothing(stores: Stores) -> None:
    place = stores.place()
    engine = older(place)
    engine.dispose()
    for number in itertools.count():
        child = os.fork()
        if child == 0:
            count = itertools.count()

            @sa.event.listens_for(sa.Engine, "after_cursor_execute")
            def _(*_: object) -> None:
                if next(count) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            store.open_store(place)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            break
        assert "machines" not in tables(engine)
    assert os.WEXITSTATUS(status) == 0
    assert number > 5
    assert tables(engine) == {*metadata.tables, migrate.TABLE}
    assert look(engine) == [Leaf(1_000, entry(0))]


def test_a_store_of_before_there_were_migrations_is_taken_over(tmp_path: Path) -> None:
    for machines in (False, True):
        path = tmp_path / f"{machines}.db"
        engine = older(path)
        with store.begin(engine) as conn:
            conn.execute(sa.text(f"DROP TABLE {migrate.TABLE}"))
            conn.exec_driver_sql("PRAGMA user_version = 1")
            if machines:
                conn.execute(
                    sa.text("CREATE TABLE machines (run BLOB NOT NULL, state BLOB NOT NULL, PRIMARY KEY (run))")
                )
        engine.dispose()
        engine = store.open_store(path)
        assert look(engine) == [Leaf(1_000, entry(0))]
        assert tables(engine) == {*metadata.tables, migrate.TABLE}


def test_the_migrations_end_at_the_tables_the_program_uses(stores: Stores) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(migrate.FOLDER))
    assert tuple(each.revision for each in reversed(list(script.walk_revisions()))) == migrate.VERSIONS
    with store.begin(store.open_store(stores.place())) as conn:
        context = MigrationContext.configure(conn, opts={"version_table": migrate.TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_write_reaches_the_disk_before_it_is_acknowledged(stores: Stores) -> None:
    engine = store.open_store(stores.place())
    if engine.dialect.name == "postgresql":
        with store.begin(engine) as conn:
            conn.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET synchronous_commit = off")
        engine.dispose()
    expected = {
        "sqlite": {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": 2, "PRAGMA foreign_keys": 1},  # 2 is FULL
        "postgresql": {"SHOW synchronous_commit": "on", "SHOW transaction_isolation": "read committed"},
    }[engine.dialect.name]
    with store.begin(engine) as conn:
        assert {ask: conn.exec_driver_sql(ask).scalar_one() for ask in expected} == expected
