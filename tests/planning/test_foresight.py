"""Commands that take a file or a run take a suite's and a tree's too, part by part, or say what to give instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from securefl.audit.verify import read_all, verify
from securefl.documents import federation_file, suite_file
from securefl.errors import Loosens, OperatorFault
from securefl.home import clock
from securefl.home.home import Home
from securefl.planning.preview import foresee
from securefl.policy import load as policies
from securefl.simulation import federation, suite
from securefl.site import custody
from securefl.terms import Level, MemberId, Reserved, Scheme
from securefl.training import module_store
from tests.simulation.test_suite import MEMBERS, OWNERS, Many, run_cli
from tests.support.trees import Tree


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Many:
    return Many(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def explained(capsys, policy: Path, file: Path) -> tuple[int, dict]:
    return run_cli(capsys, "policy", "explain", policy, file)


def test_each_task_of_a_suite_is_explained_by_name(many: Many, capsys) -> None:
    code, told = explained(capsys, many.folder / "policy.yaml", many.folder / "suite.yaml")
    assert (code, told["decision"], list(told["tasks"])) == (0, "grant", list(OWNERS))
    for name, owners in OWNERS.items():
        assert set(told["tasks"][name]) == {"decision", "reasons", "tree", "missing"}
        rules = {rule["rule"]: rule for part in told["tasks"][name]["tree"] for rule in part["rules"]}
        assert rules["protection.cohort"]["value"] == str(len(owners))


@pytest.mark.parametrize("hidden", [False, True])
def test_a_task_that_too_few_own_is_refused_when_explained_as_when_run(many: Many, tmp_path, capsys, hidden) -> None:
    members = {each: {"file": f"wish-{each}.csv"} for each in ("nort", "west")}
    file = many.file(f"few-{hidden}.yaml", tasks__wish__members=members, hide_ownership=hidden)
    code, told = explained(capsys, many.folder / "policy.yaml", file)
    assert (code, told["decision"]) == (3, "refuse")
    assert {name: each["decision"] for name, each in told["tasks"].items()} == {
        "tone": "grant", "mood": "grant", "wish": "refuse",
    }  # fmt: skip
    _, ran = run_cli(capsys, "run", file, "--out", tmp_path / "run", "--sites", tmp_path / "sites")
    for reason in told["tasks"]["wish"]["reasons"]:
        assert reason["rule"] in ran["outcome"]["why"]
    shown = [rule for part in told["tasks"]["wish"]["tree"] for rule in part["rules"] if not rule["held"]]
    assert {each["rule"] for each in shown} == {each["rule"] for each in told["tasks"]["wish"]["reasons"]}


def test_each_federation_of_a_tree_is_explained_by_its_own_policy(tree: Tree, capsys) -> None:
    file = tree.tree("levels.yaml", [tree.node("left"), tree.node("right", inside={"protection": "ckks"})])
    code, told = explained(capsys, tree.folder / "top.policy.yaml", file)
    assert (code, list(told["levels"])) == (0, ["top", "top/left", "top/right"])
    for name, level in told["levels"].items():
        policy = policies.load(tree.folder / f"{name.rpartition('/')[2]}.policy.yaml")
        rules = {rule["rule"]: rule for part in level["tree"] for rule in part["rules"]}
        assert level["policy"] == policy.hash.hex()
        assert rules["federation"]["value"] == policy.federation
        assert rules["protection.cohort"]["value"] == ("2" if name == "top" else "3")
        assert ("protection.custodian" in rules) == (name == "top/right")


def test_what_is_explained_of_a_level_is_what_its_members_are_asked(tree: Tree, tmp_path) -> None:
    file = tree.tree("asked.yaml", [tree.node("left", rounds=2), tree.node("right")], training=tree_training(tree))
    told = foresee(tree.folder / "top.policy.yaml", file)
    federation.run(federation_file.load(file), tmp_path / "run", sites=tmp_path / "sites")
    for name, folder in (("top/left", "below/left"), ("top/right", "below/right"), ("top", ".")):
        ledgers = read_all(tmp_path / "run" / folder)
        asked = [each.plan for ledger in ledgers.values() for _, each in ledger.each(Reserved) if each.plan.round == 1]
        shown = {check.rule: check.value for check in told.parts[name].checks}
        limits = {check.rule: check.limit for check in told.parts[name].checks}
        for plan in asked:
            assert plan.policy.hex().startswith(shown["policy"])
            assert shown["federation"] == plan.federation
            assert shown["protection.cohort"] == str(len(plan.cohort))
            assert shown["protection.min_cohort"] == str(plan.cover.min_cohort)
        assert asked
        assert limits["federation"] == shown["federation"]


def tree_training(tree: Tree) -> dict:
    from tests.support.small import FEDERATION

    return {**FEDERATION["training"], "rounds": 1}


def test_a_level_whose_policy_loosens_its_parents_is_refused_as_when_run(tree: Tree, capsys) -> None:
    tree.policy("loose", "top", **{"per_dataset: {epsilon: 20}": "per_dataset: {epsilon: 21}"})
    file = tree.tree("loose.yaml", [tree.node("left"), tree.node("right", inside={"policy": "loose.policy.yaml"})])
    with pytest.raises(Loosens, match=r"per_dataset"):
        foresee(tree.folder / "top.policy.yaml", file)
    code, told = explained(capsys, tree.folder / "top.policy.yaml", file)
    assert (code, told["error"]["exit"]) == (3, 3)


@pytest.fixture(scope="module")
def encrypted(many: Many, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("encrypted")
    result = many.run(home / "run", home / "sites", many.file("ckks.yaml", protection="ckks"))
    assert result.outcome == "finished", result.why
    return home


def test_a_suite_under_ckks_leaves_runs_that_verify_and_one_key_for_all_tasks(encrypted: Path) -> None:
    run = encrypted / "run"
    assert verify(run).ok, verify(run).why
    assert {path.stem for path in (run / "ledger").iterdir()} == {*MEMBERS, "coordinator", "custodian"}
    assert len(list((encrypted / "sites").rglob("he.key"))) == 1
    for task, owners in OWNERS.items():
        folder = run / "tasks" / task
        assert verify(folder).ok, verify(folder).why
        ledgers = read_all(folder)
        assert {e.plan.cover.scheme for ledger in ledgers.values() for _, e in ledger.each(Reserved)} == {
            Scheme.MASKED_CKKS
        }
        report = json.loads((folder / "report.json").read_text())
        assert [each["survivors"] for each in report["rounds"]] == [sorted(owners)]
    assert set(module_store.manifests(run / "modules")) == set(OWNERS)


def test_a_suite_under_ckks_that_was_changed_does_not_verify(encrypted: Path, tmp_path, capsys) -> None:
    import shutil

    copy = Path(shutil.copytree(encrypted / "run", tmp_path / "run"))
    path = copy / "ledger" / "custodian.ledger"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert run_cli(capsys, "audit", "verify", copy)[0] == 4
    assert run_cli(capsys, "audit", "verify", copy / "tasks" / "tone")[0] == 0


def test_a_suite_under_ckks_charges_the_account_of_each_task_once(encrypted: Path) -> None:
    told = json.loads((encrypted / "run" / "suite.json").read_text())
    home = Home.at(encrypted / "sites" / "nort", MemberId("nort"), clock.clock)
    with home.transaction() as conn:
        account = home.account(conn)
    for task in OWNERS:
        assert len(account.standing(Level.DATASET, f"nort.{task}")) == 1
        assert told["tasks"][task]["epsilon"]["spent"] > 0
        assert told["tasks"][task]["bytes"]["up"] > 0


def test_every_task_of_a_run_is_told_by_explain_and_every_level_too(
    encrypted: Path, tree: Tree, tmp_path, capsys
) -> None:
    code, told = run_cli(capsys, "explain", encrypted / "run")
    assert (code, told["ok"], list(told["tasks"])) == (0, True, list(OWNERS))
    for each in told["tasks"].values():
        assert {line["name"]: line["state"] for line in each["protections"]}["updates"] == "on"
    file = tree.tree("told.yaml", training=tree_training(tree))
    federation.run(federation_file.load(file), tmp_path / "run", sites=tmp_path / "sites")
    code, told = run_cli(capsys, "explain", tmp_path / "run")
    assert (code, told["ok"], told["federation"]) == (0, True, "top")
    assert {name: each["federation"] for name, each in told["below"].items()} == {"left": "left", "right": "right"}


def test_one_tasks_breach_is_the_suites(encrypted: Path, tmp_path, capsys) -> None:
    import shutil

    copy = Path(shutil.copytree(encrypted / "run", tmp_path / "run"))
    path = copy / "tasks" / "mood" / "measured.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] |= {"records": True}
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    code, told = run_cli(capsys, "explain", copy)
    assert (code, told["ok"]) == (4, False)
    assert [name for name, each in told["tasks"].items() if not each["ok"]] == ["mood"]


def test_the_key_of_a_suite_is_split_among_everybody_and_each_task_finds_its_shares(
    many: Many, tmp_path, capsys
) -> None:
    file, sites = many.file("split.yaml", protection="ckks", tasks__wish=None), tmp_path / "sites"
    code, told = run_cli(capsys, "custodian", "split", file, "--threshold", 2, "--sites", sites)
    assert code == 2
    assert "run the federation once" in told["error"]["message"]
    many.run(tmp_path / "one", sites, file)
    with pytest.raises(OperatorFault, match="3 take part in the task mood.*threshold of 2 to 3"):
        suite.split_key(suite_file.load(file), sites, 4)
    code, _ = run_cli(capsys, "custodian", "split", file, "--threshold", 3, "--sites", sites)
    assert code == 0
    assert custody.threshold_of(sites / "custodian" / "he.key") == 3
    assert len(list(sites.rglob("he.key.*.share"))) == len(MEMBERS)
    result = many.run(tmp_path / "two", sites, file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "two").ok


def test_the_key_of_a_federation_below_is_split_by_the_way_to_it(tree: Tree, tmp_path, capsys) -> None:
    nodes = [tree.node("left"), tree.node("right", inside={"protection": "ckks"})]
    file, sites = tree.tree("keys.yaml", nodes, training=tree_training(tree)), tmp_path / "sites"
    loaded = federation_file.load(file)
    federation.run(loaded, tmp_path / "one", sites=sites)
    split = ("custodian", "split", file, "--threshold", 3, "--sites", sites)
    for more, said in (((), "--inside: right"), (("--inside", "up"), "there are: left, right")):
        code, told = run_cli(capsys, *split, *more)
        assert code == 2
        assert said in told["error"]["message"]
    assert run_cli(capsys, *split, "--inside", "right")[0] == 0
    assert not list(sites.rglob("he.key"))
    result = federation.run(loaded, tmp_path / "two", sites=sites)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "two").ok


def test_a_file_where_something_else_belongs_is_refused_with_what_to_give(
    many: Many, tree: Tree, tmp_path, capsys
) -> None:
    policy = many.folder / "policy.yaml"
    (tmp_path / "experiment.yaml").write_text(
        json.dumps(
            {
                "securefl_experiment": 1, "name": "tasks", "federation": str(many.folder / "suite.yaml"),
                "epsilon": [8], "seeds": [1], "arms": [{"name": "one"}],
            }
        )
    )  # fmt: skip
    for file in (many.folder / "suite.yaml", tree.tree("given.yaml")):
        for arguments, said in (
            (("policy", "check", file), "give its policy"),
            (("policy", "explain", file, file), "give its policy"),
            (("policy", "simulate", policy, file), "give a run"),
            (("budget", "show", file), "give a run"),
            (("budget", "forecast", file), "give a run"),
            (("explain", file), "give a run"),
            (("compare", file, "--out", tmp_path / "out"), "give an experiment"),
        ):
            code, told = run_cli(capsys, *arguments)
            assert code in (2, 4), arguments
            assert said in told["error"]["message"], arguments
    code, told = run_cli(capsys, "compare", tmp_path / "experiment.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "has tasks" in told["error"]["message"]


def test_a_tree_is_compared_like_any_other_federation(tree: Tree, tmp_path, capsys) -> None:
    file = tree.tree("base.yaml", training={**tree_training(tree), "steps": 1})
    experiment = {
        "securefl_experiment": 1, "name": "tree", "federation": str(file), "epsilon": [4, "none"], "seeds": [1],
        "arms": [{"name": "one"}],
    }  # fmt: skip
    (tmp_path / "experiment.yaml").write_text(json.dumps(experiment))
    code, told = run_cli(capsys, "compare", tmp_path / "experiment.yaml", "--out", tmp_path / "out", "--jobs", 1)
    assert code == 0, told
