"""A policy may bound a key's age: each party counts by its own ledger and clock, and an older key is refused by name."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from securefl.audit.verify import verify
from securefl.cli.main import main
from securefl.errors import Forged, OperatorFault
from securefl.home import ageing
from securefl.home.home import Home
from securefl.policy import key_age, load, narrow
from securefl.protocol import key_standing
from securefl.protocol.key_ages import BEHIND_S, RULE, KeyAges
from securefl.terms import Handover, Leaf, Noticed, Participant, Refused, RunId, RunJoined, Scheme, SumOpened
from tests.policy.test_policy_oracle import POLICY, changed
from tests.support.rotating import COORDINATOR, NOW, Living, Rotating, folder_of
from tests.support.worlds import identity, seat

DAY = 24 * 3600
CUSTODIAN = "custodian"


@pytest.fixture
def federation(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path, max_age_days=30).made()


def opened(federation: Rotating) -> list[tuple[str, ...]]:
    return [each.survivors for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)]


def rules(federation: Rotating, name: str) -> set[str]:
    return {r.rule for each in federation.entries(name) if isinstance(each, Refused) for r in each.reasons}


# Laws.

TIMES = st.integers(0, 2**40)
PARTIES = st.sampled_from("abc")


def joined(names: str, at: int) -> Leaf:
    return Leaf(at, RunJoined(RunId(bytes(16)), "f", "member", b"", "", tuple(map(seat, names))))


def handed(name: str, at: int, issued: int) -> Leaf:
    by, to = identity(name), identity(name + "'")
    notice = Handover("f", seat(name).member, by.public, issued, to.public, issued, None)
    return Leaf(at, Noticed(key_standing.sign(by, notice, to)))


LEAVES = st.lists(
    st.builds(joined, st.text("abc", min_size=1, max_size=3), TIMES) | st.builds(handed, PARTIES, TIMES, TIMES),
    max_size=8,
)


def folded(leaves: list[Leaf]) -> KeyAges:
    ages = KeyAges()
    for leaf in leaves:
        ages = ages.after(leaf)
    return ages


def is_refused(ages: KeyAges, name: str, now: int, most: int | None) -> bool:
    try:
        ages.check(Participant(seat(name[0]).member, identity(name).public, ""), now, most)
    except Forged as fault:
        assert fault.rule == RULE
        return True
    return False


@given(LEAVES, LEAVES, st.sampled_from(["a", "b", "a'"]))
def test_a_key_is_as_old_as_the_first_entry_that_names_it_whatever_comes_after(first, more, name):
    before, after = folded(first), folded([*first, *more])
    key = identity(name).public
    if key in before.since:
        assert after.since[key] == before.since[key]
    elif key in after.since:
        assert after.since[key] in {leaf.at for leaf in more}


@given(LEAVES, st.sampled_from(["a", "b", "a'"]), TIMES, TIMES, st.integers(0, 2**30))
def test_a_key_that_is_too_old_stays_so_as_time_passes_and_a_stricter_policy_refuses_no_less(
    leaves, name, now, passed, most
):
    ages = folded(leaves)
    age = ages.age_s(identity(name).public, now)
    assert is_refused(ages, name, now, most) == (age is not None and not -BEHIND_S <= age <= most)
    assert not is_refused(ages, name, now, None)
    if is_refused(ages, name, now, most):
        assert age < 0 or is_refused(ages, name, now + passed, most)
        assert is_refused(ages, name, now, most // 2)


@given(LEAVES, TIMES)
def test_the_time_that_a_notice_says_changes_no_age(leaves, issued):
    def lied(leaf: Leaf) -> Leaf:
        if not isinstance(leaf.entry, Noticed):
            return leaf
        said = replace(leaf.entry.notice.notice, issued=issued)
        return Leaf(leaf.at, Noticed(replace(leaf.entry.notice, notice=said)))

    assert folded(leaves) == folded(list(map(lied, leaves)))


# The field.


def test_a_policy_that_says_nothing_of_keys_has_no_limit_and_the_hash_it_had():
    without = {name: value for name, value in POLICY.items() if name != "keys"}
    text = yaml.safe_dump(without).encode()
    policy = load.parse(text, "policy.yaml")
    assert policy.hash == load.policy_hash(text)
    assert key_age.most_age_s(policy) is None
    named = yaml.safe_dump({**without, "keys": {}}).encode()
    assert key_age.most_age_in(named) is None
    shipped = load.load(Path(__file__).parents[2] / "policies" / "six-airlines.yaml")
    assert shipped.hash.hex().startswith("e32d15b094c673c1")


@pytest.mark.parametrize("said", [0, -1, 36_501, True, "90", 1.5])
def test_an_age_is_a_whole_number_of_days(said):
    with pytest.raises(Exception, match="keys.max_age_days"):
        load.parse(yaml.safe_dump(changed(POLICY, {"keys.max_age_days": said})).encode(), "policy.yaml")


def test_a_policy_below_may_only_shorten_the_age():
    def document(days):
        return load.PolicyDocument.model_validate(changed(POLICY, {"keys.max_age_days": days}))

    assert [each.field for each in narrow.loosened(document(30), document(31))] == ["keys.max_age_days"]
    assert [each.field for each in narrow.loosened(document(30), document(None))] == ["keys.max_age_days"]
    assert narrow.loosened(document(None), document(30)) == narrow.loosened(document(31), document(30)) == ()


# In runs.


@pytest.mark.parametrize("party", ["a", CUSTODIAN])
def test_a_key_that_became_too_old_is_refused_by_name_in_under_a_second(party: str, tmp_path: Path) -> None:
    """Everybody's key is exchanged but one's: in the next run that one is refused, and under a new key it is back."""
    federation = Rotating(tmp_path, max_age_days=30, scheme=Scheme.MASKED_CKKS).made()
    assert Living(federation).play(1)[0].outcome == "finished"
    federation.time[0] += 31 * DAY
    for name in federation.everybody():
        if name != party:
            federation.taken(federation.rotated(name))
    living = Living(federation)
    began = time.perf_counter()
    end, runtime = living.play(2)
    took_s = time.perf_counter() - began
    assert (end.outcome, opened(federation)[1:]) == ("aborted", []) if party != "a" else end.outcome == "finished"
    said = {why.partition(":")[0] for who, why in runtime.silences}
    assert said == {RULE}
    assert took_s < 1 or party == "a"  # with one member refused, the others train
    assert RULE in rules(federation, party)
    federation.taken(federation.rotated(party))
    assert Living(federation).play(3)[0].outcome == "finished"
    assert opened(federation)[-1] == ("a", "b", "c")


def test_in_a_run_that_outlives_a_key_its_owner_is_left_out_of_the_next_round(federation: Rotating) -> None:
    assert Living(federation).play(1)[0].outcome == "finished"
    federation.time[0] += 29 * DAY
    for name in ("b", "c", COORDINATOR):
        federation.taken(federation.rotated(name))

    def pass_time(kind: str, times: int) -> None:
        if (kind, times) == ("Ask", 0):
            federation.time[0] += 2 * DAY

    end, _ = Living(federation).play(2, 2, pass_time)
    assert end.outcome == "finished"
    assert opened(federation)[1:] == [("a", "b", "c"), ("b", "c")]
    assert RULE in rules(federation, COORDINATOR)


def test_under_a_policy_without_an_age_no_key_is_too_old(tmp_path: Path) -> None:
    federation = Rotating(tmp_path).made()
    for number in (1, 2):
        assert Living(federation).play(number)[0].outcome == "finished"
        federation.time[0] += 10_000 * DAY


# What an auditor finds.


@contextmanager
def heedless(monkeypatch, name: str):
    """Parties whose home does not ask how old a key is."""
    with monkeypatch.context() as patch:
        patch.setattr(key_age, "most_age_in", lambda text: None)
        yield name


def test_an_audit_finds_a_round_under_a_key_too_old_and_names_entry_and_party(tmp_path: Path, monkeypatch) -> None:
    federation = Rotating(tmp_path / "world", max_age_days=30, priced=True).made()
    assert Living(federation).play(1)[0].outcome == "finished"
    federation.time[0] += 30 * DAY
    assert Living(federation).play(2)[0].outcome == "finished", "on its last day it counts"
    assert verify(folder_of(federation, tmp_path / "right")).ok
    federation.time[0] += DAY
    with heedless(monkeypatch, "everybody"):
        assert Living(federation).play(3)[0].outcome == "finished"
    found = verify(folder_of(federation, tmp_path / "wrong"))
    assert not found.ok
    assert "has been known for 31 days, and 30 are allowed" in found.why
    leaf = federation.entries(found.first_bad["ledger"].removesuffix(".ledger"))[found.first_bad["entry"]]
    assert leaf.run == RunId((3).to_bytes(16, "big"))


# What is told ahead of time.


def listed(capsys, place: Path, *more: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["keys", "list", str(place), *more])
    return capsys.readouterr().out


def test_a_key_is_told_to_be_old_soon_before_it_is_refused(federation: Rotating, capsys, monkeypatch) -> None:
    assert Living(federation).play(1)[0].outcome == "finished"
    wall = NOW + 23 * DAY
    monkeypatch.setattr("securefl.home.clock.time.time", lambda: wall)
    rows = json.loads(listed(capsys, federation.place("a"), "--json"))["keys"]
    assert {(row["age_days"], row["max_age_days"], row["standing"]) for row in rows} == {(23, 30, "counts")}
    home = Home.at(federation.place("a"), federation.seat("a").member, lambda: wall)
    assert ageing.found(home, "f", 30 * DAY).status == "ok"
    later = Home.at(federation.place("a"), federation.seat("a").member, lambda: wall + DAY)
    assert ageing.found(later, "f", 30 * DAY).status == "soon"
    assert ageing.found(later, "f", 23 * DAY).status == "wrong"
    assert ageing.found(later, "f", None).status == "ok"
    wall += DAY
    assert listed(capsys, federation.place("a")).count("SOON TOO OLD") == 4
    wall += 7 * DAY
    said = listed(capsys, federation.place("a"))
    assert said.count("31 of 30 days") == said.count("has been known for 31 days, and 30 are allowed") == 4


def test_a_coordinator_whose_own_key_is_too_old_begins_no_run_and_nothing_is_held_against_it(tmp_path: Path) -> None:
    """A run that all would refuse is never written down: an audit found it for ever, although nobody did wrong."""
    federation = Rotating(tmp_path / "world", max_age_days=30, priced=True).made()
    assert Living(federation).play(1)[0].outcome == "finished"
    before = len(federation.entries(COORDINATOR))
    federation.time[0] += 31 * DAY
    with pytest.raises(OperatorFault, match="no run begins: a key of coordinator that has been known for 31 days"):
        Living(federation).play(2)
    assert len(federation.entries(COORDINATOR)) == before
    for name in federation.everybody():
        federation.taken(federation.rotated(name, 0))
    federation.time[0] += 60
    assert Living(federation).play(3)[0].outcome == "finished"
    found = verify(folder_of(federation, tmp_path / "copies"))
    assert found.ok, found.why
