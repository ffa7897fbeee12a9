"""A federation by couriers, by its commands: `securefl coordinate --carry`, and `securefl carry answer` at each site."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from securefl.audit.verify import verify
from securefl.home import export
from tests.support.apart import COORDINATOR, Apart


def test_a_federation_that_no_wire_joins_is_run_by_its_commands_and_verifies(small, tmp_path: Path, capsys) -> None:
    apart = Apart(small, tmp_path / "world", capsys)
    keys = apart.found()
    apart.introduce()
    out, carried = tmp_path / "run", tmp_path / "carried"
    command = [sys.executable, "-m", "securefl", "coordinate", str(apart.document(COORDINATOR)), "--out", str(out),
               "--carry", str(carried), "--json"]  # fmt: skip
    coordinator = subprocess.Popen(
        command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until, cut, known = time.monotonic() + 300, False, set[str]()
    while coordinator.poll() is None:
        assert time.monotonic() < until, "it never ended"
        for name in apart.parties:
            new = [each for each in (carried / "to" / name).glob("[!.]*") if each.name not in known]
            for package in new:
                medium = apart.place(name, f"medium/{package.name}") / package.name
                shutil.copytree(package, medium)
                if not cut:  # the first one arrives without its end
                    frame = medium / "frame"
                    frame.write_bytes(frame.read_bytes()[:-1])
                    code, said = apart.asked(
                        name, "carry", "answer", apart.document(name), medium, "--into", tmp_path / "no"
                    )
                    assert (code, "carry.truncated" in said) == (4, True), said
                    shutil.copytree(package, medium, dirs_exist_ok=True)
                    cut = True
                told = apart.told(
                    name, "carry", "answer", apart.document(name), medium, "--into", medium.parent / "back"
                )
                (answered,) = told["packages"]
                home = carried / "from" / name
                home.mkdir(parents=True, exist_ok=True)
                shutil.copytree(answered["answer"], home / f".{package.name}")
                (home / f".{package.name}").rename(home / package.name)
                known.add(package.name)
        time.sleep(0.02)
    stdout, stderr = coordinator.communicate()
    assert coordinator.returncode == 0, stderr
    assert json.loads(stdout)["outcome"]["status"] == "finished"
    for name in apart.parties:
        export.one(export.home_of(apart.document(name)), out / "ledger")
    found = verify(out, keys)
    assert found.ok, found.why
    assert found.pinned
