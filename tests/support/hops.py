"""Which calls go from one folder of the package up to another, or beside it, while something runs."""

from __future__ import annotations

import re
import sys
import threading
import tomllib
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).parents[2]
PACKAGE = f"{ROOT / 'securefl'}/"
UNNAMED = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>", "<module>")  # a value that is not made yet; an import


@cache
def level_of() -> dict[str, int]:
    """Each folder's place in the order of imports, 0 at the top; those of one line stand beside each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    return {name.strip(" ()"): place for place, line in enumerate(layers) for name in line.split("|")}


def goes_back(caller: str, called: str) -> bool:
    """Whether a call from one room into another is to one above it or beside it."""
    return caller != called and level_of()[called] <= level_of()[caller]


def room_of(place: str) -> str:
    """The room of a file or function, as `home` of `home/live_ledger.py`."""
    return re.split("[/:]", place)[0].removesuffix(".py")


class Hops:
    """A context in which every call from the package into itself is looked at, in all threads that it starts.

    Between two functions of the package there may be some of others: a library that calls back.
    """

    def __init__(self) -> None:
        self.back: dict[tuple[str, str], str] = {}  # (caller's room, called room) -> one such call
        self._places: dict[CodeType, str | None] = {}

    def __enter__(self) -> Hops:
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _place(self, frame: FrameType) -> str | None:
        code = frame.f_code
        if code not in self._places:
            named = code.co_filename.startswith(PACKAGE) and not code.co_qualname.endswith(UNNAMED)
            self._places[code] = f"{code.co_filename[len(PACKAGE) :]}:{code.co_qualname}" if named else None
        return self._places[code]

    def _look(self, frame: FrameType, event: str, _: object) -> None:
        called = self._place(frame) if event == "call" else None
        if called is None:
            return
        before = frame.f_back
        while before is not None and (caller := self._place(before)) is None:
            before = before.f_back
        if before is not None and caller is not None and goes_back(room_of(caller), room_of(called)):
            self.back.setdefault((room_of(caller), room_of(called)), f"{caller} -> {called}")
