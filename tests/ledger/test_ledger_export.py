"""The exported file: every byte of it counts, and damage is named by entry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from securefl import merkle, wire
from securefl.errors import OperatorFault, Tampered
from securefl.ledger import export, heads
from securefl.terms import Hash, Head, Leaf, MemberId
from tests.ledger.test_ledger_store import IDENTITY, OWNER, entry

LEAVES = tuple(wire.encode(Leaf(1_000, entry(number))) for number in range(3))


def a_file(leaves: tuple[bytes, ...] = LEAVES) -> export.LedgerFile:
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    return export.LedgerFile(OWNER, IDENTITY.public, leaves, heads.sign(IDENTITY, Head(OWNER, len(leaves), root)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "out" / "north.ledger"
    export.write(place, a_file())
    return place


def test_what_is_read_is_what_was_written_and_nothing_else_is_left_behind(path: Path) -> None:
    assert export.read(path) == a_file()
    assert [leaf.entry.round for leaf in export.leaves_of(a_file(), "x")] == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]
    export.write(path, a_file(LEAVES[:1]))
    assert export.read(path) == a_file(LEAVES[:1])


def test_every_single_byte_counts(path: Path) -> None:
    """Changed anywhere, the file is not read, or does not read as what was written: the head then does not cover it."""
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        try:
            assert export.read(path) != a_file()
        except Tampered as fault:
            assert fault.where == "north.ledger"


def test_damage_within_an_entry_is_named_by_its_place(path: Path) -> None:
    data = path.read_bytes()
    for index, leaf in enumerate(LEAVES):
        start = data.index(leaf)
        for offset in (0, len(leaf) // 2, len(leaf) - 1):
            changed = bytearray(data)
            changed[start + offset] ^= 0x10
            path.write_bytes(changed)
            with pytest.raises(Tampered, match="not the entry that was written here") as caught:
                export.read(path)
            assert caught.value.entry == index


def test_an_entry_taken_out_put_in_or_moved_is_named_by_its_place(path: Path) -> None:
    hashes = tuple(merkle.leaf_hash(leaf) for leaf in LEAVES)
    for leaves, place in (
        ((LEAVES[0], LEAVES[2]), 1),
        ((LEAVES[0], LEAVES[0], LEAVES[1], LEAVES[2]), 1),
        ((LEAVES[0], LEAVES[2], LEAVES[1]), 1),
        (LEAVES[:2], 2),
        ((*LEAVES, LEAVES[0]), 3),
    ):
        path.write_bytes(wire.encode(export.Written(replace(a_file(), leaves=leaves), hashes)))
        with pytest.raises(Tampered) as caught:
            export.read(path)
        assert caught.value.entry == place


def test_a_leaf_that_is_none_is_named_by_its_place() -> None:
    with pytest.raises(Tampered, match="not a Leaf") as caught:
        export.leaves_of(replace(a_file(), leaves=(LEAVES[0], b"\x00")), "x")
    assert caught.value.entry == 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"no ledger", b"\x9f" * 10_000])
def test_what_is_no_ledger_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(Tampered, match="not a Written"):
        export.read(path)


def test_a_second_encoding_of_the_same_ledger_is_refused(path: Path) -> None:
    data = path.read_bytes()
    assert data[0] == 0x83, "an array of three, in its shortest form"
    path.write_bytes(b"\x98\x03" + data[1:])
    with pytest.raises(Tampered, match="only the canonical one"):
        export.read(path)


def test_a_ledger_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Tampered, match="absent.ledger: cannot be read"):
        export.read(tmp_path / "absent.ledger")
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorFault, match="cannot write the ledger"):
        export.write(tmp_path / "file" / "north.ledger", a_file())


def test_copies_are_taken_again_until_nothing_moves_between_two() -> None:
    growing = iter([1, 2, 3, 3, 99])
    assert export.steady(lambda: (a_file(LEAVES[: next(growing)]),)) == (a_file(LEAVES),)
    assert next(growing) == 99, "no more often than needed"
    endless = iter(range(1_000))
    moving = a_file()
    with pytest.raises(OperatorFault, match="moved during 5 attempts"):
        export.steady(lambda: (replace(moving, owner=MemberId(str(next(endless)))),), tries=5)


def test_an_empty_ledger_has_the_root_of_nothing(tmp_path: Path) -> None:
    export.write(tmp_path / "north.ledger", a_file(()))
    assert export.read(tmp_path / "north.ledger").head.head.root == Hash(merkle.root(()))
