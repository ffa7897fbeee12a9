"""What a run left becomes evidence: written down by its coordinator, in its own home, once all of it stands."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from securefl.audit import adapter_files, folder
from securefl.audit.ledger_files import read_all
from securefl.errors import Tampered
from securefl.home.export import export_all
from securefl.home.home import Home
from securefl.terms import MemberId, PublicKey, Reported, RunId
from securefl.terms.layout import Layout


def keep_keys(out: Path, keys: Mapping[MemberId, PublicKey]) -> None:
    """The public keys of a federation's parties, as this machine knows them, are in its folder: a file for `--keys`."""
    _write(out / folder.KEYS, {name: key.hex() for name, key in sorted(keys.items())})


def keep_state(out: Path, state: bytes, layout: Layout) -> None:
    """The state that was released stands beside the adapter that was made of it, as the bytes that ledgers name.

    And the layout that says which tensors they are, as plans name it.
    """
    (out / folder.STATE).write_bytes(state)
    (out / folder.ADAPTER / adapter_files.LAYOUT).write_text(adapter_files.layout_text(layout))


def mark(out: Path, data: bytes) -> None:
    """``run.json`` is this, whole or as it was: another process may write the same one now."""
    beside = out / f"{folder.RUN}.{os.getpid()}.new"
    beside.write_bytes(data)
    beside.replace(out / folder.RUN)


def bind(coordinator: Home, homes: Sequence[Home], run: RunId, out: Path, instead: Mapping[str, bytes]) -> None:
    """The coordinator's ledger says what the folder holds, and the folder has all ledgers as they stand now.

    Args:
        instead: what files are about to hold that are written after this.
    """
    for path in folder.own(out):
        _sync(path)
    entry = folder.reported(run, read_all(out), folder.files(out, instead=instead))
    with coordinator.transaction() as conn:
        coordinator.record(conn, [entry])
    export_all(homes, out / "ledger")


def bound(coordinator: Home, run: RunId, out: Path) -> bool:
    """Whether all that a run left was written down already, and stands: only the mark that it is over is missing."""
    with coordinator.transaction() as conn:
        found = coordinator.told(conn, run)
    word = next((entry for entry in reversed(found) if isinstance(entry, Reported)), None)
    return word is not None and folder.stands(out, word)


def report_of(out: Path) -> dict[str, Any]:
    """The report of a run that is over.

    Raises:
        Tampered: it cannot be read.
    """
    return told_in(out / folder.REPORT)


def told_in(path: Path) -> dict[str, Any]:
    """Return what a file that was written of a run holds.

    Raises:
        Tampered: it cannot be read.
    """
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise Tampered(str(path), f"cannot be read: {fault}") from fault
    return told


def _sync(path: Path) -> None:
    """The file is on the disk: the word on it is given once, and must outlive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write(path: Path, value: Mapping[str, str]) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.replace(path)
