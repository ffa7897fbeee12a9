"""Build every party of a federation's file by its SITE document: in this process, or in one of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import key_files
from securefl.documents import site_file
from securefl.documents.federation import Loaded
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.home.clock import Entropy, clock
from securefl.privacy.account import Charge, bound_of
from securefl.progress import Progress, Under
from securefl.protocol import coordinator_state
from securefl.protocol.messages import InProgress
from securefl.runtime.inprocess import InProcess
from securefl.runtime.peer_process import Party
from securefl.runtime.processes import Processes
from securefl.seams import Runtime, Waiting
from securefl.simulation.introduction import home_of
from securefl.simulation.layout import SiteLayout
from securefl.simulation.own_sites import OwnSite
from securefl.simulation.site_documents import Roster, Route
from securefl.site import custody
from securefl.site.agent import Agent
from securefl.site.build import Environment, build
from securefl.terms import Accountant, Level, MemberId, Patience, Unbounded
from securefl.terms.parties import CUSTODIAN

if TYPE_CHECKING:
    from securefl.policy.load import Policy
    from securefl.training.shared_model import SharedModel


@dataclass(frozen=True, slots=True)
class Shares:
    """The members' homes of one machine, asked for their shares of a decryption key: each answers for itself."""

    homes: Mapping[MemberId, Path]

    def __call__(self, file: Path) -> custody.Gather:
        """The way to the shares of the key in ``file``, which is in its custodian's home."""
        return custody.gather_from(file, self.homes, key_files.load(identity.place(file.parent)))


@dataclass(frozen=True, slots=True)
class Parent:
    """A site that is a federation, whose members are processes that it started."""

    agent: Agent
    members: Processes

    def handle(self, data: bytes) -> bytes | InProgress:
        """As the site does."""
        return self.agent.handle(data)

    def leave(self) -> None:
        """End its members' processes, too; the rounds inside go on when it is asked again."""
        self.agent.leave()
        self.members.close()


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One party, by the path of its SITE document; plain values, so it can cross a process border."""

    site: Path
    entropy: Entropy
    shares: Shares | None = None  # of a custodian
    members: Mapping[MemberId, AgentSpec] | None = None  # of a site that is a federation

    def __call__(self) -> Party:
        """The party, with its own model in memory; its members are started as processes of its own."""
        runtime = None if self.members is None else started(self.members)
        agent = build(
            site_file.load(self.site),
            around=Environment(entropy=self.entropy, clock=clock, members=runtime, shares=self.shares),
        )
        return agent if runtime is None else Parent(agent, runtime)

    @property
    def is_parent(self) -> bool:
        """Whether it starts processes of its own."""
        return self.members is not None


def started(recipes: Mapping[MemberId, AgentSpec]) -> Processes:
    """A process for each party, all of them built.

    Raises:
        OperatorFault: some could not be; each has told why itself.
    """
    runtime = Processes(recipes, [name for name, each in recipes.items() if each.is_parent])
    failed = runtime.start(Waiting(Patience().train_s, time.monotonic))
    if failed:
        runtime.close()
        what = "; ".join(f"{name} did not start: {each.why}" for name, each in failed.items())
        raise OperatorFault(what, "do what its own lines above say", "runtime: processes")
    return runtime


def load_model(loaded: Loaded) -> SharedModel:
    """The base model with its adapter and head, checked on synthetic text before any record is read."""
    from securefl.training import blocks  # noqa: PLC0415
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    file = loaded.file
    task, adapter = file.task.task(), file.adapter.adapter()
    with blocks.named_in(loaded.path):
        shared = SharedModel.load(file.model, loaded.folder, task, adapter, file.training.engine)
    shared.check_reads(file.training.max_tokens, f"{loaded.path}: training.max_tokens")
    shared.preflight()
    return shared


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """What a bench puts around the parties of all federations, and around what carries their messages."""

    party: Callable[[SiteLayout, Agent], Agent] = lambda _, agent: agent
    runtime: Callable[[SiteLayout, InProcess | Processes], Runtime] = lambda _, runtime: runtime


@dataclass(frozen=True, slots=True)
class Bench:
    """What parties in one process are lent: one model, and records that were read before."""

    shared: SharedModel
    entropy: Entropy
    progress: Progress
    records: Callable[[Loaded, str], Any]
    rosters: Mapping[Route, Roster]
    eyes: Instrumentation = Instrumentation()


def runtime_of(places: SiteLayout, bench: Bench) -> Runtime:
    """The way to all parties of one federation but its coordinator; each is built of its own SITE document.

    Raises:
        OperatorFault: a site cannot be built. Nothing was reserved anywhere.
    """
    if places.loaded.file.runtime == "processes":
        runtime: InProcess | Processes = started(_recipes(places, bench.rosters, bench.entropy))
        return bench.eyes.runtime(places, runtime)
    return _in_process(places, bench, bench.progress)


def _recipes(places: SiteLayout, rosters: Mapping[Route, Roster], entropy: Entropy) -> dict[MemberId, AgentSpec]:
    def recipe(name: MemberId, site: Path) -> AgentSpec:
        inside = places.insides.get(name)
        members = None if inside is None else _recipes(inside, rosters, entropy)
        return AgentSpec(site, entropy, _shares(places, rosters) if name == CUSTODIAN else None, members)

    return {name: recipe(name, site) for name, site in rosters[places.route].documents.items()}


def _in_process(places: SiteLayout, bench: Bench, progress: Progress) -> Runtime:
    insides = places.insides

    def built(name: MemberId, site: Path) -> Agent:
        around = Environment(
            bench.entropy, clock, progress, bench.shared, lambda: bench.records(places.loaded, name),
            shares=_shares(places, bench.rosters) if name == CUSTODIAN else None,
        )  # fmt: skip
        if name in insides:
            below, roster = insides[name], bench.rosters[insides[name].route]
            here = Under(bench.progress, "/".join(below.route))
            observe = observer_of(below, roster.policy, roster.everybody.members[0].member, here)
            around = Environment(
                bench.entropy, clock, progress, bench.shared,
                members=_in_process(below, bench, here), observe=observe,
            )  # fmt: skip
        return bench.eyes.party(places, build(site_file.load(site), around=around))

    parties = {name: built(name, site) for name, site in bench.rosters[places.route].documents.items()}
    return bench.eyes.runtime(places, InProcess({name: OwnSite(each) for name, each in parties.items()}))


def _shares(places: SiteLayout, rosters: Mapping[Route, Roster]) -> Shares | None:
    custodian = rosters[places.route].everybody.custodian
    homes = {MemberId(each.name): places.of(each.name) for each in places.loaded.file.members}
    return None if custodian is None else Shares(homes)


def records_of(loaded: Loaded, name: str) -> Any:  # noqa: ANN401 - training.data.Records
    """A member's records, for whoever runs every site of this machine."""
    from securefl.training.data import load  # noqa: PLC0415

    return load(loaded.data[name], loaded.folder, loaded.file.task.labels)


def held_records(places: SiteLayout, records: Callable[[Loaded, str], Any]) -> dict[Route, Any]:
    """Each federation's records by member, for a bench that runs every site; a federation's are all of its members'."""
    from securefl.training.data import Records  # noqa: PLC0415

    insides = places.insides
    held = {route: part for inside in insides.values() for route, part in held_records(inside, records).items()}

    def of(name: str) -> Any:  # noqa: ANN401 - training.data.Records
        if name not in insides:
            return records(places.loaded, name)
        parts = held[*places.route, name].values()
        train, heldout = (tuple(row for part in parts for row in getattr(part, of)) for of in ("train", "heldout"))
        return Records(train, heldout)

    return {places.route: {each.name: of(each.name) for each in places.loaded.file.members}, **held}


def told_of_members(tree: Iterable[SiteLayout], held: Mapping[Route, Any]) -> Iterator[str]:
    """A line for each site: what became of the rows of its file, and whether its account is a new one."""
    for places in tree:
        for name, part in held[places.route].items():
            home = places.of(name)
            new = "" if identity.is_made(home) else f"; a new account, in {home}: nothing was spent there"
            yield f"{'/'.join((*places.route, name))}: {part.counts or f'{len(part.train)} to train on'}{new}"


def without_held_out(tree: Iterable[SiteLayout], held: Mapping[tuple[str, ...], Any]) -> Iterator[str]:
    """A warning for each site that asks for held-out rows and has none. The run goes on, as with one row more."""
    for places in tree:
        for name, part in held[places.route].items():
            share = places.loaded.data[name].heldout if name in places.loaded.data else 0
            if share and part.train and not part.heldout:
                what = f"{name}: none of {len(part.train)} rows is held out at heldout={share:g}"
                yield f"{what}, so its accuracy says nothing; raise `heldout`, or give more rows"


def observer_of(
    places: SiteLayout, policy: Policy, member: MemberId, shown: Progress
) -> Callable[[coordinator_state.State, coordinator_state.Step], None]:
    """Tells each round as it begins, with what one member has spent so far by its own ledger."""
    from securefl.privacy.accountant import epsilon_charged  # noqa: PLC0415

    home = home_of(places, member)
    limit, overlap = float(policy.budget.per_dataset.epsilon), policy.budget.overlap
    dataset = {each.name: each.dataset or each.name for each in places.loaded.file.members}[member]

    def spent(charges: Sequence[Charge], bound: Accountant) -> float:
        try:
            return epsilon_charged(charges, float(policy.budget.delta_share), bound) * overlap
        except Unbounded:  # at this delta nothing can be said of what others were charged at theirs
            return math.inf

    def observe(before: coordinator_state.State, moved: coordinator_state.Step) -> None:
        if isinstance(moved.state, coordinator_state.Collecting) and not isinstance(
            before, coordinator_state.Collecting
        ):
            with home.transaction() as conn:
                account = home.account(conn)
            charges = account.beside(Level.DATASET, dataset, dataset, policy.budget.unit)
            bound = bound_of(charges, Level.DATASET, dataset)
            course = moved.state.course
            shown.round(course.plan.round, course.rounds, spent(charges, bound), limit)

    return observe
