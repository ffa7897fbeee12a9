"""`securefl check`: try a federation before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.installed import check_trains
from securefl.cli.options import Json, Unsigned, show


def check(
    federation: Annotated[Path, typer.Argument(help="The federation's file, with tasks or without.")],
    sites: Annotated[Path | None, typer.Option(help="Where the sites' homes are; else as the file says.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy instead of the one the file names.")] = None,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Try it before it runs: documents, policy, budget, records, model, grid, time. Nothing is made or reserved.

    Everything that is wrong is told at once. Exit 0: it would run; 2: something is unusable; 3: policy or budget say
    no. Counts of records are for your own screen: you run all of these sites.
    """
    check_trains()
    from securefl.simulation.check import examine  # noqa: PLC0415

    found = examine(federation, sites, policy, unsafe_unsigned=unsafe_unsigned)
    rows = [{"what": f.what, "status": f.status, "detail": f.detail, "remedy": f.remedy} for f in found.findings]
    wide = max(len(each.what) for each in found.findings) + 2
    lines = [
        f"{f.status:<9}{f.what:<{wide}}{f.detail}" + (f"  ->  {f.remedy}" if f.remedy else "") for f in found.findings
    ]
    ends = {
        0: f"nothing was made or reserved; run it: securefl run {federation} --out RUN",
        2: "not usable yet",
        3: "refused",
    }
    told = {"ok": not found.exit_code, "federation": str(federation), "findings": rows, **found.figures}
    show(as_json, told, "\n".join([*lines, ends[found.exit_code]]))
    if found.exit_code:
        raise typer.Exit(found.exit_code)
