"""A key that was revoked: no sum has what it signed, whoever hears of it first; and its owner says which key it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from securefl.errors import OperatorFault
from securefl.home import notices
from securefl.keys import fingerprint
from securefl.protocol.key_standing import REVOKED
from securefl.terms import MemberId, MessageSent, PublicKey, Refused, Scheme, SumOpened
from tests.support.rotating import COORDINATOR, HOUR, Living, Rotating


def rules(federation: Rotating, name: str) -> set[str]:
    return {r.rule for each in federation.entries(name) if isinstance(each, Refused) for r in each.reasons}


def opened(federation: Rotating) -> list[tuple[str, ...]]:
    return [each.survivors for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)]


def revoked(federation: Rotating, name: str, by: tuple[str, ...]) -> None:
    federation.taken(federation.say(name, lambda home: notices.revoke(home, "f")), by=by)


@pytest.mark.parametrize("hear", [("b", "c"), (COORDINATOR,), ("b", "c", COORDINATOR)])
@pytest.mark.parametrize("also_left", [False, True])
def test_no_sum_has_an_input_under_a_key_that_was_revoked_since(
    tmp_path: Path, hear: tuple[str, ...], also_left: bool
) -> None:
    """The inputs came before, and the question after: by the members that are asked, or by who would open the sum."""
    federation = Rotating(tmp_path / "homes").made()

    def revoke(kind: str, times: int) -> None:
        if (kind, times) == ("Ask", 0):
            if also_left:
                federation.taken(federation.say("a", lambda home: notices.leave(home, "f")), by=hear)
            revoked(federation, "a", hear)

    end, _ = Living(federation).play(1, 1, revoke)
    assert (end.outcome, opened(federation)) == ("aborted", [])
    assert all(REVOKED in rules(federation, name) for name in hear if name != COORDINATOR)


@pytest.mark.parametrize("leaves", [False, True])
def test_who_left_or_handed_over_since_is_in_the_sum_that_it_sealed_an_input_for(tmp_path: Path, leaves: bool) -> None:
    federation = Rotating(tmp_path / "homes").made()

    def go(kind: str, times: int) -> None:
        if (kind, times) == ("Ask", 0):
            if leaves:
                federation.taken(federation.say("a", lambda home: notices.leave(home, "f")))
            else:
                federation.taken(federation.rotated("a", 10))
            federation.time[0] += 11

    Living(federation).play(1, 1, go)
    assert opened(federation) == [("a", "b", "c")]


class Amid:
    """A trainer during whose training something is said."""

    def __init__(self, inner, said) -> None:
        self.inner, self.said = inner, said

    def admit(self, plan, base) -> None:
        self.inner.admit(plan, base)

    def train(self, plan, base, own):
        self.said()
        return self.inner.train(plan, base, own)


def test_nothing_is_sealed_to_a_custodian_whose_key_was_revoked_while_it_was_trained(tmp_path: Path) -> None:
    federation = Rotating(tmp_path / "homes", Scheme.CKKS).made()
    living, said = Living(federation), []

    def once() -> None:
        if not said:
            said.append(federation.say("custodian", lambda home: notices.revoke(home, "f")))
            federation.taken(said[0], by=federation.names)

    for name in federation.names:
        agent = living.agents[MemberId(name)]
        object.__setattr__(agent, "trainer", Amid(agent.trainer, once))
    living.play(1)
    assert said
    for name in federation.names:
        sent = [e.receipt.kind for e in federation.entries(name) if isinstance(e, MessageSent)]
        assert "Submitted" not in sent


@pytest.fixture
def federation(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path / "homes").made()


def counting(federation: Rotating, keys: dict[str, PublicKey]) -> set[str]:
    """Which of a's keys count at b."""
    home = federation.home("b")
    seats = {which: replace(federation.seat("a"), key=key) for which, key in keys.items()}
    found = {w for w, seat in seats.items() if home.live.now.standings.counts("f", seat, federation.time[0])}
    home.engine.dispose()
    return found


@pytest.mark.parametrize("meant", ["old", "new"])
def test_while_two_keys_count_none_is_guessed_and_the_one_that_is_named_is_revoked(
    federation: Rotating, meant: str
) -> None:
    keys = {"old": federation.seat("a").key}
    federation.taken(federation.rotated("a"))
    keys["new"] = federation.seat("a").key
    with pytest.raises(OperatorFault, match="a has 2 keys that count in f") as refused:
        federation.say("a", lambda home: notices.revoke(home, "f"))
    assert all(fingerprint(key) in str(refused.value) for key in keys.values())
    federation.taken(federation.say("a", lambda home: notices.revoke(home, "f", fingerprint(keys[meant]))))
    assert counting(federation, keys) == ({"new"} if meant == "old" else set()), "a newer one ends those before it"
    if meant == "old":
        end, runtime = Living(federation).play(1)
        assert (end.outcome, runtime.silences) == ("finished", [])


def test_once_the_overlap_is_over_the_one_key_that_counts_is_meant(federation: Rotating) -> None:
    federation.taken(federation.rotated("a", 10))
    federation.time[0] += 11
    new = federation.seat("a").key
    assert federation.say("a", lambda home: notices.revoke(home, "f")).notice.key == new


def test_a_key_of_two_rotations_ago_is_revoked_and_another_partys_is_not(federation: Rotating) -> None:
    first = federation.seat("a").key
    for _ in range(2):
        federation.taken(federation.rotated("a", HOUR))
    said = federation.say("a", lambda home: notices.revoke(home, "f", first.hex()))
    assert said.notice.key == first
    federation.taken(said)
    with pytest.raises(OperatorFault, match="no such keys"):
        federation.say("a", lambda home: notices.revoke(home, "f", federation.seat("b").key.hex()))
