"""One coordinator runs its federation, by its own document: it knows parties by name, key and socket, and nothing else.

A run that was interrupted goes on with the same folder. Members keep their budgets, records and results to themselves;
what is left in the folder is what the coordinator knows: its ledger, its figures, and the state that was released.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import __version__
from securefl.audit import coordinated, figures, folder
from securefl.audit.ledger_files import read_all
from securefl.coordinator import evidence, inviting, run_folder
from securefl.coordinator.counts import Counted, Counts
from securefl.coordinator.drive import drive
from securefl.documents.coordinator_file import Coordinator
from securefl.errors import Missing, OperatorFault
from securefl.home import adoption, export
from securefl.home.home import Home
from securefl.home.introduced import Introduced
from securefl.home.peers import pin
from securefl.planning import start_file
from securefl.planning.plan import FirstState, plan_of, strategy_of
from securefl.planning.possible import check_first_plan
from securefl.policy import load as policies
from securefl.progress import Progress
from securefl.protection import schemes
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.protocol.messages import InProgress
from securefl.runtime.couriers import Couriers
from securefl.runtime.sockets import GONE_S, Sockets
from securefl.seams import Runtime
from securefl.terms import MemberId, Participant, PublicKey, RunId
from securefl.terms.parties import COORDINATOR

if TYPE_CHECKING:
    from securefl.documents.coordinator_suite import CoordinatorSuite
    from securefl.documents.federation import Loaded
    from securefl.policy.load import Policy
    from securefl.terms.layout import Layout
    from securefl.terms.start import Start


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended, and what its folder tells of it."""

    outcome: str
    why: str
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can be driven: where its machine starts, and what it is held against."""

    course: coordinator_state.RunState
    ports: coordinator_state.Ports
    layout: Layout


def sockets_of(coordinator: Coordinator | CoordinatorSuite, shown: Progress, gone_s: float = GONE_S) -> Sockets:
    """The way to everybody in the document."""

    def watch(member: MemberId, progress: InProgress) -> None:
        shown.step(member, progress.done, progress.steps)

    places = {MemberId(name): coordinator.socket(name).absolute() for name in coordinator.file.parties}
    return Sockets(places, gone_s, watch)


def couriers_of(coordinator: Coordinator, folder: Path) -> Couriers:
    """The way to everybody in the document whom no wire reaches: packages in ``folder``, for couriers.

    Raises:
        OperatorFault: somebody's key is not known.
        OSError: this user may not write in ``folder``.
    """
    home, name = inviting.opened(coordinator), coordinator.file.name
    policy = policies.load(coordinator.policy).text

    def counting(seat: Participant) -> tuple[PublicKey, ...]:
        return home.key_line(name, seat, policy).counting()

    seats = everyone(coordinator, home).everybody[1:]
    couriers = Couriers(folder, home.identity, {seat.member: partial(counting, seat) for seat in seats})
    couriers.prepare()
    return couriers


def coordinate(
    coordinator: Coordinator,
    out: Path,
    shown: Progress,
    runtime: Runtime,
    *,
    unsafe_unsigned: bool = False,
    counts: Counts | None = None,
) -> Result:
    """Run the federation; the folder ``out`` has the coordinator's ledger, its figures and the released state then.

    Raises:
        Unapproved: the policy has not the signatures it needs.
        OperatorFault: somebody's key is not known, no member may accept the plan, something given is unusable, or
            ``out`` holds another run. Nobody was asked.
    """
    home = inviting.opened(coordinator)
    everybody = everyone(coordinator, home)
    policy = policies.load(coordinator.policy)
    signatures = adoption.found_signatures(coordinator.policy, policy, home.clock(), unsafe_unsigned=unsafe_unsigned)
    what = {"coordinator_file": m.state_digest(coordinator.text).hex(), "policy_hash": policy.hash.hex()}
    loaded = loaded_with(coordinator, everybody)
    begin, began = start_of(coordinator, loaded), time.monotonic()
    check_first_plan(loaded, policy, begin)
    with run_folder.claimed(out, what) as run_id:
        if evidence.bound(home, run_id, out):  # killed between its last word and the mark
            return _over(home, out)
        pin(home.path, policy.federation, everybody.everybody)
        adoption.propose(home, policy, signatures)
        signed = adoption.evidence(policy, signatures)
        prepared = prepare(loaded, begin, home, policy, everybody, run_id, signed)
        shown.say(f"{policy.federation}: {len(everybody.members)} members, policy {policy.hash.hex()[:12]}")
        unsigned = () if signed else (f"the policy is unsigned: {coordinator.policy}",)
        for warning in (*unsigned, *figures.warnings(prepared.course.plan)):
            shown.say(f"WARNING: {warning}")
        start = coordinator_state.Planned(prepared.course)
        counts = counts or Counts()
        ended = drive(home, start, prepared.ports, Counted(runtime, counts), _observer(shown, counts))
        _leave(home, out, ended, prepared, everybody, round(time.monotonic() - began, 3))
        return _over(home, out)


def everyone(coordinator: inviting.Inviting, home: Home) -> Introduced:
    """Everybody in the document, each with a key.

    Raises:
        OperatorFault: somebody's is not known.
    """
    known = inviting.known(coordinator, home)
    if known.everybody is None:
        what = f"no key of {', '.join(known.missing)} is known"
        remedy = "take in their answers (`securefl site join COORDINATOR ANSWER`), or write `key` and `region`"
        raise OperatorFault(what, remedy, f"{coordinator.path}: members")
    return known.everybody


def loaded_with(coordinator: Coordinator, everybody: Introduced) -> Loaded:
    """The live federation that the document says, with everybody's key and region."""
    seats = (*everybody.members, *((everybody.custodian,) if everybody.custodian else ()))
    keys = {str(seat.member): seat.key.hex() for seat in seats}
    return coordinator.loaded(keys, {str(seat.member): seat.region for seat in everybody.members})


def prepare(
    loaded: Loaded, begin: Start, home: Home, policy: Policy, everybody: Introduced, run: RunId, signed: bytes
) -> Prepared:
    """The first plan of a run, and the machine that carries it.

    Raises:
        OperatorFault: what is to be trained does not fit the model or the policy's form.
    """
    strategy, custodian = strategy_of(loaded, begin), everybody.custodian
    start = strategy.broadcast(begin.state)
    plan = plan_of(loaded, policy, run, FirstState.of(begin, strategy), custodian.key if custodian else None)
    session = m.Session(
        run, policy.federation, policy.hash, plan.cover.scheme, plan.cover.threshold, everybody.coordinator, custodian,
        everybody.members, loaded.of_task,
    )  # fmt: skip
    with home.transaction() as conn:
        seen = home.witnessed(conn, everybody.everybody[1:])
    course = coordinator_state.RunState(
        session, policy.text, loaded.file.training.rates(), plan, start, strategy.begin(start), {}, {},
        seen.shown, {}, signed, seen.former,
    )  # fmt: skip
    return Prepared(course, coordinator_state.Ports(home.identity, schemes.coordinator_half, strategy), begin.layout)


def start_of(coordinator: Coordinator, loaded: Loaded) -> Start:
    """Return where training starts: by the start file that the document names, or by the model, if it is here.

    Raises:
        OperatorFault: neither can be read here.
    """
    if coordinator.file.start is not None:
        return start_file.of(loaded)
    try:
        from securefl.training.shared_model import SharedModel  # noqa: PLC0415
    except ModuleNotFoundError as fault:
        what = f"names no start file, and {fault.name}, which reads the model, is not installed"
        raise Missing(what, start_file.REMEDY, f"{coordinator.path}: start") from fault
    file = coordinator.file
    task, adapter, model = file.task.task(), file.adapter.adapter(), file.model
    return SharedModel.load(model.at or model.name, coordinator.folder, task, adapter, model.engine, model.name).start


def _observer(shown: Progress, counts: Counts) -> Any:  # noqa: ANN401 - coordinator.drive.Observer
    def observe(before: coordinator_state.State, moved: coordinator_state.Step) -> None:
        counts.observe(moved)
        collecting = coordinator_state.Collecting
        if isinstance(moved.state, collecting) and not isinstance(before, collecting):
            course = moved.state.course
            shown.say(f"round {course.plan.round}/{course.rounds}")

    return observe


def _leave(
    home: Home, out: Path, ended: coordinator_state.Ended, prepared: Prepared, everybody: Introduced, seconds: float
) -> None:
    """Write what the coordinator knows, and bind it in its ledger."""
    run, plan = ended.course.session.run, prepared.course.plan
    export.one(home, out / "ledger")
    adapter = folder.ADAPTER if ended.last_round else None
    if adapter:
        (out / adapter).mkdir(exist_ok=True)
        evidence.keep_state(out, ended.course.state, prepared.layout)
    ledgers = read_all(out)
    coordinated.write(
        {
            **figures.coordinated(ledgers[COORDINATOR], run), **coordinated.of_plan(plan),
            "seconds": seconds, "adapter": adapter,
            "versions": {"securefl": __version__, "dp-accounting": version("dp-accounting")},
        },
        out,
    )  # fmt: skip
    keys = {seat.member: seat.key for seat in everybody.everybody}
    instead = {folder.RUN: run_folder.run_mark(out, ended.outcome)}
    evidence.bind(home, (home,), run, out, keys=keys, instead=instead)


def _over(home: Home, out: Path) -> Result:
    """Mark the run as over: its folder has the ledger as it stands."""
    export.one(home, out / "ledger")
    told = evidence.told_in(out / folder.COORDINATED)
    outcome = told["outcome"]
    evidence.mark(out, run_folder.run_mark(out, outcome["status"]))
    return Result(outcome["status"], outcome["why"], told)
