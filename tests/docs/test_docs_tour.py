"""The tour is run, command by command, and prints what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.audited import told

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def matches(shown: str, found: str) -> bool:
    """Whether what is shown is what was printed; ``...`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, found.strip(), re.DOTALL) is not None


def test_every_command_of_the_tour_prints_what_it_shows(tmp_path):
    told(rounds=2).export(tmp_path / "run")
    shutil.copy(ROOT / "policies" / "policy.schema.json", tmp_path)
    shell = f'securefl() {{ PYTHONPATH={ROOT} {sys.executable} -m securefl "$@"; }}\n'
    commands = 0
    for kind, name, body in BLOCK.findall((ROOT / "docs" / "tour.md").read_text()):
        if kind == "yaml":
            (tmp_path / name).write_text(body)
            continue
        for piece in body.split("$ ")[1:] if kind == "console" else []:
            command, _, shown = piece.partition("\n")
            done = subprocess.run(["bash", "-c", shell + command], cwd=tmp_path, capture_output=True, text=True)
            found = done.stdout + done.stderr
            assert matches(shown, found), f"$ {command}\n{found}\nThe tour shows:\n{shown}"
            commands += 1
    assert commands > 15
    assert (tmp_path / "forecast.svg").stat().st_size > 1000
