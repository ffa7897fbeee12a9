"""`pip install securefl-core` in an environment of its own: what a coordinator, auditor and policy officer do there.

Records are trained by this interpreter, which has torch; the clean one has neither it nor this repository.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from securefl import __version__
from securefl.cli.installed import DRAWS, TRAINS
from tests.support.apart import COORDINATOR, Apart
from tests.support.small import MEMBERS, Small

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 60  # of processor time that the installation may take: an idle machine needs about as long by the clock


def built(folder: Path, out: Path) -> Path:
    """The wheel that this folder makes."""
    before = set(out.glob("*.whl"))
    asked = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(asked, cwd=folder, check=True, capture_output=True)
    (made,) = set(out.glob("*.whl")) - before
    return made


@dataclass(frozen=True)
class Core:
    """An environment with the core and nothing else."""

    folder: Path
    whole: Path  # the wheel that adds the rest
    seconds: float

    def __call__(self, *argv: object, code: int = 0, program: str = "securefl") -> str:
        done = subprocess.run([self.folder / "bin" / program, *map(str, argv)], capture_output=True, text=True, env=self.environment, cwd=self.folder)  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def told(self, *argv: object) -> dict:
        return json.loads(self(*argv, "--json"))

    @property
    def environment(self) -> dict[str, str]:
        """Without what would lead to this repository."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("core") / "venv"
    made, whole = built(ROOT, wheels), built(ROOT / "distributions" / "whole", wheels)
    venv.create(folder, with_pip=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", made]
    subprocess.run(pip, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Core(folder, whole, seconds)


def test_the_core_is_small_and_quick(core: Core) -> None:
    assert core.seconds < MOST_SECONDS
    listed = {re.split(r"[= @]", line)[0].lower() for line in core("list", "--format=freeze", program="pip").split()}
    assert "securefl-core" in listed
    assert not listed & {*TRAINS, *DRAWS, "securefl", "tenseal", "huggingface-hub", "tokenizers"}
    assert "No broken requirements" in core("check", program="pip")


def test_two_distributions_of_one_version() -> None:
    core, whole = (tomllib.loads((ROOT / each / "pyproject.toml").read_text())["project"] for each in (".", "distributions/whole"))  # fmt: skip
    assert (core["name"], whole["name"], whole["version"]) == ("securefl-core", "securefl", __version__)
    assert whole["dependencies"] == [f"securefl-core[train,pictures]=={__version__}"]
    extras = whole["optional-dependencies"]
    assert {name: [f"securefl-core[{name}]=={__version__}"] for name in extras} == extras
    optional = core["optional-dependencies"]
    assert set(extras) == set(optional) - {"train", "pictures", "bench", "dev"}
    named = {re.split(r"[<>=]", each)[0] for each in (*optional["train"], *optional["pictures"])}
    assert named == {*TRAINS, *DRAWS}
    assert whole["requires-python"] == core["requires-python"]


def test_the_whole_adds_no_file_and_asks_for_what_trains(core: Core) -> None:
    names = ZipFile(core.whole).namelist()
    assert {name.partition("/")[2] for name in names} == {"METADATA", "WHEEL", "RECORD"}
    metadata = ZipFile(core.whole).read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert f"Requires-Dist: securefl-core[pictures,train]=={__version__}" in metadata


def test_a_command_that_trains_names_the_remedy(core: Core, small: Small, tmp_path: Path) -> None:
    said = core("run", small.folder / "federation.yaml", "--out", tmp_path / "run", code=2)
    assert "this command needs torch, which securefl-core leaves out; run: pip install securefl" in said
    assert not (tmp_path / "run").exists()


def test_a_policy_officer_works_there(core: Core, small: Small, finished: Path, tmp_path: Path) -> None:
    policy, federation = small.folder / "policy.yaml", small.folder / "federation.yaml"
    assert core.told("policy", "check", policy)["ok"]
    assert core.told("policy", "explain", policy, federation)["decision"] == "grant"
    key = core("keys", "init", tmp_path / "officer.key").strip()
    assert core("keys", "show", tmp_path / "officer.key").strip() == key
    stricter = tmp_path / "stricter.yaml"
    text = re.sub("tester: [0-9a-f]{64}", f"tester: {key}", policy.read_text())
    stricter.write_text(text.replace("rank: {at_most: 8}", "rank: {at_most: 2}"))
    core("policy", "sign", stricter, "--key", tmp_path / "officer.key")
    assert "rank" in core("policy", "diff", policy, stricter)
    assert "training.rank" in core("policy", "explain", stricter, federation, code=3)
    assert core("policy", "test", ROOT / "policies")
    assert core.told("policy", "simulate", stricter, finished / "run")
    assert {each["status"] for each in core.told("doctor")["findings"] if each["name"] == "torch"} == {"warn"}


def test_an_auditor_works_there(core: Core, finished: Path) -> None:
    run = finished / "run"
    assert core.told("audit", "verify", run, "--keys", finished / "sites" / "north" / "peers" / "small.json")["pinned"]
    assert core.told("audit", "replay", run)["epsilon"]["pld"] > 0
    assert core.told("budget", "show", run)["accounts"]
    assert core.told("budget", "forecast", run, "--noise", 1, "--rounds", 1)["forecasts"]
    assert "masking" in core("explain", run)


@contextmanager
def serving(documents: list[Path]) -> Iterator[None]:
    """Sites that answer, each a process of this interpreter."""
    asked = [[sys.executable, "-m", "securefl", "site", "serve", str(each), "--json"] for each in documents]
    processes = [subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for each in asked]
    try:
        for process in processes:
            assert json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["ok"]
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=60)


@dataclass
class Away(Apart):
    """Parties in folders of their own; the coordinator's commands are the core's, and it has no model."""

    core: Core | None = None

    def asked(self, name: str, *arguments: object) -> tuple[int, str]:
        if name != COORDINATOR:
            return super().asked(name, *arguments)
        assert self.core is not None
        argv = [self.core.folder / "bin" / "securefl", *map(str, arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.core.environment, cwd=self.of(name))
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")

    def coordinates(self, start: bool = False, **changes: object) -> str:
        return super().coordinates(start, **changes)


def test_a_coordinator_works_there_with_members_who_train_elsewhere(
    core: Core, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Away(small, tmp_path / "world", capsys, core=core)
    keys = world.found()
    world.introduce()
    mine = world.document(COORDINATOR)
    code, said = world.asked(COORDINATOR, "coordinate", mine, "--out", tmp_path / "run")
    assert (code, "names no start file" in said, "securefl start make DOCUMENT FILE" in said) == (2, True, True), said
    assert not (tmp_path / "run").exists()
    start = world.sent("north", "first.start")
    made = world.told("north", "start", "make", world.document("north"), start)
    mine.write_text(mine.read_text() + f"start: {start}\n")
    (found,) = [
        each for each in world.told(COORDINATOR, "coordinator", "check", mine)["findings"] if each["what"] == "start"
    ]
    assert made["digest"] in found["detail"]
    with serving([world.document(name) for name in MEMBERS]):
        ran = world.told(COORDINATOR, "coordinate", mine, "--out", tmp_path / "run")
    assert (ran["outcome"]["status"], ran["scheme"]) == ("finished", "masking")
    for name in MEMBERS:
        world.told(name, "ledger", "export", world.document(name), tmp_path / "run" / "ledger")
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    verdict = core.told("audit", "verify", tmp_path / "run", "--keys", tmp_path / "keys.json")
    assert (verdict["ok"], verdict["pinned"]) == (True, True)
