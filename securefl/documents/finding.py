"""What a check of a document finds, line by line: ok, missing (it may still come), or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from securefl.errors import Fault

OK: Final = "ok"
MISSING: Final = "missing"
WRONG: Final = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    status: str
    detail: str
    remedy: str = ""


def tried(what: str, look: Callable[[], Finding]) -> Finding:
    """Return what looking finds; a fault is something wrong."""
    try:
        return look()
    except Fault as fault:
        told, remedy = str(fault), getattr(fault, "remedy", "")
        return Finding(what, WRONG, told.removesuffix(f"; {remedy}"), remedy)
