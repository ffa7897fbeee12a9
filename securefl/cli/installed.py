"""Say what to install where a command needs a library that `securefl-core` leaves out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from securefl.errors import Missing

TRAINS: Final = ("torch", "transformers", "peft", "opacus", "safetensors")  # of `securefl`, not of `securefl-core`
DRAWS: Final = ("matplotlib",)
REMEDY: Final = "pip install securefl"


def missing(module: str | None) -> Missing | None:
    """The fault to tell where this module could not be imported; None if it is none of those that may be left out."""
    name = (module or "").partition(".")[0]
    if name not in (*TRAINS, *DRAWS):
        return None
    return Missing(f"this command needs {name}, which securefl-core leaves out", f"run: {REMEDY}")


def check_trains() -> None:
    """Check that a model can be trained here, before a command makes anything.

    Raises:
        Missing: a library for it is not installed.
    """
    for name in TRAINS:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        fault = missing(name) if found is None else None
        if fault is not None:
            raise fault
