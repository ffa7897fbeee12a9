"""What is checked before anything is spent: the same of a simulation and of parties who stand apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import securefl
from securefl.coordinator import check as coordinator_check
from securefl.coordinator import run as coordinator_run
from securefl.documents import coordinator_file, site_file
from securefl.documents.finding import OK, WARNING, WRONG, Finding
from securefl.documents.site_file import Site
from securefl.errors import OperatorFault
from securefl.home.peers import pin
from securefl.policy import load as policies
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.simulation import federation as simulation
from securefl.site import labels, shown_keys
from securefl.site.build import Environment
from securefl.site.check import examine
from securefl.site.dispatch import built
from securefl.terms import MemberId, Participant, PublicKey
from tests.support.rotating import Rotating
from tests.support.sites import Introduced
from tests.support.small import Small
from tests.support.trees import Tree

SOURCES = str(Path(securefl.__file__).parent)


class Begun(BaseException):
    """The first message is about to be sent."""


def begins(*_: object) -> None:
    raise Begun


@contextmanager
def traced() -> Iterator[set[str]]:
    """Every function called ``check...`` that runs meanwhile, by module and name."""
    found: set[str] = set()

    def note(frame, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name.strip("_").startswith("check") and code.co_filename.startswith(SOURCES):
            found.add(f"{frame.f_globals['__name__'].removeprefix('securefl.')}.{code.co_name}")

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


SIMULATED_ALONE = {
    "documents.inherit.check": "a tree in one file: a live node writes nothing of what its parent says; its strategy and "
    "rule are held to the same by documents.site_problems, and its steps by `admit`, when a plan comes",
    "documents.introduction._check_time": "introduction: live parties meet by commands, before",
    "documents.introduction.check_answer": "introduction, as above",
    "documents.introduction.check_once": "introduction, as above",
    "home.introduced._check_keys": "introduction, as above; afterwards site.shown_keys",
    "site.joining._check_offer": "introduction, as above",
    "site.joining.check_home": "introduction, as above",
    "planning.start_file.checked": "a start file's: this live coordinator has the model; documents name one or the other",
    "simulation.introduction._check_homes": "homes of one machine; each live home is asked by its own `site join`",
    "simulation.introduction.check_split": "calls site.custody.check_split, as site.check does",
    "simulation.layout._check_home": "as below",
    "simulation.layout.check_homes": "homes of one machine; of a node's two, site.check says the same",
}
LIVE_ALONE = {
    "documents.coordinator_file._check_together": "one document is of the other's fields: a federation's file has both",
    "site.build._check_reads": "simulation.parties.load_model tries the same of the file's field, on its one model",
    "site.custody.check_one": "inside site.custody.assembled for a simulation, where a key was split",
    "site.start_checks.check": "this door",
    "site.labels.check": "documents.federation_file says the same, of the loss that stands in the federation's file",
    "site.node.check_under": "calls planning.subfederation.check_policy, as the simulation does",
    "site.shown_keys._check": "as below",
    "site.shown_keys.check_below": "as below",
    "site.shown_keys.check_trusted": "a simulation's documents are written from what was shown, and home.peers.check holds",
}


def coordinators(tree: Tree, file: Path, trusted: dict) -> Path:
    """The COORDINATOR document of the same federation, by the keys that were shown."""
    document = yaml.safe_load(file.read_text())
    same = {key: document[key] for key in ("name", "purpose", "task", "adapter", "training", "protection")}
    own = {
        "securefl_coordinator": 1, "home": "sites/coordinator", "policy": "top.policy.yaml", "model": {"name": "./model"},
        "members": {name: {"socket": name, **part} for name, part in trusted["members"].items()},
        "custodian": {"socket": "door", "key": trusted["custodian"]},
    }  # fmt: skip
    path = tree.folder / "coordinator.yaml"
    path.write_text(yaml.safe_dump(same | own))
    return path


def test_what_is_checked_before_anything_is_spent_is_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path, nodes=("left",), sites=3)
    names = {"solo": "left-0-site.csv", "other": "left-1-site.csv"}
    alone = [{"name": name, "region": "here", "data": {"file": file}} for name, file in names.items()]
    file = tree.tree(members=[tree.node("left"), *alone], protection="ckks")
    for module in (simulation, coordinator_run):
        monkeypatch.setattr(module, "drive", begins)
    monkeypatch.setattr("tests.support.small.MODELS", {})  # the model is loaded here, and tried
    with traced() as simulated, pytest.raises(Begun):
        tree.run(tmp_path / "run", tmp_path / "sites", file=file)
    documents = sorted((tmp_path / "sites").rglob("site/*.yaml"))
    assert len(documents) == 8
    with traced() as live:
        for path in documents:
            site = site_file.load(path)
            assert {each.status for each in examine(site, load=True)} == {OK}
            built(site, Environment(members=InProcess({})))
            if site.file.name == "solo":
                trusted = yaml.safe_load(path.read_text())["federations"]["top"]
        coordinator = coordinator_file.load(coordinators(tree, file, trusted))
        assert {each.status for each in coordinator_check.examine(coordinator)} == {OK}
        with pytest.raises(Begun):
            coordinator_run.coordinate(coordinator, tmp_path / "out", Silent(), InProcess({}))
    assert simulated - live == set(SIMULATED_ALONE)
    assert live - simulated == set(LIVE_ALONE)
    assert len(simulated & live) > 15
    known = {f"{path.relative_to(SOURCES).with_suffix('')}".replace("/", ".") for path in Path(SOURCES).rglob("*.py")}
    reasons = {**SIMULATED_ALONE, **LIVE_ALONE}
    assert {name.rpartition(".")[0] for name in reasons} <= known
    assert all(reasons.values())


@dataclass
class Heard(Silent):
    """What a site says as it starts."""

    said: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Introduced:
    small = Small(tmp_path_factory.mktemp("small"))
    return Introduced(small, tmp_path_factory.mktemp("world"), small.file("door.yaml"))


def findings(site: Site) -> dict[str, Finding]:
    return {each.what: each for each in examine(site)}


def test_rows_without_a_label_under_losses_that_need_one_are_refused_at_the_door(world: Introduced) -> None:
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    for fields in ({"unlabelled": "keep"}, {"labelled": "1/2"}):
        site = world.site("north", data=document["data"] | fields, limits={"losses": ["own-label", "fedntd"]})
        (name,) = fields
        found = findings(site)["labels in small"]
        assert found.status == WRONG
        (line,) = [n for n, text in enumerate(site.path.read_text().splitlines(), 1) if text.strip().startswith(name)]
        assert f"{site.path}:{line}: data.{name}: records without a label" in found.detail
        assert "fedntd, own-label of those that the policy of small allows" in found.detail
        assert "set `unlabelled: drop`" in found.remedy
        with pytest.raises(OperatorFault, match="labels in small: .*records without a label, and each loss needs one"):
            built(site, Environment())
    assert findings(world.site("north", data=document["data"] | {"unlabelled": "drop"}))["labels in small"].status == OK


@pytest.mark.parametrize(
    ("allowed", "own", "ok"),
    [(["soft-labels"], None, True), (["own-label", "soft-labels"], ["own-label"], False), (["fedntd"], None, False)],
)
def test_rows_without_a_label_need_one_loss_that_policy_and_site_both_allow(
    world: Introduced, allowed, own, ok
) -> None:
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    limits = {} if own is None else {"limits": {"losses": own}}
    site = world.site("north", data=document["data"] | {"unlabelled": "keep"}, **limits)
    before = b"losses: [own-label, fedntd, fedlsd, soft-labels, pseudo-labels]"
    assert before in world.policy.text
    text = world.policy.text.replace(before, f"losses: [{', '.join(allowed)}]".encode())
    policy = policies.parse(text, "policy.yaml")
    if ok:
        assert "plans with the loss soft-labels are taken, and no other" in labels.check(site, policy)
        return
    with pytest.raises(OperatorFault, match="each loss needs one"):
        labels.check(site, policy)


def test_a_site_that_starts_says_what_its_operator_should_know(world: Introduced) -> None:
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    trusted = document["federations"]["small"]
    both = {"small": trusted | {"adapter": trusted["adapter"] | {"rule": "both"}}}
    site = world.site("north", federations=both)
    found = findings(site)["adapter in small"]
    assert found.status == WARNING
    assert "Use b-only, alternating or svd" in found.detail
    built(site, Environment(progress=(heard := Heard())))
    (said,) = heard.said
    assert said.startswith("WARNING: adapter in small: rule `both` averages A and B apart")
    none = world.site("north", data=document["data"] | {"heldout": 1e-9})
    last = {each.what: each for each in examine(none, load=True)}["records in small"]
    assert last.status == WARNING
    assert "rows is held out at heldout=" in last.detail


def a_node(folder: Path, policy: Path, **inside: object) -> Site:
    """A node that no federation above knows yet, as its document says."""
    key = {name: f"{number:064x}" for number, name in enumerate(("coordinator", "left", "solo"), 1)}
    adapter = inside.pop("adapter", {"targets": ["query"], "rank": 4})
    document = {
        "securefl_site": 1, "name": "left", "region": "here", "home": "home", "model": "m",
        "subfederation": {"name": "below", "home": "coordinator", "policy": str(policy), "protection": "masking",
                          "members": {"a": {"key": f"{7:064x}"}, "b": {}}, **inside},
        "federations": {"top": {
            "coordinator": key["coordinator"], "members": {n: {"key": key[n], "region": "here"} for n in ("left", "solo")},
            "task": {"kind": "classification", "labels": ["bad", "good"]}, "adapter": adapter, "max_tokens": 16,
        }},
    }  # fmt: skip
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return site_file.load(path)


def test_a_nodes_document_that_names_another_key_than_was_shown_to_its_coordinator_is_wrong(tmp_path: Path) -> None:
    site = a_node(tmp_path, tmp_path / "below.policy.yaml")
    shown = tuple(Participant(MemberId(name), PublicKey(bytes([n]) * 32), "here") for n, name in ((8, "a"), (9, "b")))
    pin(tmp_path / "coordinator", "below", shown)
    found = findings(site)["parties of below"]
    assert found.status == WRONG
    (line,) = [n for n, text in enumerate(site.path.read_text().splitlines(), 1) if f"{7:064x}" in text]
    assert f"{site.path}:{line}: subfederation.members.a.key: a has the key 0000" in found.detail
    assert "and showed 0808" in found.detail
    assert "find out from its owner which is right" in found.remedy


def test_a_node_is_told_what_a_tree_in_one_file_would_be_told(tmp_path: Path) -> None:
    site = a_node(tmp_path, tmp_path / "p.yaml", home="home", adapter={"targets": ["query"], "rank": 4, "rule": "both"})
    found = findings(site)
    assert found["home"].status == WRONG
    assert "left and the coordinator of below would share a home" in found["home"].detail
    assert found["adapter in top"].status == WARNING
    for fields, told in (
        (
            {"adapter": {"targets": ["query"], "rank": 4, "rule": "svd"}},
            "adapter.rule svd goes from round to round of one run",
        ),
        ({"strategy": {"kind": "fedadam"}}, "strategy fedadam remembers rounds"),
        ({"strategy": {"loss": "fedntd"}}, "use fedlsd for two labels"),
    ):
        with pytest.raises(OperatorFault, match=told):
            a_node(tmp_path, tmp_path / "p.yaml", **fields)


def test_a_key_that_was_handed_over_is_the_same_partys_at_the_door(tmp_path: Path) -> None:
    federation = Rotating(tmp_path).made()
    old = federation.seat("b").key
    federation.taken(federation.rotated("b"), by=("a",))
    home = federation.home("a")
    try:
        named = {"b": ("members.b.key", old.hex())}
        part = shown_keys.Part(tmp_path / "site.yaml", ())
        (tmp_path / "site.yaml").write_text("members: {b: {key: x}}\n")
        shown_keys._check(home.path, "f", part, named, home)
        with pytest.raises(OperatorFault, match="b has the key 0505"):
            shown_keys._check(home.path, "f", part, {"b": ("members.b.key", "05" * 32)}, home)
    finally:
        home.engine.dispose()
