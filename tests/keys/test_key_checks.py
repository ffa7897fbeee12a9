"""A key that ended counts at no door: not while others are awaited, not for its own owner; and an audit asks it too."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from securefl.audit.verify import verify
from securefl.home import notices
from securefl.home.home import Home
from securefl.protocol import key_standing
from securefl.terms import (
    Departure,
    MessageReceived,
    Noticed,
    Refused,
    Revocation,
    Scheme,
    SignedNotice,
    SumOpened,
)
from securefl.terms.names import FederationName
from tests.support.rotating import COORDINATOR, Living, Rotating, folder_of

CUSTODIAN = "custodian"
ENDS = {
    "revoked": lambda federation, who: federation.say(who, lambda home: notices.revoke(home, "f")),
    "left": lambda federation, who: federation.say(who, lambda home: notices.leave(home, "f")),
    "handed over": lambda federation, who: federation.rotated(who, 10),
}


def stolen(kind: type[Departure | Revocation]) -> Callable[[Rotating, str], SignedNotice]:
    """A notice under a party's key that its own home knows nothing of."""

    def end(federation: Rotating, who: str) -> SignedNotice:
        home = federation.home(who)
        home.engine.dispose()
        said = kind(FederationName(federation.name), home.owner, home.identity.public, federation.time[0])
        return key_standing.sign(home.identity, said)

    return end


STOLEN = {"revoked, by a thief": stolen(Revocation), "left, by a thief": stolen(Departure)}


def sums(federation: Rotating, name: str) -> list[tuple[int, tuple[str, ...]]]:
    return [(each.round, each.survivors) for each in federation.entries(name) if isinstance(each, SumOpened)]


def rules(federation: Rotating, name: str) -> set[str]:
    return {r.rule for each in federation.entries(name) if isinstance(each, Refused) for r in each.reasons}


def ended(federation: Rotating, how: str, who: str, *, told: bool) -> None:
    """A key of this party ends, and everybody hears of it or nobody; an overlap is over."""
    signed = ENDS[how](federation, who)
    if told:
        federation.taken(signed)
    federation.time[0] += 11 if how == "handed over" else 0


def at(moment: tuple[str, int], do: Callable[[], None]) -> Callable[[str, int], None]:
    return lambda kind, times: do() if (kind, times) == moment else None


@pytest.mark.parametrize(("how", "kind"), [*product(ENDS, ["Propose"]), ("revoked", "Enrol")])
def test_an_answer_that_comes_after_its_key_ended_is_in_no_sum(how: str, kind: str, tmp_path: Path) -> None:
    """While the others are awaited another process of the coordinator's takes the notice in."""
    federation = Rotating(tmp_path / "world", priced=True).made()
    living = Living(federation)
    end, _ = living.play(1, 1, at((kind, 0), lambda: ended(federation, how, "a", told=True)), last="a")
    entries = federation.entries(COORDINATOR)
    noticed = next(i for i, each in enumerate(entries) if isinstance(each, Noticed))
    heard = [e.receipt.sender for e in entries[noticed:] if isinstance(e, MessageReceived)]
    assert (end.outcome, sums(federation, COORDINATOR)) == ("finished", [(1, ("b", "c"))])
    assert "a" not in heard
    assert verify(folder_of(federation, tmp_path / "copies")).ok


@pytest.mark.parametrize(("how", "who"), [*product(ENDS, [CUSTODIAN]), ("left", COORDINATOR), ("revoked", COORDINATOR)])
@pytest.mark.parametrize("moment", [("Propose", 1), ("Ask", 1)])
def test_who_needs_no_notice_to_know_that_its_own_key_ended_opens_no_sum(
    how: str, who: str, moment: tuple[str, int], tmp_path: Path
) -> None:
    federation = Rotating(tmp_path / "world", scheme=Scheme.MASKED_CKKS, priced=True).made()
    when = at(moment, lambda: ended(federation, how, who, told=False))
    end, _ = Living(federation).play(1, 3, when)
    first = moment[0] == "Propose"  # the first round's second question is for the custodian
    opened = [1] if first or (how, who) == ("left", COORDINATOR) else []
    assert (end.outcome, [number for number, _ in sums(federation, COORDINATOR)]) == ("aborted", opened)
    assert len(sums(federation, CUSTODIAN)) == (first or who == COORDINATOR)  # who has not heard opens it
    assert verify(folder_of(federation, tmp_path / "copies")).ok


# What an auditor finds.


@pytest.mark.parametrize(
    ("who", "heedless", "found"),
    [("a", "a", "a"), ("a", COORDINATOR, COORDINATOR), (CUSTODIAN, CUSTODIAN, CUSTODIAN), (COORDINATOR, "a", "a")],
)
@pytest.mark.parametrize("how", ENDS)
def test_an_audit_finds_who_went_on_by_a_key_that_its_own_ledger_had_ended(
    how: str, who: str, heedless: str, found: str, tmp_path: Path, monkeypatch
) -> None:
    """One party asks nobody's standing, in no step; everybody else has not heard."""
    federation = Rotating(tmp_path / "world", scheme=Scheme.MASKED_CKKS, priced=True).made()
    asked = Home.standing_in
    monkeypatch.setattr(
        Home, "standing_in",
        lambda home, *given: (lambda _: None) if home.owner == heedless else asked(home, *given),
    )  # fmt: skip

    def end_it() -> None:
        signed = ENDS[how](federation, who)
        if who != heedless:
            federation.taken(signed, by=(heedless,))
        federation.time[0] += 11 + 3600

    Living(federation).play(1, 2, at(("Propose", 1), end_it))
    judged = verify(folder_of(federation, tmp_path / "copies"))
    assert not judged.ok
    assert judged.first_bad["ledger"] == f"{found}.ledger"
    assert any(word in judged.why for word in ("revoked", "handed over", "has left"))


@pytest.mark.parametrize("how", ENDS)
def test_an_audit_finds_a_coordinator_that_went_on_by_its_own_ended_key(how: str, tmp_path: Path, monkeypatch) -> None:
    """Nobody else has heard."""
    federation = Rotating(tmp_path / "world", priced=True).made()
    judged = heedless(federation, tmp_path, monkeypatch, (COORDINATOR,), COORDINATOR, how, ("Propose", 1), rounds=3)
    assert judged.first_bad["ledger"] == f"{COORDINATOR}.ledger"


@pytest.mark.parametrize("others", [("a", "b"), ()])
def test_an_audit_finds_who_asks_for_opens_or_answers_for_a_sum_with_an_input_that_was_revoked_since(
    others: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    """The coordinator keeps the input of a member that is silent from then on."""
    federation = Rotating(tmp_path / "world", priced=True).made()
    silenced(monkeypatch, lambda home, entry: sender_of(entry) == "c" and bool(home.live.now.noticed))
    judged = heedless(federation, tmp_path, monkeypatch, (COORDINATOR, *others), "c", "revoked", ("Ask", 0), rounds=1)
    assert judged.first_bad["ledger"] == f"{others[0] if others else COORDINATOR}.ledger"


@pytest.mark.parametrize(
    ("how", "who", "scheme", "leaves_out"),
    [
        ("left, by a thief", "a", Scheme.MASKING, "Propose"),
        ("revoked, by a thief", CUSTODIAN, Scheme.CKKS, "Ask"),
        ("left, by a thief", COORDINATOR, Scheme.MASKING, ""),
    ],
)
def test_an_audit_finds_who_leaves_out_of_its_ledger_what_it_was_asked_or_handed(
    how: str, who: str, scheme: Scheme, leaves_out: str, tmp_path: Path, monkeypatch
) -> None:
    """By whose moment the key would be judged, be it all that came under it: no earlier round's stands for it."""
    federation = Rotating(tmp_path / "world", scheme, priced=True).made()
    silenced(
        monkeypatch,
        lambda home, entry: (
            home.owner == who
            and isinstance(entry, MessageReceived)
            and (entry.receipt.kind == leaves_out or entry.receipt.sender == "c")
            and bool(home.live.now.noticed)
        ),
    )
    judged = heedless(federation, tmp_path, monkeypatch, (who,), "c", how, ("Propose", 1), rounds=2)
    assert judged.first_bad["ledger"] == f"{who}.ledger"


def sender_of(entry: object) -> str:
    return entry.receipt.sender if isinstance(entry, MessageReceived) else ""


def silenced(monkeypatch, is_left_out: Callable[[Home, object], bool]) -> None:
    """Homes whose ledgers leave these entries out."""
    commit = Home.commit

    def committed(home, conn, run, entries, *more, **named):
        return commit(home, conn, run, tuple(e for e in entries if not is_left_out(home, e)), *more, **named)

    monkeypatch.setattr(Home, "commit", committed)


def heedless(  # noqa: PLR0913 - a story
    federation: Rotating, base: Path, monkeypatch, by: tuple[str, ...], who: str, how: str, moment: tuple[str, int],
    *, rounds: int,
):  # fmt: skip
    """What an audit says of a run in which some heard that a key ended, asked nobody's standing, and went on."""
    asked = Home.standing_in
    monkeypatch.setattr(
        Home, "standing_in", lambda home, *given: (lambda _: None) if home.owner in by else asked(home, *given)
    )

    def end_it() -> None:
        signed = (ENDS | STOLEN)[how](federation, who)
        others = tuple(name for name in by if name != who)
        if others:
            federation.taken(signed, by=others)
        federation.time[0] += 11 + 3600

    living = Living(federation)
    ended, _ = living.play(1, rounds, at(moment, end_it))
    assert ended.outcome == "finished"
    judged = verify(folder_of(federation, base / "copies"))
    assert not judged.ok
    return judged


# No honest run is called bad.

MOMENTS = [("Invite", 0), ("Enrol", 0), ("Propose", 0), ("Ask", 0), ("Propose", 1), ("Close", 0)]
STORIES = [
    story
    for story in product(ENDS, ["a", COORDINATOR, CUSTODIAN], MOMENTS, [True, False], ["", "a"])
    if story[1] == "a" or not story[4]
]
SOME = STORIES[::13]  # each end, party and way to hear of it


@pytest.mark.parametrize("story", SOME, ids=str)
def test_no_run_of_parties_that_ask_is_called_bad_whenever_a_key_ends_and_whoever_hears(story, tmp_path: Path) -> None:
    """The next run begins under the keys that are left."""
    how, who, moment, told, last = story
    scheme = Scheme.MASKED_CKKS if who == CUSTODIAN else Scheme.MASKING
    federation = Rotating(tmp_path / "world", scheme=scheme, priced=True).made()
    living = Living(federation)
    living.play(1, 2, at(moment, lambda: ended(federation, how, who, told=told)), last=last)
    if who != COORDINATOR or how == "handed over":
        living.play(2)
    judged = verify(folder_of(federation, tmp_path / "copies"))
    assert judged.ok, judged.why
