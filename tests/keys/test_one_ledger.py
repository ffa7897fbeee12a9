"""Whether a key counts is a federation's affair; which ledger it signs for is the same in all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.home import notices
from securefl.home.rotation import rotate
from securefl.keys import Identity
from securefl.ledger import heads
from securefl.protocol import key_line, key_standing
from securefl.protocol.key_standing import NotTaken, Standings
from securefl.terms import Handover, Hash, Head, MemberId, PublicKey, Refused, SignedHead, SignedNotice, SumOpened
from securefl.terms.names import FederationName
from tests.support.parties import NOW
from tests.support.rotating import COORDINATOR, HOUR, Living, Rotating
from tests.support.worlds import identity

SET_BACK = "protocol.ledger-set-back"
PARTY = MemberId("a")


def handed(old: Identity, new: Identity, federation: str = "f", head: Head | None = None) -> SignedNotice:
    signed = None if head is None else heads.sign(new, head)
    said = Handover(FederationName(federation), PARTY, old.public, NOW, new.public, NOW + HOUR, signed)
    return key_standing.sign(old, said, new)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_keys_are_of_one_ledger_when_steps_join_them_whatever_their_direction_and_order(steps) -> None:
    key = [PublicKey(bytes([n]) * 32) for n in range(10)]
    made = [Handover(FederationName("fg"[n % 2]), PARTY, key[a], 0, key[b], 0, None) for n, (a, b) in enumerate(steps)]
    named = [{n} for n in range(10)]  # merged by each step: the same, another way
    for a, b in steps:
        one = named[a] | named[b]
        for n in one:
            named[n] = one
    found = key_line.of_one_ledger(made)
    assert found == key_line.of_one_ledger(reversed(made))
    for n in range(10):
        assert found.get(key[n], {key[n]}) == {key[each] for each in named[n]}


@pytest.mark.parametrize(
    ("victim", "centre", "heard_in"),
    [("a", COORDINATOR, "f"), ("a", "other", "f"), ("a", "other", "g"), (COORDINATOR, COORDINATOR, "g")],
)
def test_a_ledger_that_was_put_back_is_refused_in_a_federation_that_heard_of_none_of_its_keys(
    centre: str, victim: str, heard_in: str, tmp_path: Path
) -> None:
    """Its later ledger was seen under its next key in the one federation; in the other, its former key still counts."""
    first = Rotating(tmp_path / "homes", priced=True, forgets=True).made()
    other = Rotating(tmp_path / "homes", priced=True, forgets=True, name="g", centre=centre, time=first.time).made()
    if heard_in == "g":
        first, other = other, first
    first.copied(victim)
    home = first.home(victim)
    said = {each.notice.federation: each for each in rotate(home, HOUR)}
    home.engine.dispose()
    first.taken(said[FederationName(first.name)])
    assert Living(first).play(1, 2)[0].outcome == "finished"
    first.put_back(victim)
    assert Living(other).play(2, 2)[0].outcome == "aborted"
    for name in {"a", "b", "c"} - {victim}:
        assert SET_BACK in {r.rule for e in first.entries(name) if isinstance(e, Refused) for r in e.reasons}
    sums = [e for e in other.entries(COORDINATOR) if isinstance(e, SumOpened) and e.run == other.in_run(2).run]
    assert sums == []


def test_who_rotates_in_one_federation_and_is_heard_late_in_the_other_goes_on_in_both(tmp_path: Path) -> None:
    """No honest party is refused: its ledger grew, under whichever key."""
    f = Rotating(tmp_path / "homes", priced=True).made()
    g = Rotating(tmp_path / "homes", priced=True, name="g", centre="other", time=f.time).made()
    was = f.seat("a")
    assert Living(f).play(1)[0].outcome == "finished"
    home = f.home("a")
    said = {each.notice.federation: each for each in rotate(home, HOUR)}
    home.engine.dispose()
    f.taken(said[FederationName("f")])
    assert Living(g.inviting(was)).play(2)[0].outcome == "finished"
    assert Living(f).play(3)[0].outcome == "finished"
    assert Living(g.inviting(was)).play(4)[0].outcome == "finished"
    g.taken(said[FederationName("g")], by=(COORDINATOR, "b", "c"))
    assert Living(g).play(5)[0].outcome == "finished"


def test_a_hand_over_that_contradicts_a_head_that_was_seen_is_not_taken_in_however_many_came_since(
    tmp_path: Path,
) -> None:
    f = Rotating(tmp_path / "homes").made()
    assert Living(f).play(1)[0].outcome == "finished"
    a, b = f.home("a"), f.home("b")
    size = max(each.head.size for each in notices_heads(b))
    old, new = a.identity, identity("next of a")
    from securefl.terms import Witnessed

    later = tuple(Witnessed(heads.sign(old, Head(PARTY, size + n, Hash(bytes(32))))) for n in range(1, 200))
    with b.transaction() as conn:
        b.record(conn, later)
    with pytest.raises(NotTaken) as refused:
        notices.take(b, "f", handed(old, new, head=Head(PARTY, size, Hash(bytes(32)))))
    assert refused.value.rule == "keys.another-ledger"
    a.engine.dispose()
    b.engine.dispose()


def notices_heads(home) -> list[SignedHead]:
    with home.transaction() as conn:
        return [each for each in notices._heads_seen(home, conn) if each.head.owner == PARTY]


@pytest.mark.parametrize("size", [None, 3, 4])
def test_the_next_hand_over_of_a_line_tells_of_more_than_the_one_before(size: int | None, tmp_path: Path) -> None:
    """In whatever federation that was heard: a ledger that was handed over has an entry that says so."""
    f = Rotating(tmp_path / "homes").made()
    Rotating(tmp_path / "homes", name="g", centre="other").made()
    b = f.home("b")
    first, second, third = f.home("a").identity, identity("second"), identity("third")
    head = Head(PARTY, 4, Hash(bytes([1]) * 32))
    assert notices.take(b, "g", handed(first, second, "g", head))
    assert notices.take(b, "f", handed(first, second, "f", head))
    less = None if size is None else Head(PARTY, size, Hash(bytes([1]) * 32))
    with pytest.raises(NotTaken) as refused:
        notices.take(b, "f", handed(second, third, "f", less))
    assert refused.value.rule == "keys.another-ledger"
    assert notices.take(b, "f", handed(second, third, "f", replace(head, size=5)))
    assert not notices.take(b, "g", handed(first, second, "g", head)), "said again, it is no news and no fault"
    b.engine.dispose()


def test_a_namesake_of_another_federation_uses_up_nobodys_hand_overs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do a home's own, which are said once in each federation that it is in."""
    monkeypatch.setattr(key_standing, "MOST_HANDOVERS", 3)
    line = [identity(f"{n}") for n in range(5)]
    known, steps = Standings(), list(zip(line, line[1:], strict=False))
    for number, (old, new) in enumerate(steps):
        for federation in ("f", "g", "h"):
            signed = handed(old, new, federation, Head(PARTY, number + 1, Hash(bytes(32))))
            if number == 3:
                with pytest.raises(NotTaken) as refused:
                    known.admit(signed, federation, {PARTY: line[0].public}, NOW)
                assert refused.value.rule == "keys.too-many"
            else:
                assert known.admit(signed, federation, {PARTY: line[0].public}, NOW)
                known = known.after(signed.notice)
    mine = [identity("mine"), identity("mine next")]
    assert known.admit(handed(*mine, "i"), "i", {PARTY: mine[0].public}, NOW)
