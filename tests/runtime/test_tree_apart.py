"""A tree, each party a process in a directory of its own: a coordinator, two nodes that coordinate three sites each.

They are joined by signed documents alone, every step is a command, and each is killed once. The updates of the left
node's sites are masked inside a ciphertext, whose key the custodian of that sub-federation holds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from securefl.audit import coordinated_report
from securefl.audit.verify import verify
from securefl.ledger import export
from securefl.terms import Gathered, MessageSent, ReservationReleased, Reserved, Scheme, Settled
from tests.support.apart import COORDINATOR, CUSTODIAN
from tests.support.grove import Grove, GroveGround, preload_tree
from tests.support.trees import Tree

ENCRYPTED = {"left": "ckks"}  # with masks inside, for the policy does not trust the custodian


def test_nodes_coordinate_their_own_sites_inside_their_parents_rounds_although_each_is_killed_once(
    tmp_path: Path, capsys
) -> None:
    tree = Tree(tmp_path)
    capsys.readouterr()  # what making a model says
    preload_tree(Grove(tree, tmp_path / "preload", capsys, ENCRYPTED), tmp_path / "preloaded")
    with TemporaryDirectory(dir="/tmp") as folder:
        grove = GroveGround(tree, Path(folder), capsys, ENCRYPTED)
        keys = grove.found()
        grove.introduce()
        grove.finish_though_killed("round 1/2")
        copies = grove.exported(tmp_path / "copies")
        run = Path(shutil.copytree(grove.of(COORDINATOR) / "run", tmp_path / "run"))
        for path in copies.rglob("*.ledger"):
            if path.stem in (COORDINATOR, CUSTODIAN):
                continue
            told = [leaf.entry for leaf in export.leaves_of(export.read(path), path.name)]
            charged = [type(each) for each in told if isinstance(each, Reserved | Settled | ReservationReleased)]
            assert charged == [Reserved, Settled] * 2, path
            schemes = {each.plan.cover.scheme for each in told if isinstance(each, Reserved)}
            assert schemes == {Scheme.MASKED_CKKS if path.parent.name == "left" else Scheme.MASKING}, path
            assert sum(isinstance(each, Gathered) for each in told) == (2 if path.parent == copies else 0), path
    opened = export.leaves_of(export.read(copies / "below" / "left" / f"{CUSTODIAN}.ledger"), CUSTODIAN)
    sent = [leaf.entry.receipt.kind for leaf in opened if isinstance(leaf.entry, MessageSent)]
    assert sent.count("Answered") == 2, "a sum a round"
    told, _ = coordinated_report.report(run, copies, keys)
    assert {row["member"] for row in told["accounts"]} == {"left", "right"}
    found = verify(run, keys)
    assert found.ok, found.why
    assert found.pinned
    assert set(found.keys) == set(keys)
