"""What an auditor makes of notices: no ledger is replaced behind one, and none is believed that its party did not sign."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from securefl.audit import suites
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import Verdict, verify
from securefl.errors import Tampered
from securefl.home import notices
from securefl.home.home import Home
from securefl.home.peers import replaced
from securefl.home.rotation import rotate
from securefl.keys import Identity
from securefl.ledger import heads
from securefl.protocol import key_standing
from securefl.terms import (
    Departure,
    Handover,
    Hash,
    Head,
    Noticed,
    Participant,
    Reason,
    Refused,
    Revocation,
    RunId,
    SignedHead,
    SignedNotice,
)
from tests.support.rotating import COORDINATOR, HOUR, Living, Rotating, folder_of
from tests.support.worlds import identity

STRANGER = identity("whoever")


@pytest.fixture
def federation(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path / "homes", priced=True).made()


def audited(federation: Rotating, tmp_path: Path) -> Verdict:
    pins = {name: federation.seat(name).key.hex() for name in federation.everybody()}
    return verify(folder_of(federation, Path(tempfile.mkdtemp(dir=tmp_path))), pins)


def recorded(federation: Rotating, who: str, *said: SignedNotice) -> None:
    """Write notices into this party's ledger, and ask nothing."""
    home = federation.home(who)
    with home.transaction() as conn:
        home.record(conn, tuple(map(Noticed, said)))
    home.engine.dispose()


def filled(federation: Rotating, who: str, number: int) -> None:
    """Write so many entries into this party's ledger as nobody else knows of."""
    home, reason = federation.home(who), Reason("protocol.out-of-turn", "x", "y", "z")
    with home.transaction() as conn:
        home.record(conn, tuple(Refused(RunId(bytes([n]) * 16), 0, "Close", (reason,)) for n in range(number)))
    home.engine.dispose()


def identity_of(federation: Rotating, who: str) -> Identity:
    home = federation.home(who)
    home.engine.dispose()
    return home.identity


def handed(
    federation: Rotating, who: str, old: Identity, new: Identity, head: SignedHead | None = None, lasts_s: int = HOUR
) -> SignedNotice:
    now, member = federation.time[0], federation.seat(who).member
    return key_standing.sign(
        old, Handover(federation.name, member, old.public, now, new.public, now + lasts_s, head), new
    )


def at(moment: tuple[str, int], do: Callable[[], None]) -> Callable[[str, int], None]:
    return lambda kind, times: do() if (kind, times) == moment else None


def heedless(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One party asks nobody's standing."""
    asked = Home.standing_in
    monkeypatch.setattr(
        Home, "standing_in", lambda home, *given: (lambda _: None) if home.owner == name else asked(home, *given)
    )


# One ledger behind every key.


@pytest.mark.parametrize("paid_in", ["f", "g"])
@pytest.mark.parametrize("with_head", [True, False])
def test_a_ledger_that_was_begun_anew_behind_a_hand_over_is_found(
    federation: Rotating, paid_in: str, with_head: bool, tmp_path: Path
) -> None:
    """Its owner paid under its first key, and says nothing of that key or of what it paid in the ledger it shows."""
    other = Rotating(tmp_path / "homes", priced=True, name="g", centre="other", time=federation.time).made()
    assert Living(other if paid_in == "g" else federation).play(1)[0].outcome == "finished"
    first, place = federation.home("a"), federation.place("a")
    size = first.head().head.size
    first.engine.dispose()
    place.rename(tmp_path / "what it was")
    place.mkdir(mode=0o700)
    (place / "identity.key").touch(mode=0o600)
    (place / "identity.key").write_bytes(bytes(range(32)))
    second = identity_of(federation, "a")
    shutil.copytree(tmp_path / "what it was" / "peers", place / "peers", dirs_exist_ok=True)
    replaced(place, federation.name, federation.seat("a"))
    filled(federation, "a", size + 5)
    head = heads.sign(second, federation.say("a", Home.head).head) if with_head else None
    federation.taken(handed(federation, "a", first.identity, second, head), by=(COORDINATOR, "b", "c"))
    federation.time[0] += 60
    Living(federation).play(2)
    judged = audited(federation, tmp_path)
    assert not judged.ok
    assert judged.first_bad["ledger"] == "a.ledger"
    assert "entries are not those that b has seen" in judged.why or "it never joined the run" in judged.why


def test_two_hand_overs_of_one_key_are_a_finding_and_so_is_the_ledger_behind_either(
    federation: Rotating, tmp_path: Path
) -> None:
    assert Living(federation).play(1)[0].outcome == "finished"
    was = federation.seat("a")
    federation.copied("a")
    filled(federation, "a", 2)
    fork = federation.rotated("a")
    federation.put_back("a")
    filled(federation, "a", 7)
    other = federation.rotated("a")
    federation.taken(fork, by=("b",))
    federation.taken(other, by=(COORDINATOR, "c"))
    federation.time[0] += 60
    Living(federation.inviting(was)).play(2)
    judged = audited(federation, tmp_path)
    assert (judged.ok, judged.first_bad["ledger"]) == (False, "a.ledger")
    assert "handed over to two" in judged.why
    assert "b.ledger" in judged.why


def test_a_key_that_nobody_knew_takes_no_place_of_the_one_before(federation: Rotating, tmp_path: Path) -> None:
    """An owner says that another key came before its own, so that its first one, and what it showed, be forgotten."""
    assert Living(federation).play(1)[0].outcome == "finished"
    first, second = identity_of(federation, "a"), identity("second")
    federation.taken(handed(federation, "a", first, second), by=("b",))
    recorded(federation, "b", handed(federation, "a", STRANGER, second))
    judged = audited(federation, tmp_path)
    assert (judged.ok, judged.first_bad["ledger"]) == (False, "a.ledger")
    assert "handed over to one" in judged.why


# Nobody but the party itself.

SECOND = identity("second of c")
UNTRUE = {
    "unsigned departure": lambda f, c: SignedNotice(Departure(f.name, c.member, c.key, f.time[0]), bytes(64)),
    "unsigned revocation": lambda f, c: SignedNotice(Revocation(f.name, c.member, c.key, f.time[0]), bytes(64)),
    "departure by the coordinator's key": lambda f, c: key_standing.sign(
        own := identity_of(f, COORDINATOR), Departure(f.name, c.member, own.public, f.time[0])
    ),
    "hand-over that its key did not sign": lambda f, c: SignedNotice(
        Handover(f.name, c.member, c.key, f.time[0], SECOND.public, f.time[0] + HOUR, None), bytes(64), bytes(64)
    ),
    "hand-over with too long an overlap": lambda f, c: handed(f, "c", identity_of(f, "c"), SECOND, None, 10**9),
    "hand-over with a head of a stranger's": lambda f, c: handed(
        f, "c", identity_of(f, "c"), SECOND, heads.sign(STRANGER, Head(c.member, 3, Hash(bytes(32))))
    ),
}


@pytest.mark.parametrize("what", UNTRUE)
def test_a_notice_that_no_home_takes_in_is_found_in_whatever_ledger_it_stands(
    federation: Rotating, what: str, tmp_path: Path
) -> None:
    said = UNTRUE[what](federation, federation.seat("c"))
    Living(federation).play(1, 2, at(("Propose", 1), lambda: recorded(federation, COORDINATOR, said)))
    judged = audited(federation, tmp_path)
    assert not judged.ok
    assert judged.first_bad["ledger"] == "coordinator.ledger"
    assert judged.first_bad["entry"] is not None


def test_a_notice_under_a_key_that_nobody_has_is_listed(federation: Rotating, tmp_path: Path) -> None:
    """Its coordinator goes by it; nobody else can tell it from one of a party that was pinned anew."""
    gone = Departure(federation.name, federation.seat("c").member, STRANGER.public, federation.time[0])
    recorded(federation, COORDINATOR, key_standing.sign(STRANGER, gone))
    assert Living(federation).play(1)[0].outcome == "finished"
    judged = audited(federation, tmp_path)
    assert judged.ok, judged.why
    assert [each for each in judged.unverified if "coordinator.ledger, entry 0" in each and "not believed" in each]


def test_a_notice_under_a_key_that_nobody_has_judges_nobody(
    federation: Rotating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member has it in its ledger and goes on with the party: nothing says that the party left."""
    heedless(monkeypatch, "a")
    gone = Departure(federation.name, federation.seat("c").member, STRANGER.public, federation.time[0])
    recorded(federation, "a", key_standing.sign(STRANGER, gone))
    assert Living(federation).play(1)[0].outcome == "finished"
    judged = audited(federation, tmp_path)
    assert judged.ok, judged.why
    assert sum("a.ledger, entry 0" in each and "not believed" in each for each in judged.unverified) == 1


def test_a_forged_hand_over_does_not_hide_the_true_one(
    federation: Rotating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, the first would count: so a member that goes on by a dead key writes one that lasts for ever."""
    heedless(monkeypatch, "a")

    def end_it() -> None:
        now, c = federation.time[0], federation.seat("c")
        for_ever = Handover(federation.name, c.member, c.key, now, STRANGER.public, now + 10**6, None)
        recorded(federation, "a", SignedNotice(for_ever, bytes(64), bytes(64)))
        recorded(federation, "a", handed(federation, "c", identity_of(federation, "c"), SECOND, None, 10))
        federation.time[0] += 3 * HOUR

    Living(federation).play(1, 2, at(("Propose", 1), end_it))
    judged = audited(federation, tmp_path)
    assert (judged.ok, judged.first_bad["ledger"]) == (False, "a.ledger")
    assert "did not sign" in judged.why


# No honest party is called bad.


def test_keys_of_two_federations_that_are_heard_of_early_late_or_never_are_nothing_to_find(
    federation: Rotating, tmp_path: Path
) -> None:
    """A party rotates twice, before its first run and after; who hears of it where, and when, differs; one leaves."""
    other = Rotating(tmp_path / "homes", priced=True, name="g", centre="other", time=federation.time).made()

    def rotated(name: str) -> dict[str, SignedNotice]:
        home = federation.home(name)
        said = {str(each.notice.federation): each for each in rotate(home, HOUR)}
        home.engine.dispose()
        return said

    was, early = federation.seat("a"), rotated("a")
    assert early["f"].notice.head is None, "its ledger has no entry yet"
    federation.taken(early["f"], by=(COORDINATOR, "b"))
    other.taken(early["g"], by=("c",))
    assert Living(federation.inviting(was)).play(1)[0].outcome == "finished"
    federation.taken(early["f"], by=("c",))  # now it has seen more, under the key before
    assert Living(federation).play(2)[0].outcome == "finished"
    later = rotated("a")
    federation.taken(later["f"])
    assert Living(federation).play(3)[0].outcome == "finished"
    federation.taken(federation.say("c", lambda home: notices.leave(home, "f")), by=(COORDINATOR, "a"))
    judged = audited(federation, tmp_path)
    assert judged.ok, judged.why
    assert not any("believed" in each for each in judged.unverified)


def test_a_party_that_was_pinned_anew_and_says_something_before_its_next_run_is_listed(
    federation: Rotating, tmp_path: Path
) -> None:
    """Whoever took that in did what it should; whose the key is, the ledgers cannot tell."""
    assert Living(federation).play(1)[0].outcome == "finished"
    anew, member = identity("c, anew"), federation.seat("c").member
    home = federation.home("b")
    replaced(home.path, "f", Participant(member, anew.public, "here"))
    home.engine.dispose()
    gone = Departure(federation.name, member, anew.public, federation.time[0])
    federation.taken(key_standing.sign(anew, gone), by=("b",))
    judged = audited(federation, tmp_path)
    assert judged.ok, judged.why
    assert sum("not believed" in each for each in judged.unverified) == 1


def test_a_key_that_is_exchanged_between_two_tasks_makes_no_other_ledger(federation: Rotating, tmp_path: Path) -> None:
    """A task's copy is under the key of that time; one under a key that nothing joins with it is another ledger's."""
    assert Living(federation).play(1)[0].outcome == "finished"
    then = read_all(folder_of(federation, tmp_path / "then"))
    federation.taken(federation.rotated("a"))
    now = read_all(folder_of(federation, tmp_path / "now"))
    assert then["a"].key != now["a"].key
    suites._check_same("a task", then, now)
    with pytest.raises(Tampered, match="not the beginning"):
        suites._check_same("a task", {**then, "a": replace(then["a"], key=STRANGER.public)}, now)
