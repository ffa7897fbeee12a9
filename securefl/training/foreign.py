"""Code of others, run on what an operator gave: whatever it raises is a fault of that, told by name.

Loaders of models and of tables raise what they like, and another version raises something else. A list of their errors
is never whole, so none is kept: here is the one place where any of them becomes a message with a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from securefl.errors import Fault, OperatorFault
from securefl.shown import short

SHOWN: Final = 200  # characters of a library's own words that are repeated


@contextmanager
def others_code(doing: str, remedy: str, place: str, kind: type[OperatorFault] = OperatorFault) -> Iterator[None]:
    """Whatever a library or a model's own code raises inside is a fault of what it was given.

    Args:
        doing: what was tried, as a sentence that did not come true: ``the weights cannot be read``.
        remedy: what would do instead.
        place: the file, folder or field.
        kind: of fault.

    Raises:
        OperatorFault: of this kind, with the first line of the library's words.
    """
    try:
        yield
    except (Fault, AssertionError, MemoryError):
        raise
    except Exception as fault:
        raise kind(f"{doing}: {words(fault)}", remedy, place) from fault


def words(fault: Exception) -> str:
    """What a library says, in one line, and what it calls its error."""
    said = next((line.strip() for line in str(fault).splitlines() if line.strip()), "")
    return short(f"{said} ({type(fault).__name__})" if said else type(fault).__name__, SHOWN)
