"""What a home keeps in memory of the ledgers it saw does not grow with what it saw, and answers the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import keys, merkle, wire
from securefl.home import ledger_view
from securefl.home.ledger_view import LedgerView
from securefl.ledger.verified import ROOTS, Verified
from securefl.merkle import Frontier
from securefl.terms import Hash, Head, Leaf, MemberId, Participant, RunId, RunJoined, SignedHead, Witnessed
from tests.support.worlds import identity

NAME, KEYS = MemberId("south"), tuple(identity(f"south {number}") for number in range(3))


def head_under(key: keys.Identity, size: int) -> SignedHead:
    head = Head(NAME, size, Hash(size.to_bytes(32, "big")))
    return SignedHead(head, key.sign("head", wire.encode(head)))


def leaf(at: int, entry: object) -> tuple[Leaf, Frontier]:
    return Leaf(at, entry), Frontier()


def folded(entries: list[object], steps: int) -> LedgerView:
    view = LedgerView()
    for start in range(0, len(entries), steps):
        view = view.with_all(leaf(start, each) for each in entries[start : start + steps])
    return view


def joined(*known: keys.Identity) -> list[RunJoined]:
    return [
        RunJoined(RunId(bytes(15) + bytes([place])), "f", "member", b"", "d", (Participant(NAME, key.public, ""),))
        for place, key in enumerate(known)
    ]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=70, max_size=150),
    st.integers(0, 3), st.sampled_from([1, 7, 200]),
)  # fmt: skip
def test_the_largest_head_is_found_under_each_key_however_many_were_seen(seen, runs: int, steps: int) -> None:
    entries = [*joined(*KEYS[:runs]), *(Witnessed(head_under(KEYS[key], size)) for key, size in seen)]
    view = folded(entries, steps)
    for place, key in enumerate(KEYS):
        sizes = [size for under, size in seen if under == place]
        found = view.witnessed((Participant(NAME, key.public, ""),)).shown
        assert [head.head.size for head in found.values()] == ([max(sizes)] if sizes else [])
        assert not sizes or found[NAME] == head_under(key, max(sizes))


def test_heads_that_are_kept_are_no_more_for_many_than_for_few() -> None:
    entries = [*joined(KEYS[0]), *(Witnessed(head_under(KEYS[0], size)) for size in range(1, 1000))]
    view = folded(entries, 50)
    assert sum(map(len, view._seen.values())) < ledger_view.SEEN
    assert view.witnessed((Participant(NAME, KEYS[0].public, ""),)).shown[NAME].head.size == 999


def test_the_ledger_as_it_was_is_known_however_few_of_its_roots_are_kept() -> None:
    verified, hashes = Verified(KEYS[0].public, "here"), [merkle.leaf_hash(bytes([n % 256])) for n in range(ROOTS + 9)]
    for each in hashes:
        verified._hashes += each
        verified.tree = verified.tree.append(each)
        verified._keep_root()
    assert len(verified._roots) == ROOTS
    for size in (1, 5, ROOTS, ROOTS + 9):
        assert verified.holds(Head(NAME, size, merkle.root(hashes[:size])))
        assert not verified.holds(Head(NAME, size, Hash(bytes(32))))
    assert len(verified._roots) <= ROOTS + 2, "a question is answered, and leaves little behind"
