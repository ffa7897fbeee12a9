"""What becomes of whatever ends a command: an exit code, and words for whoever reads them."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass

from securefl.cli import installed
from securefl.errors import Fault

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
NOTHING_LOST = "what was recorded stays, and the same command goes on from here"


class Unspoken(Exception):
    """A command ends by this exit code, and its words are where they belong: none of them is to be printed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ends."""

    code: int
    text: str
    trace: str = ""  # of a bug of ours


def ending(fault: Exception) -> Ending:
    """Exit code and message; anything that is not a fault by name is our own."""
    if isinstance(fault, Fault):
        return Ending(fault.exit_code, str(fault))
    left_out = installed.missing(fault.name) if isinstance(fault, ModuleNotFoundError) else None
    if left_out is not None:
        return Ending(left_out.exit_code, str(left_out))
    if isinstance(fault, OSError) and fault.errno in STORAGE:
        place = f"{fault.filename}: " if fault.filename else ""
        return Ending(2, f"{place}{fault.strerror}; free some space or choose a folder you may write; {NOTHING_LOST}")
    trace = "".join(traceback.format_exception(fault))
    return Ending(70, f"a bug in securefl: {type(fault).__name__}: {fault}", trace)
