"""Build one party from its SITE document and its own home: nothing of another party's is opened, or known by path.

What a party cannot own is lent to it by the process around it: time, chance, and the way to others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securefl import files, keys
from securefl.documents.site_file import Site
from securefl.documents.site_parts import MADE_BY, PeerPart, SubfederationPart, TrustPart
from securefl.errors import OperatorFault
from securefl.home import adoption
from securefl.home.clock import Entropy, clock
from securefl.home.home import Home
from securefl.home.peers import pin
from securefl.ledger.databases import LOCAL, URL_FILE
from securefl.planning.plan import cover_under, price_in, scheme_under, strategy_on
from securefl.planning.subfederation import Inside
from securefl.progress import Progress, Silent
from securefl.protection import schemes
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import custodian as u
from securefl.protocol.message_sizes import longest_request
from securefl.site import charged_records, custody, node
from securefl.site.agent import Agent, CustodianAgent, MemberAgent
from securefl.site.limits import Limits
from securefl.site.subfederation import NestedTrainer
from securefl.site.turns import Turns
from securefl.strategy.member import MemberStrategy
from securefl.terms import Adapter, MemberId, Participant, PublicKey, Task
from securefl.terms.names import FederationName
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from securefl.wire import digest

if TYPE_CHECKING:
    from pathlib import Path

    from securefl.coordinator.drive import Observer
    from securefl.policy.load import Policy
    from securefl.seams import Runtime, Trainer
    from securefl.terms.records import Record
    from securefl.training.data import Records
    from securefl.training.shared_model import SharedModel


def unwatched(before: coordinator_state.State, moved: coordinator_state.Step) -> None:
    """Tell nobody how a sub-federation's rounds go."""
    del before, moved


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process around a party lends it: time, chance, and the way to others. All of it has a live default.

    A process that holds a model or records already may lend them: they are exactly what the document would give.
    """

    entropy: Entropy = field(default=os.urandom, repr=False)
    clock: Callable[[], int] = clock
    progress: Progress = field(default_factory=Silent)
    model: SharedModel | None = None
    records: Callable[[], Records] | None = None
    members: Runtime | None = None  # of a site that is a federation: the way to its own members
    observe: Observer = unwatched  # of a site that is a federation: told how its rounds go
    turns: Turns = field(default_factory=Turns)  # one for all agents of a site: they train one at a time
    shares: Callable[[Path], custody.Gather] | None = None  # of a custodian whose key, in that file, was split


def build(site: Site, federation: str | None = None, around: Environment | None = None) -> Agent:
    """The agent that answers for this party in one federation: the one named, or the only one in the document.

    Of a federation with several tasks there is an agent for each: ``site`` is what the document says of one.

    Records are read, and held against those that were charged under another name, before this returns.

    Raises:
        OperatorFault: document, home, model or records are not as they must be. Nothing was reserved.
        Unapproved: the policy that was laid out in this home lacks its signatures.
    """
    around = around or Environment()
    site = site.view(federation)
    name, trust = site.trusted(federation)
    me = MemberId(site.file.name)
    home = opened(site, around.clock)
    custodian = None if trust.custodian is None else Participant(CUSTODIAN, _key(trust.custodian), "")
    coordinator, seats = Participant(COORDINATOR, _key(trust.coordinator), ""), _seats(trust.members)
    check_own_key(site, name, trust, home.identity)
    known = home.live.now.standings  # the document has keys as they were: each speaks by the one it was handed over to
    coordinator, seats = known.current(name, coordinator), tuple(known.current(name, seat) for seat in seats)
    custodian = None if custodian is None else known.current(name, custodian)
    pin(home.path, name, (coordinator, *((custodian,) if custodian else ()), *seats))
    policy, signed = _laid_out(home, name, around.clock())
    shared = None if site.file.is_custodian else around.model or model_of(site, name)
    charter = member_state.SiteConfig(
        me, FederationName(name), policy.hash, policy.text, site.account, coordinator, custodian, seats, {},
        None if shared is None else shared.model, signed, task=site.task,
    )  # fmt: skip
    if shared is None:
        return _custodian(home, charter, trust, policy, around)
    ports = member_state.Ports(home.identity, schemes.member_half)
    trainer = _trainer(site, trust, home, policy, shared, around)
    price = price_in(policy, site.account)
    limits = limits_of(site, trust)
    most = longest_request(len(seats) + 2, shared.layout.entries)
    return MemberAgent(
        home, charter, policy, ports, trainer, price, around.entropy, around.turns, limits.refusal, most, limits.round_s
    )


def opened(site: Site, now: Callable[[], int] = clock) -> Home:
    """The party's home, made if there is none; its store is where the document says.

    Raises:
        OperatorFault: it cannot be used, or its ledger is in another store than the document's.
        Tampered: its ledger is not what it signed.
    """
    if site.file.store is not None:
        files.check(site.path)  # a URL may hold a password
        files.folder(site.home)
        place = site.home / URL_FILE
        held = files.read(place)
        if held is None and not (site.home / LOCAL).exists():
            files.write(place, site.file.store.encode() + b"\n")
        elif held is None or held.strip() != site.file.store.encode():
            where = "its ledger.db" if held is None else f"the database that its {URL_FILE} names"
            remedy = f"the account goes on where it was begun: leave `store` out, or write what {URL_FILE} says"
            raise OperatorFault(f"this home's ledger is in {where}, not in `store`", remedy, f"{site.path}: store")
    return Home.at(site.home, MemberId(site.file.name), now)


def model_of(site: Site, federation: str) -> SharedModel:
    """The base model with this federation's adapter and head, checked on synthetic text before any record is read.

    Raises:
        OperatorFault: it is not here, cannot carry the adapter, or fails the check.
    """
    from securefl.training import blocks  # noqa: PLC0415
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    model, trust = site.file.model, site.file.federations[federation]
    assert model is not None, "a member's document has a model"
    assert trust.task is not None, "and a task"
    assert trust.adapter is not None, "and an adapter"
    task, adapter = trust.task.task(), trust.adapter.adapter()
    with blocks.named_in(site.path):
        shared = SharedModel.load(model.at or model.name, site.folder, task, adapter, model.engine, model.name)
    _check_reads(shared, site, federation)
    shared.preflight()
    return shared


def models_of(views: Sequence[Site]) -> list[SharedModel | None]:
    """A model for each of these parts of one SITE document, on a base model that is in memory once.

    None where the part has none to share: a custodian's, a language model, or the only one there is.

    Raises:
        OperatorFault: as for ``model_of``.
    """
    asked = dict[str, tuple[Task, Adapter, str]]()
    for at, view in enumerate(views):
        trust = next(iter(view.file.federations.values()))
        if view.file.model and trust.task and trust.adapter and trust.task.kind != "language":
            asked[str(at)] = trust.task.task(), trust.adapter.adapter(), view.file.model.engine
    if len(asked) < 2:
        return [None] * len(views)
    from securefl.training.shared_base import Base  # noqa: PLC0415

    model = views[0].file.model
    assert model is not None, "a member's document has a model"
    made = Base.load(model.at or model.name, views[0].folder, model.name).models(asked)
    for at, view in enumerate(views):
        if str(at) in made:
            _check_reads(made[str(at)], view, next(iter(view.file.federations)))
            made[str(at)].preflight()
    return [made.get(str(at)) for at, _ in enumerate(views)]


def _check_reads(shared: SharedModel, site: Site, federation: str) -> None:
    most = site.file.federations[federation].max_tokens
    if most is not None:
        shared.check_reads(most, f"{site.path}: federations.{federation}.max_tokens")


def records_of(site: Site, trust: TrustPart) -> Records:
    """This site's records, each once; none where its document says so.

    Raises:
        OperatorFault: they cannot be read; with file and row.
    """
    from securefl.training.data import Records, load  # noqa: PLC0415

    if site.file.data is None or trust.task is None:
        return Records((), ())
    return load(site.file.data, site.folder, trust.task.labels)


def limits_of(site: Site, trust: TrustPart) -> Limits:
    """Return what this site lets a federation's plans ask."""
    assert trust.max_tokens is not None, "a member's document says what is read"
    data = site.file.data
    return Limits(site.file.limits, trust.max_tokens, data is not None and data.has_unlabelled)


def check_own_key(site: Site, federation: str, trust: TrustPart, own: keys.Identity) -> None:
    """Check that the document names this home's own key as this party's, or one it handed over; raise otherwise."""
    field_ = "custodian" if site.file.is_custodian else f"members.{site.file.name}.key"
    named = trust.custodian if site.file.is_custodian else trust.members[site.file.name].key
    if named is None or own.under(_key(named)) is None:
        what = f"found the key {str(named)[:16]}..., and this home's is {own.public.hex()[:16]}..."
        remedy = f"write this party's own key, or the home it belongs to: {MADE_BY}"
        raise OperatorFault(what, remedy, f"{site.path}: federations.{federation}.{field_}")


def _trainer(
    site: Site, trust: TrustPart, home: Home, policy: Policy, shared: SharedModel, around: Environment
) -> Trainer:
    half, probe = MemberStrategy(shared.layout, shared.initial()), trust.probe_records()
    if site.file.subfederation is not None:
        return _nested(site, site.file.subfederation, trust, policy, shared, around, half, probe)
    from securefl.training.trainer import LoraTrainer  # noqa: PLC0415

    me, limits = site.file.name, limits_of(site, trust)
    records = (around.records or (lambda: records_of(site, trust)))()
    forms = charged_records.forms_of(shared, records, limits.reads)
    charged_records.check(home.path, site.account, forms)

    def stepped(done: int, steps: int) -> None:
        around.progress.step(me, done, steps)
        around.turns.step(done, steps)

    trainer = LoraTrainer(shared, records, around.entropy, stepped, half, probe, limits.part.kept.at_most)
    return charged_records.ChargedTrainer(trainer, home, site.account, forms)


def _custodian(
    home: Home, charter: member_state.SiteConfig, trust: TrustPart, policy: Policy, around: Environment
) -> CustodianAgent:
    """The holder of the federation's decryption key, which is whole here, or assembled of members' shares."""
    assert trust.protection is not None, "a custodian's document says what it opens"
    scheme = scheme_under(trust.protection, policy)
    file = home.path / schemes.key_name(scheme)
    members = [seat.member for seat in charter.peers]
    custody.check_split(file, members, max(policy.protection.colluding, trust.protection.colluding or 0))
    gather = around.shares(file) if around.shares else lambda _: ()
    whole = custody.assembled(file, home.identity, gather, keys.Secret(around.entropy(32)))
    holder = schemes.key_holder(scheme, home.identity, home.path, whole)
    ports = u.Ports(home.identity, holder, policy.protection.min_cohort)
    return CustodianAgent(home, charter, ports, around.entropy, around.turns)


def _nested(
    site: Site, inside: SubfederationPart, trust: TrustPart, above: Policy, shared: SharedModel, around: Environment,
    half: MemberStrategy, probe: tuple[Record, ...],
) -> NestedTrainer:  # fmt: skip
    """The trainer of a site that is a federation: its own coordinator, at home here, and the way to its members."""
    if around.members is None:
        what = f"{inside.name} has members, and nothing here knows the way to them"
        raise OperatorFault(what, "start it with a way to reach its members", f"{site.path}: subfederation")
    assert trust.task is not None, "a member's document says what is trained"
    runtime = around.members
    own = node.of(site)
    home = Home.at(own.home, COORDINATOR, around.clock)
    everybody = node.everybody(own, home)
    custodian, seats = everybody.custodian, everybody.members
    pin(home.path, inside.name, everybody.everybody)
    policy, signed = _laid_out(home, inside.name, around.clock())
    strategy = strategy_on(shared.start, inside.strategy, trust.task.labels, f"{site.path}: subfederation.strategy")
    cover = cover_under(inside.protection, len(seats), policy, custodian.key if custodian else None)
    node.check_quorum(own, policy)
    return NestedTrainer(
        MemberId(site.file.name),
        Inside(
            above, policy, signed, cover, inside.strategy.sharing(trust.task.labels), inside.rounds,
            everybody.coordinator, custodian, seats, None if inside.patience is None else inside.patience.patience(),
            f"{site.path}: subfederation: the policy of {inside.name}",
        ),
        home,
        coordinator_state.Ports(home.identity, schemes.coordinator_half, strategy),
        lambda: runtime,
        half,
        lambda weighting, base, after: shared.scored(weighting, base, after, probe),
        around.observe,
        digest("probe", probe) if probe else None,
    )  # fmt: skip


def _laid_out(home: Home, federation: str, now: int) -> tuple[Policy, bytes]:
    """The policy that this home begins its next run under, and its signatures."""
    place = adoption.staged_at(home.path, federation)
    if not place.exists():
        what = f"no policy of {federation} is laid out in the home of {home.owner}"
        raise OperatorFault(what, "lay out the policy that this party agreed to", str(place))
    return adoption.staged(home.path, federation, now)


def _seats(members: dict[str, PeerPart]) -> tuple[Participant, ...]:
    return tuple(Participant(MemberId(name), _key(each.key), each.region) for name, each in members.items())


def _key(text: str) -> PublicKey:
    return PublicKey(bytes.fromhex(text))
