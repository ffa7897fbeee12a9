"""Replay and balances: what the ledgers' events cost, against an oracle that reads plain numbers and asks dp-accounting."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from securefl.audit.replay import accounts, replay
from securefl.audit.verify import verify
from securefl.errors import OperatorFault, Tampered
from securefl.ledger import export
from securefl.terms import ReservationReleased, Settled
from securefl.training.prv import epsilon_prv
from tests.audit.test_audit_verify import did, lies
from tests.support.audited import MEMBERS, POLICY, Story, told


def oracle(events: list[tuple[float, float, int]], *, by_rdp: bool = False, delta: float = 1e-5) -> float:
    """Epsilon, from numbers alone; by PLD at the finer interval where RDP finds it below 2."""
    interval = 1e-4 if by_rdp or oracle(events, by_rdp=True, delta=delta) <= 2 else 1e-3
    neighbours = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = (
        rdp.RdpAccountant(neighboring_relation=neighbours)
        if by_rdp
        else pld.PLDAccountant(neighbours, value_discretization_interval=interval)
    )
    for rate, noise, steps in events:
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    return float(accountant.get_epsilon(delta))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return told().export(tmp_path_factory.mktemp("good"))


def test_replay_shows_every_event_of_every_member_and_what_they_cost(good: Path) -> None:
    answer = replay(good)
    assert set(answer) == {"events", "epsilon"}
    assert [event["member"] for event in answer["events"]] == [name for name in sorted(MEMBERS) for _ in range(2)]
    for event in answer["events"]:
        del event["member"]
        assert event == {
            "mechanism": "poisson-gaussian", "sampling_rate": [1, 20], "noise_multiplier": 1.0, "steps": 5, "state": "settled",
        }  # fmt: skip
    assert answer["epsilon"]["pld"] == pytest.approx(oracle([(0.05, 1.0, 10)]), abs=1e-6)
    assert answer["epsilon"]["rdp"] == pytest.approx(oracle([(0.05, 1.0, 10)], by_rdp=True), abs=1e-6)
    assert answer["epsilon"]["delta"] == 1e-5
    assert answer["epsilon"]["pld"] <= answer["epsilon"]["rdp"]


def test_a_third_opinion_stands_beside_the_others_and_decides_nothing(good: Path) -> None:
    plain, third = replay(good), replay(good, epsilon_prv)
    prv = third["epsilon"].pop("prv")
    assert third == plain
    assert prv == pytest.approx(plain["epsilon"]["pld"], abs=0.025)
    assert replay(good, lambda events, delta: None)["epsilon"]["prv"] is None


def test_replay_takes_the_member_who_lost_most_and_counts_all_its_runs(tmp_path: Path) -> None:
    story = told(rounds=1)
    story.cohort = ("north", "south", "east")
    story.begin()
    story.round(1)
    story.close()
    answer = replay(story.export(tmp_path))
    assert answer["epsilon"]["pld"] == pytest.approx(oracle([(0.05, 1.0, 10)]), abs=1e-6)
    assert len(answer["events"]) == 7


def test_replay_refuses_what_does_not_verify(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "copy")
    (tmp_path / "copy" / "ledger" / "west.ledger").unlink()
    with pytest.raises(Tampered, match=r"west.ledger: missing"):
        replay(tmp_path / "copy")


def test_what_was_freed_is_no_event_and_what_was_cut_short_counts_as_it_ran(tmp_path: Path) -> None:
    story = Story(lies("north", Settled, lambda entry: (ReservationReleased(entry.plan, "nothing ran"),)))
    story.begin()
    story.round(1, lost=["north"])
    story.close()
    assert {event["member"] for event in replay(story.export(tmp_path / "freed"))["events"]} == {
        "south",
        "east",
        "west",
    }

    story = Story(lies("north", Settled, lambda entry: did(entry, steps=2)))
    story.begin()
    story.round(1, lost=["north"])
    story.close()
    events = replay(story.export(tmp_path / "short"))["events"]
    assert {event["member"]: event["steps"] for event in events} == {"north": 2, "south": 5, "east": 5, "west": 5}


def test_balances_are_the_same_from_a_run_its_folder_and_one_file(good: Path) -> None:
    everything = accounts(good)
    assert accounts(good / "ledger") == everything
    assert accounts(good / "ledger" / "north.ledger") == [row for row in everything if row["member"] == "north"]
    assert accounts(good / "ledger" / "coordinator.ledger") == []
    assert [(row["member"], row["level"], row["name"]) for row in everything[:2]] == [
        ("east", "dataset", "east-data"), ("east", "federation", "harbour"),
    ]  # fmt: skip


def test_balances_add_up_and_never_promise_too_much(tmp_path: Path) -> None:
    """One round settled, and one that a crash left open."""
    story = Story(lies("north", Settled, lambda entry: (), nth=1))
    story.begin()
    story.round(1)
    story.round(2, lost=["north"])
    story.close("aborted")
    run = story.export(tmp_path)
    assert verify(run).ok, verify(run).why
    rows = {(row["member"], row["level"]): row for row in accounts(run)}
    for level in ("dataset", "federation"):
        row = rows["north", level]
        assert row["spent"] == pytest.approx(oracle([(0.05, 1.0, 5)]), abs=1e-9)
        assert row["spent"] + row["reserved"] == pytest.approx(oracle([(0.05, 1.0, 10)]), abs=1e-6)
        assert row["limit"] == 8.0
        assert 0 < row["left"] < 8.0 - row["spent"] - row["reserved"] + 1e-12
        assert (row["delta"], row["unit"]) == (1e-5, "record")
        assert rows["south", level]["reserved"] == 0.0
        assert rows["south", level]["spent"] > row["spent"]


def test_records_held_by_several_members_count_for_each(tmp_path: Path) -> None:
    run = told(policy=POLICY.replace("overlap: 1", "overlap: 2"), rounds=1).export(tmp_path)
    assert verify(run).ok, verify(run).why
    assert accounts(run)[0]["spent"] == pytest.approx(2 * oracle([(0.05, 1.0, 5)], delta=5e-6), abs=1e-8)


def test_balances_of_nothing_or_of_a_damaged_ledger_are_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match="no ledger; give a run"):
        accounts(Path(__file__))
    with pytest.raises(OperatorFault, match="nothing here; give a run"):
        accounts(tmp_path / "absent")
    file = export.read(good / "ledger" / "north.ledger")
    export.write(tmp_path / "north.ledger", replace(file, leaves=file.leaves[:-1]))
    with pytest.raises(Tampered, match="do not give the root"):
        accounts(tmp_path / "north.ledger")
