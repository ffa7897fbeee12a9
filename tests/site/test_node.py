"""A site that is a federation invites its own members, and its coordinator runs their rounds inside its parent's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from securefl.audit.verify import verify
from securefl.documents import site_file
from securefl.errors import Loosens, OperatorFault
from securefl.runtime.inprocess import InProcess
from securefl.site import node
from securefl.site.build import Environment
from securefl.site.dispatch import built
from tests.support.apart import COORDINATOR
from tests.support.grove import Grove, coordinated
from tests.support.trees import Tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def test_a_tree_whose_parties_met_by_commands_alone_verifies_from_exported_ledgers(
    tree: Tree, tmp_path: Path, capsys
) -> None:
    grove = Grove(tree, tmp_path / "grove", capsys)
    keys = grove.found()
    grove.introduce()
    for name in grove.parties:
        code, said = grove.asked(name, "site", "check", grove.document(name))
        assert (code, "missing" in said) == (0, False), said
    result = coordinated(grove, out := tmp_path / "run")
    assert result.outcome == "finished", result.why
    told = grove.told(COORDINATOR, "report", out, "--ledgers", grove.exported(tmp_path / "ledgers"))
    assert {row["member"] for row in told["report"]["accounts"]} == set(grove.members), "what is below stays below"
    found = verify(out, keys)
    assert found.ok, found.why
    assert set(found.keys) == set(keys)
    below = out / "below" / "left"
    for spoil in (
        lambda: (below / "measured.jsonl").write_text("{}\n"),
        lambda: (below / "ledger" / f"{COORDINATOR}.ledger").unlink(),
        lambda: shutil.copy(out / "below" / "right" / "ledger" / f"{COORDINATOR}.ledger", below / "ledger"),
    ):
        kept = shutil.copytree(below, tmp_path / "kept")
        spoil()
        assert not verify(out, keys).ok
        shutil.rmtree(below)
        shutil.move(kept, below)
    assert verify(out, keys).ok


def test_a_node_invites_nobody_before_it_is_in_the_federation_above_or_under_another_policy(
    tree: Tree, tmp_path: Path, capsys
) -> None:
    grove = Grove(tree, tmp_path / "grove", capsys)
    grove.found()
    left = grove.document("left")
    code, said = grove.asked("left", "site", "invite", left)
    assert (code, "write whom this site trusts under `federations`" in said) == (2, True), said
    grove.joined(COORDINATOR, grove.members)
    code, said = grove.asked("left", "site", "check", left)
    assert (code, "left-0-site, left-1-site, left-2-site: no answer is admitted" in said) == (0, True), said
    with pytest.raises(OperatorFault, match="no key of left-0-site, left-1-site, left-2-site is known"):
        built(site_file.load(left), Environment(members=InProcess({})))
    policy = grove.of("left") / "left.policy.yaml"
    text = policy.read_text()
    for old, new, fault in (
        ("noise_multiplier: {at_least: 0.5}", "noise_multiplier: {at_least: 0.4}", Loosens),
        ("parent: {policy: top.policy.yaml}", "", OperatorFault),
    ):
        assert old in text
        policy.write_text(text.replace(old, new))
        with pytest.raises(fault):
            node.invite(node.of(site_file.load(left)), 30, unsafe_unsigned=True)
    assert not (grove.of("left") / "coordinator" / "introduced").exists(), "nothing was signed"
    code, said = grove.asked("left", "site", "invite", grove.document("left-0-site"))
    assert (code, "has no `subfederation`, so nobody to invite" in said) == (2, True), said


def test_a_document_of_a_site_without_members_and_without_records_is_not_made(
    tree: Tree, tmp_path: Path, capsys
) -> None:
    grove = Grove(tree, tmp_path / "grove", capsys)
    policy = tree.folder / "left.policy.yaml"
    first = ("site", "init", tmp_path / "site", "--name", "x", "--region", "here", "--model", "m")
    for rest in (("--policy", policy), ("--member", "a"), ("--policy", policy, "--member", "a", "--data", "x.csv")):
        code, said = grove.asked("x", *first, *rest)
        assert (code, "or --policy with --member for each" in said) == (2, True), said
    assert not (tmp_path / "site").exists()


def test_the_schema_of_site_documents_takes_what_init_writes(tree: Tree, tmp_path: Path, capsys) -> None:
    import jsonschema
    import yaml

    grove = Grove(tree, tmp_path / "grove", capsys)
    grove.place("left", "parties")
    shutil.rmtree(grove.of("left"))
    grove.planted("left", tree.nodes["left"])
    document = yaml.safe_load(grove.document("left").read_text())
    jsonschema.validate(json.loads(json.dumps(document)), json.loads(site_file.schema_text()))
