"""Three sites, a custodian and a coordinator, each a process in a directory of its own that no other one can read.

They are joined by signed documents alone, and every step is a command.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from securefl.audit.verify import verify
from securefl.ledger import export
from securefl.terms import ReservationReleased, Reserved, Settled
from tests.support.apart import CUSTODIAN, Apart
from tests.support.ground import Ground, preload


@pytest.mark.parametrize("protection", ["masking", "ckks"])
def test_parties_that_read_nothing_of_each_other_finish_although_each_is_killed_once(
    protection: str, small, tmp_path: Path, capsys
) -> None:
    preload(Apart(small, tmp_path / "preload", capsys, protection))
    with TemporaryDirectory(dir="/tmp") as folder:
        ground = Ground(small, Path(folder), capsys, protection)
        keys = ground.found()
        ground.introduce()
        ground.finish_though_killed("round 1/2", lambda: ground.split() if CUSTODIAN in ground.parties else None)
        copies = tmp_path / "copies"
        copies.mkdir()
        for name in ground.names:
            told = ground.told(name, "ledger", "export", ground.document(name), ground.mail / name)
            found = Path(told["ledger"])
            (copies / found.name).write_bytes(found.read_bytes())
        for name in ground.members:
            told = [leaf.entry for leaf in _read(copies / f"{name}.ledger")]
            assert [type(each) for each in told if isinstance(each, Reserved | Settled | ReservationReleased)] == [
                Reserved,
                Settled,
            ] * 2
    found = verify(copies, keys)
    assert found.ok, found.why
    assert found.pinned


def _read(path: Path):
    return export.leaves_of(export.read(path), path.name)
