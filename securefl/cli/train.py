"""`securefl run` and `compare`: train under policy, and measure what privacy costs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.installed import check_trains
from securefl.cli.options import Json, Unsigned, show
from securefl.errors import Interrupted
from securefl.standard_error import owned


def run(
    federation: Annotated[Path, typer.Argument(help="The federation's file.")],
    out: Annotated[Path, typer.Option(help="Where adapter, ledgers and report go.")],
    sites: Annotated[Path | None, typer.Option(help="Where the sites' homes are; else as the file says.")] = None,
    with_local: Annotated[
        bool, typer.Option(help="Also train each member alone, for comparison on this bench.")
    ] = False,
    without_privacy: Annotated[
        bool, typer.Option(help="Also train without privacy, for comparison on this bench.")
    ] = False,
    policy: Annotated[Path | None, typer.Option(help="A policy instead of the one the file names.")] = None,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Train under policy: RUN gets adapter/, ledger/, report.json and report.html."""
    from securefl.documents import federation_file  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415
    from securefl.simulation import federation as f  # noqa: PLC0415
    from securefl.simulation.check_documents import check_static  # noqa: PLC0415
    from securefl.simulation.measure import Baselines  # noqa: PLC0415

    check_trains()
    check_static(federation, policy)
    if is_suite(federation):
        _run_suite(federation, out, sites, policy, (with_local, without_privacy), unsafe_unsigned, as_json)
        return
    loaded = federation_file.load(federation)
    if policy is not None:
        file = loaded.file.model_copy(update={"policy": str(policy.resolve())})
        loaded = loaded.model_copy(update={"file": file})
    arms = Baselines(local=with_local, without_privacy=without_privacy)
    try:
        with owned(), progress() as shown:
            result = f.run(loaded, out, sites=sites, arms=arms, progress=shown, unsafe_unsigned=unsafe_unsigned)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was spent is recorded, and the same command goes on from here") from None
    answer = {
        "run": str(out),
        "report": str(out / "report.json"),
        "adapter": str(result.adapter) if result.adapter else None,
        "accuracy": result.report["accuracy"],
        "epsilon": result.report["epsilon"],
        "outcome": result.report["outcome"],
    }
    show(as_json, answer, f.summary(result, out))
    if result.outcome != "finished":
        raise typer.Exit(3 if result.outcome == "refused" else 5)


def is_suite(path: Path) -> bool:
    """Return whether a federation's file has tasks."""
    from securefl.documents import strict, suite_file  # noqa: PLC0415

    return suite_file.is_suite(strict.read(path))


def _run_suite(
    path: Path, out: Path, sites: Path | None, policy: Path | None, arms: tuple[bool, bool],
    unsafe_unsigned: bool, as_json: bool,  # noqa: FBT001 - options, by their own names
) -> None:  # fmt: skip
    from securefl.documents import suite_file  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415
    from securefl.simulation import suite as s  # noqa: PLC0415
    from securefl.simulation.measure import Baselines  # noqa: PLC0415

    suite = suite_file.load(path)
    suite = suite if policy is None else suite.under(policy)
    local, without_privacy = arms
    try:
        with owned(), progress() as shown:
            result = s.run(
                suite, out, sites=sites, arms=Baselines(local=local, without_privacy=without_privacy), progress=shown,
                unsafe_unsigned=unsafe_unsigned,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was spent is recorded, and the same command goes on from here") from None
    answer = {"run": str(out), "outcome": {"status": result.outcome, "why": result.why}, **result.told}
    show(as_json, answer, s.table(result, out))
    if result.outcome != "finished":
        raise typer.Exit(3 if result.outcome == "refused" else 5)


def compare(
    experiment: Annotated[Path, typer.Argument(help="The experiment's file.")],
    out: Annotated[Path, typer.Option(help="Where runs, table, pictures and results.json go.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; else one for each core.")] = None,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """What privacy costs in utility: arms x epsilons x seeds, each run on a budget of its own; resumable."""
    from securefl.compare import sweep  # noqa: PLC0415
    from securefl.documents import experiment as e  # noqa: PLC0415
    from securefl.progress import tally  # noqa: PLC0415

    check_trains()
    loaded = e.load(experiment)
    try:
        with owned(), tally() as shown:
            results, text, code = sweep.compare(
                loaded, out, jobs or len(os.sched_getaffinity(0)), shown, unsafe_unsigned=unsafe_unsigned
            )
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; the runs that are over are kept, and the same command goes on from here"
        ) from None
    answer = {"out": str(out), "picture": str(out / "accuracy.png"), **results.model_dump(mode="json")}
    show(as_json, answer, f"{text}\n\npictures  {out / 'accuracy.png'}, accuracy.svg\nresults   {out / 'results.json'}")
    if code:
        raise typer.Exit(code)
