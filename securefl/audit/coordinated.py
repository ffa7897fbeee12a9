"""A run's folder as a coordinator of its own leaves it: what its own ledger gives, and the state that was released.

It has no accuracy and no account: those are the members'. Once their exported ledgers are laid beside the
coordinator's, everything in them is checked as always, and files, figures and ledgers are held by the checks that hold
a report's folder. Three things differ, for lack of evidence: the adapter is layout and state alone, and nothing that a
model loads; ``coordinated.json`` says less than a report; and how long the members' ledgers were when the run ended is
known only as far as others saw them.

A report can be made of such a folder afterwards (``afterwards``): then it is here, too, and made again to be checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from securefl.audit import afterwards, figures, folder, json_files, report_entry
from securefl.audit.ledger_files import Ledger
from securefl.audit.report import ApprovalsPart, Bytes, ModelPart, Outcome, Part
from securefl.errors import Tampered
from securefl.protection.trust_statement import who_can_open
from securefl.shown import in_json, plainly
from securefl.terms import MemberId, Plan, Reported, RunId

BESIDE = "laid beside: that nothing was cut off their ends which nobody else saw is not verified"


class MemberRow(Part):
    """One member."""

    name: str
    region: str


class RoundRow(Part):
    """One round."""

    round: int
    survivors: list[str]
    bytes_up: int
    bytes_down: int


class Coordinated(Part):
    """What a coordinator tells of a run that it coordinated."""

    federation: str
    run: str
    outcome: Outcome
    policy_hash: str
    approvals: ApprovalsPart
    model: ModelPart
    members: list[MemberRow]
    rounds: list[RoundRow]
    cohort_sizes: list[int]
    scheme: str = Field(description="how updates were hidden")
    who_can_open: str
    bytes: Bytes
    seconds: float = Field(description="wall time of the process that ended the run")
    adapter: str | None
    warnings: list[str]
    versions: dict[str, str]


def of_plan(plan: Plan) -> dict[str, Any]:
    """Return what it says that the plan gives."""
    model = {"name": plan.model.name, "digest": plan.model.digest.hex(), "trained_parameters": plan.dimension}
    return {
        "model": model, "scheme": plan.cover.scheme.value, "who_can_open": who_can_open(plan.cover),
        "warnings": list(figures.warnings(plan)),
    }  # fmt: skip


def write(facts: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write ``coordinated.json``, and give what it holds."""
    told: dict[str, Any] = plainly(Coordinated.model_validate(facts).model_dump(mode="json"))
    beside = out / f"{folder.COORDINATED}.new"
    beside.write_text(in_json(told), encoding="utf-8")
    beside.replace(out / folder.COORDINATED)
    return told


def is_one(run: Path) -> bool:
    """Return whether a folder is such a one: it has this file."""
    return (run / folder.COORDINATED).exists()


def of_task(
    task: Path, then: Mapping[MemberId, Ledger], whole: Mapping[MemberId, Ledger]
) -> tuple[RunId, dict[MemberId, Ledger]]:
    """The run of a task's folder, and the ledgers that it is held against.

    Args:
        task: its folder.
        then: what ledgers are in it: its coordinator's, as the task ended.
        whole: the ledgers beside all tasks. Of those who took part in this one they count as they are here.

    Raises:
        Tampered: the folder names no run, or nobody coordinated it.
    """
    run_id = folder.named(task)
    if run_id is None:
        raise Tampered(folder.RUN, "missing: nothing says which run this folder is of")
    coordinator = figures.coordinator_of(then, run_id)
    beside = {owner: ledger for owner, ledger in whole.items() if ledger.opened(run_id) is not None}
    return run_id, {**beside, coordinator.owner: coordinator}


def check(run: Path, ledgers: Mapping[MemberId, Ledger], run_id: RunId) -> tuple[str, ...]:
    """What is not verified of this folder, if all else in it is what its coordinator wrote down and what ledgers give.

    Raises:
        Tampered: a file is another, or missing; or a figure is none that the ledgers give.
    """
    coordinator, word, notes = folder.check_ended(run, ledgers, run_id)
    index, entry = word
    _check_form(entry)
    laid = report_entry.beside(ledgers, entry)
    then = report_entry.as_of(ledgers, coordinator, word, (run_id,), beside=laid)
    told, plan = json_files.mapping(run / folder.COORDINATED), figures.first_plan(then, run_id)
    try:
        Coordinated.model_validate_json(json.dumps(told), strict=True)
    except ValueError as fault:
        raise Tampered(folder.COORDINATED, f"not of its shape: {fault}") from fault
    due = figures.coordinated(then[coordinator.owner], run_id)
    figures.compare(folder.COORDINATED, due, {**told, "members": sorted(told["members"], key=lambda row: row["name"])})
    if plan is not None:
        figures.compare(folder.COORDINATED, due := due | of_plan(plan), told)
    folder.check_adapter(told, coordinator, run_id, entry)
    afterwards.check(run, told, then, run_id)
    words = sorted(set(told) - set(due) - {"adapter"})
    made_again = (f"{folder.REPORT}: ", f"{afterwards.PAGE}: ")
    return (
        *(note for note in notes if not note.startswith(made_again)),
        *folder.not_verified(run, folder.COORDINATED, words, told, then, word),
        *folder.longer(ledgers, entry, coordinator, index),
        *((f"{', '.join(ledgers[owner].name for owner in laid)}: {BESIDE}",) if laid else ()),
    )  # fmt: skip


def check_below(run: Path, ledgers: Mapping[MemberId, Ledger], root: RunId) -> tuple[str, ...]:
    """What is not verified of the folder of a federation below such a run: ledgers that were laid there, nothing else.

    Args:
        run: the folder.
        ledgers: all that are in it.
        root: the run of the federation above all.

    Raises:
        Tampered: a file stands beside the ledgers, and nobody says that it was left; or a coordinator here says so.
    """
    beside = next(folder.own(run), None)
    if beside is not None:
        raise Tampered(str(beside.relative_to(run)), "beside ledgers that were laid here: nobody wrote it down")
    for ledger in ledgers.values():
        for index, _ in report_entry.words(ledger, root):
            raise ledger.wrong(
                "a word on what was left below this run, and its coordinator above left nothing here", index
            )
    return (f"{', '.join(ledger.name for ledger in ledgers.values())}: {BESIDE}",)


def _check_form(entry: Reported) -> None:
    """Check that the coordinator left this form of a folder, and not the other: it would be read where this is checked.

    Raises:
        Tampered: it left a report, or page, of its own; or not this file.
    """
    left = {each.path for each in entry.files}
    for name in sorted({folder.REPORT, afterwards.PAGE} & left):
        raise Tampered(
            folder.COORDINATED, f"beside {name}, which the coordinator left: a run is told of in one of them"
        )
    if folder.COORDINATED not in left:
        raise Tampered(folder.COORDINATED, "a file that the run did not leave, and it tells of the run")
