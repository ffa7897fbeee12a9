"""`securefl ledger`: what one party hands to an auditor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Json, group, show

ledger_app = group("What one party hands to an auditor.")


@ledger_app.command("export")
def ledger_export(
    party: Annotated[Path, typer.Argument(metavar="PARTY", help="A SITE or COORDINATOR document, or a home.")],
    out: Annotated[Path, typer.Argument(help="A folder; the ledger is called after its owner there.")],
    as_json: Json = False,
) -> None:
    """Copy this party's ledger: its signed head and every entry, nothing secret. `audit verify` reads it."""
    from securefl.home import export  # noqa: PLC0415

    path, file = export.one(export.home_of(party), out)
    head = file.head.head
    answer = {
        "ledger": str(path),
        "owner": file.owner,
        "key": file.key.hex(),
        "entries": head.size,
        "root": head.root.hex(),
    }
    show(as_json, answer, f"{path}: {head.size} entries of {file.owner}, root {head.root.hex()[:16]}")
