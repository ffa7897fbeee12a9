"""Homes and their files are their owner's alone: made so whatever the umask, refused otherwise, with a remedy that helps."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from securefl import files, key_files
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.site import charged_records
from securefl.terms import Closed, MemberId, RunId

NORTH = MemberId("north")
OPEN = (0o040, 0o020, 0o010, 0o004, 0o002, 0o001)


def used(path: Path) -> None:
    """Open the home, write into it, close it."""
    home = Home.at(path, NORTH, lambda: 1)
    with home.transaction() as conn:
        home.record(conn, [Closed(RunId(bytes(16)), "aborted", "")])
    charged_records.remember(home, "notes", [b"one"])
    home.engine.dispose()


@pytest.mark.parametrize("umask", [0, 0o002, 0o022, 0o077])
def test_a_new_home_and_all_in_it_is_its_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        home = Home.at(tmp_path / "sites" / "north", NORTH, lambda: 1)
        with home.transaction() as conn:
            home.record(conn, [Closed(RunId(bytes(16)), "aborted", "")])
            found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()}
        home.engine.dispose()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert {"identity.key", "ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-turn"} <= set(found)
    assert set(found.values()) == {0o600}


@pytest.mark.parametrize("name", ["", "identity.key", "ledger.db", "ledger.db-turn", "ledger.head", "texts.key"])
@pytest.mark.parametrize("bit", OPEN)
def test_what_others_may_use_is_refused_and_the_remedy_helps(tmp_path: Path, name: str, bit: int) -> None:
    home = tmp_path / "north"
    used(home)
    path = home / name
    path.chmod(stat.S_IMODE(path.stat().st_mode) | bit)
    with pytest.raises(OperatorFault, match="others may") as caught:
        used(home)
    assert caught.value.place == str(path)
    subprocess.run(caught.value.remedy.removeprefix("run: ").split(), check=True)
    used(home)


@pytest.mark.parametrize(
    "name", ["identity.key", "ledger.db", "ledger.db-wal", "ledger.db-turn", "ledger.head", "store.url"]
)
def test_a_link_is_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / "north"
    used(home)
    target = tmp_path / "target"
    if (home / name).exists():
        (home / name).rename(target)
    (home / name).symlink_to(target)
    with pytest.raises(OperatorFault, match="a symbolic link; run: rm"):
        used(home)


def test_a_home_that_is_a_link_is_refused(tmp_path: Path) -> None:
    used(tmp_path / "north")
    (tmp_path / "other").symlink_to(tmp_path / "north")
    with pytest.raises(OperatorFault, match="a symbolic link"):
        used(tmp_path / "other")


def test_what_another_user_owns_is_refused(tmp_path: Path) -> None:
    path = Path("/etc/passwd")
    if os.geteuid() == 0:  # who may give files away
        path = tmp_path / "key"
        path.touch(mode=0o600)
        os.chown(path, 65534, -1)
    with pytest.raises(OperatorFault, match=r"owns it, and user \d+ runs this; run as its owner"):
        files.check(path)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(OperatorFault, match="neither a file nor a folder"):
        files.check(tmp_path / "pipe")
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(OperatorFault, match="a file where a folder belongs|cannot make a home"):
        files.folder(tmp_path / "file")


def test_a_key_is_made_for_its_owner_alone_and_a_dangling_link_is_no_place_for_one(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key_files.kept(tmp_path / "a.key", lambda: b"x")
        files.write(tmp_path / "b.key", b"x")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.key", "b.key")} == {0o600}
    (tmp_path / "c.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperatorFault, match="a symbolic link"):
        key_files.kept(tmp_path / "c.key", lambda: b"x")
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_written_is_its_owners_alone_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.folder(tmp_path / "peers")
        files.write(tmp_path / "peers" / "north.json", b"one")
        files.write(tmp_path / "peers" / "north.json", b"two")
    finally:
        os.umask(before)
    assert (tmp_path / "peers" / "north.json").read_bytes() == b"two"
    assert [stat.S_IMODE(each.stat().st_mode) for each in sorted((tmp_path / "peers").rglob("*"))] == [0o600]
    assert stat.S_IMODE((tmp_path / "peers").stat().st_mode) == 0o700


def test_a_runs_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    with files.alone_in(out, "running"):
        with pytest.raises(OperatorFault, match="another process is running there"), files.alone_in(out, "running"):
            pytest.fail("two have it")
    with files.alone_in(out, "comparing"):
        assert (out / files.LOCK).exists()
    (tmp_path / "file").touch()
    with pytest.raises(OperatorFault, match="cannot write there"), files.alone_in(tmp_path / "file" / "run", "running"):
        pytest.fail("a folder in a file")
