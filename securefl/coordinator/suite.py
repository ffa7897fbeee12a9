"""One coordinator runs its federation's tasks, one after another: each is a run of its own, on the same homes.

Whether members may accept, and the policy will allow, every task's first round is found before anybody is asked. A
suite that was interrupted goes on with the same folder. What is left is laid out as a simulated suite's, without what a
coordinator cannot know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.audit import folder, json_files, suite_report
from securefl.coordinator import evidence, inviting, run, suite_folder
from securefl.home.export import export_all
from securefl.planning import explain
from securefl.planning.possible import check_first_plan
from securefl.policy import load as policies

if TYPE_CHECKING:
    from securefl.coordinator.counts import Counts
    from securefl.documents.coordinator_suite import CoordinatorSuite
    from securefl.documents.federation import Loaded
    from securefl.home.home import Home
    from securefl.home.introduced import Introduced
    from securefl.policy.load import Policy
    from securefl.progress import Progress
    from securefl.seams import Runtime
    from securefl.terms import Reason
    from securefl.terms.start import Start


@dataclass(frozen=True, slots=True)
class Result:
    """How a suite ended; ``told`` is what its folder tells, if anything was begun."""

    outcome: str  # finished, refused or aborted: the worst of its tasks
    why: str
    told: dict[str, Any]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Result:
        """The result that a suite's folder tells."""
        return cls(told["outcome"]["status"], told["outcome"]["why"], told)


def coordinate(
    suite: CoordinatorSuite,
    out: Path,
    shown: Progress,
    runtime: Runtime,
    *,
    unsafe_unsigned: bool = False,
    counts: Counts | None = None,
) -> Result:
    """Run every task; ``out`` has a coordinator's folder for each in ``tasks``, the coordinator's ledger, and figures.

    A task that was refused or aborted does not keep the others from their own.

    Raises:
        Unapproved: the policy has not the signatures it needs.
        OperatorFault: as for one federation's run; or ``out`` holds another suite, or one that is over.
    """
    home = inviting.opened(suite)
    everybody = run.everyone(suite, home)
    policy = policies.load(suite.policy)
    loadeds = {name: run.loaded_with(each, everybody) for name, each in suite.tasks.items()}
    starts = {name: run.start_of(each, loadeds[name]) for name, each in suite.tasks.items()}
    for name, loaded in loadeds.items():
        check_first_plan(loaded, policy, starts[name])
    told = refused(policy, loadeds, starts)
    if told:
        return Result("refused", told, {})
    with suite_folder.claimed(suite.text, out):
        report = suite_folder.bound((home,), suite.text, suite.tasks, out)  # killed behind its last word
        if report is None:
            tasks = {}
            for name, each in suite.tasks.items():
                shown.say(f"task {name}: {len(each.file.members)} members")
                place = out / folder.TASKS / name
                tasks[name] = (
                    _over(place)
                    or run.coordinate(each, place, shown, runtime, unsafe_unsigned=unsafe_unsigned, counts=counts).told
                )
            report = _leave(home, suite, next(iter(starts.values())), tasks, everybody, out)
    return Result.of(report)


def _leave(
    home: Home, suite: CoordinatorSuite, first: Start, tasks: Mapping[str, Any], everybody: Introduced, out: Path
) -> dict[str, Any]:
    """Write what the coordinator knows of all tasks, bind it in its ledger, and give what it tells."""
    export_all((home,), out / "ledger")
    said = suite_folder.Words(
        {"name": first.model.name, "digest": first.model.digest.hex(), "parameters": None},
        {name: list(each.file.members) for name, each in suite.tasks.items()},
        dict.fromkeys(tasks, suite_report.AT_SITES),
    )
    report = suite_folder.tell(suite.text, tasks, said, out)
    suite_folder.bind((home,), suite.text, tasks, out, {seat.member: seat.key for seat in everybody.everybody})
    return report


def refused(policy: Policy, loadeds: Mapping[str, Loaded], starts: Mapping[str, Start]) -> str:
    """Why the policy will refuse some task's first round, whoever takes part; empty if it will refuse none."""
    found: dict[str, tuple[Reason, ...]] = {
        name: explain.foreseen(loaded, policy, starts[name]) for name, loaded in loadeds.items()
    }
    return in_words({name: reasons for name, reasons in found.items() if reasons})


def in_words(refusals: Mapping[str, tuple[Reason, ...]]) -> str:
    """What a person is told of tasks that a policy will refuse; empty of none."""
    told = "; ".join(f"task {name}: {'; '.join(map(str, reasons))}" for name, reasons in refusals.items())
    return f"before anything was trained: {told}" if told else ""


def _over(place: Path) -> dict[str, Any] | None:
    """Return what the folder of a task tells whose run is over; None of another."""
    mark = place / folder.RUN
    if not mark.exists() or json_files.mapping(mark).get("outcome") is None:
        return None
    return evidence.told_in(place / folder.COORDINATED)
