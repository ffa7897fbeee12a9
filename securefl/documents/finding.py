"""What a check finds, line by line: ok, warning, soon (it will not be ok any more), missing, refused, wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from securefl.errors import Fault

OK: Final = "ok"
WARNING: Final = "warning"  # it holds, and somebody should know what comes of it
SOON: Final = "soon"  # it holds now, and somebody has to act before it does not
MISSING: Final = "missing"  # it may still come
REFUSED: Final = "refused"  # well formed, and a policy or an account says no
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
