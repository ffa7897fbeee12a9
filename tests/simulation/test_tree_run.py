"""A federation is a member of another one: whole trees run, are charged and are verified; the root knows no leaf."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from securefl.audit.replay import replay
from securefl.audit.verify import read_all, verify
from securefl.cli import main as cli
from securefl.coordinator import evidence
from securefl.documents import federation_file, suite_file
from securefl.errors import Loosens, OperatorFault, Tampered
from securefl.privacy.accountant import epsilon_charged
from securefl.terms import Gathered, Hash, Level, MessageSent, Reported, ReservationReleased, Reserved, RunId, Settled
from tests.support.small import FEDERATION
from tests.support.trees import Tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def ran(tree, tmp_path_factory):
    """A tree of two nodes with three sites each, that ran to its end."""
    home = tmp_path_factory.mktemp("ran")
    result = tree.run(home / "run", home / "sites", tree.tree())
    assert result.outcome == "finished", result.why
    return home


def test_a_tree_runs_and_every_level_of_it_verifies(ran):
    assert verify(ran / "run").ok, verify(ran / "run").why
    for node in ("left", "right"):
        assert verify(ran / "run" / "below" / node).ok


def test_the_leaves_ledgers_replayed_give_the_figures_of_their_nodes_and_of_the_root(ran):
    root = replay(ran / "run")["epsilon"]
    for node in ("left", "right"):
        assert replay(ran / "run" / "below" / node)["epsilon"] == root


def test_a_tree_that_was_killed_when_what_is_below_was_written_down_ends_by_the_same_command(
    tree, tmp_path, monkeypatch
):
    real = evidence.bind

    def killed(coordinator, homes, run, out, **given):
        if out == tmp_path / "run":
            raise KeyboardInterrupt
        real(coordinator, homes, run, out, **given)

    monkeypatch.setattr(evidence, "bind", killed)
    with pytest.raises(KeyboardInterrupt):
        tree.run(tmp_path / "run", tmp_path / "sites", tree.tree())
    monkeypatch.setattr(evidence, "bind", real)
    assert tree.run(tmp_path / "run", tmp_path / "sites", tree.tree()).outcome == "finished"
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    for node in ("left", "right"):
        said = read_all(tmp_path / "run" / "below" / node)["coordinator"].each(Reported)
        assert len(list(said)) == 1, node


def test_a_nodes_ledger_has_totals_and_hashes_of_what_is_below(ran):
    for node in ("left", "right"):
        inside = read_all(ran / "run" / "below" / node)
        below = [entry for _, entry in read_all(ran / "run")[node].each(Gathered)]
        assert [each.contributors for each in below] == [(3,), (3,)]
        for each in below:
            for site in (name for name in inside if name != "coordinator"):
                assert set(each.plans) <= {entry.plan for _, entry in inside[site].each(Settled)}


def test_the_roots_storage_has_no_name_and_no_key_of_a_leaf(tree, ran):
    leaves = [name for names in tree.nodes.values() for name in names]
    marks = [name.encode() for name in leaves]
    for name in leaves:
        (found,) = ran.glob(f"sites/*/below/{name}/identity.key")
        from securefl import key_files

        public = key_files.load(found).public
        marks += [public, public.hex().encode()]
    assert len(marks) == 3 * len(leaves)
    roots = [*(ran / "sites" / "coordinator").rglob("*"), *(ran / "run").rglob("*")]
    looked = [path for path in roots if path.is_file() and "below" not in path.relative_to(ran).parts]
    assert any(path.suffix == ".db" for path in looked)
    for path in looked:
        data = path.read_bytes()
        assert not [mark for mark in marks if mark in data], path


def test_a_child_that_loosens_its_parents_policy_cannot_join(tmp_path, capsys):
    (tmp_path / "of").mkdir()
    tree = Tree(tmp_path / "of")
    tree.policy("left", "top", **{"per_dataset: {epsilon: 20}": "per_dataset: {epsilon: 21}"})
    file = tree.tree()
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", str(file), "--out", str(tmp_path / "out"), "--sites", str(tmp_path / "sites"), "--json"])
    assert ended.value.code == 3
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["exit"] == 3
    assert "budget.per_dataset.epsilon: 21 is looser than 20" in told["message"]
    assert not (tmp_path / "sites").exists()
    tree.policy("left", None, **{"per_dataset: {epsilon: 20}": "per_dataset: {epsilon: 21}"})
    with pytest.raises(Loosens, match=r"budget\.per_dataset\.epsilon: 21 is looser than 20"):
        tree.run(tmp_path / "out", tmp_path / "sites", file)
    tree.policy("left", None)
    with pytest.raises(OperatorFault, match="does not stand under the one of top"):
        tree.run(tmp_path / "out", tmp_path / "sites", file)


REFUSED = {
    "an optimizer that remembers": ({"strategy": {"kind": "fedadam"}}, {}, "fedadam remembers rounds"),
    "momentum": ({"strategy": {"momentum": 0.5}}, {}, "fedavg with momentum remembers rounds"),
    "own models": ({"strategy": {"pull": 0.5}}, {}, "strategy.home, pull, renewal and attention keep something"),
    "attention": (
        {"strategy": {"attention": {"keys": ["query"], "sharpness": 5, "clip": 4}}}, {}, "and attention keep something"
    ),
    "another adapter": ({"adapter": {"targets": ["query"], "rank": 4}}, {}, "adapter is .* here and .* in the federation above"),
    "rounds that are not paid for": ({}, {"rounds": 4}, "2 steps do not make 4 equal rounds"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_by_rounds_inside_is_refused_by_name(what, tree):
    inside, changes, told = REFUSED[what]
    file = tree.tree("refused.yaml", [tree.node("left", inside=inside, **changes), tree.node("right")])
    with pytest.raises(OperatorFault, match=told):
        federation_file.load(file)


def test_a_records_loss_is_the_roots_on_every_level(tree):
    loss = {"kind": "soft-labels", "threshold": 0.9}
    node = tree.node("left", inside={"strategy": {"learning_rate": 0.5}})
    file = tree.tree("loss.yaml", [node, tree.node("right")], strategy={"loss": loss})
    loaded = federation_file.load(file)
    assert {each.file.strategy.loss for each in loaded.below.values()} == {loaded.file.strategy.loss}
    assert loaded.below["left"].file.strategy.learning_rate == Fraction(1, 2)
    other = tree.node("left", inside={"strategy": {"loss": {"kind": "fedlsd"}}})
    with pytest.raises(OperatorFault, match=r"strategy\.loss is .* here and"):
        federation_file.load(tree.tree("other.yaml", [other, tree.node("right")], strategy={"loss": loss}))


def test_a_tree_has_one_task(tree):
    tasks = {"one": {"members": ["left", "right"]}}
    with pytest.raises(OperatorFault, match="write one tree for each task"):
        suite_file.load(tree.tree("tasks.yaml", tasks=tasks))


def test_rules_that_go_from_round_to_round_are_refused_in_a_tree(tree):
    adapter = {"targets": ["query", "value"], "rank": 4, "alpha": 8, "seed": 1, "rule": "alternating"}
    with pytest.raises(OperatorFault, match="alternating goes from round to round"):
        federation_file.load(tree.tree("alternating.yaml", adapter=adapter))


def accounts_of(ledger):
    from securefl.privacy.account import Account

    return Account.of(leaf.entry for leaf in ledger.leaves)


def test_a_leaf_with_several_parents_is_charged_once_for_each_release_on_one_root(tree, tmp_path):
    """It is a member of both nodes, and of the root itself: one home, one account, and each sum it is in costs once."""
    shared = {"name": "ferry", "region": "here", "site": "homes/ferry", "data": {"file": "north.csv"}}
    nodes = [
        tree.node(node, inside={"members": [*tree.node(node)["federation"]["members"][:2], shared]})
        for node in tree.nodes
    ]
    training = {**FEDERATION["training"], "rounds": 1}
    result = tree.run(
        tmp_path / "run", tmp_path / "sites", tree.tree("shared.yaml", [*nodes, shared], training=training)
    )
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    (home,) = tmp_path.glob("sites/named/ferry-*")
    assert not list(tmp_path.glob("sites/**/below/ferry"))
    copies = [read_all(folder)["ferry"] for folder in (tmp_path / "run", *(tmp_path / "run" / "below").iterdir())]
    assert len({copy.hashes for copy in copies}) == 1
    charges = accounts_of(copies[0]).charges
    assert sorted(charge.federation for charge in charges) == ["left", "right", "top"]
    assert {charge.dataset for charge in charges} == {"ferry"}
    assert {"top"} <= frozenset.intersection(*(charge.names_at(Level.FEDERATION) for charge in charges))
    alone = epsilon_charged(charges[:1], 1e-5)
    assert replay(tmp_path / "run" / "below" / "left")["epsilon"]["pld"] == epsilon_charged(charges, 1e-5) > alone


SIBLINGS = {
    "all of it tighter": (
        {
            "epsilon: 20, delta": "epsilon: 15, delta",
            "per_round: {epsilon: 10}": "per_round: {epsilon: 9}",
            "per_dataset: {epsilon: 20}": "per_dataset: {epsilon: 15}",
            "{at_least: 0.5}": "{at_least: 0.75}",
            "min_cohort: 3": "min_cohort: 2",
            "colluding: 1": "colluding: 0",
        },
        "finished", 2,
    ),
    "a budget for one round": ({"epsilon: 20, delta": "epsilon: 5, delta"}, "refused", 2),
    "a noise floor above the plan's": ({"{at_least: 0.5}": "{at_least: 0.9}"}, "refused", 1),
}  # fmt: skip


def spent_by(run: Path, node: str) -> dict[str, tuple[list[object], list[object]]]:
    """What a node and each of its leaves was charged, and at what price each plan was allowed, without random names."""
    copies = {node: read_all(run)[node], **read_all(run / "below" / node)}
    found = {}

    def nameless(caps):
        return [replace(each, name="") if each.level is Level.RUN else each for each in caps]

    for name, ledger in copies.items():
        prices = [entry.price for _, entry in ledger.each(Reserved)]
        charges = [replace(each, plan=b"", run=b"", caps=nameless(each.caps)) for each in accounts_of(ledger).charges]
        found[name] = (charges, [(each.round, each.after, each.above, nameless(each.caps)) for each in prices])
    del found["coordinator"]
    return found


@pytest.mark.parametrize("change", SIBLINGS)
def test_a_federations_spend_does_not_change_when_its_siblings_policy_does(change, ran, tmp_path):
    """For as many rounds as there are: a sibling may end the run, and what was spent until then is the same."""
    policy, outcome, rounds = SIBLINGS[change]
    tree = Tree(tmp_path / "tree")
    tree.policy("right", "top", **policy)
    result = tree.run(tmp_path / "run", tmp_path / "sites", tree.tree())
    assert result.outcome == outcome, result.why
    before, now = spent_by(ran / "run", "left"), spent_by(tmp_path / "run", "left")
    assert set(before) == {"left", *tree.nodes["left"]}
    assert {name: (charges[:rounds], prices[:rounds]) for name, (charges, prices) in before.items()} == now
    assert all(len(charges) == rounds for charges, _ in now.values())


def test_federations_that_would_share_a_home_are_refused(tree, tmp_path):
    (tree.folder / "left.yaml").write_text(
        yaml.safe_dump(
            {"securefl_federation": 1, "name": "left", **tree.node("left")["federation"], "protection": "masking"}
        )
    )
    file = tree.tree("homes.yaml", [{"name": "left", "region": "here", "federation": "left.yaml"}, tree.node("right")])
    with pytest.raises(OperatorFault, match="coordinator of left and coordinator of the root would share a home"):
        tree.run(tmp_path / "run", None, file)


def test_federations_in_a_circle_and_trees_that_are_too_deep_are_refused(tree):
    part = {"securefl_federation": 1, "policy": "left.policy.yaml", "protection": "masking"}
    site = tree.node("left")["federation"]["members"][0]
    round_ = {"name": "round", "region": "here", "federation": "circle.yaml"}
    (tree.folder / "circle.yaml").write_text(yaml.safe_dump({**part, "name": "left", "members": [round_, site]}))
    with pytest.raises(OperatorFault, match="below each other in a circle"):
        federation_file.load(tree.tree("round.yaml", [round_, tree.node("right")]))
    node = tree.node("left")
    for _ in range(8):
        node = {"name": "deep", "region": "here", "federation": {"policy": "left.policy.yaml", "members": [node, site]}}
    with pytest.raises(OperatorFault, match="more than 7 levels"):
        federation_file.load(tree.tree("deep.yaml", [node, tree.node("right")]))


LIES = {
    "a run of another plan": (lambda e: replace(e, run=RunId(bytes(16))), "does not name"),
    "one contributor more": (lambda e: replace(e, contributors=(4,)), "other rounds or totals"),
    "another round": (lambda e: replace(e, plans=(Hash(bytes(32)),)), "other rounds or totals"),
    "a longer ledger": (lambda e: replace(e, size=e.size + 10_000), "head of another ledger"),
    "another ledger": (lambda e: replace(e, head=Hash(bytes(32))), "head of another ledger"),
    "nothing paid": (None, "not settled in full"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_node_that_tells_its_parent_something_else_than_was_below_is_found(lie, ran):
    from securefl.audit import tree as audit

    node, inside = read_all(ran / "run")["left"], read_all(ran / "run" / "below" / "left")
    audit.check("left", node, inside)
    change, told = LIES[lie]
    leaves = tuple(
        replace(leaf, entry=change(leaf.entry)) if change and isinstance(leaf.entry, Gathered) else leaf
        for leaf in node.leaves
        if change or not isinstance(leaf.entry, Settled)
    )
    with pytest.raises(Tampered, match=told):
        audit.check("left", replace(node, leaves=leaves), inside)


SILENCE = {
    "no word of what was below": (lambda e: None if isinstance(e, Gathered) else e, "not a word"),
    "given back what was trained below": (lambda e: ReservationReleased(e.plan, "") if isinstance(e, Settled) else e, "0 steps are charged"),
    "half of what was trained below": (
        lambda e: replace(e, did=replace(e.did, steps=1)) if isinstance(e, Settled) else e, "1 steps are charged here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", SILENCE)
def test_a_node_that_leaves_out_what_was_below_is_found(lie, ran):
    """Also where there is nothing left that could be held against the ledgers below."""
    from securefl.audit import tree as audit

    node, inside = read_all(ran / "run")["left"], read_all(ran / "run" / "below" / "left")
    change, told = SILENCE[lie]
    kept = [(leaf, change(leaf.entry)) for leaf in node.leaves]
    if "charged" in told:  # then there is no result, and nothing was sent
        kept = [(leaf, entry) for leaf, entry in kept if not isinstance(entry, Gathered | MessageSent)]
    leaves = tuple(replace(leaf, entry=entry) for leaf, entry in kept if entry is not None)
    with pytest.raises(Tampered, match=told):
        audit.check("left", replace(node, leaves=leaves), inside)


def test_what_is_altered_below_is_found_from_the_top_and_named_with_its_place(ran, tmp_path):
    shutil.copytree(ran / "run", tmp_path / "run")
    path = tmp_path / "run" / "below" / "right" / "ledger" / "right-1-site.ledger"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    verdict = verify(tmp_path / "run")
    assert not verdict.ok
    assert verdict.first_bad["ledger"] == "below/right/right-1-site.ledger"


def test_a_root_that_holds_nothing_of_what_is_below_verifies_what_it_has(ran, tmp_path):
    shutil.copytree(ran / "run", tmp_path / "run", ignore=shutil.ignore_patterns("below"))
    assert verify(tmp_path / "run").ok
    (tmp_path / "run" / "below" / "stranger").mkdir(parents=True)
    assert not verify(tmp_path / "run").ok


def test_a_tree_whose_members_are_processes_that_have_processes(tree, tmp_path):
    training = {**FEDERATION["training"], "rounds": 1}
    nodes = [tree.node("left", inside={"runtime": "inprocess", "protection": "ckks"}), tree.node("right")]
    file = tree.tree("processes.yaml", nodes, training=training, runtime="processes")
    result = tree.run(tmp_path / "run", tmp_path / "sites", file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why


def test_a_tree_that_the_roots_policy_refuses_ends_before_anybody_below_is_asked(tree, tmp_path):
    training = {**FEDERATION["training"], "noise_multiplier": 0.4}
    result = tree.run(tmp_path / "run", tmp_path / "sites", tree.tree("loud.yaml", training=training))
    assert result.outcome == "refused"
    assert "training.noise_multiplier" in result.why
    assert not list(tmp_path.glob("run/below/*/ledger"))
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why


def test_the_example_runs_shortened(tmp_path, capsys):
    """Two alliances of three airlines: one referred to, under masks; one written out, under CKKS."""
    folder = tmp_path / "carriers"
    shutil.copytree(Path(__file__).parents[2] / "examples" / "carriers", folder)
    document = yaml.safe_load((folder / "federation.yaml").read_text())
    del document["training"]["epsilon"]
    document["training"] |= {"rounds": 1, "steps": 1, "sampling_rate": "1/100", "noise_multiplier": 1}
    (folder / "federation.yaml").write_text(yaml.safe_dump(document))
    for command in (
        ["run", folder / "federation.yaml", "--out", tmp_path / "run"],
        ["audit", "verify", tmp_path / "run"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, command), "--json"])
        told = json.loads(capsys.readouterr().out)
        assert ended.value.code == 0, told
    assert told["ok"]
    assert {path.name for path in (tmp_path / "run" / "below").iterdir()} == {"legacy", "low-cost"}
    assert (folder / "sites" / "legacy" / "below" / "united").is_dir()
    assert (folder / "sites" / "low-cost" / "below" / "virgin").is_dir()
