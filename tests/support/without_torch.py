"""A pytest plugin under which torch and what builds on it cannot be imported: ``-p tests.support.without_torch``.

What decides, prices, records, speaks and audits works on a machine that has none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

ABSENT = frozenset({"torch", "transformers", "peft", "opacus", "datasets"})


class Absent:
    """The finder that is asked first, and says that these modules are not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r} in a run without torch", name=name)


sys.meta_path.insert(0, Absent())
