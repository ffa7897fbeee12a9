"""`securefl coordinator`: a coordinator's own document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securefl.cli.introduction import CoordinatorArgument
from securefl.cli.options import Json, Unsigned, group, show
from securefl.cli.publishing import Log, LogForm, MetricsFile, published
from securefl.errors import Interrupted, OperatorFault

if TYPE_CHECKING:
    from securefl.coordinator.suite import Result

coordinator_app = group("A coordinator's own document.")


@coordinator_app.command("init")
def coordinator_init(
    coordinator: Annotated[Path, typer.Argument(metavar="COORDINATOR", help="The document to write, or its folder.")],
    policy: Annotated[Path, typer.Option(help="The federation's policy.")],
    model: Annotated[str, typer.Option(help="What the policy calls the base model.")],
    member: Annotated[list[str], typer.Option(help="Whom it invites, by name; at least two.")],
    at: Annotated[str | None, typer.Option(help="Where the model is here; else a Hugging Face name.")] = None,
    as_json: Json = False,
) -> None:
    """Make a coordinator's home and key, and write a COORDINATOR document with comments."""
    from securefl.coordinator import init  # noqa: PLC0415

    path, key = init.init(coordinator, policy, (model, at or model), tuple(member))
    lines = [f"{path}: written; edit it, then: securefl coordinator check {path}", f"key  {key.hex()}"]
    show(as_json, {"coordinator": str(path), "key": key.hex()}, "\n".join(lines))


@coordinator_app.command("check")
def coordinator_check(coordinator: CoordinatorArgument, as_json: Json = False) -> None:
    """The document is well formed, and fits what is here; nothing is made or changed. Exit 2 if something is wrong."""
    from securefl.coordinator.check import WRONG, examine  # noqa: PLC0415
    from securefl.documents import coordinator_suite  # noqa: PLC0415

    found = coordinator_suite.load(coordinator)
    findings = examine(found)
    ok = all(each.status != WRONG for each in findings)
    rows = [{"what": f.what, "status": f.status, "detail": f.detail, "remedy": f.remedy} for f in findings]
    wide = max(len(each.what) for each in findings) + 2
    lines = [f"{coordinator}: well formed, coordinates {found.file.name}"] + [
        f"{f.status:<9}{f.what:<{wide}}{f.detail}" + (f"  ->  {f.remedy}" if f.remedy else "") for f in findings
    ]
    answer = {"ok": ok, "coordinator": str(coordinator), "federation": found.file.name, "findings": rows}
    show(as_json, answer, "\n".join(lines))
    if not ok:
        raise typer.Exit(2)


@coordinator_app.command("schema")
def coordinator_schema() -> None:
    """The JSON Schema of COORDINATOR documents, for editors."""
    from securefl.documents.coordinator_suite import schema_text  # noqa: PLC0415

    print(schema_text(), end="")


def coordinate(
    coordinator: CoordinatorArgument,
    out: Annotated[Path, typer.Option(help="Where its ledger, figures and the released state go.")],
    carry: Annotated[
        Path | None, typer.Option(help="A folder for couriers, in the place of sockets: see `securefl carry answer`.")
    ] = None,
    metrics: MetricsFile = None,
    log: LogForm = Log.TEXT,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Run the federation of this document over its parties' sockets. An interrupted run goes on with the same command.

    A federation with tasks runs one after another; RUN/tasks/NAME is each one's own run, and suite.json tells of all.

    The coordinator reads nothing of another party's: `securefl report RUN --ledgers FOLDER` makes the report once the
    others' exported ledgers are here.
    """
    from securefl.coordinator import run  # noqa: PLC0415
    from securefl.coordinator import suite as many  # noqa: PLC0415
    from securefl.coordinator.counts import Counts  # noqa: PLC0415
    from securefl.documents import coordinator_suite  # noqa: PLC0415
    from securefl.documents.coordinator_suite import CoordinatorSuite  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415

    found, counts = coordinator_suite.load(coordinator), Counts()
    with published(counts.metrics, metrics, log, found.home), progress() as shown:
        try:
            if isinstance(found, CoordinatorSuite):
                if carry is not None:
                    raise OperatorFault("couriers carry one task", "write a document for each task", "--carry")
                sockets = run.sockets_of(found, shown)
                ended = many.coordinate(found, out, shown, sockets, unsafe_unsigned=unsafe_unsigned, counts=counts)
                _show_suite(ended, out, as_json=as_json)
                return
            runtime = run.sockets_of(found, shown) if carry is None else run.couriers_of(found, carry)
            result = run.coordinate(found, out, shown, runtime, unsafe_unsigned=unsafe_unsigned, counts=counts)
        except KeyboardInterrupt:
            what = "interrupted; what was done is recorded, and the same command goes on from here"
            raise Interrupted(what) from None
    told = result.told
    lines = [
        *(f"WARNING  {warning}" for warning in told["warnings"]),
        f"hidden   {told['scheme']}: {told['who_can_open']}",
        f"rounds   {len(told['rounds'])}, of {', '.join(map(str, told['cohort_sizes'])) or 'no'} members",
        f"bytes    {told['bytes']['up']:,} up, {told['bytes']['down']:,} down",
        f"outcome  {result.outcome}: {result.why}",
        f"state    {out / 'adapter' / 'released.f32' if told['adapter'] else 'none: no round finished'}",
        f"report   with every party's `securefl ledger export` in a FOLDER: securefl report {out} --ledgers FOLDER",
    ]
    answer = {"run": str(out), **told}
    show(as_json, answer, "\n".join(lines))
    if result.outcome != "finished":
        raise typer.Exit(3 if result.outcome == "refused" else 5)


def _show_suite(result: Result, out: Path, *, as_json: bool) -> None:
    """Show how a suite ended; exit as for one run if it did not finish."""
    tasks = result.told.get("tasks", {})
    lines = [
        f"{'task':<16}{'members':>9}{'values':>9}{'MB up':>9}",
        *(
            f"{name:<16}{each['members']:>9}{each['trained_parameters']:>9}{each['bytes']['up'] / 1e6:>9.2f}"
            f"  {each['outcome']['status']}"
            for name, each in tasks.items()
        ),
    ]
    report = f"with every party's `securefl ledger export` in a FOLDER: securefl report {out} --ledgers FOLDER"
    lines = [*(lines if tasks else []), f"outcome  {result.outcome}: {result.why}"]
    lines += [f"report   {report}"] if tasks else []
    show(
        as_json,
        {"run": str(out), "outcome": {"status": result.outcome, "why": result.why}, **result.told},
        "\n".join(lines),
    )
    if result.outcome != "finished":
        raise typer.Exit(3 if result.outcome == "refused" else 5)
