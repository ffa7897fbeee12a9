"""Many tasks, one base model: each task is a run of its own, with its own secure sums, over who takes part in it.

The base is loaded once. Homes and accounts are the members' own, whatever task is charged. Whether every task has a
cohort that the policy allows is found before any record is read; what was trained is kept as one module for each task.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from securefl.audit import suite_report
from securefl.audit.run_tree import REPORT, TASKS
from securefl.audit.verify import read_all, verify
from securefl.coordinator import suite_folder
from securefl.coordinator.suite import Result, in_words
from securefl.documents import module_manifest
from securefl.documents.federation import Loaded
from securefl.documents.suite_file import OwnedTask, Suite
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.home.clock import Entropy, clock
from securefl.home.export import export_all
from securefl.home.home import Home
from securefl.planning import explain
from securefl.policy import load as policies
from securefl.progress import Progress, Silent
from securefl.protocol import coordinator_state
from securefl.simulation import federation, introduction, parties
from securefl.simulation.federation import ResourceCache
from securefl.simulation.layout import SiteLayout
from securefl.simulation.measure import Baselines
from securefl.site.charged_records import OnAccount, check_apart
from securefl.terms import Level, MemberId, Reason, RunId, SumOpened, Task
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from securefl.training import module_store
from securefl.training.data import Records
from securefl.training.shared_base import Base
from securefl.training.shared_model import SharedModel

NOTHING = Records((), ())


def run(
    suite: Suite,
    out: Path,
    *,
    sites: Path | None = None,
    arms: Baselines = Baselines(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    entropy: Entropy = os.urandom,
    unsafe_unsigned: bool = False,
) -> Result:
    """Train every task under policy; ``out`` holds a run for each in ``tasks``, all ledgers, and the modules.

    If the policy will not allow some task's first round, nothing is trained and nothing is written. An interrupted
    suite goes on where it stood; a task that was refused or aborted does not keep the others from their own.

    Raises:
        OperatorFault: something given is unusable, or ``out`` holds another suite, or one that is over.
    """
    shown = progress or Silent()
    places = SiteLayout(next(iter(suite.tasks.values())).loaded, sites.resolve() if sites else None)
    base = Base.load(*_model_of(suite))
    models = base.models({name: _asked(each.loaded) for name, each in suite.tasks.items()})
    refused = refusals(suite, models)
    if refused:
        return Result("refused", in_words(refused), {})
    for name, model in models.items():
        file = suite.tasks[name].loaded.file
        model.check_reads(file.training.max_tokens, f"{suite.path}: tasks.{name}: training.max_tokens")
        model.preflight()
    records = records_of(suite)
    with suite_folder.claimed(suite.written, out):
        bound = suite_folder.bound(_homes(suite, places, made=True), suite.written, suite.tasks, out)
        if bound is not None:  # killed behind its last word
            return Result.of(bound)
        tasks = {}
        for name, each in suite.tasks.items():
            shown.say(f"task {name}: {len(each.owners)} owners, {len(each.loaded.file.members)} take part")
            bench = ResourceCache(lambda _, n=name: models[n], lambda _, member, n=name: records[n][member])  # type: ignore[misc]
            folder = out / TASKS / name
            report = _finished(folder) or federation.run(
                each.loaded, folder, sites=sites, arms=arms, progress=shown, entropy=entropy, workbench=bench,
                unsafe_unsigned=unsafe_unsigned,
            ).report  # fmt: skip
            if report["outcome"]["status"] == "finished":
                here = SiteLayout(each.loaded, sites and sites.resolve())
                _keep(each, models[name], folder, report, here, out / suite_report.MODULES)
            tasks[name] = report
        _export(suite, places, out)
        result = _ended(suite, base, tasks, out)
        suite_folder.bind(_homes(suite, places), suite.written, tasks, out)
    return result


def split_key(suite: Suite, sites: Path | None, threshold: int) -> None:
    """The custodian's one key for all tasks is split among everybody's homes.

    Raises:
        OperatorFault: the tasks have no custodian, it has no key yet, or not every task has members enough
            for the threshold.
    """
    members = {each.name: each for task in suite.tasks.values() for each in task.loaded.file.members}
    name, fewest = min(suite.tasks.items(), key=lambda item: len(item[1].loaded.file.members))
    most = len(fewest.loaded.file.members)
    if threshold > most:
        what = f"{threshold} shares, and {most} take part in the task {name}, which asks nobody else for theirs"
        raise OperatorFault(what, f"choose a threshold of 2 to {most}", str(suite.path))
    loaded = fewest.loaded
    everybody = loaded.model_copy(update={"file": loaded.file.model_copy(update={"members": tuple(members.values())})})
    introduction.split_key_of(SiteLayout(everybody, sites.resolve() if sites else None), threshold, most)


def _model_of(suite: Suite) -> tuple[str, Path]:
    first = next(iter(suite.tasks.values())).loaded
    return first.file.model, first.folder


def _asked(loaded: Loaded) -> tuple[Task, Any, str]:
    file = loaded.file
    return file.task.task(), file.adapter.adapter(), file.training.engine


def refusals(suite: Suite, models: Mapping[str, SharedModel]) -> dict[str, tuple[Reason, ...]]:
    """Why the policy will refuse a task's first round, whoever else takes part in it; by task, none if none.

    The cohort's floor is held against a task's owners: members without records hide nothing that is worth hiding.
    """
    found = {}
    for name, each in suite.tasks.items():
        policy = policies.load(each.loaded.folder / each.loaded.file.policy)
        start = models[name].start
        told = [
            reason
            for loaded in ((each.owned(), each.loaded) if suite.hidden else (each.loaded,))
            for reason in explain.foreseen(loaded, policy, start)
        ]
        if told:
            found[name] = tuple(dict.fromkeys(told))
    return found


def records_of(suite: Suite) -> dict[str, dict[str, Records]]:
    """Each task's records, by member; none where a member owns none.

    Raises:
        OperatorFault: a member's records stand under two names that are said to be apart.
    """
    found = {
        name: {
            member.name: parties.records_of(each.loaded, member.name) if member.name in each.owners else NOTHING
            for member in each.loaded.file.members
        }
        for name, each in suite.tasks.items()
    }
    check_records_apart(suite, found)
    return found


def check_records_apart(suite: Suite, records: Mapping[str, Mapping[str, Records]]) -> None:
    """Check that accounts of one member that compose in parallel hold no record twice, however it is written."""
    parts: dict[str, list[OnAccount]] = {}
    for name, each in suite.tasks.items():
        for member in each.loaded.file.members:
            forms = records[name][member.name].forms
            parts.setdefault(member.name, []).append(OnAccount(name, member.dataset or member.name, forms))
    for member_name, held in parts.items():
        check_apart(held, str(suite.path), member_name)


def _finished(folder: Path) -> dict[str, Any] | None:
    """The report of a run that is over, if this folder holds one."""
    marked, told = folder / "run.json", folder / "report.json"
    if not marked.exists() or json.loads(marked.read_text(encoding="utf-8")).get("outcome") is None:
        return None
    verdict = verify(folder)
    if not verdict.ok:
        remedy = "find out who changed it; a task that is to run again needs another --out"
        raise OperatorFault(f"this task's run does not verify: {verdict.why}", remedy, str(folder))
    report: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return report


def _keep(
    task: OwnedTask, shared: SharedModel, folder: Path, report: Mapping[str, Any], places: SiteLayout, store: Path
) -> None:
    """What the run trained is in the store."""
    run_id = RunId(bytes.fromhex(report["run"]))
    home = Home.at(places.of(COORDINATOR), COORDINATOR, clock)
    with home.transaction() as conn:
        ended = home.saved(conn, run_id, coordinator_state.State)
    assert isinstance(ended, coordinator_state.Ended), "a finished run has ended"
    openings = [e.plan for _, e in read_all(folder)[COORDINATOR].each(SumOpened) if e.run == run_id]
    rows = [row for row in report["accounts"] if (row["level"], row["name"]) == (Level.RUN, report["run"])]
    policy = policies.load(task.loaded.folder / task.loaded.file.policy)
    manifest = module_manifest.manifest_of(
        task.name, replace(ended.course.plan, round=ended.last_round), openings[-1], ended.last_round,
        max(row["spent"] + row["reserved"] for row in rows), policy.budget.delta,
    )  # fmt: skip
    shapes = {each.name: each.shape for each in shared.layout.tensors}
    module_store.write(store, manifest, shapes, ended.course.state)


def _export(suite: Suite, places: SiteLayout, out: Path) -> None:
    """All ledgers as they stand after the last task."""
    export_all(_homes(suite, places), out / "ledger")


def _homes(suite: Suite, places: SiteLayout, *, made: bool = False) -> list[Home]:
    """Everybody's homes; with ``made`` only those that are there already."""
    names = {member.name for each in suite.tasks.values() for member in each.loaded.file.members}
    scheme = places.loaded.file.protection.scheme
    parties = [*sorted(names), COORDINATOR, *((CUSTODIAN,) if scheme.has_custodian else ())]
    paths = {name: places.of(name) for name in parties}
    return [Home.at(at, MemberId(name), clock) for name, at in paths.items() if not made or identity.is_made(at)]


def _ended(suite: Suite, base: Base, tasks: Mapping[str, dict[str, Any]], out: Path) -> Result:
    said = suite_folder.Words(
        {"name": base.model.name, "digest": base.model.digest.hex(), "parameters": base.parameters},
        {name: each.owners for name, each in suite.tasks.items()},
        {name: suite_report.ONE_FOR_EACH if e.records else suite_report.OWN for name, e in suite.tasks.items()},
        suite.hidden,
    )
    return Result.of(suite_folder.tell(suite.written, tasks, said, out))


def table(result: Result, out: Path) -> str:
    """Return what a person reads at the end of a suite."""
    if not result.told:
        return f"{result.outcome}: {result.why}"
    head = f"{'task':<16}{'owners':>8}{'before':>9}{'after':>9}{'epsilon':>9}{'values':>9}{'MB up':>9}"
    rows = [
        f"{name:<16}{len(each['owners']):>8}{each['accuracy']['before']:>9.3f}{each['accuracy']['after']:>9.3f}"
        f"{each['epsilon']['spent']:>9.3f}{each['trained_parameters']:>9}{each['bytes']['up'] / 1e6:>9.2f}"
        f"  {each['outcome']['status']}"
        for name, each in result.told["tasks"].items()
    ]
    note = "accuracy on held-out rows: bench only, not released"
    places = f"modules   {out / suite_report.MODULES}\nledgers   {out / 'ledger'}\nreport    {out / REPORT}"
    return "\n".join([head, *rows, note, *([result.why] if result.why else []), places])
