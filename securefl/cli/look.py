"""`securefl explain` and `doctor`: what was on in a run, and what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Json, show


def explain(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Which protections were on, measured from the run; exit 4 if one that was asked for did not hold.

    Of a run with tasks every task is told; of a tree every federation.
    """
    from securefl.audit import run_tree  # noqa: PLC0415

    answer, text, breached = run_tree.explain(run_folder)
    show(as_json, answer, text)
    if breached:
        raise typer.Exit(4)


def doctor(as_json: Json = False) -> None:
    """What this machine has, and what would help."""
    from securefl.cli import doctor as d  # noqa: PLC0415

    findings = d.examine()
    rows = [{"name": f.name, "status": f.status, "detail": f.detail, "remedy": f.remedy} for f in findings]
    text = "\n".join(
        f"{f.status:<8}{f.name:<18}{f.detail}" + (f"  ->  {f.remedy}" if f.remedy and f.status != "ok" else "")
        for f in findings
    )
    show(as_json, {"findings": rows}, text)
