"""The folder of a run with tasks: claimed for one file, told of in ``suite.json``, bound by its coordinator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl import files
from securefl.audit import folder, suite_report, suites
from securefl.audit.run_tree import REPORT
from securefl.coordinator import evidence
from securefl.errors import OperatorFault
from securefl.home.export import export_all
from securefl.home.home import Home
from securefl.terms import MemberId, PublicKey, RunId
from securefl.terms.parties import COORDINATOR

_BEGUN = (files.LOCK, f"{REPORT}.new")  # what is left of a suite that was killed before it had its mark


@dataclass(frozen=True, slots=True)
class Words:
    """What the coordinator alone says of its tasks: see ``suite_report.WORDS``."""

    base: Mapping[str, Any]  # name, digest, parameters
    owners: Mapping[str, Sequence[str]]  # by task
    accounts: Mapping[str, str]
    hidden: bool = False


@contextmanager
def claimed(written: bytes, out: Path) -> Iterator[None]:
    """The folder is this file's, new or begun, and this process's alone while the block runs.

    Raises:
        OperatorFault: it holds what is no suite, or another one; or another process has it.
    """
    digest = hashlib.sha256(written).hexdigest()
    path = out / REPORT
    with files.alone_in(out, "running"):
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")).get("file") != digest:
                raise OperatorFault("this folder holds a suite of another file", "choose another --out", str(out))
        elif any(each.name not in _BEGUN for each in out.iterdir()):
            raise OperatorFault("this folder is not empty and holds no suite", "choose another --out", str(out))
        else:
            evidence.write(path, {"file": digest, "outcome": None})
        yield


def bound(homes: Sequence[Home], written: bytes, tasks: Iterable[str], out: Path) -> dict[str, Any] | None:
    """What a suite's folder tells whose process was killed behind its last word: its ledgers are there now, too.

    None of a suite of which nothing was written down, so that it goes on.

    Args:
        homes: the parties' homes, as far as they are made.
        written: the file that describes the suite.
        tasks: their names.
        out: the suite's folder.

    Raises:
        OperatorFault: the suite is over; or a file is not as it was written down, or a run that it tells of is not
            here. Nothing is written.
        Tampered: a file of it cannot be read.
    """
    runs = {name: folder.named(out / folder.TASKS / name) for name in tasks}
    begun = {name: run for name, run in runs.items() if run is not None}
    name = suites.suite_id(hashlib.sha256(written).digest(), begun)
    if evidence.exported(name, out):
        raise OperatorFault("this folder holds a suite that is over", "choose another --out", str(out))
    coordinators = [each for each in homes if each.owner == COORDINATOR]
    told = evidence.told_in(out / REPORT)
    if not any(evidence.bound(each, name, out, folder.OF_SUITE) for each in coordinators):
        _check_here(told, begun, out)
        return None
    export_all(homes, out / "ledger")
    return told


def _check_here(told: Mapping[str, Any], begun: Mapping[str, RunId], out: Path) -> None:
    """Check that each run is here of which a suite's last word tells: one that is away is not run, and paid, again.

    Raises:
        OperatorFault: one is not.
    """
    if told.get("outcome") is None:
        return
    here = {name: run.hex() for name, run in begun.items()}
    rows = told.get("tasks")
    of = {name: row.get("run") for name, row in rows.items()} if isinstance(rows, dict) else {}
    if of != here:
        away = ", ".join(sorted(name for name in of | here if of.get(name) != here.get(name)))
        what = f"this folder holds a suite that is over, and not the runs that it tells of: {away or 'of no task'}"
        raise OperatorFault(what, "put them back as they were, or choose another --out", str(out))


def tell(written: bytes, tasks: Mapping[str, Mapping[str, Any]], said: Words, out: Path) -> dict[str, Any]:
    """Write ``suite.json``, and give what it holds.

    Args:
        written: the file that describes the suite.
        tasks: what each task's own folder tells of its run.
        said: the coordinator's words.
        out: the suite's folder.
    """
    told = suite_report.figures(tasks, said.base["parameters"])
    for name, owners in said.owners.items():
        told["tasks"][name] |= {"owners": list(owners), "account": said.accounts[name]}
    file = hashlib.sha256(written).hexdigest()
    report = told | {"file": file, "hide_ownership": said.hidden, "base": dict(said.base)}
    plain = suite_report.read(report).model_dump(mode="json")
    evidence.write(out / REPORT, plain)
    return plain


def bind(
    homes: Sequence[Home], written: bytes, tasks: Mapping[str, Mapping[str, Any]], out: Path,
    keys: Mapping[MemberId, PublicKey] | None = None,
) -> None:  # fmt: skip
    """The coordinator, one of these homes' owners, wrote down all that stands in the folder beside its tasks, once.

    Raises:
        OperatorFault: it did so before.
    """
    runs = {name: RunId(bytes.fromhex(told["run"])) for name, told in tasks.items()}
    name = suites.suite_id(hashlib.sha256(written).digest(), runs)
    coordinator = next(each for each in homes if each.owner == COORDINATOR)
    evidence.bind(coordinator, homes, name, out, keys=keys, apart=folder.OF_SUITE)
