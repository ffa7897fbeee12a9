"""A site built from its SITE document alone: it answers as it always did, keeps its own limits, and opens nobody else's."""

from __future__ import annotations

import json
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from securefl import key_files, keys
from securefl.coordinator.drive import drive
from securefl.documents import site_file
from securefl.errors import OperatorFault, PeerFault
from securefl.home import adoption
from securefl.home.home import Home
from securefl.ledger import store
from securefl.planning.plan import FirstState, plan_of, price_in, strategy_of
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.protocol import coordinator_state, member_state
from securefl.protocol import messages as m
from securefl.seams import Own
from securefl.simulation import parties
from securefl.site import charged_records, custody
from securefl.site.agent import MemberAgent
from securefl.site.build import Environment, build
from securefl.strategy.member import MemberStrategy
from securefl.terms import MemberId, Refused, Reserved, RunId, Scheme
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from securefl.terms.start import Start
from tests.privacy.test_privacy_account import a_plan
from tests.support.sites import NOW, Introduced, Wire, stream
from tests.support.small import MEMBERS, Small

RUN = RunId(b"a run of sites..")


def driven(world: Introduced, runtime, start: Start) -> coordinator_state.Ended:
    """The federation's rounds, over this runtime."""
    loaded, roster = world.places.loaded, world.roster
    strategy = strategy_of(loaded, start)
    base = strategy.broadcast(start.state)
    custodian = roster.custodian.key if roster.custodian else None
    plan = plan_of(loaded, world.policy, RUN, FirstState.of(start, strategy), custodian)
    session = m.Session(
        RUN, world.policy.federation, world.policy.hash, plan.cover.scheme, plan.cover.threshold, roster.coordinator,
        roster.custodian, roster.members,
    )  # fmt: skip
    home = Home.at(world.places.of(COORDINATOR), COORDINATOR, lambda: NOW)
    _, signed = adoption.staged(home.path, world.policy.federation, NOW)
    course = coordinator_state.RunState(
        session, world.policy.text, loaded.file.training.rates(), plan, base, strategy.begin(base), {}, {}, {}, {},
        signed,
    )  # fmt: skip
    ports = coordinator_state.Ports(home.identity, schemes.coordinator_half, strategy)
    return drive(home, coordinator_state.Planned(course), ports, runtime, lambda *_: None)


def by_hand(world: Introduced, name: str, shared, entropy) -> MemberAgent:
    """A member put together from the federation's file and everybody's places: what a document stands for."""
    from securefl.training.trainer import LoraTrainer

    loaded, roster = world.places.loaded, world.roster
    home = Home.at(world.places.of(name), MemberId(name), lambda: NOW)
    policy, signed = adoption.staged(home.path, world.policy.federation, NOW)
    member = next(each for each in loaded.file.members if each.name == name)
    account = member.dataset or name
    charter = member_state.SiteConfig(
        MemberId(name), policy.federation, policy.hash, policy.text, account, roster.coordinator, roster.custodian,
        roster.members, {}, shared.model, signed,
    )  # fmt: skip
    trainer = LoraTrainer(
        shared, parties.records_of(loaded, name), entropy, lambda *_: None,
        MemberStrategy(shared.layout, shared.initial()), loaded.file.strategy.probe_records(loaded.file.task.labels),
    )  # fmt: skip
    ports = member_state.Ports(home.identity, schemes.member_half)
    return MemberAgent(home, charter, policy, ports, trainer, price_in(policy, account), entropy)


@dataclass
class Twins:
    """Two agents of one party: each request goes to both, and both say the same, byte for byte."""

    one: MemberAgent
    other: MemberAgent
    answered: int = 0

    def handle(self, data: bytes) -> bytes:
        said = [self._said(each, data) for each in (self.one, self.other)]
        assert said[0] == said[1]
        assert isinstance(said[0], bytes), said[0]
        self.answered += 1
        return said[0]

    def _said(self, agent: MemberAgent, data: bytes) -> bytes | str:
        try:
            return agent.handle(data)
        except PeerFault as fault:
            return f"{fault.rule}: {fault}"


STRATEGIES = {
    "a plain mean": {},
    "a model of one's own": {"strategy": {"home": ["head"], "pull": "1/3"}},
    "weights": {"strategy": {"weights": [{"sharpness": 2, "clip": "1/100"}]}},
}


@pytest.mark.parametrize("named", STRATEGIES)
def test_a_site_built_from_its_document_answers_byte_for_byte_like_one_put_together_by_hand(
    small: Small, tmp_path: Path, named: str
) -> None:
    file = small.file("twins.yaml", members=members(dataset="letters"), **STRATEGIES[named])
    one = Introduced(small, tmp_path / "one", file)
    two = Introduced(small, tmp_path / "two", file, like=one)
    assert one.roster == two.roster
    shared = parties.load_model(one.places.loaded)
    twins = {
        MemberId(name): Twins(
            one.agent(name, Environment(stream(name), lambda: NOW, model=shared)),
            by_hand(two, name, shared, stream(name)),
        )
        for name in MEMBERS
    }
    for each in twins.values():
        assert (each.one.charter, each.one.policy) == (each.other.charter, each.other.policy)
    ended = driven(one, Wire(twins), shared.start)
    assert (ended.outcome, ended.last_round) == ("finished", 2), ended.why
    assert all(each.answered >= 6 for each in twins.values())


def members(**fields: object) -> list[dict]:
    """The small federation's members, the first with other fields."""
    first, *others = ({"name": name, "region": "here", "data": {"file": f"{name}.csv"}} for name in MEMBERS)
    return [first | fields, *others]


def entries(world: Introduced, name: str) -> list:
    home = Home.at(world.places.of(name), MemberId(name), lambda: NOW)
    with home.transaction() as conn:
        return [leaf.entry for leaf in store.read(conn, home.identity.public)[1]]


def test_a_site_with_a_model_of_its_own_answers_as_well(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("own.yaml", training__rounds=1))
    agents = {MemberId(name): world.agent(name) for name in MEMBERS}
    ended = driven(world, Wire(agents), parties.load_model(world.places.loaded).start)
    assert ended.outcome == "finished", ended.why


def test_a_custodian_is_built_from_its_document(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("held.yaml", protection="ckks", training__rounds=1))
    agents = {MemberId(name): world.agent(name) for name in (*MEMBERS, CUSTODIAN)}
    ended = driven(world, Wire(agents), parties.load_model(world.places.loaded).start)
    assert ended.outcome == "finished", ended.why


def test_a_recipe_crosses_a_process_border_and_a_split_key_is_assembled_of_the_shares_it_is_lent(
    small: Small, tmp_path: Path
) -> None:
    world = Introduced(small, tmp_path, small.file("split.yaml", protection="ckks"))
    path = world.documents[CUSTODIAN]
    whole = build(site_file.load(path))
    whole.ports.holder.material(bytes(32), whole.ports.identity)
    file = world.places.of(CUSTODIAN) / schemes.key_name(roster_scheme(world))
    homes = {MemberId(name): world.places.of(name) for name in MEMBERS}
    custody.split(file, 2, homes, key_files.load(world.places.of(CUSTODIAN) / "identity.key"), keys.Secret(bytes(32)))
    with pytest.raises(OperatorFault, match="0 good shares of the decryption key; 2 are needed"):
        build(site_file.load(path))
    recipe = parties.AgentSpec(path, os.urandom, parties.Shares(homes))
    agent = pickle.loads(pickle.dumps(recipe))()
    assert agent.ports.holder.material(bytes(32), whole.ports.identity) == whole.ports.holder.material(
        bytes(32), whole.ports.identity
    )


def roster_scheme(world: Introduced) -> Scheme:
    return world.places.loaded.file.protection.scheme.masked


# Its own limits.

LIMITS = {
    "site.losses": {"losses": ["fedntd"]},
    "site.learning_rate": {"learning_rate": {"at_most": 0.05}},
    "site.micro_batch": {"micro_batch": {"at_most": 8}},
    "site.tokens": {"tokens": {"at_most": 100}},
    "site.memory": {"memory": {"at_most": 1000}},
    "site.sharing": {"sharing": ["weights"]},
}


@pytest.mark.parametrize("rule", LIMITS)
def test_a_plan_beyond_a_sites_own_limit_is_refused_there_before_anything_is_reserved(
    small: Small, tmp_path: Path, rule: str, capsys: pytest.CaptureFixture
) -> None:
    file = small.file("limited.yaml", training__rounds=1, strategy={"pull": "1/3"})
    world = Introduced(small, tmp_path, file)
    shared = parties.load_model(world.places.loaded)
    lent = {name: Environment(stream(name), lambda: NOW, model=shared) for name in MEMBERS}
    told: list[bytes] = []
    agents = {MemberId(name): world.agent(name, lent[name]) for name in MEMBERS[1:]}
    agents[MemberId("north")] = world.agent("north", lent["north"], limits=LIMITS[rule])
    ended = driven(
        world, Wire(agents, lambda member, _, answer: told.append(answer) if member == "north" else None), shared.start
    )
    assert ended.outcome != "finished"
    mine = entries(world, "north")
    assert not any(isinstance(each, Reserved) for each in mine)
    (refused,) = [each for each in mine if isinstance(each, Refused) and each.what == "plan"]
    assert [reason.rule for reason in refused.reasons] == [rule]
    assert refused.reasons[0].fix in capsys.readouterr().err
    said = b"".join(told)
    assert rule.encode() in said
    assert refused.reasons[0].limit.encode() not in said, "the limit itself stays at the site"
    assert any(isinstance(each, Reserved) for each in entries(world, "south"))


def test_what_is_beyond_a_limit_is_told_with_what_the_policy_forbids(small: Small, tmp_path: Path) -> None:
    file = small.file("both.yaml", training__rounds=1, training__clip=2.0)
    world = Introduced(small, tmp_path, file)
    shared = parties.load_model(world.places.loaded)
    agents = {
        MemberId(name): world.agent(
            name, Environment(stream(name), lambda: NOW, model=shared), limits={"micro_batch": {"at_most": 8}}
        )
        for name in MEMBERS
    }
    driven(world, Wire(agents), shared.start)
    (refused,) = [e for e in entries(world, "north") if isinstance(e, Refused) and e.what == "plan"]
    assert {reason.rule for reason in refused.reasons} == {"training.clip", "site.micro_batch"}


def test_a_site_in_two_federations_has_an_agent_in_each_on_one_account(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("two.yaml"))
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    trusts = document["federations"] | {"large": json.loads(json.dumps(document["federations"]["small"]))}
    site = world.site("north", federations=trusts)
    home = Home.at(site.home, MemberId("north"), lambda: NOW)
    policy = policies.parse(world.policy.text.replace(b"federation: small", b"federation: large"), "large")
    adoption.propose(home, policy, None)
    around = Environment(stream("north"), lambda: NOW, model=parties.load_model(world.places.loaded))
    agents = [build(site, name, around) for name in ("small", "large")]
    assert [each.charter.federation for each in agents] == ["small", "large"]
    assert {each.charter.dataset for each in agents} == {"north"}
    assert agents[0].turns is agents[1].turns, "they train one at a time"
    for name, told in ((None, "2 federations, and none was chosen"), ("other", "no federation other")):
        with pytest.raises(OperatorFault, match=f"{told}; choose one of small, large"):
            build(site, name, around)


# What is refused before there is a site.


def test_records_that_were_charged_under_another_name_are_refused_by_the_site_itself(
    small: Small, tmp_path: Path
) -> None:
    world = Introduced(small, tmp_path, small.file("first.yaml"))
    agent = world.agent("north")
    for ask in (agent.trainer.admit, lambda asked, base: agent.trainer.train(asked, base, Own())):
        world.agent("north", dataset="letters")  # nothing is charged before the first training
        with pytest.raises(PeerFault):  # this plan cannot be trained; what begins to train is charged all the same
            ask(a_plan(1), b"")
    with pytest.raises(OperatorFault, match=r"records that were charged to 'north'.*dataset: north"):
        world.agent("north", dataset="letters")
    assert world.agent("north").charter.dataset == "north"


def test_a_process_that_cannot_be_built_ends_the_run_before_it_begins(
    small: Small, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    file = small.file("apart.yaml", runtime="processes", training__rounds=1, members=members(dataset="letters"))
    world = Introduced(small, tmp_path, file)
    found = parties.records_of(world.places.loaded, "north")
    home = Home.at(world.places.of("north"), MemberId("north"), lambda: NOW)
    charged_records.remember(home, "notes", found.forms)
    with pytest.raises(OperatorFault, match="north did not start: site.fault"):
        small.run(tmp_path / "run", tmp_path / "sites", file=file)
    assert "the account 'letters' has records that were charged to 'notes'" in capfd.readouterr().err
    assert not any(isinstance(e, Reserved) for name in MEMBERS for e in entries(world, name))


def test_another_key_than_the_homes_own_is_refused(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("keys.yaml"))
    site = world.site("north")
    trusted = site.file.model_dump(mode="json")["federations"]["small"]
    with pytest.raises(
        OperatorFault, match=r"federations.small.members.north.key: found the key .*, and this home's is"
    ):
        world.agent("north", home=str(tmp_path / "elsewhere"))
    assert trusted["members"]["north"]["key"] == world.roster.members[0].key.hex()


def test_a_peer_with_another_key_than_it_showed_before_is_refused(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("pins.yaml"))
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    document["federations"]["small"]["members"]["south"]["key"] = f"{5:064x}"
    with pytest.raises(OperatorFault, match="south shows another key than it did before"):
        world.agent("north", federations=document["federations"])


def test_a_home_without_a_policy_says_what_is_missing(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("policy-less.yaml"))
    adoption.staged_at(world.places.of("north"), "small").unlink()
    with pytest.raises(OperatorFault, match="no policy of small is laid out in the home of north; lay out"):
        world.agent("north")


def test_a_store_is_the_documents_or_the_account_goes_on_where_it_was_begun(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("stored.yaml"))
    site = world.site("north", store="postgresql+psycopg://user:word@host/db")
    with pytest.raises(OperatorFault, match="others may read this file"):
        build(site)
    site.path.chmod(0o600)
    with pytest.raises(
        OperatorFault, match="this home's ledger is in its ledger.db, not in `store`; the account goes on"
    ):
        build(site)


def test_a_site_that_is_a_federation_needs_a_way_to_its_members(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("node.yaml"))
    inside = {
        "name": "inside", "home": str(tmp_path / "inside"), "protection": "masking",
        "members": {n: {"key": f"{i:064x}", "region": "here"} for i, n in enumerate(("a", "b"), 1)},
    }  # fmt: skip
    site = world.site("north").file.model_dump(mode="json", exclude_none=True)
    document = {key: value for key, value in site.items() if key != "data"} | {"subfederation": inside}
    path = tmp_path / "node-site.yaml"

    path.write_text(json.dumps(document))
    with pytest.raises(OperatorFault, match="inside has members, and nothing here knows the way to them"):
        build(site_file.load(path))


# Nobody else's path.

OPENED: list[str] = []
WATCHING = [False]


def _note(event: str, arguments: tuple) -> None:
    if WATCHING[0] and event in {"open", "sqlite3.connect", "os.listdir", "os.scandir"} and arguments:
        OPENED.append(str(arguments[0]))


def test_a_site_opens_no_path_of_another_party_and_not_the_federations_file(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("watched.yaml", training__rounds=1))
    others = {MemberId(name): world.agent(name) for name in MEMBERS[1:]}
    shared = parties.load_model(world.places.loaded)
    sys.addaudithook(_note)
    WATCHING[0] = True
    agent = build(site_file.load(world.documents[MemberId("north")]), around=Environment(stream("north"), lambda: NOW))
    WATCHING[0] = False

    class Watched:
        def handle(self, data: bytes) -> bytes:
            WATCHING[0] = True
            try:
                return agent.handle(data)
            finally:
                WATCHING[0] = False

    ended = driven(world, Wire({**others, MemberId("north"): Watched()}), shared.start)
    assert ended.outcome == "finished", ended.why
    own, sites = str(world.places.of("north")), str(tmp_path / "sites")
    assert any(each.startswith(own) for each in OPENED), "it was looked at"
    assert [each for each in OPENED if each.startswith(sites) and not each.startswith(own)] == []
    assert [each for each in OPENED if each == str(world.file) or each.endswith(("south.csv", "west.csv"))] == []
