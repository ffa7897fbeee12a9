"""Make the environment of an engine from its own lock, with the carriers in it: run this file for NVIDIA FLARE's."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
CARRIERS = ROOT / "distributions" / "carriers"
LOCK = CARRIERS / "requirements-flare.lock"
FLARE = ROOT / "build" / "flare"


def made(folder: Path = FLARE, lock: Path = LOCK) -> Path:
    """Return the environment, made if it is not there or not of this lock; the carriers are those of this tree.

    Whoever comes second waits for who came first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not _is(folder / ".engine", wanted := _digest((lock,))):
            venv.create(folder, with_pip=True, clear=True)
            _pip(folder, "-r", lock)
            (folder / ".engine").write_text(wanted)
        if not _is(folder / ".carriers", wanted := _digest(_carriers())):
            with tempfile.TemporaryDirectory() as wheels:
                build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels]
                subprocess.run(build, cwd=CARRIERS, check=True, capture_output=True)
                (wheel,) = Path(wheels).glob("*.whl")
                _pip(folder, "--no-deps", "--force-reinstall", wheel)
            (folder / ".carriers").write_text(wanted)
    return folder


def _carriers() -> list[Path]:
    return sorted(path for path in (ROOT / "securefl_carriers").rglob("*.*") if path.suffix in (".py", ".toml"))


def _is(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text(encoding="utf-8") == wanted


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _pip(folder: Path, *argv: object) -> None:
    pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *map(str, argv)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the engine could not be installed: {done.stderr}")


if __name__ == "__main__":
    print(made())
