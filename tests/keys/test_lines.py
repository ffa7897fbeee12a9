"""A party is a line of keys, and has one ledger: whatever it showed under one of them binds it under all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from securefl.errors import Forged
from securefl.home import notices
from securefl.keys import Identity, Secret
from securefl.ledger import heads
from securefl.protocol import key_standing, seen_heads
from securefl.protocol.key_standing import NotTaken
from securefl.terms import Handover, Hash, Head, Refused, Scheme, Settled, SumOpened, Witnessed
from tests.protocol.test_protocol_sight import charter, heads_of, session
from tests.support.rotating import COORDINATOR, HOUR, ROTATIONS, Living, Rotating
from tests.support.worlds import signed_head

SET_BACK = "protocol.ledger-set-back"


@pytest.fixture
def federation(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path / "homes").made()


def rules(federation: Rotating, name: str) -> set[str]:
    return {r.rule for each in federation.entries(name) if isinstance(each, Refused) for r in each.reasons}


def charges(federation: Rotating, name: str) -> int:
    return sum(isinstance(each, Settled) for each in federation.entries(name))


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("way", ROTATIONS)
def test_a_member_that_was_put_back_is_refused_under_its_next_key_too(
    federation: Rotating, way: str, forgets: bool
) -> None:
    """By its coordinator, which goes on without it; or by each member, if the coordinator holds nobody to anything."""
    federation = replace(federation, priced=True, forgets=forgets)
    living = Living(federation)
    assert living.play(1, 1)[0].outcome == "finished"
    federation.copied("a")
    assert living.play(2, 1)[0].outcome == "finished"
    federation.put_back("a")
    assert charges(federation, "a") == 1, "it has forgotten what it spent"
    ROTATIONS[way](federation, "a")
    end, _ = Living(federation).play(3, 1)
    assert charges(federation, "a") == 1, "and trains no more"
    assert end.outcome == ("aborted" if forgets else "finished")
    assert not any(
        "a" in each.survivors for each in federation.entries(COORDINATOR)[-9:] if isinstance(each, SumOpened)
    )
    assert all(SET_BACK in rules(federation, name) for name in (("b", "c") if forgets else (COORDINATOR,)))


@pytest.mark.parametrize(("party", "scheme"), [(COORDINATOR, Scheme.MASKING), ("custodian", Scheme.CKKS)])
def test_a_coordinator_or_custodian_that_was_put_back_is_refused_under_its_next_key_too(
    tmp_path: Path, party: str, scheme: Scheme
) -> None:
    federation = Rotating(tmp_path / "homes", scheme, forgets=True).made()
    living = Living(federation)
    federation.copied(party)
    assert living.play(1, 1)[0].outcome == "finished"
    federation.put_back(party)
    ROTATIONS["rotated"](federation, party)
    assert Living(federation).play(2, 1)[0].outcome == "aborted"
    assert all(SET_BACK in rules(federation, name) for name in federation.names)


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_coordinator_picks_no_key_under_which_less_was_seen(federation: Rotating, first: str) -> None:
    """Both keys count, and a set-back ledger has shown its longest heads under the other one."""
    federation = replace(federation, forgets=True)
    seats = {"old": federation.seat("a")}
    ROTATIONS["rotated"](federation, "a")
    seats["new"] = federation.seat("a")
    federation.copied("a")
    assert Living(federation.inviting(seats.pop(first))).play(1, 2)[0].outcome == "finished"
    federation.put_back("a")
    (other,) = seats.values()
    assert Living(federation.inviting(other)).play(2, 1)[0].outcome == "aborted"
    assert all(SET_BACK in rules(federation, name) for name in ("b", "c"))


def test_a_hand_over_that_comes_late_binds_to_what_was_seen_since_and_stops_nobody(federation: Rotating) -> None:
    """Its head is shorter than what was seen under the old key meanwhile: that is no sign of anything."""
    living, was = Living(federation), federation.seat("a")
    assert living.play(1)[0].outcome == "finished"
    said = federation.rotated("a")
    assert Living(federation.inviting(was)).play(2, 2)[0].outcome == "finished"
    grown = {e.head.head.size for e in federation.entries("b") if isinstance(e, Witnessed) and e.head.head.owner == "a"}
    assert isinstance(said.notice, Handover)
    assert said.notice.head is not None
    assert max(grown) > said.notice.head.head.size
    federation.taken(said)
    end, runtime = living.play(3, 1)
    assert (end.outcome, runtime.silences) == ("finished", [])


def test_a_hand_over_of_another_ledger_than_was_shown_is_not_taken_in(federation: Rotating) -> None:
    assert Living(federation).play(1, 1)[0].outcome == "finished"
    size = max(
        e.head.head.size for e in federation.entries("b") if isinstance(e, Witnessed) and e.head.head.owner == "a"
    )
    home, new = federation.home("a"), Identity(Secret(bytes([7]) * 32))
    home.engine.dispose()
    old, now, member = home.identity, federation.time[0], federation.seat("a").member
    head = heads.sign(new, Head(member, size, Hash(bytes(32))))
    said = Handover(federation.name, member, old.public, now, new.public, now + HOUR, head)
    other = federation.home("b")
    with pytest.raises(NotTaken, match="not the one it has shown") as refused:
        notices.take(other, federation.name, key_standing.sign(old, said, new))
    assert refused.value.rule == "keys.another-ledger"
    other.engine.dispose()


def test_a_head_that_was_seen_under_this_key_is_too_short_where_a_longer_one_was_seen_under_another() -> None:
    known = replace(
        seen_heads.relayed(charter(), session(), heads_of(b=5), lambda _: True)[0], former={"b": signed_head("b", 9)}
    )
    for size in (5, 6, 8):
        with pytest.raises(Forged) as caught:
            seen_heads.relayed(known, session(), heads_of(b=size), lambda _: True)
        assert caught.value.rule == SET_BACK
        assert seen_heads.relayed(known, session(), heads_of(b=size), lambda _: True, stale=True)[1] == (), (
            "said by others: no news"
        )
    assert len(seen_heads.relayed(known, session(), heads_of(b=10), lambda _: True)[1]) == 1


def test_an_empty_ledger_is_too_short_where_one_was_seen_under_another_key() -> None:
    from tests.protocol.test_protocol_sight import MemberId, MicroEpsilon, Receipt, RunId

    receipt = Receipt(
        MemberId("b"), MemberId("coordinator"), RunId(bytes(16)), 0, "Accept", None, MicroEpsilon(0), Hash(bytes(32)), 0
    )
    with pytest.raises(Forged) as caught:
        seen_heads.bound(replace(charter(), former={"b": signed_head("b", 9)}), receipt)
    assert caught.value.rule == SET_BACK
