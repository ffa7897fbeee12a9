"""A Merkle tree over a list that only grows: RFC 6962, section 2.1.

The prefixes 0x00 and 0x01 keep a leaf from passing as an inner node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from securefl.terms import Hash


def leaf_hash(entry: bytes) -> Hash:
    """SHA-256(0x00 || entry)."""
    return Hash(hashlib.sha256(b"\x00" + entry).digest())


def node_hash(left: Hash, right: Hash) -> Hash:
    """SHA-256(0x01 || left || right)."""
    return Hash(hashlib.sha256(b"\x01" + left + right).digest())


def root(leaves: Sequence[Hash]) -> Hash:
    """The hash of the whole tree; of no leaves it is SHA-256 of nothing."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The roots of the full subtrees that make up a tree, largest first: enough to append and to name the root."""

    size: int = 0
    peaks: tuple[Hash, ...] = ()

    def append(self, leaf: Hash) -> Frontier:
        """The tree with one more leaf; at most log2(size) hashes."""
        peaks, size = [*self.peaks, leaf], self.size
        while size & 1:
            right, left = peaks.pop(), peaks.pop()
            peaks.append(node_hash(left, right))
            size >>= 1
        return Frontier(self.size + 1, tuple(peaks))

    def root(self) -> Hash:
        """The tree's root."""
        if not self.peaks:
            return Hash(hashlib.sha256(b"").digest())
        value = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            value = node_hash(peak, value)
        return value


def inclusion_proof(leaves: Sequence[Hash], index: int) -> tuple[Hash, ...]:
    """Return what is needed to compute the root from leaf ``index``: at most ceil(log2(n)) hashes (RFC 6962, 2.1.1)."""
    if len(leaves) <= 1:
        return ()
    split = _split(len(leaves))
    if index < split:
        return (*inclusion_proof(leaves[:split], index), root(leaves[split:]))
    return (*inclusion_proof(leaves[split:], index - split), root(leaves[:split]))


def inclusion_proofs(leaves: Sequence[Hash]) -> list[tuple[Hash, ...]]:
    """`inclusion_proof` of every leaf, for the work of one tree."""

    def of(part: Sequence[Hash]) -> tuple[Hash, list[tuple[Hash, ...]]]:
        if len(part) <= 1:
            return root(part), [()] * len(part)
        split = _split(len(part))
        (left, before), (right, after) = of(part[:split]), of(part[split:])
        return node_hash(left, right), [*((*path, right) for path in before), *((*path, left) for path in after)]

    return of(leaves)[1]


def includes(leaf: Hash, index: int, size: int, proof: Sequence[Hash], expected: Hash) -> bool:
    """Return whether the proof shows that ``leaf`` stands at ``index`` of the tree of ``size`` with this root."""
    if not 0 <= index < size:
        return False
    value, last, left = leaf, size - 1, list(proof)
    while last:
        if index & 1 or index < last:
            if not left:
                return False
            sibling = left.pop(0)
            value = node_hash(sibling, value) if index & 1 else node_hash(value, sibling)
        index, last = index >> 1, last >> 1
    return not left and value == expected


def consistency_proof(leaves: Sequence[Hash], size: int) -> tuple[Hash, ...]:
    """Return what shows that the first ``size`` leaves are a prefix of all (RFC 6962, 2.1.2)."""
    return _subproof(leaves, size, whole=True)


def _subproof(leaves: Sequence[Hash], size: int, *, whole: bool) -> tuple[Hash, ...]:
    if size == len(leaves):
        return () if whole else (root(leaves),)
    split = _split(len(leaves))
    if size <= split:
        return (*_subproof(leaves[:split], size, whole=whole), root(leaves[split:]))
    return (*_subproof(leaves[split:], size - split, whole=False), root(leaves[:split]))


def consistent(old: Hash, old_size: int, new: Hash, new_size: int, proof: Sequence[Hash]) -> bool:  # noqa: C901
    """Return whether the proof shows that the old tree is a prefix of the new one (RFC 9162, 2.1.4.2)."""
    if old_size > new_size or old_size < 0:
        return False
    if old_size == new_size:
        return not proof and old == new
    if old_size == 0:
        return not proof and old == root(())
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old)
    if not hashes:
        return False
    first, last = old_size - 1, new_size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    before = after = hashes.pop(0)
    for sibling in hashes:
        if not last:
            return False
        if first & 1 or first == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and before == old and after == new


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
