"""`securefl start`: made where the model is, shown where torch is not; and what a command says that needs torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents.test_live_federation import written
from tests.support.small import Small

WITHOUT = """
import sys
from tests.support import without_torch
without_torch.ABSENT |= {"safetensors", "matplotlib"}
from securefl.cli.main import main
main(sys.argv[1:])
"""


def command(*argv: object, torch: bool = True) -> tuple[int, str, str]:
    before = ["-m", "securefl"] if torch else ["-c", WITHOUT]
    done = subprocess.run([sys.executable, *before, *map(str, argv)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_start_is_made_with_the_model_and_explained_without_it(small: Small, tmp_path: Path) -> None:
    live = written(tmp_path, start="x.start", policy=str(small.folder / "policy.yaml"))
    code, told, shown = command(
        "start", "make", live, tmp_path / "x.start", "--model", small.folder / "model", "--json"
    )
    assert code == 0, shown
    made = json.loads(told)
    assert (made["model"], made["entries"]) == ("./model", sum(_entries(each["shape"]) for each in made["tensors"]))
    assert command("start", "show", tmp_path / "x.start", "--json", torch=False) == (0, told, "")
    code, told, _ = command("start", "show", tmp_path / "x.start", torch=False)
    assert f"digest {made['digest']}" in told
    code, told, shown = command("policy", "explain", small.folder / "policy.yaml", live, "--json", torch=False)
    explained = json.loads(told)
    assert (code, explained["decision"], explained["missing"]) == (0, "grant", ["account"]), shown


def _entries(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def test_a_policy_is_explained_without_model_and_start(small: Small) -> None:
    asked = ("policy", "explain", small.folder / "policy.yaml", small.folder / "federation.yaml", "--json")
    code, told, shown = command(*asked, torch=False)
    assert code == 0, shown
    assert json.loads(told)["missing"] == ["account", "plan.model.digest", "plan.base", "plan.dimension"]


NEEDS = {
    "run": ("run", "{small}/federation.yaml", "--out", "{out}", "--sites", "{out}/sites"),
    "compare": ("compare", "{small}/experiment.yaml", "--out", "{out}"),
    "predict": ("predict", "{small}/modules", "--text", "late"),
    "start": ("start", "make", "{small}/federation.yaml", "{out}"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_command_that_trains_says_what_to_install_and_makes_nothing(name: str, small: Small, tmp_path: Path) -> None:
    asked = [each.format(small=small.folder, out=tmp_path / "out") for each in NEEDS[name]]
    code, told, shown = command(*asked, "--json", torch=False)
    assert code == 2
    assert "which securefl-core leaves out; run: pip install securefl" in shown
    assert "Traceback" not in shown
    assert json.loads(told)["error"]["exit"] == 2
    assert not (tmp_path / "out").exists()


def test_a_picture_says_what_to_install(finished: Path, tmp_path: Path) -> None:
    asked = ("budget", "forecast", finished / "run", "--plot", tmp_path / "picture.svg")
    code, _, shown = command(*asked, torch=False)
    assert (code, shown.strip()) == (
        2,
        "this command needs matplotlib, which securefl-core leaves out; run: pip install securefl",
    )
