"""What `docs/extending.md` adds is one file and one line, and a federation runs with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^`(securefl/[^`]+)`:\n\n```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(section: str) -> list[tuple[str, str, str]]:
    """The path, kind and text of each block under one heading."""
    text = (ROOT / "docs" / "extending.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return BLOCK.findall(text)


def extended(folder: Path, section: str) -> Path:
    """A copy of the package with what one section adds: one new file, and one line in another."""
    shutil.copytree(ROOT / "securefl", folder / "securefl", ignore=shutil.ignore_patterns("__pycache__"))
    (new,) = [block for block in blocks(section) if block[1] == "python"]
    (line,) = [block for block in blocks(section) if block[1] == "diff"]
    assert not (folder / new[0]).exists()
    (folder / new[0]).write_text(new[2])
    place = folder / line[0]
    (added,) = [row[1:] for row in line[2].splitlines() if row.startswith("+")]
    (before,) = [row[1:] for row in line[2].splitlines() if row.startswith(" ")]
    text = place.read_text()
    assert text.count(f"{before}\n") == 1
    place.write_text(text.replace(f"{before}\n", f"{before}\n{added}\n"))
    return folder


def run(folder: Path, script: str) -> dict:
    """What a script prints as JSON, run with the package in this folder and the tests' own helpers."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PROTECTION = """
import json, pathlib
from securefl.audit import explain
from securefl.audit.verify import verify
from securefl.protection.schemes import spec_of
from tests.support.small import POLICY, Small, entropy

assert pathlib.Path(explain.__file__).is_relative_to(pathlib.Path.cwd())
pathlib.Path("small").mkdir()
small, said = Small(pathlib.Path("small").resolve()), {}
lax = POLICY.replace("schemes: [masking, masked-ckks]", "schemes: [clear, shifted]")
for name in ("clear", "shifted"):
    out = pathlib.Path(name).resolve()
    file = small.file(f"{name}.yaml", policy=lax, protection=name)
    result = small.run(out / "run", out / "sites", file=file, draw=entropy("same"))
    told = explain.explain(out / "run")
    said[name] = {
        "outcome": result.outcome, "verifies": verify(out / "run").ok, "opens": told.opens,
        "who": result.report["protections"]["who_can_open"],
        "adapter": (out / "run/adapter/adapter_model.safetensors").read_bytes().hex(),
    }
print(json.dumps(said))
"""


def test_a_protection_is_one_file_and_one_line(tmp_path: Path) -> None:
    said = run(extended(tmp_path, "A protection"), PROTECTION)
    toy = said["shifted"]
    assert (toy["outcome"], toy["verifies"]) == ("finished", True)
    assert toy["opens"] == [["whoever knows the plan", "every update"]]
    assert toy["who"].startswith("UNSAFE: whoever knows the plan")
    assert toy["adapter"] == said["clear"]["adapter"], "pads are taken away to the last bit"


STRATEGY = """
import json, pathlib
import numpy as np
from safetensors.numpy import load_file
from securefl.audit.verify import verify
from securefl.strategy import server
from tests.support.small import Small

assert pathlib.Path(server.__file__).is_relative_to(pathlib.Path.cwd())
pathlib.Path("small").mkdir()
small, out = Small(pathlib.Path("small").resolve()), pathlib.Path("out").resolve()
result = small.run(out / "run", out / "sites", file=small.file(strategy={"kind": "signed", "learning_rate": "1/64"}))
steps = [
    float(step)
    for name, tensor in load_file(out / "run/adapter/adapter_model.safetensors").items() if "lora_B" in name
    for step in np.unique(tensor * 64)
]
print(json.dumps({"outcome": result.outcome, "verifies": verify(out / "run").ok, "steps": sorted(set(steps))}))
"""


def test_a_strategy_is_one_file_and_one_line(tmp_path: Path) -> None:
    said = run(extended(tmp_path, "A strategy"), STRATEGY)
    assert (said["outcome"], said["verifies"]) == ("finished", True)
    assert {-2.0, 2.0} <= set(said["steps"]) <= {-2.0, -1.0, 0.0, 1.0, 2.0}, "two rounds, one step of 1/64 each"


@pytest.mark.parametrize("section", ["A protection", "A strategy"])
def test_what_is_added_is_in_the_projects_style(tmp_path: Path, section: str) -> None:
    folder = extended(tmp_path, section)
    shutil.copy(ROOT / "pyproject.toml", folder)
    files = [path for path, _, _ in blocks(section)]
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run(
        [ruff, "check", "--no-cache", *files], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
