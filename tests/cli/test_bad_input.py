"""Bad input of each kind through the command line: a clear message, the exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from securefl.audit.replay import replay
from securefl.audit.verify import verify
from tests.simulation.test_run import FORK, run_cli
from tests.support.small import CANARY, MEMBERS, Small, sign


@pytest.fixture
def own(tmp_path: Path) -> Small:
    """A federation that a test may damage."""
    folder = tmp_path / "federation"
    folder.mkdir()
    return Small(folder)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def policy(old: str, new: str) -> Callable[[Small], object]:
    def edited(own: Small) -> None:
        edit(own.folder / "policy.yaml", old, new)
        sign(own.folder / "policy.yaml")

    return edited


def file(**changes: object) -> Callable[[Small], object]:
    return lambda own: own.file(**changes)


def data(content: bytes) -> Callable[[Small], object]:
    return lambda own: (own.folder / "south.csv").write_bytes(content)


BAD = {
    "the policy is absent": (lambda own: (own.folder / "policy.yaml").unlink(), 2, ("policy.yaml", "cannot be read")),
    "the policy is no YAML": (policy("budget: {", "budget: {{"), 2, ("policy.yaml:", "not YAML")),
    "a policy's key is misspelled": (policy("min_cohort", "min_cohrt"), 2, ("policy.yaml:16", "did you mean `min_cohort`")),
    "a policy's key stands twice": (policy("version: 1", "version: 1\nversion: 2"), 2, ("policy.yaml:4", "stands twice")),
    "a policy's unit is missing": (policy("unit: record, ", ""), 2, ("policy.yaml:5", "unit", "missing")),
    "a policy's limit is not a number": (policy("epsilon: 20, delta", "epsilon: .nan, delta"), 2, ("policy.yaml:5", "no number")),
    "a policy's limit is infinite": (policy("epsilon: 20, delta", "epsilon: .inf, delta"), 2, ("policy.yaml:5", "no number")),
    "the policy is over": (policy("2099-12-31", "2020-01-02"), 3, ("valid", "2020-01-02")),
    "a key of the file is unknown": (file(surprise=1), 2, ("federation.yaml", "surprise", "unknown key")),
    "rounds is true": (file(training__rounds=True), 2, ("training.rounds", "found true", "whole number")),
    "rank is text": (file(adapter__rank="16"), 2, ("adapter.rank", "found '16'", "whole number")),
    "noise is misspelled": (file(training__noise_multipler=1), 2, ("noise_multipler", "did you mean `noise_multiplier`")),
    "the clip is 0": (file(training__clip=0), 2, ("clip", "above 0")),
    "no such model": (file(model="./nowhere"), 2, ("nowhere",)),
    "no such model in the cache": (file(model="some-company/some-model"), 2, ("some-company/some-model", "nothing is fetched")),
    "a target that is no layer": (file(adapter__targets=["kwery"]), 2, ("no layer `kwery`", "query")),
    "no such data": (file(data={"text": "text", "label": "label", "file": "x.csv"}, members=[{"name": n, "region": "here"} for n in MEMBERS]), 2, ("x.csv",)),
    "a column is missing": (data(b"text,lable\nhello,good\n"), 2, ("south.csv", "no column `label`", "lable")),
    "a label is unknown": (data(b"text,label\nhello,fine\n"), 2, ("south.csv:2", "'fine'", "one of bad, good")),
    "data is not UTF-8": (data(b"text,label\nhell\xff,good\n"), 2, ("south.csv:2", "0xff", "encoding")),
    "data has no rows": (data(b"text,label\n"), 2, ("south.csv", "no rows")),
    "data is empty": (data(b""), 2, ("south.csv", "no rows")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_costs_nothing(own: Small, tmp_path: Path, capsys, name: str) -> None:
    break_it, expected, parts = BAD[name]
    break_it(own)
    sites = tmp_path / "sites"
    argv = ("run", own.folder / "federation.yaml", "--out", tmp_path / "run", "--sites", sites)
    code, out, told = run_cli(capsys, *argv)
    assert code == expected, told
    for part in parts:
        assert part in out + told
    assert CANARY not in out + told
    assert "Traceback" not in told
    if expected == 3:
        assert verify(tmp_path / "run").ok
        assert replay(tmp_path / "run")["events"] == []
    else:
        assert not sites.exists() or not any(sites.iterdir())
    # mended, the same command goes on
    shutil.rmtree(own.folder)
    own.folder.mkdir()
    Small(own.folder)
    argv = (*argv[:3], tmp_path / "second" if expected == 3 else tmp_path / "run", *argv[4:])
    if name in ("data has no rows", "a key of the file is unknown"):  # two stand for all: a run takes seconds
        code, _, told = run_cli(capsys, *argv)
        assert code == 0, told


def test_json_errors_are_one_object(own: Small, tmp_path: Path, capsys) -> None:
    own.file(surprise=1)
    code, out, _ = run_cli(capsys, "run", own.folder / "federation.yaml", "--out", tmp_path / "run", "--json")
    assert code == 2
    assert json.loads(out)["error"]["exit"] == 2


def test_a_place_that_cannot_be_written_is_named(own: Small, tmp_path: Path, capsys) -> None:
    (tmp_path / "taken").write_text("a file")
    code, _, told = run_cli(capsys, "run", own.folder / "federation.yaml", "--out", tmp_path / "taken")
    assert code == 2
    assert str(tmp_path / "taken") in told


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_truncated_ledger_is_found_by_every_reader(finished: Path, tmp_path: Path, capsys, keep: float) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    path = tmp_path / "run" / "ledger" / "north.ledger"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    for command in (("audit", "verify"), ("audit", "replay"), ("budget", "show")):
        code, _, told = run_cli(capsys, *command, tmp_path / "run")
        assert code == 4, command
        assert "Traceback" not in told


@pytest.mark.parametrize("damage", ["cut", "entry gone", "not a database"])
def test_a_site_with_a_damaged_ledger_trains_nothing(own: Small, tmp_path: Path, capsys, damage: str) -> None:
    import sqlite3

    sites = tmp_path / "sites"
    argv = ("run", own.folder / "federation.yaml", "--sites", sites, "--out")
    assert run_cli(capsys, *argv, tmp_path / "first")[0] == 0
    path = sites / "south" / "ledger.db"
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if damage == "entry gone":
            conn.execute("DELETE FROM leaves WHERE position = 5")
    conn.close()
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    if damage == "not a database":
        path.write_bytes(b"not a database" * 400)
    before = {name: replay_of(sites / name, name) for name in ("north", "west")}
    code, _, told = run_cli(capsys, *argv, tmp_path / "second")
    assert code in (2, 4), told
    assert "south" in told
    assert "Traceback" not in told
    assert {name: replay_of(sites / name, name) for name in ("north", "west")} == before


def replay_of(site: Path, name: str) -> object:
    from securefl.home.home import Home
    from securefl.terms import MemberId

    home = Home.at(site, MemberId(name), lambda: 0)
    with home.transaction() as conn:
        return home.account(conn).digest


def small_disk(own: Small, out: Path, sites: Path, limit: int, stage: str, told: int) -> None:
    """A run in which, from a stage on, no file can grow beyond ``limit`` bytes: a full disk, for one process alone."""
    from securefl.audit import report
    from securefl.cli import main as cli
    from securefl.simulation import federation
    from securefl.simulation import folder as run_folder
    from securefl.training.shared_model import SharedModel

    def full_from(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def then(*args: object, **kwargs: object) -> object:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return real(*args, **kwargs)

        setattr(owner, name, then)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.stdout = sys.stderr = os.fdopen(told, "w", encoding="utf-8")
    full_from(*{
        "start": (federation, "run"), "ledgers": (run_folder, "export_all"), "adapter": (SharedModel, "save"),
        "report": (report, "write"),
    }[stage])  # fmt: skip
    try:
        cli.main(["run", str(own.folder / "federation.yaml"), "--out", str(out), "--sites", str(sites)])
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    sys.stdout.flush()
    os._exit(code)


@pytest.mark.parametrize(
    ("stage", "limit"),
    [
        ("start", 16), ("start", 4096), ("start", 20_000), ("start", 60_000), ("start", 120_000),
        ("ledgers", 1000), ("adapter", 200), ("adapter", 2000), ("report", 1000), ("report", 10_000), ("report", 25_000),
    ],
)  # fmt: skip
def test_a_full_disk_is_named_and_the_same_command_goes_on_once_there_is_room(
    own: Small, tmp_path: Path, capsys, stage: str, limit: int
) -> None:
    out, sites = tmp_path / "run", tmp_path / "sites"
    ours, theirs = os.pipe()
    process = FORK.Process(target=small_disk, args=(own, out, sites, limit, stage, theirs))
    process.start()
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as pipe:
        told = pipe.read()
    process.join()
    assert process.exitcode == 2, told
    assert "Traceback" not in told
    assert "free some space" in told or "disk" in told
    code, _, message = run_cli(capsys, "run", own.folder / "federation.yaml", "--out", out, "--sites", sites)
    assert code == 0, message
    assert verify(out).ok, verify(out).why
    events = replay(out)["events"]
    assert {event["member"] for event in events} == set(MEMBERS)
