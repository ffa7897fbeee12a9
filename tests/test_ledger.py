"""The tree, the store, and what a crash may leave."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import keys
from securefl.errors import Fault, OperatorFault
from securefl.ledger import merkle, store
from securefl.terms import Closed, MemberId, RunId

# The inputs and roots of the Certificate Transparency test suite (RFC 6962 trees of 0 to 8 leaves).
CT_LEAVES = [bytes.fromhex(x) for x in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert merkle.root([merkle.leaf_hash(leaf) for leaf in CT_LEAVES[:size]]).hex() == CT_ROOTS[size]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_inclusion_and_consistency_proof_holds_and_is_short(size: int) -> None:
    leaves = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    root = merkle.root(leaves)
    for index in range(size):
        proof = merkle.inclusion_proof(leaves, index)
        assert merkle.includes(leaves[index], index, size, proof, root)
        assert len(proof) <= (size - 1).bit_length()
        for other in {0, size - 1, index + 1} - {index}:
            assert not merkle.includes(leaves[index], other, size, proof, root)
    for older in range(1, size + 1):
        proof = merkle.consistency_proof(leaves, older)
        assert merkle.consistent(merkle.root(leaves[:older]), older, root, size, proof)


@given(st.integers(1, 40), st.data())
def test_a_flipped_bit_never_proves_anything(size: int, data: st.DataObject) -> None:
    leaves = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof = list(merkle.inclusion_proof(leaves, index))
    root = merkle.root(leaves)
    which = data.draw(st.integers(0, len(proof)))
    target = bytearray(proof[which] if which < len(proof) else leaves[index])
    target[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    leaf = leaves[index]
    if which < len(proof):
        proof[which] = bytes(target)
    else:
        leaf = bytes(target)
    assert not merkle.includes(leaf, index, size, proof, root)
    older = data.draw(st.integers(1, size))
    if older < size:
        forged = hashlib.sha256(b"forged").digest()
        assert not merkle.consistent(forged, older, root, size, merkle.consistency_proof(leaves, older))


@given(st.lists(st.binary(max_size=3), max_size=70))
def test_appending_one_by_one_gives_the_root_of_the_whole(leaves: list[bytes]) -> None:
    frontier = merkle.Frontier()
    for count, leaf in enumerate(leaves):
        assert frontier.size == count
        frontier = frontier.append(merkle.leaf_hash(leaf))
    assert frontier.root() == merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    assert len(frontier.peaks) == bin(len(leaves)).count("1")


ME = keys.Identity(keys.Secret(bytes(32)))
RUN = RunId(bytes(16))


def entry(number: int) -> Closed:
    return Closed(RUN, "aborted", str(number))


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    engine = store.open_store(tmp_path / "l.db")
    with store.begin(engine) as conn:
        store.append(conn, ME, MemberId("me"), 1, [entry(1)])
    with pytest.raises(ZeroDivisionError), store.begin(engine) as conn:
        store.append(conn, ME, MemberId("me"), 2, [entry(2)])
        raise ZeroDivisionError
    with store.begin(engine) as conn:
        store.check(conn, ME.public)
        assert store.head(conn).head.size == 1


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE leaves SET leaf = (SELECT leaf FROM leaves WHERE position = 0) WHERE position = 1",
        "UPDATE leaves SET kind = 'Settled' WHERE position = 1",
        "DELETE FROM leaves WHERE position = 2",
        "DELETE FROM leaves",
        "DELETE FROM head",
        "UPDATE leaves SET position = 9 WHERE position = 2",
    ],
)
def test_an_edited_store_is_found_when_it_is_opened(tmp_path: Path, edit: str) -> None:
    engine = store.open_store(tmp_path / "l.db")
    with store.begin(engine) as conn:
        store.append(conn, ME, MemberId("me"), 1, [entry(n) for n in range(3)])
    with store.begin(engine) as conn:
        conn.exec_driver_sql(edit)
    with pytest.raises(Fault), store.begin(engine) as conn:
        store.check(conn, ME.public)


def test_what_is_no_store_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_bytes(b"not a database at all, really not one" * 100)
    with pytest.raises(OperatorFault, match="restore"):
        store.open_store(tmp_path / "l.db")


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    engine = store.open_store(tmp_path / "l.db")
    with store.begin(engine) as conn:
        store.append(conn, ME, MemberId("me"), 1, [entry(1)])
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    with pytest.raises(OperatorFault, match="free some space"), store.begin(engine) as conn:
        conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        store.append(conn, ME, MemberId("me"), 2, [Closed(RUN, "aborted", "x" * 100_000)])
    engine.dispose()
    with store.begin(engine) as conn:
        store.check(conn, ME.public)
        assert store.head(conn).head.size == 1


def writer(path: Path, pipe) -> None:
    engine = store.open_store(path)
    for number in range(10_000):
        with store.begin(engine) as conn:
            store.append(conn, ME, MemberId("me"), number, [entry(number)])
        pipe.send(number)


def test_kill_9_while_writing_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for repeat in range(4):
        path = tmp_path / f"{repeat}.db"
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=writer, args=(path, theirs))
        process.start()
        acknowledged = -1
        while acknowledged < 10 + 7 * repeat:
            acknowledged = ours.recv()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while ours.poll():
            acknowledged = ours.recv()
        engine = store.open_store(path)
        with store.begin(engine) as conn:
            store.check(conn, ME.public)
            told = [leaf.entry.why for leaf in store.entries(conn)]
        assert told == [str(n) for n in range(len(told))]
        assert acknowledged + 1 <= len(told) <= acknowledged + 2
