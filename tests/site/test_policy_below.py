"""The policy of a site that is a federation stands under the one above: where it is built, checked, adopted, planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from securefl.errors import Loosens, OperatorFault, Unsafe
from securefl.home import adoption
from securefl.home.clock import clock
from securefl.site import joining
from securefl.site import node as nodes
from securefl.site.check import OK, WRONG, examine
from securefl.terms import Hash, Reserved
from tests.support.nodes import BELOW, LEAVES, PARENT, Node
from tests.support.small import POLICY, Small, sign

LOOSE = BELOW.replace("noise_multiplier: {at_least: 0.5}", "noise_multiplier: {at_least: 0.4}")
SECOND = POLICY.replace("version: 1", "version: 2")
SAME = "does not stand under the one of small"


def told(node: Node) -> dict[str, tuple[str, str]]:
    return {each.what: (each.status, each.detail) for each in examine(node.site())}


@pytest.mark.parametrize(
    ("below", "above", "fault", "words"),
    [
        (LOOSE, POLICY, Loosens, "training.noise_multiplier.at_least: 0.4 is looser than 0.5 above it"),
        (BELOW, POLICY, OperatorFault, SAME),
        (BELOW + PARENT, SECOND, OperatorFault, SAME),
        (BELOW + PARENT, SECOND.replace("epsilon: 20", "epsilon: 15"), Loosens, "20 is looser than 15 above it"),
    ],
    ids=["loose", "under none", "under the version before", "under the version before, which was looser"],
)
def test_a_node_whose_policy_does_not_stand_under_the_one_above_is_not_built_and_its_check_says_so(
    small: Small, tmp_path: Path, below: str, above: str, fault: type[Exception], words: str
) -> None:
    node = Node(small, tmp_path, above=above, below=below)
    with pytest.raises(fault, match=words) as raised:
        node.agent()
    assert "subfederation: the policy of inside" in str(raised.value)
    assert [node.said(leaf) for leaf in LEAVES] == [[], [], []]
    status, detail = told(node)["policy of inside"]
    assert (status, words in detail) == (WRONG, True), detail


def test_a_plan_under_another_policy_than_the_one_above_is_not_trained_below(small: Small, tmp_path: Path) -> None:
    node = Node(small, tmp_path)
    agent = node.agent()
    assert told(node)["policy of inside"][0] == OK
    assert node.driven(agent).outcome == "finished"
    (reserved,) = [each for each in node.said("l0") if isinstance(each, Reserved)]
    assert {each.name for each in reserved.price.caps} >= {"small", "inside"}
    plan = replace(reserved.plan, policy=Hash(bytes(32)))
    before = node.said("l0")
    for asked in (
        lambda: agent.trainer.admit(plan, b""),
        lambda: agent.trainer.train(plan, node.shared.start.state, None),
    ):
        with pytest.raises(Unsafe, match="a plan under another policy") as raised:
            asked()
        assert raised.value.rule == "protocol.stale-policy"
    assert node.said("l0") == before


def test_a_node_follows_a_parent_that_tightens_by_adopting_both_policies(small: Small, tmp_path: Path) -> None:
    node = Node(small, tmp_path)
    second = small.folder / "above.yaml"
    second.write_text(SECOND.replace("epsilon: 20", "epsilon: 15"))
    child = small.folder / "second.yaml"
    child.write_text(BELOW.replace("version: 1", "version: 2").replace("epsilon: 20", "epsilon: 15") + PARENT)
    for each in (second, child):
        sign(each)
    with pytest.raises(OperatorFault):  # not before the one above it is here
        nodes.adopt(nodes.of(node.site()), child)
    joining.adopt(node.site(), second)
    assert told(node)["policy of inside"][0] == WRONG
    with pytest.raises(Loosens):
        node.agent()
    nodes.adopt(nodes.of(node.site()), child)
    assert told(node)["policy of inside"][0] == OK
    assert node.agent().trainer._inside.policy.version == 2
    assert adoption.staged(node.inner.places.of("coordinator"), "inside", clock())[0].version == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"strategy": {"kind": "fedadam"}}, "strategy fedadam remembers rounds, and a run inside begins anew"),
        ({"strategy": {"momentum": "1/2"}}, "strategy fedavg with momentum remembers rounds"),
        ({"strategy": {"home": ["head"]}}, "keep something, and rounds inside are runs of their own"),
        (
            {"strategy": {"weights": [{"kind": "probe", "sharpness": 1}], "probe": [{"text": "x", "label": "?"}]}},
            "label",
        ),
        ({"patience": {"train": 100, "quorum": 1}}, "a quorum of 1, where a sum needs 3 of 3 members"),
        ({"patience": {"train": 100, "quorum": 4}}, "a quorum of 4, where a sum needs 3 of 3 members"),
    ],
)
def test_a_node_has_nothing_below_that_a_trees_document_could_not_have(
    small: Small, tmp_path: Path, more: dict, words: str
) -> None:
    node = Node(small, tmp_path)
    with pytest.raises(OperatorFault, match=words) as raised:
        node.agent(**more)
    assert "subfederation" in str(raised.value)
