"""A home: one owner, one key, one account, in whichever database its owner chose."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import key_files, keys
from securefl.errors import Missing, OperatorFault, Tampered
from securefl.home.export import copy_of
from securefl.home.home import Home
from securefl.home.peers import pin
from securefl.home.rotation import rotate
from securefl.ledger import databases, store
from securefl.ledger.tables import machines
from securefl.privacy.account import Standing
from securefl.site import charged_records
from securefl.terms import MemberId, Participant, Plan, RunId, Witnessed
from securefl.terms.parties import COORDINATOR
from tests.privacy.test_privacy_account import a_plan, reserved, settled
from tests.support.stores import Stores
from tests.support.worlds import identity, signed_head

NORTH = MemberId("north")
RUN = RunId(bytes(16))
PASSWORD = "a-password-that-nobody-sees"


def home_in(stores: Stores, owner: str = "north") -> Home:
    return Home.at(stores.home(owner), MemberId(owner), lambda: 1_000)


def schema_at(stores: Stores, owner: str = "north") -> str:
    """The schema of that home, whose key is made if it has none."""
    key = key_files.load_or_create(stores.home(owner) / "identity.key").public
    return databases.schema_of(owner, key)


def reserve(home: Home, plan: Plan, state: object) -> None:
    with home.transaction() as conn:
        home.commit(conn, RUN, (reserved(plan),), state)


def test_what_a_step_wrote_is_all_there_when_the_home_is_opened_again(stores: Stores) -> None:
    plan, seat = a_plan(1), Participant(NORTH, keys.Identity(keys.Secret(bytes(32))).public, "here")
    home = home_in(stores)
    reserve(home, plan, seat)
    with home.transaction() as conn:
        seen = (Witnessed(signed_head("south", 5)), Witnessed(signed_head("south", 3)))
        home.record(conn, (*seen, settled(plan)))
    again = home_in(stores)
    with again.transaction() as conn:
        assert again.saved(conn, RUN, Participant) == seat
        assert again.saved(conn, RunId(bytes(15) + b"1"), Participant) is None
        assert again.witnessed(conn, (Participant(MemberId("south"), identity("south").public, "here"),)).shown == {
            "south": signed_head("south", 5)
        }
        account = again.account(conn)
    assert [(charge.event, charge.standing) for charge in account.charges] == [(plan.learning.event, Standing.SETTLED)]
    file = copy_of(again)
    assert file is not None
    assert file.head.head.size == len(file.leaves) == 4


def test_a_step_that_fails_left_neither_leaf_nor_state(stores: Stores) -> None:
    home = home_in(stores)
    first = Participant(NORTH, home.identity.public, "here")
    reserve(home, a_plan(1), first)
    with pytest.raises(ZeroDivisionError), home.transaction() as conn:
        home.commit(conn, RUN, (reserved(a_plan(2)),), Participant(NORTH, home.identity.public, "there"))
        1 / 0  # noqa: B018
    with home.transaction() as conn:
        assert len(home.account(conn).charges) == 1
        assert home.saved(conn, RUN, Participant) == first


def test_homes_do_not_see_each_other(stores: Stores) -> None:
    north, south = home_in(stores, "north"), home_in(stores, "south")
    reserve(north, a_plan(1), Participant(NORTH, north.identity.public, "here"))
    assert copy_of(south) is None
    with south.transaction() as conn:
        assert south.account(conn).charges == ()
        assert south.saved(conn, RUN, Participant) is None


def test_another_partys_home_is_refused(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    home = home_in(stores)
    reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
    with pytest.raises(OperatorFault, match="the home of north, not of south"):
        Home.at(home.path, MemberId("south"), lambda: 0)


def test_a_home_whose_ledger_is_under_another_key_is_refused(stores: Stores) -> None:
    home = home_in(stores)
    reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
    (home.path / "identity.key").write_bytes(os.urandom(32))
    told = "does not hold under key" if stores.url is None else "set back to 0 entries, and this home has signed 1"
    with pytest.raises(Tampered, match=told):
        home_in(stores)


ODD = ("a.b-c", "a.b", "a_b", "9", "select", "n" * 63, "n" * 62, 'x" y', "public", "pg_north", "\u00e4\u00f6")


def test_owners_with_odd_names_have_schemas_of_their_own(postgres_server, tmp_path: Path) -> None:
    stores = Stores(tmp_path, postgres_server.database())
    for owner in ODD:
        home = home_in(stores, owner)
        reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
        home.engine.dispose()
    assert stores.url is not None
    with sa.create_engine(stores.url, poolclass=sa.NullPool).connect() as conn:
        made = set(sa.inspect(conn).get_schema_names()) - {"public", "information_schema"}
    assert len(made) == len(ODD)
    assert all(re.fullmatch(r"securefl_[a-z0-9_]{0,32}_[0-9a-f]{20}", each) for each in made)


def test_the_coordinators_of_two_federations_share_a_server_and_no_schema(postgres_server, tmp_path: Path) -> None:
    url = postgres_server.database()
    homes = []
    for federation in ("flights", "trains"):
        (tmp_path / federation).mkdir()
        homes.append(home_in(Stores(tmp_path / federation, url), COORDINATOR))
    first, second = homes
    assert databases.name_of(first.engine) != databases.name_of(second.engine)
    for number, home in enumerate(homes, 1):
        for round_ in range(number):
            reserve(home, a_plan(round_ + 1), Participant(NORTH, home.identity.public, "here"))
    again = [home_in(Stores(tmp_path / federation, url), COORDINATOR) for federation in ("flights", "trains")]
    for number, home in enumerate(again, 1):
        with home.transaction() as conn:
            assert len(home.account(conn).charges) == number
    for each in (*homes, *again):
        each.engine.dispose()


def test_a_home_that_moved_has_the_schema_that_it_had(postgres_server, tmp_path: Path) -> None:
    stores = Stores(tmp_path, postgres_server.database())
    home = home_in(stores)
    reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
    home.engine.dispose()
    home.path.rename(tmp_path / "elsewhere")
    moved = Home.at(tmp_path / "elsewhere", NORTH, lambda: 1_000)
    with moved.transaction() as conn:
        assert len(moved.account(conn).charges) == 1
    moved.engine.dispose()


def test_a_home_whose_key_was_exchanged_goes_on_in_the_store_that_it_has(stores: Stores) -> None:
    home = home_in(stores)
    place = databases.name_of(home.engine)
    pin(home.path, "f", (Participant(NORTH, home.identity.public, "here"),))
    reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
    for _ in range(2):
        rotate(home, 3600)
    home.engine.dispose()
    again = home_in(stores)
    assert databases.name_of(again.engine) == place
    with again.transaction() as conn:
        assert len(again.account(conn).charges) == 1
    again.engine.dispose()


@given(
    st.text(max_size=80), st.text(max_size=80), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32)
)
def test_a_schemas_name_is_safe_and_short_and_each_keys_own(one: str, other: str, key: bytes, second: bytes) -> None:
    name = databases.schema_of(one, key)
    assert re.fullmatch(r"securefl_[a-z0-9_]*_[0-9a-f]{20}", name, re.ASCII)
    assert len(name.encode()) <= 63
    assert (databases.schema_of(other, second)[-20:] == name[-20:]) == (key == second)


def test_another_programs_schema_is_refused(postgres_server, tmp_path: Path) -> None:
    stores = Stores(tmp_path, postgres_server.database())
    assert stores.url is not None
    with sa.create_engine(stores.url, poolclass=sa.NullPool).begin() as conn:
        schema = schema_at(stores)
        conn.exec_driver_sql(f"CREATE SCHEMA {schema}")
        conn.exec_driver_sql(f"CREATE TABLE {schema}.bookings (flight TEXT)")
    with pytest.raises(OperatorFault, match="another program's database"):
        home_in(stores)


def test_a_server_that_went_away_and_came_back_costs_nothing(tmp_path: Path) -> None:
    from tests.support import postgres

    with postgres.running(postgres.NOT_DURABLE) as server:
        home = home_in(Stores(tmp_path, server.database()))
        reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
        server.control("-m", "immediate", "stop")
        with pytest.raises(OperatorFault, match="start the server, or correct store.url; nothing was lost"):
            reserve(home, a_plan(2), Participant(NORTH, home.identity.public, "here"))
        server.control("start")
        reserve(home, a_plan(2), Participant(NORTH, home.identity.public, "here"))
        with pytest.raises(OperatorFault, match="goes on from here"), home.transaction() as conn:
            home.record(conn, (reserved(a_plan(3)),))
            server.control("-m", "immediate", "stop")
            home.record(conn, (reserved(a_plan(4)),))
        server.control("start")
        with home.transaction() as conn:
            store.read(conn, home.identity.public)
            assert len(home.account(conn).charges) == 2
        home.engine.dispose()


def url_with(**changes: object):
    return lambda url: url.set(**changes)


def without_password(url: sa.URL) -> sa.URL:
    return sa.URL.create(url.drivername, url.username, database=url.database, query=url.query)


UNREACHABLE = {
    "the password is wrong": (url_with(password=PASSWORD), "password authentication failed.*correct user and password"),
    "the user is unknown": (url_with(username="stranger"), "password authentication failed.*correct user and password"),
    "the password is missing": (without_password, "no password supplied.*write the password into store.url"),
    "the database is absent": (
        url_with(database="absent"),
        "does not exist.*create the database, or correct store.url",
    ),
    "the server is down": (url_with(host="127.0.0.1", port=1, query={}), "Connection refused.*start the server"),
    "the socket is absent": (url_with(query={"host": "/nowhere"}), "No such file.*start the server, or correct"),
    "the host is unknown": (url_with(host="host.invalid", query={}), "correct the host in store.url"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_a_database_that_cannot_be_reached_is_named_without_the_password(
    postgres_server, tmp_path: Path, name: str
) -> None:
    change, told = UNREACHABLE[name]
    url = change(postgres_server.url)
    with pytest.raises(OperatorFault, match=told) as caught:
        home_in(Stores(tmp_path, url))
    assert caught.value.exit_code == 2
    for secret in (PASSWORD, postgres_server.url.password):
        assert secret not in f"{caught.value} {caught.value.place} {caught.value.__cause__}"
    assert not (tmp_path / "north" / "ledger.db").exists()


def test_a_user_who_may_make_no_schema_is_told(postgres_server, tmp_path: Path) -> None:
    url = postgres_server.database()
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as conn:
        conn.exec_driver_sql(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    stores = Stores(tmp_path, url.set(username="guest", password=PASSWORD))
    told = f"schema {schema_at(stores)}: .*permission denied.*let this user create a schema"
    with pytest.raises(OperatorFault, match=told):
        home_in(stores)
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as conn:
        conn.exec_driver_sql(f"CREATE SCHEMA {schema_at(stores)} AUTHORIZATION guest")
    home_in(stores)


BAD_URLS = {
    "nothing": "",
    "words": f"the database at {PASSWORD}",
    "another kind": f"mysql://user:{PASSWORD}@host/db",
    "a file": "sqlite:///ledger.db",
    "no database": f"postgresql://user:{PASSWORD}@host",
    "a port that is none": f"postgresql://user:{PASSWORD}@host:port/db",
}


@pytest.mark.parametrize("name", BAD_URLS)
def test_a_url_that_is_none_is_refused_with_what_to_write_and_without_the_password(tmp_path: Path, name: str) -> None:
    path = tmp_path / "store.url"
    path.touch(mode=0o600)
    path.write_text(BAD_URLS[name])
    with pytest.raises(OperatorFault, match=r"store\.url: .*; write postgresql\+psycopg://USER:PASSWORD@") as caught:
        Home.at(tmp_path, NORTH, lambda: 0)
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"


def test_a_url_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.url"
    path.write_text(f"postgresql://user:{PASSWORD}@host/db")
    path.chmod(0o640)
    with pytest.raises(OperatorFault, match="others may read this file; run: chmod 600"):
        Home.at(tmp_path, NORTH, lambda: 0)


def test_an_account_is_not_begun_again_in_another_database(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    home = home_in(stores)
    reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "here"))
    path = home.path / "store.url"
    path.touch(mode=0o600)
    path.write_text("postgresql://user@host/db")
    with pytest.raises(OperatorFault, match=r"a ledger\.db stands beside store\.url; remove store\.url"):
        home_in(stores)


def test_without_the_driver_the_extra_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Missing, match=r"psycopg is not installed; run: pip install 'securefl-core\[postgres\]'"):
        databases.engine_at(databases.Remote(sa.make_url("postgresql+psycopg://user@host/db"), "securefl_north"))


@given(st.lists(st.tuples(st.sampled_from("ab."), st.sets(st.sampled_from("uvwxyz"), max_size=3)), max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_text_is_on_one_account_of_a_home_for_good(charged) -> None:
    owner: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        for account, found in charged:
            home = Home.at(Path(folder), MemberId("north"), lambda: 1)
            if {owner.get(text, account) for text in found} <= {account}:
                charged_records.check(home.path, account, map(str.encode, found))
                charged_records.remember(home, account, map(str.encode, found))
                owner |= dict.fromkeys(found, account)
            else:
                for told in (
                    lambda: charged_records.check(home.path, *asked),
                    lambda: charged_records.remember(home, *asked),
                ):
                    asked = (account, map(str.encode, found))
                    with pytest.raises(OperatorFault, match="say `dataset: "):
                        told()
            home.engine.dispose()


def test_half_a_list_of_texts_is_none_and_others_read_neither_list_nor_key(tmp_path: Path) -> None:
    home = Home.at(tmp_path, MemberId("north"), lambda: 1)
    charged_records.remember(home, "notes", [b"one", b"two"])
    (tmp_path / "texts" / "other.texts.new").write_bytes(b"half")
    charged_records.remember(home, "notes", [b"three"])
    with pytest.raises(OperatorFault, match="the account 'letters' has records that were charged to 'notes'"):
        charged_records.check(tmp_path, "letters", [b"one", b"four"])
    charged_records.check(tmp_path, "letters", [b"four"])
    charged_records.check(tmp_path, "notes", [b"one", b"three", b"five"])
    for path in (tmp_path / "texts.key", *(tmp_path / "texts").glob("*.texts")):
        assert path.stat().st_mode & 0o077 == 0
        assert b"one" not in path.read_bytes()


@pytest.mark.parametrize("lost", ["gone", "another", "altered list"])
def test_a_home_that_would_know_no_record_again_is_refused_not_believed(tmp_path: Path, lost: str) -> None:
    home = Home.at(tmp_path, MemberId("north"), lambda: 1)
    charged_records.remember(home, "notes", [b"one", b"two"])
    key, (texts,) = tmp_path / "texts.key", (tmp_path / "texts").glob("*.texts")
    good, listed = key.read_bytes(), texts.read_bytes()
    if lost == "gone":
        key.unlink()
    elif lost == "another":
        key.write_bytes(bytes(32))
    else:
        texts.write_bytes(listed[1:])
    for told in (charged_records.check, charged_records.remember):
        for account in ("notes", "letters"):
            with pytest.raises(OperatorFault, match="from one backup of this home"):
                told(tmp_path if told is charged_records.check else home, account, [b"three"])
    key.write_bytes(good)
    key.chmod(0o600)
    texts.write_bytes(listed)
    charged_records.check(tmp_path, "letters", [b"three"])
    with pytest.raises(OperatorFault, match="say `dataset: notes`"):
        charged_records.check(tmp_path, "letters", [b"two"])
    home.engine.dispose()


def test_what_a_home_seals_opens_under_its_own_names_alone(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    north, south = home_in(stores, "north"), home_in(stores, "south")
    other = RunId(bytes(15) + b"1")
    sealed = north.seal("own model, round 1", RUN, b"weights")
    assert north.open("own model, round 1", RUN, sealed) == b"weights"
    assert b"weights" not in sealed
    assert sealed != north.seal("own model, round 1", RUN, b"weights"), "a nonce is used once"
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for home, what, run, data in (
        (north, "own model, round 2", RUN, sealed),
        (north, "own model, round 1", other, sealed),
        (south, "own model, round 1", RUN, sealed),
        (north, "own model, round 1", RUN, altered),
        (north, "own model, round 1", RUN, b""),
    ):
        with pytest.raises(Tampered, match="altered, or moved here"):
            home.open(what, run, data)


def test_a_machines_state_is_not_to_be_read_in_the_database(stores: Stores) -> None:
    home = home_in(stores)
    reserve(home, a_plan(1), Participant(NORTH, home.identity.public, "a region that is named"))
    with home.transaction() as conn:
        (row,) = conn.execute(sa.select(machines.c.state)).scalars()
        assert b"a region that is named" not in row
        assert home.stands(conn, RUN, Participant(NORTH, home.identity.public, "a region that is named"))
        assert not home.stands(conn, RUN, Participant(NORTH, home.identity.public, "elsewhere"))
