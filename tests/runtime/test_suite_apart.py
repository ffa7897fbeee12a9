"""A federation with tasks over sockets: five parties, each a process in a directory that no other one can read."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from securefl.audit.verify import verify
from securefl.coordinator import suite
from securefl.documents import coordinator_suite, site_file
from securefl.ledger import export
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.site.build import Environment
from securefl.site.dispatch import built
from securefl.terms import MemberId, ReservationReleased, Reserved, RunJoined, Settled
from tests.support.apart import COORDINATOR
from tests.support.tasks_apart import TASKS, GroundInTasks, InTasks


def preload(apart: InTasks) -> None:
    """Have this interpreter import all that such a run imports on its way: other users could not read it."""
    apart.found()
    apart.introduce()
    document = coordinator_suite.load(apart.document(COORDINATOR))
    sites = {MemberId(name): built(site_file.load(apart.document(name)), Environment()) for name in apart.parties}
    out = apart.folder / "run"
    assert suite.coordinate(document, out, Silent(), InProcess(sites)).outcome == "finished"
    for name in apart.parties:
        apart.told(name, "ledger", "export", apart.document(name), apart.mail)
    apart.told(COORDINATOR, "report", out, "--ledgers", apart.mail)


def test_tasks_run_over_sockets_though_all_are_killed_once_and_each_site_pays_for_its_own(
    small, tmp_path: Path, capsys
) -> None:
    preload(InTasks(small, tmp_path / "preload", capsys))
    with TemporaryDirectory(dir="/tmp") as folder:
        ground = GroundInTasks(small, Path(folder), capsys)
        keys = ground.found()
        ground.introduce()
        ground.finish_though_killed("task mood")
        out = ground.of(COORDINATOR) / "run"
        exported = tmp_path / "exported"
        exported.mkdir()
        for name in ground.parties:
            found = Path(ground.told(name, "ledger", "export", ground.document(name), ground.mail / name)["ledger"])
            (exported / found.name).write_bytes(found.read_bytes())
        ground.told(COORDINATOR, "report", out, "--ledgers", _readable(exported, Path(folder)))
        verdict = verify(out, keys)
        assert verdict.ok, verdict.why
        assert verdict.pinned
        assert list(json.loads((out / "suite.json").read_text())["tasks"]) == list(TASKS)
        for name in ground.members:
            entries = [leaf.entry for leaf in export.leaves_of(export.read(exported / f"{name}.ledger"), name)]
            mine = [task for task, members in TASKS.items() if name in members]
            assert [entry.task for entry in entries if isinstance(entry, RunJoined)] == mine
            paid = [type(each) for each in entries if isinstance(each, Reserved | Settled | ReservationReleased)]
            assert paid == [Reserved, Settled] * len(mine)


def _readable(folder: Path, ground: Path) -> Path:
    """The same files where another user may read them."""
    place = ground / "exported"
    place.mkdir(mode=0o755)
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
        (place / path.name).chmod(0o644)
    return place
