"""The folder of a run: claimed by one process, which gives the run its name, and marked when it is over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from securefl import files, keys
from securefl.coordinator import evidence
from securefl.errors import OperatorFault
from securefl.terms import RunId


@contextmanager
def claimed(out: Path, what: Mapping[str, Any]) -> Iterator[RunId]:
    """The folder is this run's alone while the block runs; its run id is new, or that of the run it goes on with.

    Args:
        out: the folder.
        what: what the run is of, as its mark says: an unfinished run of something else is not gone on with.

    Raises:
        OperatorFault: it holds a run that is over, one of something else, or what is no run.
    """
    with files.alone_in(out, "running"):
        path = out / "run.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("outcome") is not None:
                remedy = "choose another --out"
                raise OperatorFault(f"this folder holds a run that is over ({found['outcome']})", remedy, str(out))
            if {key: found.get(key) for key in what} != what:
                remedy = "restore the federation file and policy this run began with, or choose another --out"
                raise OperatorFault(
                    "this folder holds an unfinished run of another federation file or policy", remedy, str(out)
                )
        else:
            if any(not _begun(each.name) for each in out.iterdir()):
                raise OperatorFault("this folder is not empty and holds no run", "choose another --out", str(out))
            found = {"run": keys.Secret(os.urandom(32)).raw[:16].hex(), **what, "outcome": None}
            evidence.mark(path.parent, json.dumps(found, indent=1).encode())
        yield RunId(bytes.fromhex(found["run"]))


@contextmanager
def free_again(out: Path, *beside: str) -> Iterator[None]:
    """If the block fails, the folder is free for a run of another file: for what comes before anything is recorded.

    Args:
        out: a folder whose run has only just been given its name.
        beside: other files that the block leaves.
    """
    try:
        yield
    except BaseException:
        for name in ("run.json", *beside):
            (out / name).unlink(missing_ok=True)
        raise


def run_mark(out: Path, outcome: str) -> bytes:
    """Return what marks a run as over."""
    found = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return json.dumps({**found, "outcome": outcome}, indent=1).encode()


def _begun(name: str) -> bool:
    """Return whether a file is what a run leaves that was killed before it had a name."""
    return name == files.LOCK or (name.startswith("run.json.") and name.endswith(".new"))
