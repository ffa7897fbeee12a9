"""The Merkle tree: RFC 6962's own numbers, then every proof of every small tree, then every way to get one wrong."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import merkle, wire

# The test vectors of certificate-transparency's merkle_tree_test: eight leaves, and the root of each prefix.
LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
HASHES = [merkle.leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES]
TREE = [merkle.leaf_hash(bytes([n])) for n in range(64)]


def root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root_by_definition(leaves[:split]) + root_by_definition(leaves[split:])).digest()


@pytest.mark.parametrize(("size", "expected"), ROOTS.items())
def test_roots_are_those_of_the_published_vectors(size: int, expected: str) -> None:
    assert merkle.root(HASHES[:size]).hex() == expected


@pytest.mark.parametrize("size", range(65))
def test_a_frontier_names_the_root_the_definition_names(size: int) -> None:
    frontier = merkle.Frontier()
    for leaf in TREE[:size]:
        frontier = frontier.append(leaf)
    assert (frontier.size, frontier.root()) == (size, root_by_definition(TREE[:size]))
    assert len(frontier.peaks) == size.bit_count()
    assert wire.decode(wire.encode(frontier), merkle.Frontier) == frontier


def test_a_leaf_never_passes_as_an_inner_node() -> None:
    assert merkle.leaf_hash(TREE[0] + TREE[1]) != merkle.node_hash(TREE[0], TREE[1])


def test_every_leaf_of_every_small_tree_is_shown_and_nothing_else_is() -> None:
    for size in range(1, 65):
        root = merkle.root(TREE[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(TREE[:size], index)
            assert merkle.includes(TREE[index], index, size, proof, root)
            assert not merkle.includes(TREE[(index + 1) % 64], index, size, proof, root)
            assert not merkle.includes(TREE[index], index, size, (*proof, root), root)
            assert not proof or not merkle.includes(TREE[index], index, size, proof[:-1], root)


def test_every_small_tree_is_consistent_with_each_of_its_prefixes_and_with_no_other() -> None:
    roots = [merkle.root(TREE[:size]) for size in range(65)]
    for new in range(1, 65):
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(TREE[:new], old)
            assert merkle.consistent(roots[old], old, roots[new], new, proof)
            assert not merkle.consistent(roots[old - 1], old, roots[new], new, proof)
            assert not merkle.consistent(roots[old], old, roots[new - 1], new, proof)
            assert not merkle.consistent(roots[old], old, roots[new], new, (*proof, roots[0]))
            assert not proof or not merkle.consistent(roots[old], old, roots[new], new, proof[:-1])


def test_a_tree_is_never_consistent_with_a_larger_one_in_its_past() -> None:
    assert not merkle.consistent(merkle.root(TREE[:3]), 3, merkle.root(TREE[:2]), 2, ())
    assert not merkle.consistent(merkle.root(TREE[:3]), -1, merkle.root(TREE[:3]), 3, ())
    assert merkle.consistent(merkle.root(()), 0, merkle.root(TREE[:3]), 3, ())


@given(st.integers(2, 64), st.data())
def test_one_flipped_bit_and_no_proof_holds(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(TREE[:size], index)
    place, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    bad = tuple(_flip(value, bit) if n == place else value for n, value in enumerate(proof))
    assert not merkle.includes(TREE[index], index, size, bad, merkle.root(TREE[:size]))
    old = data.draw(st.integers(1, size - 1))
    proof = merkle.consistency_proof(TREE[:size], old)
    place = data.draw(st.integers(0, len(proof) - 1))
    bad = tuple(_flip(value, bit) if n == place else value for n, value in enumerate(proof))
    assert not merkle.consistent(merkle.root(TREE[:old]), old, merkle.root(TREE[:size]), size, bad)


def _flip(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(32, "big")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 33])
def test_all_paths_at_once_are_the_paths_one_by_one(size: int) -> None:
    assert merkle.inclusion_proofs(TREE[:size]) == [merkle.inclusion_proof(TREE[:size], i) for i in range(size)]
