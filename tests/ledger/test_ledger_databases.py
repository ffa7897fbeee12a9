"""Where a home's ledger is: in its own folder, or where its store.url says; anything else is named with what to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from securefl.errors import Missing, OperatorFault
from securefl.keys import Identity, Secret
from securefl.ledger import databases, export, migrate, store
from securefl.ledger.databases import Remote
from securefl.terms import Leaf
from tests.ledger.test_ledger_export import a_file
from tests.ledger.test_ledger_store import OWNER, add, entry, look

OWN = Identity(Secret(bytes(range(32))))
GOOD = "postgresql://north:a%20secret@server/ledgers"


def home_of(tmp_path: Path, url: bytes | str | None = None) -> Path:
    if url is not None:
        file = tmp_path / "store.url"
        file.write_bytes(url if isinstance(url, bytes) else url.encode())
        file.chmod(0o600)
    return tmp_path


# Where.


def test_a_home_without_a_url_has_its_ledger_in_its_own_folder(tmp_path: Path) -> None:
    assert databases.place_of(home_of(tmp_path), OWNER, OWN) == tmp_path / "ledger.db"


@pytest.mark.parametrize(
    "written",
    [GOOD, GOOD + "\n", GOOD.replace("postgresql:", "postgresql+psycopg:")],
    ids=["plain", "a line", "driver"],
)
def test_a_home_with_a_url_has_a_schema_of_its_own_there_and_its_password_is_never_shown(
    tmp_path: Path, written: str
) -> None:
    place = databases.place_of(home_of(tmp_path, written), OWNER, OWN)
    assert isinstance(place, Remote)
    assert place.url == sa.URL.create("postgresql+psycopg", "north", "a secret", "server", database="ledgers")
    digits = hashlib.sha256(b"securefl/schema/" + OWN.public).hexdigest()[:20]
    assert place.schema == f"securefl_north_{digits}"
    assert str(place) == f"postgresql://server/ledgers, schema {place.schema}"
    engine = databases.engine_at(place)
    assert databases.name_of(engine) == str(place), "what every error calls it"


@pytest.mark.parametrize("owner", ["North-East", "ä b/c;d", "x" * 200, ""])
def test_a_schemas_name_is_short_plain_and_of_one_key(owner: str) -> None:
    names = {databases.schema_of(owner, bytes([n]) * 32) for n in range(5)}
    assert len(names) == 5
    for name in names:
        assert len(name.encode()) <= 62
        assert name.startswith("securefl_") and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_a_url_beside_a_ledger_that_was_begun_is_refused_for_the_ledger(tmp_path: Path) -> None:
    home = home_of(tmp_path, GOOD)
    (home / "ledger.db").touch(mode=0o600)
    with pytest.raises(OperatorFault, match="a ledger.db stands beside store.url.*goes on there") as fault:
        databases.place_of(home, OWNER, OWN)
    assert str(home) in str(fault.value)


@pytest.mark.parametrize(("url", "why"), [
    ("", "not a database's URL"), ("no url", "not a database's URL"), (b"\xff\xfe\x00", "not a database's URL"),
    ("postgresql://server:port/ledgers", "not a database's URL"), ("mysql://server/ledgers", "no database of mysql"),
    ("sqlite:///ledger.db", "no database of sqlite"), ("postgresql://server", "no database of postgresql"),
    ("postgresql+asyncpg://server/ledgers", r"no database of postgresql\+asyncpg"),
], ids=["empty", "no URL", "no text", "no port", "mysql", "sqlite", "no database", "another driver"])  # fmt: skip
def test_a_url_of_no_database_that_can_be_used_is_named_with_one_that_can(
    tmp_path: Path, url: str | bytes, why: str
) -> None:
    with pytest.raises(OperatorFault, match=why) as fault:
        databases.place_of(home_of(tmp_path, url), OWNER, OWN)
    assert "write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE" in str(fault.value)
    assert str(tmp_path / "store.url") in str(fault.value)


def test_a_url_that_others_may_read_is_refused_before_it_is_read(tmp_path: Path) -> None:
    home = home_of(tmp_path, GOOD)
    (home / "store.url").chmod(0o644)
    with pytest.raises(OperatorFault, match="chmod 600"):
        databases.place_of(home, OWNER, OWN)


def test_without_its_driver_a_remote_ledger_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(Missing, match=r"pip install 'securefl-core\[postgres\]'"):
        databases.engine_at(databases.place_of(home_of(tmp_path, GOOD), OWNER, OWN))


# SQLite's files.


@pytest.mark.parametrize("side", ["", "-wal", "-shm", "-journal", "-turn"])
def test_a_file_of_a_store_that_others_may_read_is_refused_by_its_name(tmp_path: Path, side: str) -> None:
    path = tmp_path / f"ledger.db{side}"
    path.touch(mode=0o644)
    path.chmod(0o644)
    with pytest.raises(OperatorFault, match="chmod 600") as fault:
        store.open_store(tmp_path / "ledger.db")
    assert str(path) in str(fault.value)


def test_every_file_of_a_store_is_its_owners_alone(tmp_path: Path) -> None:
    engine = store.open_store(tmp_path / "ledger.db")
    add(engine, entry(0))
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(found) >= {"ledger.db", "ledger.db-wal", "ledger.db-turn"}
    assert set(found.values()) == {0o600}


def test_a_queue_that_cannot_be_entered_is_left_out_and_its_link_is_not_followed(tmp_path: Path) -> None:
    """It is a courtesy: what keeps transactions apart is SQLite's own lock."""
    engine = store.open_store(tmp_path / "ledger.db")
    (tmp_path / "ledger.db-turn").unlink()
    (tmp_path / "ledger.db-turn").symlink_to(tmp_path / "elsewhere")
    add(engine, entry(0))
    add(engine, entry(1))
    assert look(engine) == [Leaf(1_000, entry(0)), Leaf(1_000, entry(1))]
    assert not (tmp_path / "elsewhere").exists()


def test_a_store_is_made_by_a_program_that_lies_in_a_folder_with_a_percent_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "50% done").mkdir()
    (tmp_path / "50% done" / "migrations").symlink_to(migrate.FOLDER)
    monkeypatch.setattr(migrate, "FOLDER", tmp_path / "50% done" / "migrations")
    engine = store.open_store(tmp_path / "ledger.db")
    add(engine, entry(0))
    assert look(engine) == [Leaf(1_000, entry(0))]


def test_a_remedy_is_told_for_each_way_in_which_a_database_says_no() -> None:
    engine = sa.create_engine("sqlite://", execution_options={"place": "the store"})
    for said, remedy in (
        ("database or disk is full", "free some space"), ("database is locked", "another process holds this site"),
        ("FATAL: password authentication failed for user x", "correct user and password in store.url"),
        ("Connection refused", "start the server"), ("ERROR: permission denied for database x", "create a schema"),
        ("something that nobody has met", "restore the file from its backup"),
    ):  # fmt: skip
        with pytest.raises(OperatorFault, match=said) as fault:
            databases.blame(engine, RuntimeError(f"{said}\n  at once"))
        assert remedy in str(fault.value) and "the store" in str(fault.value)


# An exported ledger.


def test_a_ledger_that_is_written_again_and_again_holds_no_file_open(tmp_path: Path) -> None:
    export.write(tmp_path / "north.ledger", a_file())
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        export.write(tmp_path / "north.ledger", a_file())
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert os.listdir(tmp_path) == ["north.ledger"]  # noqa: PTH208
