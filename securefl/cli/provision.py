"""`securefl provision`: the kit of an engine that carries frames, made by the engine's own offline provisioning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Json, show

provision_app = typer.Typer(
    help="Kits of NVIDIA FLARE, in which no job can bring code; each party's key is made where it stays.",
    no_args_is_help=True,
)
Document = Annotated[Path, typer.Argument(metavar="PROJECT", help="A PROJECT document.")]
EngineFolder = Annotated[Path, typer.Option("--engine", help="The engine's own environment: the folder with bin/.")]
Authority = Annotated[Path, typer.Option("--authority", help="The folder of the authority.")]


@provision_app.command("authority")
def provision_authority(
    project: Document,
    engine: EngineFolder,
    out: Annotated[Path, typer.Option(help="The folder to make; its key signs who takes part.")],
    as_json: Json = False,
) -> None:
    """Make the project's certificate authority, where its operator is. Read its fingerprint out to every party."""
    from securefl.documents import project_file  # noqa: PLC0415
    from securefl.kits import flare_provision as p  # noqa: PLC0415

    found = p.authority(project_file.load(project), p.Engine(engine), out.absolute())
    show(as_json, {"authority": str(out), "fingerprint": found}, f"{out}\nfingerprint  {found}")


@provision_app.command("request")
def provision_request(
    project: Document,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A site of the project, or `server`.")],
    engine: EngineFolder,
    out: Annotated[Path, typer.Option(help="The folder to make; the key stays in it.")],
    as_json: Json = False,
) -> None:
    """Make a party's key, where it stays, and a request for its operator to approve."""
    from securefl.documents import project_file  # noqa: PLC0415
    from securefl.kits import flare_provision as p  # noqa: PLC0415

    made = p.request(project_file.load(project), p.Engine(engine), name, out.absolute())
    show(as_json, {"request": str(made), "name": name}, f"{made}: send it to whoever runs the server")


@provision_app.command("approve")
def provision_approve(
    project: Document,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What a party sent.")],
    engine: EngineFolder,
    authority: Authority,
    out: Annotated[Path, typer.Option(help="The folder that the answer is written into.")],
    as_json: Json = False,
) -> None:
    """Sign a request of a party that the project names."""
    from securefl.documents import project_file  # noqa: PLC0415
    from securefl.kits import flare_provision as p  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    signed = out.absolute() / f"{request.name.removesuffix('.request.zip')}.signed.zip"
    made = p.approve(project_file.load(project), p.Engine(engine), request.absolute(), authority.absolute(), signed)
    show(as_json, {"signed": str(made)}, f"{made}: send it back")


@provision_app.command("kit")
def provision_kit(
    project: Document,
    signed: Annotated[Path, typer.Argument(metavar="SIGNED", help="What the operator sent back.")],
    engine: EngineFolder,
    request: Annotated[Path, typer.Option(help="The folder of the request, with the key.")],
    fingerprint: Annotated[str, typer.Option(help="The authority's, as its operator read it out.")],
    out: Annotated[Path, typer.Option(help="The folder that the kit is made in.")],
    agent: Annotated[Path | None, typer.Option(help="Of a site: the socket of its `securefl site serve`.")] = None,
    doors: Annotated[Path | None, typer.Option(help="Of the server: the folder for a socket of each site.")] = None,
    let_in: Annotated[
        list[str] | None, typer.Option("--let-in", metavar="USER", help="Who may ask at the server beside its user.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a party's kit, and start it as FLARE says: `KIT/startup/start.sh`, with the engine's bin/ first on PATH."""
    from securefl.documents import project_file  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415
    from securefl.kits import flare_kit  # noqa: PLC0415
    from securefl.kits import flare_provision as p  # noqa: PLC0415
    from securefl.site.serve import user_named  # noqa: PLC0415

    if agent is not None and doors is None:
        component = flare_kit.agent(agent.absolute())
    elif doors is not None and agent is None:
        component = flare_kit.relay(doors.absolute(), [user_named(each) for each in let_in or ()])
    else:
        raise OperatorFault("a kit is a site's or the server's", "give --agent, or --doors", "provision kit")
    made = p.kit(
        project_file.load(project), p.Engine(engine), signed.absolute(), request.absolute(), fingerprint,
        out.absolute(), component,
    )  # fmt: skip
    show(as_json, {"kit": str(made)}, f"{made}\ncheck it with: securefl doctor --flare {made}")
