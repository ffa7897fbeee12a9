"""`securefl report`, `explain` and `doctor`: what a run cost, what was on in it, and what this machine has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.cli.audit import Keys
from securefl.cli.options import Json, show
from securefl.errors import OperatorFault

if TYPE_CHECKING:
    from securefl.audit.verify import Verdict


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="What `securefl coordinate` left.")],
    ledgers: Annotated[
        Path | None, typer.Option(help="The others' exported ledgers; else as they lie in RUN/ledger.")
    ] = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Make report.json and report.html of a coordinator's run, with everybody's exported ledgers.

    Everything is verified first. Each figure is what ledgers give; `audit verify RUN` makes it all again.
    """
    from securefl.audit import coordinated_report, pins, suites  # noqa: PLC0415

    pinned = pins.read(keys) if keys else None
    if suites.is_suite(run_folder):
        all_told, verdict = coordinated_report.suite_report(run_folder, ledgers, pinned)
        _show_tasks(run_folder, all_told, verdict, as_json=as_json)
        return
    told, verdict = coordinated_report.report(run_folder, ledgers, pinned)
    cost = told["epsilon"]
    lines = [
        *(f"WARNING  {warning}" for warning in told["warnings"]),
        f"epsilon  {cost['spent']:.4f} spent, {cost['left']:.4f} left of {cost['limit']:g} at delta {cost['delta']:g}",
        f"         {cost['unit']} level, {cost['neighbours']}, {cost['mechanism']}, {cost['sampler']} sampling",
        f"hidden   {told['protections']['scheme']}: {told['protections']['who_can_open']}",
        f"outcome  {told['outcome']['status']}: {told['outcome']['why']}",
        f"accuracy is each site's own: securefl site evaluate SITE {run_folder / 'adapter' / 'released.f32'}",
        f"report   {run_folder / 'report.html'}",
        f"check it: securefl audit verify {run_folder}",
    ]
    answer = {"run": str(run_folder), "report": told, "pinned": verdict.pinned, "unverified": list(verdict.unverified)}
    show(as_json, answer, "\n".join(lines))


def _show_tasks(run: Path, told: Mapping[str, Mapping[str, Any]], verdict: Verdict, *, as_json: bool) -> None:
    """Show the reports of a run with tasks."""
    head = f"{'task':<16}{'epsilon':>9}{'left':>9}{'members':>9}  outcome"
    lines = [
        f"{name:<16}{each['epsilon']['spent']:>9.4f}{each['epsilon']['left']:>9.4f}{len(each['members']):>9}"
        f"  {each['outcome']['status']}: {each['outcome']['why']}"
        for name, each in told.items()
    ]
    places = [f"report   {run / 'tasks' / name / 'report.html'}" for name in told]
    answer = {"run": str(run), "tasks": told, "pinned": verdict.pinned, "unverified": list(verdict.unverified)}
    show(as_json, answer, "\n".join([head, *lines, *places, f"check it: securefl audit verify {run}"]))


def explain(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Which protections were on, measured from the run; exit 4 if one that was asked for did not hold.

    Of a run with tasks every task is told; of a tree every federation. What is not there is told as not measured.
    """
    from securefl.audit import run_tree  # noqa: PLC0415

    answer, text, breached = run_tree.explain(run_folder)
    show(as_json, answer, text)
    if breached:
        raise typer.Exit(4)


def doctor(
    flare: Annotated[
        Path | None, typer.Option(metavar="KIT", help="Look at this kit of NVIDIA FLARE alone; exit 2 if it is unsafe.")
    ] = None,
    party: Annotated[
        Path | None, typer.Option(help="Hold the kit against this party's roster: its SITE or COORDINATOR document.")
    ] = None,
    federation: Annotated[str | None, typer.Option(help="Whose roster; else the one called as the project.")] = None,
    flower: Annotated[
        Path | None, typer.Option(metavar="KIT", help="Look at this kit for Flower alone; exit 2 if it is unsafe.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What this machine has, and what would help; or what a kit of an engine lets anybody do."""
    if flare is not None and flower is not None:
        raise OperatorFault("two kits", "look at one kit at a time", "--flare, --flower")
    if flower is not None:
        from securefl.kits import flower_kit  # noqa: PLC0415

        rows = [(f.name, f.status, f.detail, f.remedy) for f in flower_kit.examine(flower)]
    elif flare is None:
        from securefl.cli import doctor as d  # noqa: PLC0415

        rows = [(f.name, f.status, f.detail, f.remedy) for f in d.examine()]
    else:
        from securefl.cli.provision import neighbours  # noqa: PLC0415
        from securefl.kits import flare_kit  # noqa: PLC0415

        name, at_server = federation or flare_kit.project_of(flare), flare_kit.is_servers(flare)
        roster = None if party is None else neighbours(party, name, at_server=at_server)
        rows = [(f.name, f.status, f.detail, f.remedy) for f in flare_kit.examine(flare, roster)]
    text = "\n".join(
        f"{status:<8}{name:<18}{detail}" + (f"  ->  {remedy}" if remedy and status != "ok" else "")
        for name, status, detail, remedy in rows
    )
    show(
        as_json,
        {"findings": [dict(zip(("name", "status", "detail", "remedy"), row, strict=True)) for row in rows]},
        text,
    )
    if (flare or flower) is not None and any(status != "ok" for _, status, _, _ in rows):
        raise typer.Exit(2)
