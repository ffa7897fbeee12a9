"""The folder of a run with tasks: claimed for one file, told of in ``suite.json``, bound by its coordinator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl.audit import suite_report, suites
from securefl.audit.run_tree import REPORT
from securefl.coordinator import evidence
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.terms import RunId
from securefl.terms.parties import COORDINATOR


@dataclass(frozen=True, slots=True)
class Words:
    """What the coordinator alone says of its tasks: see ``suite_report.WORDS``."""

    base: Mapping[str, Any]  # name, digest, parameters
    owners: Mapping[str, Sequence[str]]  # by task
    accounts: Mapping[str, str]
    hidden: bool = False


def claim(written: bytes, out: Path) -> None:
    """The folder is this file's, new or begun.

    Raises:
        OperatorFault: it holds what is no suite, or another one.
    """
    digest = hashlib.sha256(written).hexdigest()
    path = out / REPORT
    if path.exists():
        if json.loads(path.read_text()).get("file") != digest:
            raise OperatorFault("this folder holds a suite of another file", "choose another --out", str(out))
        return
    if out.exists() and any(out.iterdir()):
        raise OperatorFault("this folder is not empty and holds no suite", "choose another --out", str(out))
    out.mkdir(parents=True, exist_ok=True)
    _write(path, {"file": digest, "outcome": None})


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
    _write(out / REPORT, plain)
    return plain


def bind(homes: Sequence[Home], written: bytes, tasks: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """The coordinator, one of these homes' owners, wrote down all that stands in the folder beside its tasks, once."""
    runs = {name: RunId(bytes.fromhex(told["run"])) for name, told in tasks.items()}
    name = suites.suite_id(hashlib.sha256(written).digest(), runs)
    coordinator = next(each for each in homes if each.owner == COORDINATOR)
    if not evidence.bound(coordinator, name, out):
        evidence.bind(coordinator, homes, name, out, {})


def _write(path: Path, value: Mapping[str, Any]) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    beside.replace(path)
