"""One attack, tried again and again: what it is called, and what a trial of it came to.

Each module of `hostile/` holds the attacks on one kind of promise, as ``ATTEMPTS``. `attacks` runs them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from audits.protection import hostile


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trial came to: whether the promise was broken, and what stopped it."""

    succeeded: bool
    stopped_by: str  # the rule of a named refusal, or the check of `audit verify` that found it


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attack on the unmodified member, custodian, agent or verifier."""

    name: str  # a sentence: who does what
    trial: Callable[[int, Path], Outcome]  # the trial's number, which seeds it; an empty folder for what it writes


def attempts() -> Iterator[Attempt]:
    """Every attack of every module in `hostile/`, in the order of their files."""
    for module in sorted(info.name for info in pkgutil.iter_modules(hostile.__path__)):
        yield from importlib.import_module(f"{hostile.__name__}.{module}").ATTEMPTS
