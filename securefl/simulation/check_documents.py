"""What documents and names of files alone decide: all that is wrong at once, before anything is loaded or made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.documents import federation_file, strict, suite_file
from securefl.documents.federation import Loaded
from securefl.documents.finding import OK, REFUSED, WARNING, WRONG, Finding
from securefl.errors import Fault, Loosens, OperatorFault
from securefl.home import adoption
from securefl.home.clock import clock
from securefl.planning.possible import check_seats
from securefl.planning.subfederation import check_policy
from securefl.policy import approvals
from securefl.policy import load as policies
from securefl.training.sources import resolve

if TYPE_CHECKING:
    from securefl.documents.suite_file import OwnedTask, Suite
    from securefl.policy.load import Policy


@dataclass(frozen=True, slots=True)
class Part:
    """One training of a file: the federation's, or that of one of its tasks."""

    name: str  # of the task; empty where there is none
    loaded: Loaded
    policy: Policy | None  # None: it is not usable, which was told
    task: OwnedTask | None = None

    def called(self, what: str) -> str:
        """What a finding about it is called."""
        return f"{what} of {self.name}" if self.name else what


def check_static(path: Path, policy: Path | None = None) -> None:
    """Check what documents and file names alone decide, before anything is loaded or made: all of it at once.

    Raises:
        OperatorFault: with a line for everything that is wrong.
    """
    told = list[Finding]()
    read_all(path, policy, told, unsafe_unsigned=True)
    wrong = tuple(
        f"{each.detail}; {each.remedy}" if each.remedy else each.detail for each in told if each.status == WRONG
    )
    if wrong:
        raise OperatorFault(wrong)


def read_all(path: Path, policy: Path | None, told: list[Finding], *, unsafe_unsigned: bool) -> list[Part]:
    """Read the file, its policies, and look for what they name; a part for each training, if all of it is there."""
    try:
        document = strict.read(path)
    except OperatorFault as fault:
        told += lines("documents", fault)
        return []
    suite: Suite | None = None
    try:
        if suite_file.is_suite(document):
            suite = suite_file.load(path)
            found = {name: each.loaded for name, each in suite.tasks.items()}
        else:
            found = {"": federation_file.of(document, path)}
    except OperatorFault as fault:
        told += lines("documents", fault)
        named = document.value.get("policy") if isinstance(document.value, dict) else None
        if policy is not None or isinstance(named, str):  # what is wrong with it is told in the same go
            told += tried("policy", lambda: _policy(policy or path.parent / str(named), unsafe_unsigned=True)[1])
        return []
    told.append(Finding("documents", OK, f"{path} and what it names are well formed"))
    first = next(iter(found.values()))
    try:
        its, finding = _policy(policy or first.folder / first.file.policy, unsafe_unsigned=unsafe_unsigned)
        told.append(finding)
        if suite is None:  # of a task that too few take part in, its policy says so, and refuses that task alone
            told += _seats(first, its)
        told += _below(first, its, unsafe_unsigned=unsafe_unsigned)
    except Fault as fault:
        told += lines("policy", fault)
        its = None
    for name, loaded in found.items():
        told += _named_files(loaded, name)
    if any(each.status == WRONG and each.what.startswith("policy") for each in told):
        its = None
    return [Part(name, loaded, its, None if suite is None else suite.tasks[name]) for name, loaded in found.items()]


def _policy(path: Path, *, unsafe_unsigned: bool) -> tuple[Policy, Finding]:
    policy = policies.load(path)
    told = f"{path}: version {policy.version}, hash {policy.hash.hex()[:16]}"
    signatures = adoption.found_signatures(path, policy, clock(), unsafe_unsigned=unsafe_unsigned)
    if signatures is None:
        return policy, Finding("policy", WARNING, f"{told}, UNSIGNED: every ledger and report will say so")
    return policy, Finding("policy", OK, f"{told}, {approvals.judge(policy, signatures, clock())}")


def _seats(loaded: Loaded, policy: Policy) -> Iterator[Finding]:
    """Look whether file and policy are of one federation, which has as many members as they ask for."""
    try:
        check_seats(loaded, policy)
    except Fault as fault:
        yield from lines("policy", fault)


def _below(loaded: Loaded, policy: Policy, *, unsafe_unsigned: bool) -> Iterator[Finding]:
    """Look at the policies of federations below: each stands under the one above it."""
    for name, child in loaded.below.items():
        path = child.folder / child.file.policy
        try:
            its, finding = _policy(path, unsafe_unsigned=unsafe_unsigned)
            check_policy(policy, its, f"{loaded.path}: members.{name}: {path}")
        except Fault as fault:
            yield from lines(f"policy of {child.file.name}", fault)
            continue
        yield Finding(f"policy of {child.file.name}", finding.status, finding.detail, finding.remedy)
        yield from _seats(child, its)
        yield from _below(child, its, unsafe_unsigned=unsafe_unsigned)


def _named_files(loaded: Loaded, task: str) -> Iterator[Finding]:
    """Look for the model and each member's file; nothing is read."""
    if loaded.file.is_live:
        return
    for what, name in {
        "model": loaded.file.model,
        **{f"data of {m}": each.file for m, each in loaded.data.items()},
    }.items():
        called = f"{what}, task {task}" if task else what
        try:
            resolve(name, loaded.folder)
        except OperatorFault as fault:
            yield Finding(called, WRONG, f"{loaded.path}: {called}: {fault.what}", fault.remedy)
    for child in loaded.below.values():
        yield from _named_files(child, task)


def tried(what: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    """Yield what looking finds, or all that a fault says."""
    try:
        yield look()
    except Fault as fault:
        yield from lines(what, fault)


def lines(what: str, fault: Fault) -> Iterator[Finding]:
    """A finding for each line of a fault: as many as it has found."""
    status = REFUSED if fault.exit_code == Loosens.exit_code else WRONG
    for line in str(fault).splitlines():
        yield Finding(what, status, line)
