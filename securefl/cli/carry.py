"""`securefl carry`: a site whom no wire reaches answers what a courier brought."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Json, group, show
from securefl.standard_error import owned

carry_app = group("Messages as files, for machines that no wire joins.")


@carry_app.command("answer")
def carry_answer(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A SITE document.")],
    taken: Annotated[Path, typer.Argument(help="What the courier brought: the coordinator's folder `to/NAME`.")],
    into: Annotated[Path, typer.Option(help="Where answers go: what the courier takes to `from/NAME`.")],
    as_json: Json = False,
) -> None:
    """Answer every package in a folder. One that is cut, altered or another party's is refused by name: exit 4."""
    from securefl import key_files  # noqa: PLC0415
    from securefl.documents import site_file  # noqa: PLC0415
    from securefl.home import identity  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415
    from securefl.site import carry, serve  # noqa: PLC0415
    from securefl.site.build import Environment  # noqa: PLC0415
    from securefl.site.dispatch import built  # noqa: PLC0415
    from securefl.terms import MemberId  # noqa: PLC0415

    found = site_file.load(site)
    with owned(), progress() as shown:
        dispatcher = built(found, Environment(progress=shown))
        key = key_files.load(identity.place(found.home))
        me, most = MemberId(found.file.name), dispatcher.most_request
        with serve.alone(found.home / serve.LOCK):  # one process of a site trains at a time
            handled = carry.answer_all(dispatcher, key, me, dispatcher.coordinators, taken, into, most=most)
    told = [
        {"package": str(each.package), "answer": str(each.answer) if each.answer else None,
         "refused": each.refused.rule.value if each.refused else None}
        for each in handled
    ]  # fmt: skip
    lines = [f"{each.package}: answered, in {each.answer}" if each.answer else str(each.refused) for each in handled]
    ok = all(each.refused is None for each in handled)
    show(as_json, {"ok": ok, "packages": told}, "\n".join(lines))
    if not ok:
        raise typer.Exit(4)
