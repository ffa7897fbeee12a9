"""Counts of what a process did, for Prometheus and for logs: whole numbers, under names from closed lists.

Nothing else can be put in: a label's values are listed where its family is made, so no word of a message, a record or a
fault becomes one. The text is that of the exposition format 0.0.4, which node_exporter's textfile collector reads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

PREFIX: Final = "securefl_"
SUFFIX: Final = ".prom"  # the collector reads no other file


@dataclass(frozen=True, slots=True)
class Family:
    """One number, or one for each value of a label."""

    name: str  # without the prefix
    about: str
    label: str = ""
    values: tuple[str, ...] = ("",)
    is_gauge: bool = False  # it may fall, too


class Metrics:
    """The numbers of one process. Safe to share between threads."""

    def __init__(self, families: Collection[Family]) -> None:
        self._families = tuple(families)
        self._numbers = {(each.name, value): 0 for each in families for value in each.values}
        self._lock = threading.Lock()

    def add(self, name: str, value: str = "", by: int = 1) -> int:
        """Count, and return what it comes to.

        Raises:
            KeyError: no family is called so, or the value is not on its list.
        """
        with self._lock:
            self._numbers[name, value] += by
            return self._numbers[name, value]

    def put(self, name: str, number: int, value: str = "") -> None:
        """Let a number be this.

        Raises:
            KeyError: as for ``add``.
        """
        with self._lock:
            assert (name, value) in self._numbers, "a number of a family that was made"
            self._numbers[name, value] = number

    def numbers(self) -> Mapping[tuple[str, str], int]:
        """Every number now, by family and label's value."""
        with self._lock:
            return MappingProxyType(dict(self._numbers))

    def text(self) -> str:
        """All of it, as Prometheus reads it; numbers of labels that never counted are left out."""
        numbers, lines = self.numbers(), list[str]()
        for each in self._families:
            name = f"{PREFIX}{each.name}"
            lines += [f"# HELP {name} {each.about}", f"# TYPE {name} {'gauge' if each.is_gauge else 'counter'}"]
            for value in each.values:
                number = numbers[each.name, value]
                if number or not each.label:
                    lines.append(f'{name}{{{each.label}="{value}"}} {number}' if each.label else f"{name} {number}")
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Write it, for anybody to read: a collector reads it whole or as it was.

        Raises:
            OSError: it cannot be written there.
        """
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644), "wb") as file:
            file.write(self.text().encode())
        beside.replace(path)
