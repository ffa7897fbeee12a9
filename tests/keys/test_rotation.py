"""Keys that are exchanged, revoked and left behind while runs go on: no round fails, and nobody else says it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from securefl import merkle
from securefl.audit import verify as audit
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.errors import Forged, OperatorFault, Tampered
from securefl.home import notices, ring
from securefl.home.home import Home
from securefl.home.peers import known, pin
from securefl.home.rotation import rotate
from securefl.keys import Identity, Secret
from securefl.ledger import export, heads
from securefl.protocol import key_standing
from securefl.protocol.key_standing import NotTaken
from securefl.terms import (
    Departure,
    Handover,
    Head,
    MemberId,
    Noticed,
    Participant,
    Patience,
    Refused,
    Revocation,
    Scheme,
    SumOpened,
)
from tests.support.parties import CUSTODIAN, InOrder, by_couriers
from tests.support.rotating import COORDINATOR, HOUR, Living, Rotating, Telling, folder_of


@pytest.fixture
def federation(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path).made()


def opened(federation: Rotating) -> list[tuple[str, ...]]:
    return [each.survivors for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)]


def rules(federation: Rotating, name: str) -> set[str]:
    return {r.rule for each in federation.entries(name) if isinstance(each, Refused) for r in each.reasons}


def test_keys_are_exchanged_in_the_midst_of_runs_and_no_round_fails(federation: Rotating, tmp_path: Path) -> None:
    """A member's and the coordinator's, heard of at once, later or only when the next run begins; ledgers verify."""
    federation = replace(federation, priced=True)
    pins = {str(federation.seat(name).member): federation.seat(name).key.hex() for name in federation.everybody()}
    living = Living(federation)

    def exchange(kind: str, times: int) -> None:
        if (kind, times) == ("Propose", 0):
            federation.taken(federation.rotated("a"))
        if (kind, times) == ("Ask", 0):
            federation.taken(federation.rotated(COORDINATOR))
        if (kind, times) == ("Propose", 1):
            late.append(federation.rotated("b"))
            federation.taken(late[0], by=("a", "c"))

    late: list = []
    end, runtime = living.play(1, 2, exchange)
    assert (end.outcome, runtime.silences) == ("finished", [])
    federation.taken(late[0])
    end, runtime = living.play(2, 1)
    assert (end.outcome, runtime.silences) == ("finished", [])
    assert opened(federation) == [("a", "b", "c")] * 3
    found = verify(folder_of(federation, tmp_path / "copies"), pins)
    assert found.ok, found.why
    assert found.pinned, "the old pins accept the successors, by the hand-overs in the ledgers"
    newest = {name: federation.seat(name).key.hex() for name in pins}
    assert [name for name in pins if newest[name] != pins[name]] == [COORDINATOR, "a", "b"]
    assert verify(tmp_path / "copies", newest).ok
    stranger = Identity(Secret(os.urandom(32))).public.hex()
    assert not verify(tmp_path / "copies", pins | {"a": stranger}).ok


def test_a_coordinator_that_has_not_heard_yet_is_answered_under_the_key_that_it_knows(federation: Rotating) -> None:
    living = Living(federation)
    was = federation.seat("a")
    federation.rotated("a")
    asked = replace(federation)
    object.__setattr__(asked, "seat", lambda name: was if name == "a" else federation.seat(name))
    end, runtime = Living.play(_with(living, asked), 1)
    assert (end.outcome, runtime.silences) == ("finished", [])
    assert opened(federation) == [("a", "b", "c")]


@pytest.mark.parametrize("scheme", [Scheme.CKKS, Scheme.MASKED_CKKS])
@pytest.mark.parametrize("heard", [False, True])
def test_a_custodian_that_was_started_again_answers_under_the_key_that_it_is_invited_by(
    tmp_path: Path, scheme: Scheme, heard: bool
) -> None:
    federation = Rotating(tmp_path, scheme=scheme).made()
    was = federation.seat(CUSTODIAN)
    notice = federation.rotated(CUSTODIAN)
    if heard:
        federation.taken(notice)
    end, runtime = Living(federation.inviting(was)).play(1)
    assert (end.outcome, runtime.silences) == ("finished", []), end.why


def _with(living: Living, federation: Rotating) -> Living:
    living.federation = federation
    object.__setattr__(federation, "in_run", lambda number: federation)
    return living


def test_once_the_overlap_is_over_the_old_key_is_refused_by_name(federation: Rotating) -> None:
    living = Living(federation)

    def pass_time(kind: str, times: int) -> None:
        if (kind, times) == ("Propose", 0):
            federation.taken(federation.rotated("a", 10))
        if (kind, times) == ("Ask", 0):
            federation.time[0] += 11

    end, runtime = living.play(1, 2, pass_time)
    assert end.outcome == "finished"
    assert opened(federation)[1] == ("b", "c")
    assert "protocol.key-handed-over" in rules(federation, COORDINATOR)
    end, runtime = living.play(2, 1)
    assert (end.outcome, runtime.silences) == ("finished", [])
    assert opened(federation)[2] == ("a", "b", "c"), "under its new key it is back"


def test_a_revoked_key_is_refused_at_once_by_everybody_and_by_name(federation: Rotating) -> None:
    living = Living(federation)

    def revoke(kind: str, times: int) -> None:
        if (kind, times) == ("Ask", 0):
            federation.taken(federation.say("a", lambda home: notices.revoke(home, "f")))

    end, _ = living.play(1, 2, revoke)
    assert end.outcome == "aborted", "an input under it is in the round's sum, and that is opened by nobody"
    assert opened(federation) == []
    assert all("protocol.key-revoked" in rules(federation, name) for name in (COORDINATOR, "b", "c"))
    end, _ = living.play(3, 1)
    assert (end.outcome, opened(federation)) == ("finished", [("b", "c")])
    federation.taken(federation.say(COORDINATOR, lambda home: notices.revoke(home, "f")), by=("b", "c"))
    with pytest.raises(OperatorFault, match="no run begins: a key of coordinator that was revoked"):
        living.play(2, 1)  # that the others refuse it by themselves: hostile/notices.py


def test_a_party_that_left_is_in_no_later_round_of_any_run_under_any_key(federation: Rotating) -> None:
    living = Living(federation)
    tombstone = []

    def leave(kind: str, times: int) -> None:
        if (kind, times) == ("Ask", 0):
            tombstone.append(federation.say("c", lambda home: notices.leave(home, "f")))
            federation.taken(tombstone[0])

    end, _ = living.play(1, 3, leave)
    assert end.outcome == "finished"
    assert opened(federation)[1:] == [("a", "b"), ("a", "b")]
    federation.taken(federation.rotated("c"))
    for number in (2, 3):
        end, runtime = living.play(number, 1)
        assert end.outcome == "finished"
        assert opened(federation)[-1] == ("a", "b")
        assert ("c", "protocol.party-left") in {(who, why.partition(":")[0]) for who, why in runtime.silences}


@pytest.mark.parametrize("moment", range(6))
def test_a_process_that_ends_while_a_key_is_exchanged_leaves_a_home_that_ends_it(
    moment: int, federation: Rotating, monkeypatch
) -> None:
    old = federation.seat("a").key
    steps = [
        (ring, "drawn"),
        (ring, "begin"),
        (ring, "exchange"),
        (Home, "record"),
        (ring, "end"),
        (key_standing, "sign"),
    ]
    place, name = steps[moment]
    whole = getattr(place, name)

    def gone(*given: object, **named: object) -> object:
        if moment % 2:
            whole(*given, **named)
        raise SystemExit

    home = federation.home("a")
    with monkeypatch.context() as patch:
        patch.setattr(place, name, gone)
        with pytest.raises(SystemExit):
            rotate(home, HOUR)
    home.engine.dispose()
    again = federation.home("a")
    assert ring.pending(again.path) == ()
    began = again.identity.public != old
    assert began == (name in ("exchange", "record", "end") or (name == "begin"))
    with again.transaction():
        assert (again.live.now.standings.chain("f", old)[-1] == again.identity.public) is True
    again.engine.dispose()
    federation.rotated("a")
    assert federation.seat("a").key != old
    living = Living(federation)
    federation.taken(
        next(
            each.notice
            for each in federation.entries("a")
            if isinstance(each, Noticed) and each.notice.notice.key == old
        )
    )
    for each in federation.entries("a"):
        if isinstance(each, Noticed):
            federation.taken(each.notice)
    assert living.play(1)[0].outcome == "finished"


def signed(identity: Identity, notice, successor: Identity | None = None):
    return key_standing.sign(identity, notice, successor)


A, B, NEW, OTHER = (Identity(Secret(bytes([seed]) * 32)) for seed in (1, 2, 3, 4))


def handover(
    by: Identity = A, to: Identity = NEW, federation: str = "f", party: str = "a", issued: int = 0, until: int = 9
):
    return signed(by, Handover(federation, party, by.public, issued, to.public, until, None), to)


KEYS = {"a": A.public, "b": B.public}
BAD = {
    "another federation's": (handover(federation="g"), "keys.federation"),
    "of a party under another's key": (handover(by=B, party="a"), "keys.stranger"),
    "of nobody": (handover(party="nobody"), "keys.stranger"),
    "not by its successor": (replace(handover(), by_successor=b"0" * 64), "keys.signature"),
    "altered": (replace(handover(), notice=replace(handover().notice, until=8)), "keys.signature"),
    "a tombstone by another": (
        replace(signed(B, Departure("f", "b", B.public, 0)), notice=Departure("f", "a", A.public, 0)), "keys.signature"),
    "from the future": (handover(issued=1000, until=1000), "keys.early"),
    "an overlap without end": (handover(until=2**40), "keys.overlap"),
    "an overlap that ends before it begins": (handover(issued=5, until=4), "keys.overlap"),
    "to itself": (handover(to=A), "keys.second-successor"),
    "a revocation with a second signature": (
        replace(signed(A, Revocation("f", "a", A.public, 0)), by_successor=b"x"), "keys.signature"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_notice_that_is_not_its_owners_word_is_refused_by_name(case: str) -> None:
    known_ = key_standing.Standings()
    assert known_.admit(handover(), "f", KEYS, 0)
    notice, rule = BAD[case]
    with pytest.raises(NotTaken) as refused:
        known_.admit(notice, "f", KEYS, 0)
    assert refused.value.rule == rule


def test_a_key_is_handed_over_once_and_not_when_it_was_revoked() -> None:
    none = key_standing.Standings()
    handed = none.after(handover().notice)
    assert not handed.admit(handover(), "f", KEYS, 0), "the same again is nothing new"
    with pytest.raises(NotTaken, match="handed over to"):
        handed.admit(handover(to=OTHER), "f", KEYS, 0)
    with pytest.raises(NotTaken, match="already"):
        handed.admit(handover(by=B, party="b", to=NEW), "f", KEYS, 0)
    with pytest.raises(NotTaken, match="that was handed over"):
        handed.admit(signed(A, Departure("f", "a", A.public, 0)), "f", KEYS, 0)
    assert handed.admit(signed(NEW, Departure("f", "a", NEW.public, 0)), "f", KEYS, 0)
    assert handed.admit(signed(A, Revocation("f", "a", A.public, 0)), "f", KEYS, 0)
    revoked = none.after(Revocation("f", "a", A.public, 0))
    with pytest.raises(NotTaken, match="was revoked"):
        revoked.admit(handover(), "f", KEYS, 0)
    with pytest.raises(NotTaken, match="was revoked"):
        revoked.admit(signed(A, Departure("f", "a", A.public, 0)), "f", KEYS, 0)
    assert revoked.admit(handover(by=B, party="b"), "f", KEYS, 0)


@pytest.mark.parametrize("revoked", range(4))
def test_a_revocation_ends_the_key_and_each_that_was_handed_over_to_it_and_no_successor(revoked: int) -> None:
    """Within every overlap; another federation's key of the same bytes, and another party's, count as before."""
    line = (A, NEW, OTHER, Identity(Secret(bytes([5]) * 32)))
    known_ = key_standing.Standings()
    for one, other in zip(line, line[1:], strict=False):
        known_ = known_.after(handover(one, other, until=10**6).notice)
    known_ = known_.after(Revocation("f", "a", line[revoked].public, 0))
    for place, key in enumerate(line):
        seat = Participant(MemberId("a"), key.public, "")
        known_.check("g", seat, 1)
        if place > revoked:
            known_.check("f", seat, 1)
            continue
        with pytest.raises(Forged) as refused:
            known_.check("f", seat, 1)
        assert refused.value.rule == "protocol.key-revoked"
    known_.check("f", Participant(MemberId("b"), B.public, ""), 1)


def test_two_processes_that_exchange_one_key_at_once_do_it_one_after_the_other(
    federation: Rotating, monkeypatch
) -> None:
    """The second one begins where the first has drawn its key. Without turns it would draw over it, vouched for by none."""
    first, second, old = federation.home("a"), federation.home("a"), federation.seat("a").key
    other, drawn = Thread(target=rotate, args=(second, HOUR)), ring.drawn

    def and_meanwhile(home: Path) -> Identity:
        made = drawn(home)
        if other.ident is None:
            other.start()
            other.join(0.3)  # it waits for its turn
        return made

    monkeypatch.setattr(ring, "drawn", and_meanwhile)
    rotate(first, HOUR)
    other.join()
    for home in (first, second):
        home.engine.dispose()
    last = federation.home("a")
    with last.transaction():
        chain = last.live.now.standings.chain("f", old)
    assert (len(chain), chain[-1]) == (3, last.identity.public)
    last.engine.dispose()


def test_one_rotation_tells_every_federation_of_the_home_and_each_takes_its_own(tmp_path: Path) -> None:
    first, second = Rotating(tmp_path / "1").made(), Rotating(tmp_path / "2", name="g").made()
    home = first.home("a")
    pin(home.path, "g", (first.seat("a"), second.seat("b")))
    told = rotate(home, HOUR)
    home.engine.dispose()
    assert [each.notice.federation for each in told] == ["f", "g"]
    for name in ("f", "g"):
        assert known(home.path, name)["a"] == home.identity.public.hex()
    elsewhere = second.home("b")
    with pytest.raises(NotTaken, match="is expected"):
        notices.take(elsewhere, "g", told[0])
    elsewhere.engine.dispose()


def test_a_copy_that_ends_before_its_owners_hand_over_is_held_to_what_was_seen_under_the_key_after(
    tmp_path: Path,
) -> None:
    """As an auditor of the first run's folder asks: nothing else wants the runs in which the owner was heard later."""
    federation = Rotating(tmp_path / "world", priced=True).made()
    Living(federation).play(1)
    old = federation.home("a").identity
    federation.taken(federation.rotated("a", 0))
    federation.time[0] += HOUR
    Living(federation).play(2)
    copies, first = folder_of(federation, tmp_path / "copies"), frozenset({federation.in_run(1).run})
    audit.check(read_all(copies), first)
    file = export.read(copies / "a.ledger")
    end = next(index for index, each in enumerate(federation.entries("a")) if isinstance(each, Noticed))
    head = Head(file.owner, end, merkle.root([merkle.leaf_hash(each) for each in file.leaves[:end]]))
    cut = replace(file, key=old.public, leaves=file.leaves[:end], head=heads.sign(old, head))
    export.write(copies / "a.ledger", cut)
    with pytest.raises(Tampered):
        audit.check(read_all(copies), first)


@pytest.mark.parametrize("at", [("Ask", 0), ("Propose", 1), None])
@pytest.mark.parametrize("who", ["a", COORDINATOR])
def test_by_courier_no_round_fails_either(who: str, at: tuple[str, int] | None, tmp_path: Path) -> None:
    """The keys are those of the documents, from before; packages are signed under the present ones, too."""
    federation, said = replace(Rotating(tmp_path), patience=Patience(20, 20, 20, 20, 20)).made(), list[str]()

    def exchanged() -> None:
        federation.taken(federation.rotated(who))

    def before(kind: str, times: int) -> None:
        if (kind, times) == at:
            exchanged()

    with by_couriers(federation, told=said) as couriers:
        if at is None:
            exchanged()
        end = federation.in_run(1).drive(InOrder(Telling(couriers, before)), 2)
    assert (end.outcome, opened(federation), said) == ("finished", [("a", "b", "c")] * 2, [])


@pytest.mark.parametrize("who", ["a", COORDINATOR])
@pytest.mark.parametrize("heard", [False, True])
def test_by_courier_a_party_that_was_started_again_is_heard_under_the_key_that_it_is_known_by(
    who: str, heard: bool, tmp_path: Path
) -> None:
    federation, said = replace(Rotating(tmp_path), patience=Patience(5, 5, 5, 5, 5)).made(), list[str]()
    was = federation.seat(who)
    notice = federation.rotated(who)
    if heard:
        federation.taken(notice)
    with by_couriers(federation.inviting(was), told=said) as couriers:
        end = federation.inviting(was).in_run(1).drive(couriers)
    assert (end.outcome, opened(federation), said) == ("finished", [("a", "b", "c")], []), end.why
