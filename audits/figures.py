"""What an audit prints: figures with their bars, the command, and the versions they were measured with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

LIBRARIES = ("dp-accounting", "numpy", "pydantic", "sqlalchemy")


def figure(name: str, value: float, bar: str, holds: bool) -> dict[str, Any]:  # noqa: FBT001
    """One line of a result."""
    return {"name": name, "value": value, "bar": bar, "holds": holds}


def circumstances() -> dict[str, Any]:
    """What a figure was measured at: the commit, and how busy the machine was; more than its cores is a busy one."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    return {"commit": commit, "load": [round(each, 1) for each in os.getloadavg()]}


def report(
    figures: list[dict[str, Any]],
    *,
    as_json: bool,
    wrong: Sequence[str] = (),
    beside: Sequence[str] = (),
    on: str = "",
    also: Mapping[str, Any] | None = None,
) -> int:
    """Print them, and what went wrong; 0 if all hold.

    ``beside`` are other libraries that were measured, ``on`` a processor beside the CPU, ``also`` what goes into the
    JSON alone.
    """
    if as_json:
        versions = {"python": platform.python_version(), **{name: version(name) for name in (*LIBRARIES, *beside)}}
        command = f"python -m {sys.modules['__main__'].__spec__.name} {' '.join(sys.argv[1:])}"  # type: ignore[union-attr]
        about = {"command": command, "versions": versions, "machine": f"{os.cpu_count()} cores{on and ', '}{on}"}
        print(
            json.dumps(
                {**about, "figures": figures, **({"wrong": list(wrong)} if wrong else {}), **(also or {})}, indent=1
            )
        )
    else:
        for line in wrong:
            print(line)
        for each in figures:
            print(f"{'holds' if each['holds'] else 'FAILS'}  {each['name']}: {each['value']} (bar: {each['bar']})")
    return 0 if all(each["holds"] for each in figures) else 1
