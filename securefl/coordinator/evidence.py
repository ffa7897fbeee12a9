"""What a run left becomes evidence: written down by its coordinator, in its own home, once all of it stands."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from securefl.audit import adapter_files, folder, report_entry
from securefl.audit.ledger_files import read_all, read_one
from securefl.errors import OperatorFault, Tampered
from securefl.home.export import export_all
from securefl.home.home import Home
from securefl.ledger.export import SUFFIX
from securefl.terms import MemberId, PublicKey, Reported, RunId
from securefl.terms.layout import Layout
from securefl.terms.parties import COORDINATOR


def keep_state(out: Path, state: bytes, layout: Layout) -> None:
    """The state that was released stands beside the adapter that was made of it, as the bytes that ledgers name.

    And the layout that says which tensors they are, as plans name it.
    """
    (out / folder.STATE).write_bytes(state)
    (out / folder.ADAPTER / adapter_files.LAYOUT).write_text(adapter_files.layout_text(layout), encoding="utf-8")


def mark(out: Path, data: bytes) -> None:
    """``run.json`` is this, whole or as it was: another process may write the same one now."""
    beside = out / f"{folder.RUN}.{os.getpid()}.new"
    beside.write_bytes(data)
    beside.replace(out / folder.RUN)


def bind(
    coordinator: Home, homes: Sequence[Home], run: RunId, out: Path, *,
    keys: Mapping[MemberId, PublicKey] | None = None, instead: Mapping[str, bytes] = {},
    apart: Collection[str] = folder.OF_RUN,
) -> None:  # fmt: skip
    """The coordinator's ledger says what the folder holds, once, and the folder has all ledgers as they stand now.

    Args:
        coordinator: whose ledger says so.
        homes: whose ledgers the folder has.
        run: the run, or the run with tasks.
        out: the folder.
        keys: the parties' public keys, as this machine knows them: a file for `--keys`, bound with all others.
        instead: what files are about to hold that are written after this.
        apart: what in the folder is not its own, as ``folder.own`` has it.

    Raises:
        OperatorFault: what this run left was written down before: it is said once, and nothing is written.
    """
    with coordinator.transaction() as conn:
        _check_first(coordinator, conn, run, out)
    if keys is not None:
        write(out / folder.KEYS, {name: key.hex() for name, key in sorted(keys.items())})
    for path in folder.own(out, apart):
        _sync(path)
    entry = folder.reported(run, read_all(out), folder.files(out, instead=instead, apart=apart))
    with coordinator.transaction() as conn:
        _check_first(coordinator, conn, run, out)
        coordinator.record(conn, [entry])
    export_all(homes, out / "ledger")


def bound(coordinator: Home, run: RunId, out: Path, apart: Collection[str] = folder.OF_RUN) -> bool:
    """Whether all that a run left was written down already, and stands: only the mark that it is over is missing.

    Raises:
        OperatorFault: it was written down, and stands no more: nobody can say so a second time.
    """
    word = said(coordinator, run)
    if word is not None and not folder.stands(out, word, apart):
        what = "what this run left was written down when it ended, and a file here is another one since"
        raise OperatorFault(what, "put it back as it was, or choose another --out", str(out))
    return word is not None


def said(coordinator: Home, run: RunId) -> Reported | None:
    """What the coordinator wrote down in its ledger of what a run left; None if it did not."""
    with coordinator.transaction() as conn:
        return _said(coordinator, conn, run)


def exported(run: RunId, out: Path) -> bool:
    """Return whether the coordinator's ledger in this folder says what the run left.

    Raises:
        Tampered: that ledger does not hold together.
    """
    path = out / "ledger" / f"{COORDINATOR}{SUFFIX}"
    return path.exists() and bool(report_entry.words(read_one(path), run))


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


def _check_first(coordinator: Home, conn: sa.Connection, run: RunId, out: Path) -> None:
    if _said(coordinator, conn, run) is not None:
        raise OperatorFault("what this run left was written down before", "choose another --out", str(out))


def _said(coordinator: Home, conn: sa.Connection, run: RunId) -> Reported | None:
    found = coordinator.told(conn, run)
    return next((entry for entry in found if isinstance(entry, Reported)), None)


def _sync(path: Path) -> None:
    """The file is on the disk: the word on it is given once, and must outlive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of a run's folder as JSON: whole, or as it was."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)
