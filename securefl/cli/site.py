"""`securefl site`: what one party owns, whom it trusts, and what it lets a plan ask."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from securefl.cli import introduction
from securefl.cli.options import Json, Unsigned, group, show
from securefl.cli.publishing import Log, LogForm, MetricsFile, published
from securefl.telling import tell

site_app = group("One party's own document, and how parties are introduced.")
for name in ("invite", "join", "roster"):
    site_app.command(name)(getattr(introduction, name))
site_app.command("show")(introduction.look)


@site_app.command("init")
def site_init(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="The document to write, or its folder.")],
    name: Annotated[str | None, typer.Option(help="What this party is called in every federation.")] = None,
    region: Annotated[str, typer.Option(help="Where it stands, as policies name regions.")] = "",
    model: Annotated[str, typer.Option(help="What plans and policies call the base model.")] = "",
    at: Annotated[str | None, typer.Option(help="Where the model is here; else a Hugging Face name.")] = None,
    data: Annotated[str | None, typer.Option(help="Its records: CSV, TSV or JSON Lines.")] = None,
    text: Annotated[str, typer.Option(help="The column with the text.")] = "text",
    label: Annotated[str, typer.Option(help="The column with the label.")] = "label",
    without_records: Annotated[bool, typer.Option("--without-records", help="Take part with noise alone.")] = False,
    custodian: Annotated[bool, typer.Option("--custodian", help="Hold a decryption key, and no records.")] = False,
    policy: Annotated[
        Path | None, typer.Option(help="Of a site that is a federation: its own policy.", show_default=False)
    ] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="Of a site that is a federation: whom it invites, by name; at least two.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make this party's home and key, and write a SITE document with comments that passes `site check`.

    With --policy and --member the site is a federation itself: its members train in place of records, and its own
    coordinator has a home and key beside the site's.
    """
    from securefl.errors import OperatorFault  # noqa: PLC0415
    from securefl.site import init  # noqa: PLC0415

    given = (data is not None) + without_records + (policy is not None)
    if not custodian and (not name or not region or not model or given != 1 or bool(member) != (policy is not None)):
        what = "a member has a name, a region, a model, and records, none, or members of its own"
        remedy = (
            "give --name, --region, --model, and --data, --without-records, or --policy with --member for each; "
            "or --custodian alone"
        )
        raise OperatorFault(what, remedy, "site init")
    inside = None if policy is None else init.Inside(policy, tuple(member or ()))
    made = None if custodian else init.Member(name or "", region, model, at or model, data, text, label, inside)
    path, keys = init.init(site, made)
    told = {
        "site": str(path),
        "name": "custodian" if custodian else name,
        **{each: key.hex() for each, key in keys.items()},
    }
    lines = [f"{path}: written; edit it, then: securefl site check {path}"]
    lines += [f"{each.replace('_', ' ')}  {key.hex()}" for each, key in keys.items()]
    show(as_json, told, "\n".join(lines))


@site_app.command("adopt")
def site_adopt(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A SITE document.")],
    policy: Annotated[Path, typer.Argument(help="A later version of a federation's policy.")],
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Lay out a later version of a policy: the next run here begins under it. The ledger says what may follow.

    Who must have signed it follows from the last signed version that a run here began under.
    """
    from securefl.documents import site_file  # noqa: PLC0415
    from securefl.policy import load as policies  # noqa: PLC0415
    from securefl.site import joining, node  # noqa: PLC0415

    found = site_file.load(site)
    inside = found.file.subfederation
    if inside is not None and policies.load(policy).federation == inside.name:
        adopted = node.adopt(node.of(found), policy, unsafe_unsigned=unsafe_unsigned)
    else:
        adopted = joining.adopt(found, policy, unsafe_unsigned=unsafe_unsigned)
    told = {"federation": adopted.federation, "version": adopted.version, "policy": adopted.hash.hex()}
    said = f"{adopted.federation}: the next run here begins under version {adopted.version}, {adopted.hash.hex()[:16]}"
    show(as_json, told, said)


@site_app.command("check")
def site_check(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A SITE document.")],
    load: Annotated[bool, typer.Option("--load", help="Also load the model and read the records.")] = False,
    federation: Annotated[
        Path | None, typer.Option("--federation", help="A live federation's file that the document is to fit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The document is well formed, and fits what is here; nothing is made or changed. Exit 2 if something is wrong."""
    from securefl.documents import federation_file, site_file  # noqa: PLC0415
    from securefl.site.check import WRONG, examine  # noqa: PLC0415

    found = site_file.load(site)
    live = None if federation is None else federation_file.load(federation).file
    findings = examine(found, load=load, federation=live)
    ok = all(each.status != WRONG for each in findings)
    rows = [{"what": f.what, "status": f.status, "detail": f.detail, "remedy": f.remedy} for f in findings]
    wide = max(len(each.what) for each in findings) + 2
    lines = [f"{site}: well formed, {found.file.name}"] + [
        f"{f.status:<9}{f.what:<{wide}}{f.detail}" + (f"  ->  {f.remedy}" if f.remedy else "") for f in findings
    ]
    show(as_json, {"ok": ok, "site": str(site), "name": found.file.name, "findings": rows}, "\n".join(lines))
    if not ok:
        raise typer.Exit(2)


@site_app.command("serve")
def site_serve(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A SITE document.")],
    socket: Annotated[
        Path | None, typer.Option(help="Where to listen; else the file `door` in the site's home.", show_default=False)
    ] = None,
    let_in: Annotated[
        list[str] | None,
        typer.Option("--let-in", metavar="USER", help="A user who may ask beside this one; may be given again."),
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOCKET",
            help="Where a party of this site's own sub-federation serves, if its document does not say; or a member "
            "who holds a share of its key.",
        ),
    ] = None,
    metrics: MetricsFile = None,
    log: LogForm = Log.TEXT,
    as_json: Json = False,
) -> None:
    """Answer the coordinators of this site's federations, until SIGTERM. Whoever asks may come and go."""
    from securefl.documents import site_file  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415
    from securefl.site import serve  # noqa: PLC0415
    from securefl.site.build import Environment  # noqa: PLC0415
    from securefl.site.counts import Counts  # noqa: PLC0415
    from securefl.site.dispatch import built, way_to_members  # noqa: PLC0415
    from securefl.site.key_share import asked_over  # noqa: PLC0415

    found = site_file.load(site)
    door = (socket or found.home / serve.DOOR).absolute()
    name, among = found.file.name, list(found.file.federations)

    def ready() -> None:
        told = {"ok": True, "name": name, "socket": str(door), "federations": among, "pid": os.getpid()}
        show(as_json, told, f"{name}: answering at {door}, in {', '.join(among)}; end it with: kill {os.getpid()}")
        sys.stdout.flush()

    counts = Counts()
    with published(counts.metrics, metrics, log, found.home), progress() as shown:
        users = [serve.user_named(each) for each in let_in or ()]
        members = way_to_members(found, member or ())
        holders = asked_over(members, members.peers) if members is not None and found.file.is_custodian else None
        all_ended = serve.serve(
            lambda: built(found, Environment(progress=shown, members=members, shares=holders)),
            door,
            found.home / serve.LOCK,
            users,
            ready=ready,
            counts=counts,
        )
        tell(f"{name}: ended" if all_ended else f"{name}: ended within a step; its reservation stands")
    if not all_ended:  # a thread that is left in a step would be torn apart with the interpreter
        os._exit(0)


@site_app.command("evaluate")
def site_evaluate(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A SITE document.")],
    state: Annotated[
        Path, typer.Argument(help="The released state: adapter/released.f32 of the coordinator's folder.")
    ],
    federation: Annotated[str | None, typer.Option(help="Which, of a site in several.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option(help="Which, of a federation with several.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """How good a released adapter is on this site's own held-out rows. Computed here; nothing leaves.

    The state is one that a run here released, by this site's own ledger; another one is refused.
    """
    from securefl.documents import site_file  # noqa: PLC0415
    from securefl.site import evaluation  # noqa: PLC0415

    told = evaluation.evaluate(site_file.load(site), state, federation, task)
    shown = [f"{name:<10}{value:.3f}" for name, value in told.items() if isinstance(value, float)]
    head = f"{told['measure']} on {told['n']} held-out rows, after round {told['round']} of {told['federation']}"
    show(as_json, told, "\n".join([f"{head} ({told['note']})", *shown]))


@site_app.command("schema")
def site_schema() -> None:
    """The JSON Schema of SITE documents, for editors."""
    from securefl.documents.site_file import schema_text  # noqa: PLC0415

    print(schema_text(), end="")
