"""The one place where the parts are joined: a federation's file becomes parties that meet only through bytes."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import below, custody, evidence, federation_file, keys, private
from securefl.audit import figures
from securefl.audit.explain import MEASURED
from securefl.bench import Arms
from securefl.errors import OperatorFault
from securefl.policy import approvals
from securefl.policy import load as policies
from securefl.policy.checks import Check
from securefl.policy.decide import decide
from securefl.policy.decide import explain as explain_decision
from securefl.privacy.account import Account, Charge, bound_of
from securefl.progress import Progress, Silent, Under
from securefl.protection import noise_share, schemes
from securefl.protection.who import who_can_open
from securefl.protocol import coordinator as c
from securefl.protocol import custodian as u
from securefl.protocol import member as mm
from securefl.protocol import messages as m
from securefl.runtime import adoption, texts
from securefl.runtime.agent import CustodianAgent, MemberAgent
from securefl.runtime.drive import drive
from securefl.runtime.home import Home, export_all
from securefl.runtime.inprocess import InProcess
from securefl.runtime.nested import Inside, NestedTrainer
from securefl.runtime.processes import Processes
from securefl.runtime.tap import Tap
from securefl.seams import Runtime
from securefl.strategy.member import Half
from securefl.strategy.rules import Ruled
from securefl.strategy.worldlm import Attended
from securefl.terms import (
    AdapterRule,
    Bound,
    Cover,
    DistributedDiscreteGaussian,
    Event,
    FixedPoint,
    Hash,
    Learning,
    Level,
    MemberId,
    Model,
    Plan,
    PoissonGaussian,
    Price,
    PublicKey,
    Reason,
    RunId,
    Scheme,
    Seat,
    Unbounded,
    Unit,
)
from securefl.wire import digest

if TYPE_CHECKING:
    from securefl.bench import Stopwatch
    from securefl.policy.load import Policy
    from securefl.training.trainer import LoraTrainer, SharedModel

ONLY_ENCRYPTED = f"only {schemes.ENCRYPTED} have a custodian"
DIMENSION = "plan.dimension"
COORDINATOR, CUSTODIAN = MemberId("coordinator"), MemberId("custodian")
Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    outcome: str
    why: str
    adapter: Path | None
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explained:
    """What a policy says to a plan, rule by rule."""

    decision: str
    checks: tuple[Check, ...]
    reasons: tuple[Reason, ...]
    missing: tuple[str, ...]  # what was not given, so that something else was assumed


# Who takes part.


@dataclass(frozen=True, slots=True)
class Places:
    """Where everybody's home is."""

    loaded: federation_file.Loaded
    sites: Path | None
    route: tuple[str, ...] = ()  # the members that lead here from the root of a tree
    root: Places | None = None

    @property
    def top(self) -> Places:
        """The root of the tree."""
        return self.root or self

    def of(self, name: str) -> Path:
        """The home of a party: in a tree, what a file names as a home is one home, whoever names it."""
        own = {member.name: member.site for member in self.loaded.file.members}.get(name)
        if own is not None and self.sites is None:
            return self.loaded.folder / own
        if own is not None and self.top.sites is not None and self.top.loaded.below:
            return self.top.sites / "named" / below.named(self.loaded.folder / own, name)
        return (self.sites or self.loaded.folder / self.loaded.file.sites) / name

    def inside(self, name: str) -> Places:
        """The homes of the federation that a member is."""
        sites = None if self.sites is None else self.of(name) / below.BELOW
        return Places(self.loaded.below[name], sites, (*self.route, name), self.top)

    @property
    def insides(self) -> dict[str, Places]:
        """Those of every federation that is a member."""
        return {name: self.inside(name) for name in self.loaded.below}

    @property
    def parties(self) -> tuple[MemberId, ...]:
        """Members, coordinator, and custodian if there is one."""
        custodian = (CUSTODIAN,) if self.loaded.file.protection.scheme.has_custodian else ()
        return (*(MemberId(each.name) for each in self.loaded.file.members), COORDINATOR, *custodian)


def clock() -> int:
    """Seconds since 1970."""
    return int(time.time())


def introduce(
    places: Places, policy: Policy, signatures: tuple[approvals.Signature, ...] | None
) -> tuple[Seat, Seat | None, tuple[Seat, ...]]:
    """Every party's seat: coordinator, custodian if the scheme has one, members.

    In one process the introduction happens here. Each home pins the keys it was first shown, and its ledger holds the
    policies it agreed to; a later run that shows others is refused. ``signatures`` are the policy's; None runs without.
    """
    file = places.loaded.file
    seats = tuple(
        Seat(MemberId(member.name), _home(places, member.name).identity.public, member.region)
        for member in file.members
    )
    coordinator = Seat(COORDINATOR, _home(places, COORDINATOR).identity.public, "")
    custodian = None
    if file.protection.scheme.has_custodian:
        custodian = Seat(CUSTODIAN, _home(places, CUSTODIAN).identity.public, "")
    for name in (*(seat.member for seat in seats), COORDINATOR, *((CUSTODIAN,) if custodian else ())):
        _pin(places.of(name), policy.federation, (coordinator, *((custodian,) if custodian else ()), *seats))
        adoption.propose(_home(places, name), policy, signatures)
    if custodian:
        _check_split(places, policy)
    return coordinator, custodian, seats


def _check_split(places: Places, policy: Policy) -> None:
    """The key that was split bears the policy that the custodian agreed to, whatever it was split under."""
    cover, scheme = places.loaded.file.protection, scheme_of(places.loaded, policy)
    file = places.of(CUSTODIAN) / schemes.key_name(scheme)
    members = [MemberId(each.name) for each in places.loaded.file.members]
    custody.check_split(file, members, max(policy.protection.colluding, cover.colluding or 0))


def _home(places: Places, name: str) -> Home:
    return Home.at(places.of(name), MemberId(name), clock)


def _pinned(home: Path, federation: str) -> Path:
    """Who a home knows in one federation: in another one, the same name may be another party's."""
    return home / "peers" / f"{federation}.json"


def _pin(home: Path, federation: str, seats: tuple[Seat, ...]) -> None:
    path = _pinned(home, federation)
    private.folder(path.parent)
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    for seat in seats:
        if known.setdefault(seat.member, seat.key.hex()) != seat.key.hex():
            what = f"{seat.member} shows another key than it did before"
            remedy = (
                "if its key was replaced on purpose, remove its line here; if not, find out who answers in its name"
            )
            raise OperatorFault(what, remedy, str(path))
    private.write(path, json.dumps(known, indent=1, sort_keys=True).encode())


def split_key(federation: Path, sites: Path | None, threshold: int, inside: str = "") -> None:
    """The custodian's decryption key is split among the members' homes, any ``threshold`` of which give it.

    ``inside`` is the way from the root of a tree to the federation whose key it is, such as ``west/coast``.

    Raises:
        OperatorFault: the federation has no custodian, it has no key yet, or the threshold is none.
    """
    places = Places(federation_file.load(federation), sites.resolve() if sites else None)
    for name in inside.split("/") if inside else ():
        if name not in places.loaded.below:
            known = ", ".join(places.loaded.below) or "none"
            raise OperatorFault(f"no federation {name} below", f"there are: {known}", f"{federation}: {inside}")
        places = places.inside(name)
    split_key_of(places, threshold)


def split_key_of(places: Places, threshold: int, cohort: int | None = None) -> None:
    """The same for the custodian of these homes; ``cohort`` members are asked at the least, all if it is not given.

    Raises:
        OperatorFault: as for ``split_key``.
    """
    scheme = places.loaded.file.protection.scheme
    if not scheme.has_custodian:
        holders = [name for name, each in places.loaded.below.items() if each.file.protection.scheme.has_custodian]
        remedy = f"name whose key it is with --inside: {', '.join(holders)}" if holders else ONLY_ENCRYPTED
        raise OperatorFault(f"{scheme} has no decryption key", remedy, str(places.loaded.path))
    file = places.of(CUSTODIAN) / schemes.key_name(scheme)
    if not custody.vault_of(file).is_file():
        custody.check_here(file)
    loaded = places.loaded
    policy = policies.load(loaded.folder / loaded.file.policy)
    colluding = max(policy.protection.colluding, loaded.file.protection.colluding or 0)
    custody.check_floor(threshold, cohort or len(loaded.file.members), colluding, str(loaded.path))
    homes = {MemberId(each.name): places.of(each.name) for each in places.loaded.file.members}
    identity = keys.load(places.of(CUSTODIAN) / "identity.key")
    custody.split(file, threshold, homes, identity, keys.Secret(os.urandom(32)))


# What a round is.


def plan_of(
    loaded: federation_file.Loaded, policy: Policy, run: RunId, model: Model, dimension: int, base: Hash,
    custodian: PublicKey | None,
) -> Plan:  # fmt: skip
    """The plan of the first round; its cohort is filled in when the members have enrolled."""
    file = loaded.file
    training, covered = file.training, cover_of(loaded, policy, custodian)
    event = event_of(loaded, policy, covered, dimension)
    try:
        clipping = training.clipping.meant(training.divisor or 1, event.noise_multiplier)
    except ValueError as fault:  # noise that was calibrated is known only here
        raise OperatorFault(str(fault), "or give a larger epsilon", f"{loaded.path}: training.clipping") from fault
    return Plan(
        federation=file.name,
        policy=policy.hash,
        run=run,
        round=1,
        purpose=file.purpose,
        model=model,
        task=file.task.task(),
        adapter=file.adapter.adapter(),
        learning=Learning(
            event=event,
            clip_l2=training.clip_l2,
            divisor=training.divisor or 1,
            learning_rate=training.learning_rate,
            optimizer=training.optimizer,
            max_tokens=training.max_tokens,
            micro_batch=training.micro_batch,
            clipping=clipping,
            micro_tokens=training.micro_tokens,
            loss=file.strategy.loss.loss(training.rounds),
        ),
        cover=covered,
        cohort=(),
        release=("weights",),
        base=base,
        dimension=dimension,
        sharing=file.strategy.sharing(file.task.labels),
    )


def scheme_of(loaded: federation_file.Loaded, policy: Policy) -> Scheme:
    """What the file's `protection` means: encryption has masks inside, unless the policy trusts the custodian."""
    written = loaded.file.protection.scheme
    return written if "custodian" in policy.protection.trust else written.masked


def cover_of(loaded: federation_file.Loaded, policy: Policy, custodian: PublicKey | None) -> Cover:
    """How this federation's updates are hidden; what its file does not say follows from policy and members."""
    cover = loaded.file.protection
    colluding = policy.protection.colluding if cover.colluding is None else cover.colluding
    safe = (len(loaded.file.members) + colluding) // 2 + 1
    return Cover(
        scheme=scheme_of(loaded, policy),
        min_cohort=policy.protection.min_cohort if cover.min_cohort is None else cover.min_cohort,
        threshold=max(safe, policy.protection.threshold.at_least) if cover.threshold is None else cover.threshold,
        colluding=colluding,
        encoding=FixedPoint(cover.value_bits, cover.fraction_bits, cover.ring_bits),
        custodian=custodian,
    )


def event_of(loaded: federation_file.Loaded, policy: Policy, cover: Cover, dimension: int) -> Event:
    """What one round is priced as; for clients, with as many shares of noise as are sure to be in every sum.

    Raises:
        OperatorFault: the grid does not bear the noise.
    """
    training, bits = loaded.file.training, cover.encoding.fraction_bits
    if training.unit is Unit.RECORD:
        return PoissonGaussian(training.sampling_rate, noise_of(loaded, policy), training.steps)
    if loaded.file.adapter.rule is AdapterRule.ALTERNATING:
        what = "rule alternating trains another number of values every round; unit client is priced for one number"
        raise OperatorFault(what, "use b-only or svd", f"{loaded.path}: adapter.rule")
    from securefl.privacy.accountant import calibrate_shares  # noqa: PLC0415

    def shares(noise: Fraction) -> DistributedDiscreteGaussian:
        return DistributedDiscreteGaussian(
            training.clip_l2, noise, max(1, cover.honest), dimension, bits, training.sampling_rate, training.steps
        )

    noise, delta, place = training.noise_multiplier, float(policy.budget.delta_share), f"{loaded.path}: training"
    try:
        if noise is None:
            assert training.epsilon is not None, "the document has one of the two"
            noise = calibrate_shares(float(training.epsilon), delta, shares, training.rounds)
        event = shares(noise)
    except ValueError as fault:
        remedy = "give more noise or epsilon, or change protection.fraction_bits"
        raise OperatorFault(f"no noise fits: {fault}", remedy, place) from fault
    if event.deviation > noise_share.LARGEST:
        fitting = bits - math.ceil(math.log2(event.deviation / noise_share.LARGEST))
        what = f"shares of noise of {float(event.deviation):.0f} grid units, above {noise_share.LARGEST}"
        raise OperatorFault(what, f"set protection.fraction_bits to at most {fitting}", place)
    return event


def noise_of(loaded: federation_file.Loaded, policy: Policy) -> Fraction:
    """The noise multiplier: as written, or the least with which all rounds cost at most the written epsilon."""
    training = loaded.file.training
    if training.noise_multiplier is not None:
        return training.noise_multiplier
    from securefl.privacy.accountant import calibrate  # noqa: PLC0415

    assert training.epsilon is not None, "the document has one of the two"
    steps = training.rounds * training.steps
    return calibrate(float(training.epsilon), float(policy.budget.delta_share), training.sampling_rate, steps)


def price_in(policy: Policy, dataset: str) -> Callable[[Plan, Account], Price]:
    """What a plan costs a site under this policy, on every account it counts in."""
    from securefl.privacy.accountant import price  # noqa: PLC0415

    return partial(_price, price, dataset, policy)


def _price(price: Callable[..., Price], dataset: str, policy: Policy, plan: Plan, account: Account) -> Price:
    return price(plan, account, dataset, float(policy.budget.delta_share), policy.caps(dataset, plan.run))


def explain(policy_path: Path, plan_path: Path) -> Explained:
    """Every rule of a policy against a plan, or against the first round of a federation's file; nothing is charged."""
    from securefl import documents  # noqa: PLC0415
    from securefl.policy.plan_document import draft  # noqa: PLC0415

    policy = policies.load(policy_path)
    document = documents.read(plan_path)
    if document.has("securefl_federation"):
        return explain_first(policy, federation_file.load(plan_path))
    plan = draft(document, policy.hash)
    missing = ["account", "plan.cohort", "plan.base"]
    missing += [] if "model_sha256" in document.value else ["plan.model.digest"]
    missing += [] if "dimension" in document.value else [DIMENSION]
    return explained(policy, plan, tuple(missing))


def explain_first(policy: Policy, loaded: federation_file.Loaded) -> Explained:
    """Every rule of a policy against the first round of a federation; nothing is charged."""
    return explain_unseen(policy, unseen(loaded, policy))


@dataclass(frozen=True, slots=True)
class Unseen:
    """A federation's first plan before it has begun, and what was assumed in it."""

    plan: Plan
    missing: tuple[str, ...]
    base: bytes | None  # the state it starts from, where the model is here


def unseen(loaded: federation_file.Loaded, policy: Policy) -> Unseen:
    """A federation's first plan: of its model where that is here, and of any model where it is not."""
    from securefl.training.trainer import SharedModel  # noqa: PLC0415

    file, missing = loaded.file, ["account"]
    if file.protection.scheme.has_custodian:
        missing.append("plan.cover.custodian")
    try:
        shared = SharedModel.load(
            file.model, loaded.folder, file.task.task(), file.adapter.adapter(), file.training.engine
        )
    except OperatorFault:
        missing += ["plan.model.digest", "plan.base", DIMENSION]
        return Unseen(first_plan(loaded, policy, Model(file.model, Hash(bytes(32))), 1), tuple(missing), None)
    strategy = strategy_of(loaded, shared)
    base = strategy.broadcast(shared.initial())
    return Unseen(first_plan(loaded, policy, shared.model, strategy.dimension(1, base)), tuple(missing), base)


def explain_unseen(policy: Policy, asked: Unseen) -> Explained:
    """Every rule of a policy against such a plan."""
    return explained(policy, asked.plan, asked.missing, asked.base)


def first_plan(loaded: federation_file.Loaded, policy: Policy, model: Model, dimension: int) -> Plan:
    """The first round's plan as it will be, but for keys and the adapter's state: for a policy to look at."""
    return seated(plan_of(loaded, policy, RunId(bytes(16)), model, dimension, Hash(bytes(32)), None), loaded)


def seated(plan: Plan, loaded: federation_file.Loaded) -> Plan:
    """The plan with a cohort of all members and a custodian if it needs one, under keys that are made up."""
    cohort = tuple(
        Seat(MemberId(member.name), PublicKey(m.state_digest(member.name.encode())), member.region)
        for member in loaded.file.members
    )
    custodian = PublicKey(bytes(32)) if plan.cover.scheme.has_custodian else None
    return replace(plan, cohort=cohort, cover=replace(plan.cover, custodian=custodian))


def foreseen(loaded: federation_file.Loaded, policy: Policy, model: Model, dimension: int) -> tuple[Reason, ...]:
    """Why the policy will refuse the first round on an account with nothing on it; nothing is charged."""
    return explained(policy, first_plan(loaded, policy, model, dimension), ()).reasons


def explained(policy: Policy, plan: Plan, missing: tuple[str, ...], base: bytes | None = None) -> Explained:
    """Every rule of a policy against a plan, on an account with nothing on it; what has no price is not granted.

    Under unit client each entry of an update costs: without the model's dimension there is no price.
    """
    account = Account.of(())
    try:
        price = price_in(policy, "dataset")(plan, account)
    except (ValueError, ArithmeticError) as fault:
        none = Reason("budget.price", f"no price: {fault}", "a finite price", "add noise")
        return Explained("refuse", (Check(none.rule, False, none.value, none.limit, none.fix),), (none,), missing)
    now = clock()
    checks = explain_decision(policy, plan, account, price, now, base)
    reasons = getattr(decide(policy, plan, account, price, now, base), "reasons", ())
    if DIMENSION in missing and plan.learning.event.unit is Unit.CLIENT:
        unknown = Check(
            DIMENSION, False, "not known", "the entries of an update, each of which costs",
            "have the model here, or give `dimension` in a plan",
        )  # fmt: skip
        checks = (*checks, unknown)
        reasons = (*reasons, Reason(unknown.rule, unknown.value, unknown.limit, unknown.fix))
    return Explained("refuse" if reasons else "grant", tuple(checks), tuple(reasons), missing)


# Building the parties. Each function here can run in a process of its own.


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


def load_model(loaded: federation_file.Loaded) -> SharedModel:
    """The base model with its adapter and head, checked on synthetic text before any record is read."""
    from securefl.training.trainer import SharedModel  # noqa: PLC0415

    file = loaded.file
    task, adapter = file.task.task(), file.adapter.adapter()
    shared = SharedModel.load(file.model, loaded.folder, task, adapter, file.training.engine)
    shared.preflight()
    return shared


def strategy_of(loaded: federation_file.Loaded, shared: SharedModel) -> Ruled | Attended:
    """The coordinator's half, on this model's tensors.

    Raises:
        OperatorFault: the file's strategy does not fit the adapter.
    """
    optimizer = loaded.file.strategy.optimizer()
    try:
        sharing = loaded.file.strategy.sharing(loaded.file.task.labels)
        if sharing.attention is not None:
            return Attended(shared.layout, optimizer, sharing.attention, shared.initial())
        return Ruled(shared.layout, optimizer, sharing)
    except ValueError as fault:
        raise OperatorFault(str(fault), "change `strategy`, or the adapter", f"{loaded.path}: strategy") from fault


@dataclass(frozen=True, slots=True)
class Eyes:
    """What a bench puts around the parties of the federations below, and around what carries their messages."""

    party: Callable[[Places, MemberAgent | CustodianAgent], MemberAgent | CustodianAgent] = lambda _, agent: agent
    runtime: Callable[[Places, InProcess | Processes], Runtime] = lambda _, runtime: runtime


def party(
    places: Places, name: MemberId, shared: SharedModel | None, entropy: Entropy, progress: Progress,
    records: Callable[[federation_file.Loaded, str], Any] | None = None, eyes: Eyes = Eyes(),
) -> MemberAgent | CustodianAgent:  # fmt: skip
    """One party, from its own home: its pinned peers, its own copy of the policy, its own key."""
    loaded = places.loaded
    home = Home.at(places.of(name), name, clock)
    policy, signed, coordinator, custodian, seats = _agreed(places, name)
    dataset = {each.name: each.dataset or each.name for each in loaded.file.members}.get(name, "")
    charter = mm.Charter(
        name, policy.federation, policy.hash, policy.text, dataset, coordinator, custodian, seats, {},
        None if shared is None or name == CUSTODIAN else shared.model, signed,
    )  # fmt: skip
    if name == CUSTODIAN:
        scheme = scheme_of(loaded, policy)
        file = home.path / schemes.key_name(scheme)
        homes = {MemberId(each.name): places.of(each.name) for each in loaded.file.members}
        gather = custody.gather_from(file, homes, home.identity.public)
        _check_split(places, policy)
        whole = custody.assembled(file, home.identity, gather, keys.Secret(entropy(32)))
        holder = schemes.key_holder(scheme, home.identity, home.path, whole)
        plugs = u.Plugs(home.identity, holder, policy.protection.min_cohort)
        return CustodianAgent(home, charter, plugs, entropy)
    assert shared is not None, "a member has a model"
    from securefl.training.trainer import LoraTrainer  # noqa: PLC0415

    half = Half(shared.layout, shared.initial())
    trainer: LoraTrainer | NestedTrainer
    if name in loaded.below:
        trainer = _nested(places, name, shared, entropy, progress, records, eyes, half)
    else:

        def own() -> Any:  # noqa: ANN401 - training.data.Records
            found = (records or records_of)(loaded, name)
            texts.remember(home, dataset, _forms(places, shared, found))
            return found

        trainer = LoraTrainer(
            shared,
            own,
            entropy,
            lambda done, steps: progress.step(name, done, steps),
            half,
            loaded.file.strategy.probe_records(loaded.file.task.labels),
        )
    member_plugs = mm.Plugs(home.identity, schemes.member_half)
    return MemberAgent(home, charter, policy, member_plugs, trainer, price_in(policy, dataset), entropy)


def _agreed(places: Places, name: str) -> tuple[Policy, bytes, Seat, Seat | None, tuple[Seat, ...]]:
    """What one home agreed to: policy, its signatures, and the seats of coordinator, custodian and members."""
    loaded, home = places.loaded, places.of(name)
    federation = policies.load(loaded.folder / loaded.file.policy).federation
    policy, signed = adoption.staged(home, federation, clock())
    pinned: dict[str, str] = json.loads(_pinned(home, federation).read_text())
    keys_of = {peer: PublicKey(bytes.fromhex(key)) for peer, key in pinned.items()}
    custodian = Seat(CUSTODIAN, keys_of[CUSTODIAN], "") if loaded.file.protection.scheme.has_custodian else None
    seats = tuple(Seat(MemberId(each.name), keys_of[each.name], each.region) for each in loaded.file.members)
    return policy, signed, Seat(COORDINATOR, keys_of[COORDINATOR], ""), custodian, seats


def _nested(
    places: Places, name: MemberId, shared: SharedModel, entropy: Entropy, progress: Progress,
    records: Callable[[federation_file.Loaded, str], Any] | None, eyes: Eyes, half: Half,
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
        c.Plugs(home.identity, schemes.coordinator_half, strategy),
        lambda: _runtime(inside, shared, entropy, here, records, eyes),
        half,
        lambda weighting, base, after: shared.scored(weighting, base, after, probe),
        _observer(inside, policy, seats[0].member, here),
        digest("probe", probe) if probe else None,
    )


def _runtime(
    places: Places, shared: SharedModel, entropy: Entropy, progress: Progress,
    records: Callable[[federation_file.Loaded, str], Any] | None, eyes: Eyes,
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


def records_of(loaded: federation_file.Loaded, name: str) -> Any:  # noqa: ANN401 - training.data.Records
    """A member's records. Read only when it trains, or when this bench evaluates."""
    from securefl.training.data import load  # noqa: PLC0415

    return load(loaded.data[name], loaded.folder, loaded.file.task.labels)


# Running.


@dataclass(frozen=True, slots=True)
class Workbench:
    """Where a run's model and records come from, and whether it gets a page: a bench of many runs keeps and leaves out.

    Whatever the first two give is exactly what ``load_model`` and ``records_of`` would give.
    """

    model: Callable[[federation_file.Loaded], SharedModel] = load_model
    records: Callable[[federation_file.Loaded, str], Any] = records_of
    page: bool = True  # report.html and its pictures beside report.json


def run(
    loaded: federation_file.Loaded,
    out: Path,
    *,
    sites: Path | None = None,
    arms: Arms = Arms(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    entropy: Entropy = os.urandom,
    workbench: Workbench = Workbench(),
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
    from securefl import bench  # noqa: PLC0415
    from securefl.audit import report as report_page  # noqa: PLC0415

    shown = progress or Silent()
    places = Places(loaded, sites.resolve() if sites else None)
    policy = policies.load(loaded.folder / loaded.file.policy)
    signatures = _found(loaded.folder / loaded.file.policy, policy, unsafe_unsigned=unsafe_unsigned)
    tree = [(places, policy, signatures), *_descended(places, policy, unsafe_unsigned=unsafe_unsigned)]
    below.check_homes((each.route, name, each.of(name)) for each, *_ in tree for name in each.parties)
    with _claimed(out, loaded, tuple(each for _, each, _ in tree)) as run_id, ExitStack() as stack:
        watch = bench.Stopwatch(out / "timings.json")
        if _said(places, run_id, out):  # killed between its last word and the mark
            return _marked(tree, out, evidence.report_of(out))
        with watch("loading"):
            shown.say(f"{loaded.file.name}: {len(loaded.file.members)} members, policy {policy.hash.hex()[:12]}")
            shared = workbench.model(loaded)
            held = _under_one_name((each for each, *_ in tree), shared, _held(places, workbench.records))
            records = held[()]
        (coordinator, custodian, seats), *_ = [introduce(*each) for each in tree]
        strategy = strategy_of(loaded, shared)
        start_state = strategy.broadcast(shared.initial())
        plan = plan_of(
            loaded, policy, run_id, shared.model, strategy.dimension(1, start_state), m.state_digest(start_state),
            custodian.key if custodian else None,
        )  # fmt: skip
        home = Home.at(places.of(COORDINATOR), COORDINATOR, clock)
        signed = adoption.evidence(policy, signatures)
        _warn(shown, plan, "" if signed else loaded.file.policy)
        session = m.Session(
            run_id,
            policy.federation,
            policy.hash,
            plan.cover.scheme,
            plan.cover.threshold,
            coordinator,
            custodian,
            seats,
        )
        with home.transaction() as conn:
            heads = dict(home.witnessed(conn, (*seats, *((custodian,) if custodian else ()))))
        course = c.Course(
            session, policy.text, loaded.file.training.rates(), plan, start_state,
            strategy.begin(start_state), {}, {}, heads, {},
            signed,
        )  # fmt: skip
        taps = {each.route: _tap(_folder(out, each), held[each.route]) for each, *_ in tree}
        tap = taps[()]

        def carried(where: Places, runtime: InProcess | Processes) -> Runtime:
            if isinstance(runtime, Processes):
                stack.callback(runtime.close)
            return taps[where.route].runtime(runtime)

        eyes = Eyes(lambda where, agent: _timed(agent, watch, taps[where.route]), carried)
        drawn = entropy if loaded.file.runtime == "processes" else tap.entropy(entropy)
        runtime = _runtime(places, shared, drawn, shown, workbench.records, eyes)
        plugs = c.Plugs(home.identity, schemes.coordinator_half, strategy)
        observe = _observer(places, policy, seats[0].member, shown)

        with watch("rounds"):
            ended = drive(home, c.Planned(course), plugs, runtime, 3600.0, observe)
        _export([each for each, *_ in tree], out, taps)
        with watch("evaluation"):
            shown.say("evaluating on held-out rows of this bench")
            measured = bench.measure(
                shared,
                start_state,
                ended,
                records,
                plan,
                strategy,
                arms,
                shown,
                own_models(places, shared, ended, plan),
            )
        adapter = _saved(shared, ended, plan, out)
        who = _who(places, plan)
        report = bench.compose(loaded, plan, measured, out, watch, adapter, shared.engine, who)
        report_page.write(report, out, page=workbench.page)
        _bind([each for each, *_ in tree], out, run_id, ended.outcome)
        return _marked(tree, out, report)


def _said(places: Places, run_id: RunId, out: Path) -> bool:
    """Whether the coordinator has a home, and wrote down there what this run left; none is made to ask."""
    path = places.of(COORDINATOR)
    return (path / "identity.key").exists() and evidence.bound(Home.at(path, COORDINATOR, clock), run_id, out)


def _saved(shared: SharedModel, ended: c.Ended, plan: Plan, out: Path) -> Path | None:
    """The adapter's folder, if a round ended: as files that are loaded, and as the state that was released."""
    if not ended.last_round:
        return None
    shared.save(ended.course.state, out / "adapter", plan.learning.max_tokens)
    evidence.keep_state(out, ended.course.state)
    return out / "adapter"


def _bind(tree: Sequence[Places], out: Path, run_id: RunId, outcome: str) -> None:
    """Each federation's coordinator wrote down what stands in its folder; the root's that it is over, too."""
    for each in tree:
        folder = _folder(out, each)
        if not (folder / "ledger").is_dir():  # it was never asked
            continue
        homes = {name: _home(each, name) for name in each.parties}
        evidence.keep_keys(folder, {name: home.identity.public for name, home in homes.items()})
        instead = {"run.json": _over(out, outcome)} if not each.route else {}
        evidence.bind(homes[COORDINATOR], tuple(homes.values()), run_id, folder, instead)


def _marked(tree: Sequence[tuple[Places, Policy, Any]], out: Path, report: dict[str, Any]) -> Result:
    """The run is over, and its folder has every ledger as it stands."""
    for each, *_ in tree:
        if (_folder(out, each) / "ledger").is_dir():
            export_all([_home(each, name) for name in each.parties], _folder(out, each) / "ledger")
    status = report["outcome"]["status"]
    evidence.mark(out, _over(out, status))
    return Result(status, report["outcome"]["why"], out / report["adapter"] if report["adapter"] else None, report)


def own_models(places: Places, shared: SharedModel, ended: c.Ended, plan: Plan) -> Callable[[str], bytes]:
    """What each member would use after the run: the last state, and as much of its own as the strategy leaves it."""
    half, last = Half(shared.layout, shared.initial()), ended.last_round + 1

    def of(name: str) -> bytes:
        if not plan.sharing.keeps:
            return half.start(plan, ended.course.state, b"")
        home = Home.at(places.of(name), MemberId(name), clock)
        with home.transaction() as conn:
            return half.start(plan, ended.course.state, home.own(conn, plan.run, last).model)

    return of


def _warn(shown: Progress, plan: Plan, unsigned: str) -> None:
    """Say what a person should know before the run begins; ``unsigned`` is the policy's file, if it is."""
    told = ([f"the policy is unsigned: {unsigned}"] if unsigned else []) + list(figures.warnings(plan))
    for warning in told:
        shown.say(f"WARNING: {warning}")


def run_without_privacy(loaded: federation_file.Loaded, seed: int, workbench: Workbench) -> dict[str, Any]:
    """NOT PRIVATE: what the same members, model and steps reach without clipping, noise, policy or protection.

    For a bench to compare with: nothing is charged, released or kept.

    Raises:
        OperatorFault: something given is unusable.
    """
    from securefl import bench  # noqa: PLC0415

    began = time.monotonic()
    policy = policies.load(loaded.folder / loaded.file.policy)
    shared = workbench.model(loaded)
    records = _held(Places(loaded, None), workbench.records)[()]
    strategy = strategy_of(loaded, shared)
    start = strategy.broadcast(shared.initial())
    plan = plan_of(
        loaded, policy, RunId(bytes(16)), shared.model, strategy.dimension(1, start), m.state_digest(start), None
    )  # fmt: skip
    state = bench.train_openly(shared, start, records, plan, loaded.file.training.rates(), strategy, seed)
    told = bench.scored(shared, state, records, plan)
    return {**told, "seconds": {"total": round(time.monotonic() - began, 3)}}


def _found(path: Path, policy: Policy, *, unsafe_unsigned: bool) -> tuple[approvals.Signature, ...] | None:
    """The signatures beside a policy, and beside those above it; None if its own are too few and that was asked for."""
    signatures = tuple(each for file in policies.files(path) for each in approvals.read(approvals.beside(file)))
    if unsafe_unsigned and not approvals.judge(policy, signatures, clock()).signed:
        return None
    approvals.require(policy, signatures, clock())
    return signatures


def _tap(out: Path, records: Mapping[str, Any]) -> Tap:
    """Eyes on what leaves, which know every member's records: here one person runs all sites."""
    out.mkdir(parents=True, exist_ok=True)
    return Tap(out / MEASURED, (each.text for part in records.values() for each in (*part.train, *part.heldout)))


def _export(tree: Sequence[Places], out: Path, taps: Mapping[tuple[str, ...], Tap]) -> None:
    """Each federation's ledgers stand in its own folder, and were looked at."""
    for each in tree:
        folder = _folder(out, each) / "ledger"
        export_all([_home(each, name) for name in each.parties], folder)
        if folder.is_dir():  # whoever was never asked has none
            taps[each.route].exported(folder)


def _folder(out: Path, places: Places) -> Path:
    """Where a run puts what is one federation's: the root's folder has nothing of those below but beside it."""
    return out.joinpath(*(part for name in places.route for part in (below.BELOW, name)))


def _held(places: Places, records: Callable[[federation_file.Loaded, str], Any]) -> dict[tuple[str, ...], Any]:
    """Each federation's records by member, for a bench that runs every site; a federation's are all of its members'."""
    from securefl.training.data import Records  # noqa: PLC0415

    insides = places.insides
    held = {route: part for inside in insides.values() for route, part in _held(inside, records).items()}

    def of(name: str) -> Any:  # noqa: ANN401 - training.data.Records
        if name not in insides:
            return records(places.loaded, name)
        parts = held[*places.route, name].values()
        train, heldout = (tuple(row for part in parts for row in getattr(part, of)) for of in ("train", "heldout"))
        return Records(train, heldout)

    return {places.route: {each.name: of(each.name) for each in places.loaded.file.members}, **held}


def _under_one_name(
    tree: Iterable[Places], shared: SharedModel, held: dict[tuple[str, ...], Any]
) -> dict[tuple[str, ...], Any]:
    """The same, if no leaf's records were charged under another name.

    Raises:
        OperatorFault: some were.
    """
    for places in tree:
        for each in places.loaded.file.members:
            if each.name not in places.loaded.below:
                forms = _forms(places, shared, held[places.route][each.name])
                texts.check(places.of(each.name), each.dataset or each.name, forms)
    return held


def _forms(places: Places, shared: SharedModel, found: Any) -> frozenset[bytes]:  # noqa: ANN401 - training.data.Records
    """All that a member's records are recognised by: as they are written, and as this run's model reads them."""
    return frozenset(found.forms | shared.forms(found.train, places.top.loaded.file.training.max_tokens))


def _descended(
    places: Places, policy: Policy, *, unsafe_unsigned: bool
) -> Iterator[tuple[Places, Policy, tuple[approvals.Signature, ...] | None]]:
    """Every federation below, from the top, with its policy, which may stand under the one above.

    Raises:
        Loosens, Unapproved: a policy may not.
        OperatorFault: nor may another one, or parties share a home.
    """
    for name, inside in places.insides.items():
        path = inside.loaded.folder / inside.loaded.file.policy
        its = policies.load(path)
        below.check_policy(policy, its, f"{places.loaded.path}: members.{name}: {path}")
        yield inside, its, _found(path, its, unsafe_unsigned=unsafe_unsigned)
        yield from _descended(inside, its, unsafe_unsigned=unsafe_unsigned)


def _timed(agent: MemberAgent | CustodianAgent, watch: Stopwatch, tap: Tap) -> MemberAgent | CustodianAgent:
    """The same party; what its training, protection and pricing take is measured, and what it seals is looked at."""
    from securefl.bench import Timed  # noqa: PLC0415

    if isinstance(agent, CustodianAgent):
        return replace(agent, plugs=replace(agent.plugs, holder=Timed(agent.plugs.holder, watch, "protection")))

    def protection(scheme: str) -> Any:  # noqa: ANN401 - a half, timed
        return tap.half(Timed(schemes.member_half(scheme), watch, "protection"))

    is_site = not isinstance(agent.trainer, NestedTrainer)  # whose parts are timed themselves
    return replace(
        agent,
        plugs=replace(agent.plugs, protection=protection),
        trainer=Timed(agent.trainer, watch, "training") if is_site else agent.trainer,
        price=watch.wrap("pricing", agent.price),
    )


def _who(places: Places, plan: Plan) -> str:
    key = places.of(CUSTODIAN) / schemes.key_name(plan.cover.scheme)
    return who_can_open(plan.cover, custody.threshold_of(key) if plan.cover.scheme.has_custodian else None)


def _observer(places: Places, policy: Policy, member: MemberId, shown: Progress) -> Callable[[c.State, c.Step], None]:
    """Tells each round as it begins, with what one member has spent so far by its own ledger."""
    from securefl.privacy.accountant import epsilon_charged  # noqa: PLC0415

    home = _home(places, member)
    limit, overlap = float(policy.budget.per_dataset.epsilon), policy.budget.overlap
    dataset = {each.name: each.dataset or each.name for each in places.loaded.file.members}[member]

    def spent(charges: Sequence[Charge], bound: Bound) -> float:
        try:
            return epsilon_charged(charges, float(policy.budget.delta_share), bound) * overlap
        except Unbounded:  # at this delta nothing can be said of what others were charged at theirs
            return math.inf

    def observe(before: c.State, moved: c.Step) -> None:
        if isinstance(moved.state, c.Collecting) and not isinstance(before, c.Collecting):
            with home.transaction() as conn:
                account = home.account(conn)
            charges = account.standing(Level.DATASET, dataset)
            bound = bound_of(charges, Level.DATASET, dataset)
            course = moved.state.course
            shown.round(course.plan.round, course.rounds, spent(charges, bound), limit)

    return observe


@contextmanager
def _claimed(out: Path, loaded: federation_file.Loaded, tree: tuple[Policy, ...]) -> Iterator[RunId]:
    """The folder is this run's alone while the block runs; its run id is new, or that of the run it goes on with."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a")
    except OSError as fault:
        raise OperatorFault(f"cannot write there: {fault.strerror}", "choose another --out", str(out)) from fault
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            raise OperatorFault(
                "another process is running there", "wait for it, or choose another --out", str(out)
            ) from fault
        path = out / "run.json"
        what = {
            "federation_file": m.state_digest(loaded.whole).hex(),
            "policy_hash": tree[0].hash.hex(),
            **({"policies_below": [each.hash.hex() for each in tree[1:]]} if tree[1:] else {}),
        }
        if path.exists():
            found = json.loads(path.read_text())
            if found.get("outcome") is not None:
                remedy = "choose another --out"
                raise OperatorFault(f"this folder holds a run that is over ({found['outcome']})", remedy, str(out))
            if {key: found.get(key) for key in what} != what:
                remedy = "restore the federation file and policy this run began with, or choose another --out"
                raise OperatorFault(
                    "this folder holds an unfinished run of another federation file or policy", remedy, str(out)
                )
        else:
            if any(not _begun(each.name) for each in out.iterdir()):
                raise OperatorFault("this folder is not empty and holds no run", "choose another --out", str(out))
            found = {"run": keys.Secret(os.urandom(32)).raw[:16].hex(), **what, "outcome": None}
            evidence.mark(path.parent, json.dumps(found, indent=1).encode())
        yield RunId(bytes.fromhex(found["run"]))


def _begun(name: str) -> bool:
    """Whether a file is what a run leaves that was killed before it had a name."""
    return name == ".lock" or (name.startswith("run.json.") and name.endswith(".new"))


def _over(out: Path, outcome: str) -> bytes:
    """What marks a run as over."""
    found = json.loads((out / "run.json").read_text())
    return json.dumps({**found, "outcome": outcome}, indent=1).encode()


def summary(result: Result, out: Path) -> str:
    """What a person reads at the end of a run."""
    from securefl import bench  # noqa: PLC0415

    return bench.table(result.report, out)


__all__ = [
    "Arms", "Explained", "Result", "Workbench", "explain", "load_model", "plan_of", "records_of", "run",
    "run_without_privacy", "summary",
]  # fmt: skip
