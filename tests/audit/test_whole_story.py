"""What is not here is named: parties without a ledger, tasks and federations without a folder; and nothing else is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from audits.protection.hostile import tasks, unfinished
from securefl.audit import folder, run_tree, tree
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.errors import Tampered
from securefl.ledger import export
from securefl.policy.load import ABOVE
from securefl.terms import MemberId, Reason, Refused, RunId, RunJoined
from tests.support import audited
from tests.support.audited import MEMBERS, Story, identity

KNOWN = {name: identity(name).public.hex() for name in (*MEMBERS, "coordinator")}
ALONE = folder.alone(KNOWN)


def short_of_west() -> Story:
    """West stands in the roster and was away for the whole run: it was never heard, and no plan names it."""
    story = Story()
    story.begin()
    story.cohort = tuple(name for name in MEMBERS if name != "west")
    for party in story.parties.values():
        party.leaves = [leaf for leaf in party.leaves if "west" not in _parties_of(leaf.entry)]
    story.parties["west"].leaves = []
    story.round(1)
    story.close()
    return story


def _parties_of(entry: object) -> tuple[str, ...]:
    receipt = getattr(entry, "receipt", None)
    return () if receipt is None else (receipt.sender, receipt.to)


@pytest.mark.parametrize("pinned", [True, False])
def test_whoever_stands_in_the_roster_and_has_no_ledger_here_is_named_and_no_offence(
    pinned: bool, tmp_path: Path
) -> None:
    found = verify(short_of_west().export(tmp_path), KNOWN if pinned else None)
    assert found.ok, found.why
    told = [each for each in found.unverified if "west" in each]
    assert told[0].endswith("no ledger of west, whom coordinator names and never heard")
    assert told[1:] == (["no ledger of west, whose key is pinned"] if pinned else [])


def test_a_pinned_name_that_no_run_here_knows_is_named(tmp_path: Path) -> None:
    run = audited.told(rounds=1).export(tmp_path)
    assert verify(run, KNOWN).unverified == ALONE
    assert verify(run, {**KNOWN, "centre": "00" * 32}).unverified == (
        *ALONE,
        "no ledger of centre, whose key is pinned",
    )


def test_a_party_whose_ledger_is_here_and_that_never_joined_is_not_called_missing(tmp_path: Path) -> None:
    story = short_of_west()
    story.cohort = MEMBERS
    story.begin()
    story.round(1)
    story.close()
    found = verify(story.export(tmp_path), KNOWN)
    assert found.ok, found.why
    assert found.unverified == ALONE


def test_a_member_below_that_joined_under_another_policy_is_found_although_its_coordinator_did_not() -> None:
    run = unfinished._refused()
    node, inside = read_all(run)[MemberId("left")], dict(read_all(run / "below" / "left"))
    tree.check(node.owner, node, inside)
    own = inside[MemberId("left-a")]
    for change in (lambda text: text.partition(ABOVE)[0], lambda text: text.replace(b"epsilon: 20,", b"epsilon: 99,")):
        leaves = tuple(
            replace(leaf, entry=replace(leaf.entry, policy=change(leaf.entry.policy)))
            if isinstance(leaf.entry, RunJoined)
            else leaf
            for leaf in own.leaves
        )
        with pytest.raises(Tampered, match="does not stand under the one that left joined with"):
            tree.check(node.owner, node, inside | {own.owner: replace(own, leaves=leaves)})


def test_ledgers_of_a_federation_below_stand_in_their_own_folder_and_nowhere_else(tmp_path: Path) -> None:
    """Else nothing that its coordinator said of that folder would be held against what is in it."""
    run = tmp_path / "run"
    shutil.copytree(unfinished._refused(), run)
    assert verify(run).ok, verify(run).why
    left = run / "below" / "left"
    for path in left.iterdir():
        if path.is_file():
            path.unlink()
    for path in (left / "ledger").iterdir():
        path.rename(left / path.name)
    (left / "ledger").rmdir()
    found = verify(run)
    assert (found.ok, found.first_bad) == (False, {"ledger": "below/left/ledger", "entry": None})
    with pytest.raises(Tampered, match="missing: the ledgers of a federation below"):
        run_tree.explain(run)


def test_a_parents_copy_without_what_is_below_is_told_as_not_measured(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unfinished._refused(), run)
    told, text, breached = run_tree.explain(run)
    assert (breached, sorted(told["below"]), "not_measured" in told) == (False, ["left", "mid", "right"], False)
    shutil.rmtree(run / "below")
    told, text, breached = run_tree.explain(run)
    assert (breached, told["ok"], "below" in told) == (False, True, False)
    for name in ("left", "mid", "right"):
        assert any(name in each for each in told["not_measured"]), name
    assert all(f"NOT MEASURED: {each}" in text for each in told["not_measured"])


def test_many_tasks_that_go_on_are_told_as_far_as_they_are_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tasks.made() / "run", run)
    told, _, _ = run_tree.explain(run)
    assert (sorted(told["tasks"]), "not_measured" in told) == (["mood", "tone", "wish"], False)
    (run / "suite.json").write_text(
        json.dumps({"file": json.loads((run / "suite.json").read_text())["file"], "outcome": None})
    )
    shutil.rmtree(run / "tasks" / "wish" / "ledger")
    told, text, _ = run_tree.explain(run)
    assert sorted(told["tasks"]) == ["mood", "tone"]
    assert told["not_measured"][0] == "tasks/wish: of a task that is not over"
    assert "which tasks are to come" in text


def test_one_tasks_folder_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tasks.made() / "run", run)
    shutil.rmtree(run / "tasks" / "wish")
    shutil.copytree(run / "tasks" / "mood", run / "tasks" / "wish")
    with pytest.raises(Tampered, match="not the run that suite.json names"):
        run_tree.explain(run)


@pytest.mark.parametrize("cohorts", [(MEMBERS, MEMBERS[:3]), (MEMBERS[:3], MEMBERS)])
def test_the_end_of_a_ledger_cannot_be_cut_whichever_task_its_owner_had_a_part_in(
    tmp_path: Path, cohorts: tuple[tuple[str, ...], ...]
) -> None:
    """The word on a run with tasks names ledgers of all of them, and no run by that name was ever joined."""
    story = Story()
    for cohort in cohorts:
        story.cohort = cohort
        story.begin()
        story.round(1)
        story.close()
    seen = len(story.parties["west"].leaves)  # what it wrote later, nobody else saw
    story.note("west", Refused(RunId(bytes(16)), 1, "plan", (Reason("budget.per_dataset.epsilon", "x", "y", "z"),)))
    story.export(tmp_path / "then")
    story.note("coordinator", folder.reported(RunId(b"\7" * 16), read_all(tmp_path / "then"), ()))
    for cut in (None, seen):
        copies = tmp_path / f"{cut}"
        for name, party in story.parties.items():
            export.write(copies / f"{name}.ledger", party.file(cut if name == "west" else None))
        found = verify(copies, KNOWN)
        assert found.ok is (cut is None), found.why
    assert "are not those that the report was computed from" in found.why
