"""Weights in safetensors files: whole, and not a placeholder for a file that was never fetched.

Only the header is read (its length in 8 bytes, then JSON): it says where each tensor lies, and so how long the file is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from securefl.errors import OperatorFault

POINTER: Final = b"version https" + b"://git-lfs"  # how a placeholder of git-lfs begins
LARGEST_HEADER: Final = 100_000_000  # bytes, as the format has it
COPY: Final = "copy the file again: this one is not whole"


def check(path: Path) -> None:
    """Check that a safetensors file is whole.

    Raises:
        OperatorFault: it is a placeholder, cut short, or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(len(POINTER) - 8)).startswith(POINTER):
            what = f"`{path.name}` is a placeholder of git-lfs, not the weights"
            raise OperatorFault(what, "fetch them: run `git lfs pull` in that folder", str(path.parent))
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
            raise OperatorFault(f"`{path.name}` ends within its header, at {size} bytes", COPY, str(path.parent))
        file.seek(8)
        end = _end(file.read(length), path)
    if 8 + length + end != size:
        what = f"`{path.name}` has {size} bytes where its header says {8 + length + end}"
        raise OperatorFault(what, COPY, str(path.parent))


def _end(header: bytes, path: Path) -> int:
    """Where the last tensor ends, from the end of the header."""
    try:
        tensors = json.loads(header)
        return max(
            (int(each["data_offsets"][1]) for name, each in tensors.items() if name != "__metadata__"), default=0
        )
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as fault:
        what = f"`{path.name}` has a header that is no safetensors header"
        raise OperatorFault(what, "save the model again with safe_serialization=True", str(path.parent)) from fault
