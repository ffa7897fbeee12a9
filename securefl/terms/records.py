"""One record: what a member trains on, and what public text with labels is."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = -1  # the label of a record without one: it is in every sample like any other


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One text and the index of its label, or ``UNKNOWN``."""

    text: str
    label: int
