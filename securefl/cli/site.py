"""`securefl site`: what one party owns, whom it trusts, and what it lets a plan ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Json, show

site_app = typer.Typer(help="One party's own document.", no_args_is_help=True)


@site_app.command("check")
def site_check(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A SITE document.")],
    load: Annotated[bool, typer.Option("--load", help="Also load the model and read the records.")] = False,
    as_json: Json = False,
) -> None:
    """The document is well formed, and fits what is here; nothing is made or changed. Exit 2 if something is wrong."""
    from securefl.documents import site_file  # noqa: PLC0415
    from securefl.site.check import WRONG, examine  # noqa: PLC0415

    found = site_file.load(site)
    findings = examine(found, load=load)
    ok = all(each.status != WRONG for each in findings)
    rows = [{"what": f.what, "status": f.status, "detail": f.detail, "remedy": f.remedy} for f in findings]
    wide = max(len(each.what) for each in findings) + 2
    lines = [f"{site}: well formed, {found.file.name}"] + [
        f"{f.status:<9}{f.what:<{wide}}{f.detail}" + (f"  ->  {f.remedy}" if f.remedy else "") for f in findings
    ]
    show(as_json, {"ok": ok, "site": str(site), "name": found.file.name, "findings": rows}, "\n".join(lines))
    if not ok:
        raise typer.Exit(2)


@site_app.command("schema")
def site_schema() -> None:
    """The JSON Schema of SITE documents, for editors."""
    from securefl.documents.site_file import schema_text  # noqa: PLC0415

    print(schema_text(), end="")
