"""A federation is a member of another one: whole trees run, are charged and are verified; the root knows no leaf."""

from __future__ import annotations

import json

import pytest

from securefl import cli, federation_file
from securefl.audit.replay import replay
from securefl.audit.verify import read_all, verify
from securefl.errors import Loosens, OperatorFault
from securefl.terms import Gathered, Settled
from tests.trees import Tree


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
        from securefl import keys

        public = keys.load(found).public
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
    "own models": ({"strategy": {"pull": 0.5}}, {}, "strategy.home and strategy.pull keep models"),
    "another adapter": ({"adapter": {"targets": ["query"], "rank": 4}}, {}, "adapter is .* here and .* in the federation above"),
    "rounds that are not paid for": ({}, {"rounds": 4}, "2 steps do not make 4 equal rounds"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_by_rounds_inside_is_refused_by_name(what, tree):
    inside, changes, told = REFUSED[what]
    file = tree.tree("refused.yaml", [tree.node("left", inside=inside, **changes), tree.node("right")])
    with pytest.raises(OperatorFault, match=told):
        federation_file.load(file)


def test_rules_that_go_from_round_to_round_are_refused_in_a_tree(tree):
    adapter = {"targets": ["query", "value"], "rank": 4, "alpha": 8, "seed": 1, "rule": "alternating"}
    with pytest.raises(OperatorFault, match="alternating goes from round to round"):
        federation_file.load(tree.tree("alternating.yaml", adapter=adapter))
