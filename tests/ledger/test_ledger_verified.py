"""What a home decides by is what it verified: rows that change behind it are found, and decide nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import merkle, wire
from securefl.errors import Tampered
from securefl.home.export import copy_of
from securefl.home.home import Home
from securefl.ledger import anchor, databases, store, verified
from securefl.ledger import heads as signing
from securefl.privacy.account import Account
from securefl.terms import Entry, Hash, Head, Leaf, MemberId, Participant, Refused, RunId, Witnessed
from tests.privacy.test_privacy_account import a_plan, reserved, settled
from tests.support.stores import Stores
from tests.support.worlds import identity, signed_head

NORTH = MemberId("north")
RUN = RunId(bytes(16))


def opened(path: Path) -> Home:
    return Home.at(path, NORTH, lambda: 1_000)


def note(number: int) -> Entry:
    return Refused(RUN, number, "answer", ())


def every(home: Home) -> list[Entry]:
    with home.transaction() as conn:
        return [leaf.entry for leaf in store.read(conn, home.identity.public)[1]]


def account(home: Home) -> Account:
    with home.transaction() as conn:
        return home.account(conn)


BATCH = st.lists(st.sampled_from(["note", "reserve", "settle", "see"]), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.tuples(BATCH, st.booleans()), max_size=6))
def test_the_account_is_that_of_what_was_committed_in_this_process_another_and_a_new_one(batches) -> None:
    numbers, asked = itertools.count(1), []
    with TemporaryDirectory() as folder:
        homes = [opened(Path(folder) / "north") for _ in range(2)]
        for turn, (batch, fails) in enumerate(batches):
            entries: list[Entry] = []
            began = list(asked)
            for kind in batch:
                number = next(numbers)
                if kind == "reserve":
                    asked.append(number)
                    entries.append(reserved(a_plan(number)))
                elif kind == "settle" and asked:
                    entries.append(settled(a_plan(asked.pop())))
                else:
                    entries.append(Witnessed(signed_head("south", number)) if kind == "see" else note(number))
            home = homes[turn % 2]
            try:
                with home.transaction() as conn:
                    home.record(conn, entries)
                    expected = Account.of(leaf.entry for leaf in store.read(conn, home.identity.public)[1])
                    assert home.account(conn) == expected, "a transaction sees what it wrote"
                    1 / (not fails)  # noqa: B018
            except ZeroDivisionError:
                asked = began
        fresh = opened(Path(folder) / "north")
        told = every(fresh)
        for home in (*homes, fresh):
            assert account(home) == Account.of(told)
            with home.transaction() as conn:
                south = Participant(MemberId("south"), identity("south").public, "here")
                seen = [entry.head.head.size for entry in told if isinstance(entry, Witnessed)]
                found = home.witnessed(conn, [south]).shown
                assert [head.head.size for head in found.values()] == ([max(seen)] if seen else [])
        for home in (*homes, fresh):
            home.engine.dispose()


def test_an_older_head_is_found_while_the_process_lives_and_by_the_next_one(stores: Stores) -> None:
    home = opened(stores.home("north"))
    rows: list[tuple[list, bytes]] = []
    for number in range(3):
        with home.transaction() as conn:
            home.record(conn, [reserved(a_plan(number + 1))])
            leaves = conn.execute(sa.text("SELECT position, leaf FROM leaves")).all()
            rows.append((leaves, conn.execute(sa.text("SELECT signed FROM head")).scalar_one()))
    assert len(account(home).charges) == 3
    _, signed = rows[1]
    with store.begin(home.engine) as conn:
        conn.execute(sa.text("DELETE FROM leaves WHERE position > 1"))
        conn.execute(sa.text("UPDATE head SET signed = :signed"), {"signed": signed})
    with pytest.raises(Tampered, match="set back to 2 entries, and this process has read 3"):
        account(home)
    with pytest.raises(Tampered, match="set back to 2 entries, and this home has signed 3; restore the newest copy"):
        opened(home.path)
    (home.path / anchor.NAME).unlink()  # who may do this is the site's own operator: peers refuse the home
    assert len(account(opened(home.path)).charges) == 2


def test_another_ledger_under_the_same_key_is_found_by_the_head_that_was_kept(tmp_path: Path) -> None:
    home = opened(tmp_path / "north")
    with home.transaction() as conn:
        home.record(conn, [note(1), note(2)])
    kept = (home.path / anchor.NAME).read_bytes()
    home.engine.dispose()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm", anchor.NAME):
        (home.path / name).unlink(missing_ok=True)
    again = opened(home.path)
    with again.transaction() as conn:
        again.record(conn, [note(3), note(4), note(5)])
    again.engine.dispose()
    (home.path / anchor.NAME).write_bytes(kept)
    with pytest.raises(Tampered, match="its first 2 entries are not those this home has signed"):
        opened(home.path)


def test_the_head_that_is_kept_never_goes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    five, three, seven = (signing.sign(identity("north"), Head(NORTH, size, Hash(bytes(32)))) for size in (5, 3, 7))
    anchor.write(tmp_path, five, lambda _: False)  # nothing is kept yet
    with pytest.raises(Tampered, match="3 entries that do not begin with the 5 this home has signed"):
        anchor.write(tmp_path, three, lambda _: True)
    with pytest.raises(Tampered, match="7 entries that do not begin with the 5 this home has signed"):
        anchor.write(tmp_path, seven, lambda head: head != five.head)
    assert anchor.read(tmp_path) == five.head
    anchor.write(tmp_path, seven, lambda head: head == five.head)
    assert anchor.read(tmp_path) == seven.head
    (tmp_path / anchor.NAME).write_bytes(b"no head")
    with pytest.raises(Tampered, match=r"ledger\.head: not a SignedHead"):
        anchor.read(tmp_path)


def test_a_head_is_kept_only_once_it_is_committed(tmp_path: Path) -> None:
    home = opened(tmp_path / "north")
    with pytest.raises(ZeroDivisionError), home.transaction() as conn:
        home.record(conn, [note(1)])
        1 / 0  # noqa: B018
    assert anchor.read(home.path) is None
    with home.transaction() as conn:
        home.record(conn, [note(1)])
        assert anchor.read(home.path) is None
    kept = anchor.read(home.path)
    assert kept is not None
    assert kept.size == 1


CHANGES: dict[str, Callable[[int], tuple[str, dict[str, object]]]] = {
    "gone": lambda at: ("DELETE FROM leaves WHERE position = :at", {"at": at}),
    "another": lambda at: (
        "UPDATE leaves SET leaf = :leaf WHERE position = :at", {"at": at, "leaf": wire.encode(Leaf(1_000, note(99)))}
    ),
    "damaged": lambda at: ("UPDATE leaves SET leaf = :leaf WHERE position = :at", {"at": at, "leaf": b""}),
    "moved": lambda at: ("UPDATE leaves SET position = 90 + position WHERE position = :at", {"at": at}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_entry_is_found_within_so_many_decisions(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(verified, "AGAIN", 4)
    home = opened(stores.home("north"))
    with home.transaction() as conn:
        home.record(conn, [reserved(a_plan(1)), *map(note, range(9))])
    before = account(home)
    statement, values = CHANGES[change](6)
    with store.begin(home.engine) as conn:
        assert conn.execute(sa.text(statement), values).rowcount == 1
    with pytest.raises(Tampered):
        for _ in range(3):  # 10 entries, 4 at once
            assert account(home) == before, "what was verified decides"
    with pytest.raises(Tampered):
        opened(home.path)
    with pytest.raises(Tampered):
        copy_of(home)


def test_an_entry_after_the_signed_ones_is_found(stores: Stores) -> None:
    home = opened(stores.home("north"))
    with home.transaction() as conn:
        home.record(conn, [note(1)])
    account(home)
    with store.begin(home.engine) as conn:
        values = {"leaf": wire.encode(Leaf(1_000, note(2)))}
        conn.execute(sa.text("INSERT INTO leaves (position, leaf) VALUES (1, :leaf)"), values)
    with pytest.raises(Tampered, match="2 entries do not give the root of the head over 1"):
        account(home)


def test_a_home_knows_every_head_it_had_and_no_other(tmp_path: Path) -> None:
    home = opened(tmp_path / "north")
    for number in range(5):
        with home.transaction() as conn:
            home.record(conn, [note(number), note(number)])
    with home.transaction() as conn:
        leaves = [merkle.leaf_hash(data) for data in store.raw(conn)]
        for size in range(len(leaves) + 1):
            assert home.holds(Head(NORTH, size, merkle.root(leaves[:size])))
            assert not home.holds(Head(NORTH, size, Hash(bytes(32))))
            assert not home.holds(Head(MemberId("south"), size, merkle.root(leaves[:size])))
        assert not home.holds(Head(NORTH, len(leaves) + 1, merkle.root(leaves)))


def test_a_state_stands_only_where_the_ledger_last_told_of_its_run(stores: Stores) -> None:
    home = opened(stores.home("north"))
    seat, other = Participant(NORTH, home.identity.public, "first"), RunId(bytes(15) + b"\1")
    rows = []
    for number, run in enumerate((RUN, other, RUN)):
        plan = a_plan(number + 1)
        plan = replace(plan, run=run)
        with home.transaction() as conn:
            home.commit(conn, run, [reserved(plan)], replace(seat, region=str(number)))
            rows.append(conn.execute(sa.text("SELECT run, state FROM machines ORDER BY run")).all())
    for run, state, why in (
        (RUN, rows[0][0].state, "altered, or moved here"),
        (RUN, rows[1][1].state, "altered, or moved here"),
        (other, None, "gone, and the ledger tells of the run"),
    ):
        with pytest.raises(Tampered, match=why), home.transaction() as conn:
            change = sa.text("UPDATE machines SET state = :state WHERE run = :run")
            if state is None:
                change = sa.text("DELETE FROM machines WHERE run = :run")
            conn.execute(change, {"run": bytes(run)} | ({"state": state} if state else {}))
            home.saved(conn, run, Participant)
    with home.transaction() as conn:
        assert home.saved(conn, RUN, Participant) == replace(seat, region="2")
        assert home.saved(conn, other, Participant) == replace(seat, region="1")
        assert databases.name_of(home.engine)


# What one process remembers of a ledger.


def test_a_ledger_is_unchanged_only_while_its_head_and_its_end_are_those_that_were_read(tmp_path: Path) -> None:
    home = opened(tmp_path / "north")

    def seen() -> verified.Verified:
        with home.transaction() as conn:
            return store.read(conn, home.identity.public)[0]

    def unchanged(of: verified.Verified) -> bool:
        with store.begin(home.engine) as conn:
            return of.unchanged(conn)

    fresh = verified.Verified(home.identity.public, "north")
    assert not unchanged(fresh) and not unchanged(seen()), "there is no head yet"
    with home.transaction() as conn:
        home.record(conn, [note(1)])
    assert not unchanged(fresh), "nothing was read"
    one = seen()
    assert unchanged(one)
    with store.begin(home.engine) as conn:
        values = {"leaf": wire.encode(Leaf(1_000, note(2)))}
        conn.execute(sa.text("INSERT INTO leaves (position, leaf) VALUES (1, :leaf)"), values)
    assert not unchanged(one), "an entry after its end"
    with store.begin(home.engine) as conn:
        conn.execute(sa.text("DELETE FROM leaves WHERE position = 1"))
    assert unchanged(one)
    with home.transaction() as conn:
        home.record(conn, [note(3)])
    assert not unchanged(one), "another head"
    assert unchanged(seen())


def test_what_is_read_again_is_there_and_what_it_was(tmp_path: Path) -> None:
    home = opened(tmp_path / "north")
    with home.transaction() as conn:
        home.record(conn, [note(1), note(2), note(3)])
        known = store.read(conn, home.identity.public)[0]
    with store.begin(home.engine) as conn:
        known.again(conn)
        conn.execute(sa.text("DELETE FROM leaves WHERE position = 2"))
        with pytest.raises(Tampered, match="an entry is gone") as fault:
            known.again(conn)
    assert fault.value.entry == 2


def test_a_ledger_whose_entries_and_head_are_all_gone_was_set_back(tmp_path: Path) -> None:
    home = opened(tmp_path / "north")
    with home.transaction() as conn:
        home.record(conn, [note(1)])
        known = store.read(conn, home.identity.public)[0]
    with store.begin(home.engine) as conn:
        conn.execute(sa.text("DELETE FROM leaves"))
        conn.execute(sa.text("DELETE FROM head"))
        with pytest.raises(Tampered, match="set back to 0 entries, and this process has read 1; restore the newest"):
            list(known.read(conn))
        kept = Head(NORTH, 1, Hash(bytes(32)))
        with pytest.raises(Tampered, match="set back to 0 entries, and this home has signed 1; restore the newest"):
            list(verified.Verified(home.identity.public, "north").read(conn, kept))


def test_a_head_that_was_kept_stands_against_a_ledger_of_the_same_length_and_against_a_longer_one(
    tmp_path: Path,
) -> None:
    home = opened(tmp_path / "north")
    with home.transaction() as conn:
        home.record(conn, [note(1), note(2)])
        known = store.read(conn, home.identity.public)[0]
        leaves = [merkle.leaf_hash(data) for data in store.raw(conn)]
    two, one = (Head(NORTH, size, merkle.root(leaves[:size])) for size in (2, 1))
    with store.begin(home.engine) as conn:
        assert not list(known.read(conn, two)), "nothing is new"
        with pytest.raises(Tampered, match="another ledger of 2 entries than this home has signed; restore the newest"):
            list(known.read(conn, replace(two, root=Hash(bytes(32)))))
        anew = verified.Verified(home.identity.public, "north")
        assert len(list(anew.read(conn, one))) == 2
        for kept in (replace(one, root=Hash(bytes(32))), replace(two, root=Hash(bytes(32)))):
            anew = verified.Verified(home.identity.public, "north")
            with pytest.raises(Tampered, match=f"its first {kept.size} entries are not those this home has signed"):
                list(anew.read(conn, kept))
