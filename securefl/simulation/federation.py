"""Run a whole federation on one machine: its parties meet only through bytes, and its results are measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.audit import figures, folder
from securefl.coordinator import evidence, run_folder
from securefl.coordinator.drive import drive
from securefl.coordinator.run import prepare
from securefl.documents import site_file
from securefl.documents.federation import Loaded
from securefl.home import adoption
from securefl.home.clock import Entropy, clock
from securefl.home.home import Home
from securefl.planning.plan import FirstState, plan_of, strategy_of
from securefl.planning.possible import check_first_plan, check_seats
from securefl.policy import load as policies
from securefl.progress import Progress, Silent
from securefl.protection import schemes
from securefl.protection.trust_statement import who_can_open
from securefl.protocol import coordinator_state
from securefl.runtime.inprocess import InProcess
from securefl.runtime.processes import Processes
from securefl.seams import Runtime
from securefl.simulation.folder import (
    Result,
    already_bound,
    bind_folders,
    claimed_folder,
    export_ledgers,
    finish,
    save_adapter,
)
from securefl.simulation.instruments import instrumented, tap_of
from securefl.simulation.introduction import descended, found_signatures, introduce_tree
from securefl.simulation.layout import SiteLayout, check_homes, folder_of
from securefl.simulation.measure import Baselines
from securefl.simulation.own_sites import told_to_operator
from securefl.simulation.parties import (
    Bench,
    Instrumentation,
    held_records,
    load_model,
    observer_of,
    records_of,
    runtime_of,
    told_of_members,
    without_held_out,
)
from securefl.simulation.start_files import handed_over
from securefl.site import custody
from securefl.site.build import opened
from securefl.site.evaluation import Release, as_used
from securefl.strategy.member import MemberStrategy
from securefl.terms import (
    MemberId,
    Plan,
    RunId,
)
from securefl.terms.parties import COORDINATOR, CUSTODIAN

if TYPE_CHECKING:
    from securefl.policy.load import Policy
    from securefl.training.shared_model import SharedModel


TIMINGS = "timings.json"


@dataclass(frozen=True, slots=True)
class ResourceCache:
    """Where a run's model and records come from, and whether it gets a page: a bench of many runs keeps and leaves out.

    Whatever the first two give is exactly what ``load_model`` and ``records_of`` would give.
    """

    model: Callable[[Loaded], SharedModel] = load_model
    records: Callable[[Loaded, str], Any] = records_of
    page: bool = True  # report.html and its pictures beside report.json


def run(
    loaded: Loaded,
    out: Path,
    *,
    sites: Path | None = None,
    arms: Baselines = Baselines(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    entropy: Entropy = os.urandom,
    workbench: ResourceCache = ResourceCache(),
    unsafe_unsigned: bool = False,
) -> Result:
    """Train under policy; the folder ``out`` holds adapter, ledgers and report afterwards.

    An interrupted run in ``out`` goes on where it stood. The sites' homes are charged, whatever ``out`` is called. A
    policy without the signatures it needs is used with ``unsafe_unsigned`` alone. A policy that names nobody who could
    sign it needs none. Either way ledgers and report say that it is unsigned.

    Raises:
        Unapproved: the policy has not the signatures it needs.
        OperatorFault: something given is unusable, or ``out`` holds another or a finished run.
    """
    from securefl.audit import report as report_page  # noqa: PLC0415
    from securefl.simulation import measure  # noqa: PLC0415

    shown = progress or Silent()
    places = SiteLayout(loaded, sites.resolve() if sites else None)
    policy = policies.load(loaded.folder / loaded.file.policy)
    signatures = found_signatures(loaded.folder / loaded.file.policy, policy, unsafe_unsigned=unsafe_unsigned)
    tree = [(places, policy, signatures), *descended(places, policy, unsafe_unsigned=unsafe_unsigned)]
    for each, its, _ in tree:
        check_seats(each.loaded, its)
    check_homes((each.route, name, each.of(name)) for each, *_ in tree for name in each.parties)
    fresh = not (out / folder.RUN).exists()
    with claimed_folder(out, loaded, tuple(each for _, each, _ in tree)) as run_id, ExitStack() as stack:
        watch = measure.Stopwatch(out / TIMINGS)
        if already_bound(places, run_id, out):  # killed between its last word and the mark
            return finish(tree, out, evidence.report_of(out))
        undone = run_folder.free_again(out, TIMINGS) if fresh else nullcontext()
        with undone, watch("loading"):
            shown.say(f"{loaded.file.name}: {len(loaded.file.members)} members, policy {policy.hash.hex()[:12]}")
            shared = _trainable(loaded, policy, workbench.model(loaded))
            held = held_records(places, workbench.records)
            records = held[()]
        for line in told_of_members([each for each, *_ in tree], held):
            shown.say(line)
        rosters = introduce_tree(tree)
        everybody = rosters[()].everybody
        home = Home.at(places.of(COORDINATOR), COORDINATOR, clock)
        signed = adoption.evidence(policy, signatures)
        ready = prepare(loaded, handed_over(places, shared.start), home, policy, everybody, run_id, signed)
        plan = ready.course.plan
        _warn(shown, plan, "" if signed else loaded.file.policy, without_held_out((each for each, *_ in tree), held))
        taps = {each.route: tap_of(folder_of(out, each), held[each.route]) for each, *_ in tree}

        def carried(where: SiteLayout, runtime: InProcess | Processes) -> Runtime:
            if isinstance(runtime, Processes):
                stack.callback(runtime.close)
            return taps[where.route].runtime(runtime)

        eyes = Instrumentation(lambda where, agent: instrumented(agent, watch, taps[where.route]), carried)
        drawn = entropy if loaded.file.runtime == "processes" else taps[()].entropy(entropy)
        runtime = runtime_of(places, Bench(shared, drawn, shown, workbench.records, rosters, eyes))
        observe = observer_of(places, policy, everybody.members[0].member, shown)

        with watch("rounds"), told_to_operator():
            ended = drive(home, coordinator_state.Planned(ready.course), ready.ports, runtime, observe)
        export_ledgers([each for each, *_ in tree], out, run_id, taps)
        with watch("evaluation"):
            shown.say("evaluating on held-out rows of this bench")
            measured = measure.measure(
                shared, ready.course.state, ended, records, plan, ready.ports.strategy, arms, shown,
                own_models(rosters[()].documents, shared, ended, plan),
            )  # fmt: skip
        adapter = save_adapter(shared, ended, plan, out)
        who = _who(places, plan)
        report = measure.compose(loaded, plan, measured, out, watch, adapter, shared.engine, who)
        report_page.write(report, out, page=workbench.page)
        bind_folders([each for each, *_ in tree], out, run_id, ended.outcome)
        return finish(tree, out, report)


def own_models(
    documents: Mapping[MemberId, Path], shared: SharedModel, ended: coordinator_state.Ended, plan: Plan
) -> Callable[[str], bytes]:
    """What each member would use after the run, by its own SITE document: as `securefl site evaluate` has it."""
    half, release = MemberStrategy(shared.layout, shared.initial()), Release(plan.run, ended.last_round, plan)

    def of(name: str) -> bytes:
        home = opened(site_file.load(documents[MemberId(name)]))
        try:
            return as_used(home, release, half, ended.course.state)
        finally:
            home.engine.dispose()

    return of


def _warn(shown: Progress, plan: Plan, unsigned: str, more: Iterable[str]) -> None:
    """Say what a person should know before the run begins; ``unsigned`` is the policy's file, if it is."""
    told = [*((f"the policy is unsigned: {unsigned}",) if unsigned else ()), *figures.warnings(plan), *more]
    for warning in told:
        shown.say(f"WARNING: {warning}")


def run_without_privacy(loaded: Loaded, seed: int, workbench: ResourceCache) -> dict[str, Any]:
    """NOT PRIVATE: what the same members, model and steps reach without clipping, noise, policy or protection.

    For a bench to compare with: nothing is charged, released or kept.

    Raises:
        OperatorFault: something given is unusable.
    """
    from securefl.simulation import measure  # noqa: PLC0415

    began = time.monotonic()
    policy = policies.load(loaded.folder / loaded.file.policy)
    shared = workbench.model(loaded)
    records = held_records(SiteLayout(loaded, None), workbench.records)[()]
    strategy = strategy_of(loaded, shared.start)
    start = strategy.broadcast(shared.initial())
    plan = plan_of(loaded, policy, RunId(bytes(16)), FirstState.of(shared.start, strategy), None)
    state = measure.train_openly(shared, start, records, plan, loaded.file.training.rates(), strategy, seed)
    told = measure.scored(shared, state, records, plan)
    return {**told, "seconds": {"total": round(time.monotonic() - began, 3)}}


def _trainable(loaded: Loaded, policy: Policy, shared: SharedModel) -> SharedModel:
    """The model, once members may accept the plan to train it: found before anybody has a home.

    Raises:
        OperatorFault: none may.
    """
    check_first_plan(loaded, policy, shared.start)
    return shared


def _who(places: SiteLayout, plan: Plan) -> str:
    scheme = plan.cover.scheme
    shares = custody.threshold_of(places.of(CUSTODIAN) / schemes.key_name(scheme)) if scheme.has_custodian else None
    return who_can_open(plan.cover, shares)


def summary(result: Result, out: Path) -> str:
    """Return what a person reads at the end of a run."""
    from securefl.simulation import measure  # noqa: PLC0415

    return measure.table(result.report, out)
