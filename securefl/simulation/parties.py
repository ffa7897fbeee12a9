"""Build every party of a federation's file, each from its own home."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import keys
from securefl.documents import federation_file
from securefl.documents.federation import Loaded
from securefl.home import adoption
from securefl.home.home import Home
from securefl.planning.subfederation import Inside
from securefl.policy import load as policies
from securefl.privacy.account import Charge, bound_of
from securefl.progress import Progress, Silent, Under
from securefl.protection import schemes
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.runtime.inprocess import InProcess
from securefl.runtime.processes import Processes
from securefl.seams import Runtime
from securefl.site import charged_records, custody
from securefl.site.agent import CustodianAgent, MemberAgent
from securefl.site.subfederation import NestedTrainer
from securefl.site.turns import Turns
from securefl.strategy.member import Half
from securefl.terms import (
    Bound,
    Level,
    MemberId,
    PublicKey,
    Seat,
    Unbounded,
)
from securefl.wire import digest

if TYPE_CHECKING:
    from securefl.policy.load import Policy
    from securefl.training.shared_model import SharedModel
    from securefl.training.trainer import LoraTrainer
from securefl.home.peers import pinned
from securefl.planning.plan import cover_of, price_in, scheme_of, strategy_of
from securefl.simulation.clock import Entropy, clock
from securefl.simulation.introduction import check_split, home_of
from securefl.simulation.layout import Places
from securefl.terms.parties import COORDINATOR, CUSTODIAN


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to build one party from its own home; plain values, so it can cross a process border."""

    federation: Path
    sites: Path | None
    name: MemberId
    entropy: Entropy
    route: tuple[str, ...] = ()

    def __call__(self) -> MemberAgent | CustodianAgent:
        """The party, with its own model in memory."""
        places = Places(federation_file.load(self.federation), self.sites)
        for each in self.route:
            places = places.inside(each)
        shared = None if self.name == CUSTODIAN else load_model(places.loaded)
        return party(places, self.name, shared, self.entropy, Silent())


def load_model(loaded: Loaded) -> SharedModel:
    """The base model with its adapter and head, checked on synthetic text before any record is read."""
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    file = loaded.file
    task, adapter = file.task.task(), file.adapter.adapter()
    shared = SharedModel.load(file.model, loaded.folder, task, adapter, file.training.engine)
    shared.preflight()
    return shared


@dataclass(frozen=True, slots=True)
class Eyes:
    """What a bench puts around the parties of the federations below, and around what carries their messages."""

    party: Callable[[Places, MemberAgent | CustodianAgent], MemberAgent | CustodianAgent] = lambda _, agent: agent
    runtime: Callable[[Places, InProcess | Processes], Runtime] = lambda _, runtime: runtime


def party(
    places: Places, name: MemberId, shared: SharedModel | None, entropy: Entropy, progress: Progress,
    records: Callable[[Loaded, str], Any] | None = None, eyes: Eyes = Eyes(),
) -> MemberAgent | CustodianAgent:  # fmt: skip
    """One party, from its own home: its pinned peers, its own copy of the policy, its own key."""
    loaded = places.loaded
    home = Home.at(places.of(name), name, clock)
    policy, signed, coordinator, custodian, seats = _agreed(places, name)
    dataset = {each.name: each.dataset or each.name for each in loaded.file.members}.get(name, "")
    charter = member_state.Charter(
        name, policy.federation, policy.hash, policy.text, dataset, coordinator, custodian, seats, {},
        None if shared is None or name == CUSTODIAN else shared.model, signed,
    )  # fmt: skip
    if name == CUSTODIAN:
        scheme = scheme_of(loaded, policy)
        file = home.path / schemes.key_name(scheme)
        homes = {MemberId(each.name): places.of(each.name) for each in loaded.file.members}
        gather = custody.gather_from(file, homes, home.identity.public)
        check_split(places, policy)
        whole = custody.assembled(file, home.identity, gather, keys.Secret(entropy(32)))
        holder = schemes.key_holder(scheme, home.identity, home.path, whole)
        plugs = u.Plugs(home.identity, holder, policy.protection.min_cohort)
        return CustodianAgent(home, charter, plugs, entropy)
    assert shared is not None, "a member has a model"
    from securefl.training.trainer import LoraTrainer  # noqa: PLC0415

    half, turns = Half(shared.layout, shared.initial()), Turns()
    trainer: LoraTrainer | NestedTrainer
    if name in loaded.below:
        trainer = _nested(places, name, shared, entropy, progress, records, eyes, half)
    else:

        def stepped(done: int, steps: int) -> None:
            progress.step(name, done, steps)
            turns.step(done, steps)

        def own() -> Any:  # noqa: ANN401 - training.data.Records
            found = (records or records_of)(loaded, name)
            charged_records.remember(home, dataset, forms_of(places, shared, found))
            return found

        trainer = LoraTrainer(
            shared,
            own,
            entropy,
            stepped,
            half,
            loaded.file.strategy.probe_records(loaded.file.task.labels),
        )
    member_plugs = member_state.Plugs(home.identity, schemes.member_half)
    return MemberAgent(home, charter, policy, member_plugs, trainer, price_in(policy, dataset), entropy, turns=turns)


def _agreed(places: Places, name: str) -> tuple[Policy, bytes, Seat, Seat | None, tuple[Seat, ...]]:
    """What one home agreed to: policy, its signatures, and the seats of coordinator, custodian and members."""
    loaded, home = places.loaded, places.of(name)
    federation = policies.load(loaded.folder / loaded.file.policy).federation
    policy, signed = adoption.staged(home, federation, clock())
    known: dict[str, str] = json.loads(pinned(home, federation).read_text())
    keys_of = {peer: PublicKey(bytes.fromhex(key)) for peer, key in known.items()}
    custodian = Seat(CUSTODIAN, keys_of[CUSTODIAN], "") if loaded.file.protection.scheme.has_custodian else None
    seats = tuple(Seat(MemberId(each.name), keys_of[each.name], each.region) for each in loaded.file.members)
    return policy, signed, Seat(COORDINATOR, keys_of[COORDINATOR], ""), custodian, seats


def _nested(
    places: Places, name: MemberId, shared: SharedModel, entropy: Entropy, progress: Progress,
    records: Callable[[Loaded, str], Any] | None, eyes: Eyes, half: Half,
) -> NestedTrainer:  # fmt: skip
    """The trainer of a member that is a federation: its coordinator, and the way to its members."""
    inside = places.inside(name)
    loaded, home = inside.loaded, Home.at(inside.of(COORDINATOR), COORDINATOR, clock)
    policy, signed, coordinator, custodian, seats = _agreed(inside, COORDINATOR)
    strategy, here = strategy_of(loaded, shared), Under(progress, "/".join(inside.route))
    rounds = {member.name: member.rounds for member in places.loaded.file.members}[name]
    above = places.loaded.file
    probe = above.strategy.probe_records(above.task.labels)
    return NestedTrainer(
        name,
        Inside(
            policy,
            signed,
            cover_of(loaded, policy, custodian.key if custodian else None),
            loaded.file.strategy.sharing(loaded.file.task.labels),
            rounds,
            coordinator,
            custodian,
            seats,
        ),
        home,
        coordinator_state.Plugs(home.identity, schemes.coordinator_half, strategy),
        lambda: runtime_of(inside, shared, entropy, here, records, eyes),
        half,
        lambda weighting, base, after: shared.scored(weighting, base, after, probe),
        observer_of(inside, policy, seats[0].member, here),
        digest("probe", probe) if probe else None,
    )


def runtime_of(
    places: Places, shared: SharedModel, entropy: Entropy, progress: Progress,
    records: Callable[[Loaded, str], Any] | None, eyes: Eyes,
) -> Runtime:  # fmt: skip
    """The way to all parties of one federation but its coordinator."""
    names, top = [each for each in places.parties if each != COORDINATOR], places.top
    runtime: InProcess | Processes
    if places.loaded.file.runtime == "processes":
        makers = {name: Recipe(top.loaded.path, top.sites, name, entropy, places.route) for name in names}
        runtime = Processes(makers, places.loaded.below)
    else:
        parties = {name: party(places, name, shared, entropy, progress, records, eyes) for name in names}
        runtime = InProcess({name: eyes.party(places, each) for name, each in parties.items()})
    return eyes.runtime(places, runtime)


def records_of(loaded: Loaded, name: str) -> Any:  # noqa: ANN401 - training.data.Records
    """A member's records. Read only when it trains, or when this bench evaluates."""
    from securefl.training.data import load  # noqa: PLC0415

    return load(loaded.data[name], loaded.folder, loaded.file.task.labels)


def held_records(places: Places, records: Callable[[Loaded, str], Any]) -> dict[tuple[str, ...], Any]:
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


def under_one_name(
    tree: Iterable[Places], shared: SharedModel, held: dict[tuple[str, ...], Any]
) -> dict[tuple[str, ...], Any]:
    """The same, if no leaf's records were charged under another name.

    Raises:
        OperatorFault: some were.
    """
    for places in tree:
        for each in places.loaded.file.members:
            if each.name not in places.loaded.below:
                forms = forms_of(places, shared, held[places.route][each.name])
                charged_records.check(places.of(each.name), each.dataset or each.name, forms)
    return held


def forms_of(places: Places, shared: SharedModel, found: Any) -> frozenset[bytes]:  # noqa: ANN401 - training.data.Records
    """All that a member's records are recognised by: as they are written, and as this run's model reads them."""
    return frozenset(found.forms | shared.forms(found.train, places.top.loaded.file.training.max_tokens))


def observer_of(
    places: Places, policy: Policy, member: MemberId, shown: Progress
) -> Callable[[coordinator_state.State, coordinator_state.Step], None]:
    """Tells each round as it begins, with what one member has spent so far by its own ledger."""
    from securefl.privacy.accountant import epsilon_charged  # noqa: PLC0415

    home = home_of(places, member)
    limit, overlap = float(policy.budget.per_dataset.epsilon), policy.budget.overlap
    dataset = {each.name: each.dataset or each.name for each in places.loaded.file.members}[member]

    def spent(charges: Sequence[Charge], bound: Bound) -> float:
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
            charges = account.standing(Level.DATASET, dataset)
            bound = bound_of(charges, Level.DATASET, dataset)
            course = moved.state.course
            shown.round(course.plan.round, course.rounds, spent(charges, bound), limit)

    return observe
