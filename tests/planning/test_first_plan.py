"""A plan that no member may accept ends before anybody is asked: in a live federation, and at a node for its own."""

from __future__ import annotations

from fractions import Fraction as F
from pathlib import Path

import numpy as np

from securefl.terms import Refused, RunId, Sharing, Weighting
from tests.support.apart import COORDINATOR, Apart, everything
from tests.support.nested import LAYOUT, World

RUN = RunId(bytes(16))
TWO_SUMS = (Weighting(F(5), F(1, 10)), Weighting(F(-5), F(1, 10), F(1, 10)))
TOLD = "no member may accept this plan: protocol.few-honest: sums released over 3, 0 colluding: 2"


def test_a_coordinator_that_plans_what_nobody_may_accept_asks_nobody(small, tmp_path: Path, capsys) -> None:
    apart = Apart(small, tmp_path, capsys)
    apart.found()
    apart.introduce()
    document = apart.document(COORDINATOR)
    code, said = apart.asked(COORDINATOR, "coordinator", "check", document)
    assert (code, "members may accept it: 3 of them" in said) == (0, True), said
    strategy = {"weights": [{"sharpness": 5, "clip": 0.1}, {"sharpness": -5, "share": 0.1, "clip": 0.1}]}
    with document.open("a") as file:
        file.write(f"strategy: {strategy}\n")
    code, said = apart.asked(COORDINATOR, "coordinator", "check", document)
    assert (code, TOLD in said) == (2, True), said
    before = everything(tmp_path)
    code, said = apart.asked(COORDINATOR, "coordinate", document, "--out", tmp_path / "run")
    assert (code, TOLD in said) == (2, True), said
    assert not (tmp_path / "run").exists()
    assert everything(tmp_path) == before, "no head was signed, and nothing pinned"


def test_a_node_asks_none_of_its_members_for_what_none_may_accept(tmp_path: Path) -> None:
    tree = {node: dict.fromkeys((f"{node}1", f"{node}2", f"{node}3")) for node in ("left", "right")}
    ended = {}
    for name, inside in {"a plain mean": Sharing(), "two sums": Sharing(TWO_SUMS)}.items():
        (folder := tmp_path / name).mkdir()
        world = World(folder, tree, inside=inside, rounds=1)
        ended[name] = world.play(np.zeros(LAYOUT.entries)).outcome, bool(world.trained)
    assert ended == {"a plain mean": ("finished", True), "two sums": ("refused", False)}
    for node in tree:
        with world.homes[node].transaction() as conn:
            told = [str(each) for each in world.homes[node].told(conn, RUN) if isinstance(each, Refused)]
        assert any(f"no member of f-{node} may accept its plan: protocol.few-honest" in each for each in told)
        with world.homes[f"{node}/coordinator"].transaction() as conn:
            assert not list(world.homes[f"{node}/coordinator"].opened(conn)), "no run below began"
