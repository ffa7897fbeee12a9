"""`securefl init`: a first federation from data files."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.installed import check_trains
from securefl.cli.options import Json, say, show


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the documents go.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="A member's data file; give it once for each, or one for all in parts.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column with the text.")] = None,
    label: Annotated[str | None, typer.Option(help="The column with the label.")] = None,
    model: Annotated[str | None, typer.Option(help="A folder, or a Hugging Face name in this machine's cache.")] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="What a member is called, in the files' order; else as its file.")
    ] = None,
    epsilon: Annotated[str | None, typer.Option(help="What all rounds together may cost one record.")] = None,
    name: Annotated[str, typer.Option(help="What the federation is called; else as DIR.")] = "",
    purpose: Annotated[str, typer.Option(help="What the adapter is for.")] = "research",
    region: Annotated[str, typer.Option(help="Where the members stand.")] = "here",
    target: Annotated[
        list[str] | None, typer.Option(help="A layer that gets an adapter, as PEFT matches it; else found by trying.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a federation's file, its policy with cases and a SITE document for each party, all with comments.

    What is not given is asked for at a terminal. Nothing is written over, and no home or key is made.
    """
    check_trains()
    from securefl.cli.schema import Kind, schema_of  # noqa: PLC0415
    from securefl.documents.schemas import schema_text  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415
    from securefl.simulation import init as i  # noqa: PLC0415

    files = data or [Path(each.strip()) for each in _asked("--data", "data files, with commas").split(",")]
    text = text or _asked("--text", "column with the text", "text")
    label = label or _asked("--label", "column with the label", "label")
    model = model or _asked("--model", "model: a folder, or a Hugging Face name in the cache")
    raw = epsilon or _asked("--epsilon", "epsilon: what all rounds together may cost one record", "8")
    members = tuple(member or ())
    if len(files) == 1 and not members:
        members = tuple(each.strip() for each in _asked("--member", "members' names, with commas").split(","))
    try:
        limit = Fraction(raw)
    except (ValueError, ZeroDivisionError):
        limit = Fraction(0)
    if limit <= 0:
        raise OperatorFault(f"epsilon {raw!r}", "give a number above 0, such as 8", "--epsilon")
    asked = i.Asked(tuple(files), text, label, model, members, limit, name, purpose, region, tuple(target or ()))
    schemas = {kind.value: schema_text(schema_of(kind)) for kind in (Kind.FEDERATION, Kind.POLICY, Kind.SITE)}
    written = i.init(folder, asked, schemas)
    federation = written[0]
    lines = [
        *(f"written   {path}" for path in written), "", "next:",
        f"  securefl check {federation}", f"  securefl run {federation} --out {folder / 'run'}",
        f"  securefl policy test {folder}",
    ]  # fmt: skip
    show(as_json, {"federation": str(federation), "written": [str(path) for path in written]}, "\n".join(lines))


def _asked(option: str, question: str, otherwise: str | None = None) -> str:
    """Ask at the terminal for what was not given.

    Raises:
        OperatorFault: there is no terminal to ask at.
    """
    from securefl.errors import OperatorFault  # noqa: PLC0415

    if not sys.stdin.isatty():
        raise OperatorFault(f"{option} is missing", "give it; at a terminal it would be asked for", "init")
    answer = ""
    while not answer:
        say(f"{question}{f' [{otherwise}]' if otherwise else ''}: ", end="")
        try:
            answer = input().strip() or otherwise or ""
        except EOFError:
            raise OperatorFault(f"{option} is missing", "give it, or answer", "init") from None
    return answer
