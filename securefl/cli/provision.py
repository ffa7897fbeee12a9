"""`securefl provision`: the kit of an engine that carries frames, made by the engine's own offline provisioning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securefl.cli.options import Json, group, show

if TYPE_CHECKING:
    from securefl.documents.participants import Neighbours

provision_app = group("Kits of NVIDIA FLARE, in which no job can bring code; each party's key is made where it stays.")
Document = Annotated[Path, typer.Argument(metavar="PROJECT", help="A PROJECT document.")]
EngineFolder = Annotated[Path, typer.Option("--engine", help="The engine's own environment: the folder with bin/.")]
Party = Annotated[
    Path | None, typer.Option("--party", help="This party's SITE or COORDINATOR document.", show_default=False)
]
FederationName = Annotated[
    str | None, typer.Option("--federation", help="Whose roster; else the one called as the project.")
]
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
    party: Party = None,
    as_json: Json = False,
) -> None:
    """Make a party's key, where it stays, and a request for its operator to approve.

    With --party, what that party signs of itself from now on names this key: give it before the party joins.
    """
    from securefl.documents import project_file  # noqa: PLC0415
    from securefl.home import engine_key, identity  # noqa: PLC0415
    from securefl.kits import flare_provision as p  # noqa: PLC0415

    home = None if party is None else _home(party, at_server=name == project_file.SERVER)[0]
    if home is not None:
        identity.check(home, "this party", "make one: `securefl site init`, or `securefl coordinator init`")
    made, key = p.request(project_file.load(project), p.Engine(engine), name, out.absolute())
    if home is not None:
        engine_key.say(home, key)
    told = {"request": str(made), "name": name, "key": key.hex()}
    show(as_json, told, f"{made}: send it to whoever runs the server\nkey  {key.hex()}")


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
    agent: Annotated[
        Path | None, typer.Option(help="Of who is asked: the socket of its `securefl site serve`.")
    ] = None,
    doors: Annotated[
        Path | None, typer.Option(help="Of who asks, a server or a custodian: the folder for a socket of each site.")
    ] = None,
    let_in: Annotated[
        list[str] | None, typer.Option("--let-in", metavar="USER", help="Who may ask there beside the engine's user.")
    ] = None,
    party: Party = None,
    federation: FederationName = None,
    by_job: Annotated[
        bool, typer.Option("--by-job", help="A job carries, which the server submits; needs --party, and no custodian.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a party's kit, and start it as FLARE says: `KIT/startup/start.sh`, with the engine's bin/ first on PATH.

    With --party, the roster of its home says who asks whom, and by which key each is known.
    """
    from securefl.documents import project_file  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415
    from securefl.kits import flare_kit  # noqa: PLC0415
    from securefl.kits import flare_provision as p  # noqa: PLC0415
    from securefl.site.serve import user_named  # noqa: PLC0415

    loaded = project_file.load(project)
    others = None if party is None else neighbours(party, federation or loaded.file.name, at_server=agent is None)
    if others is not None and p.key_in(request.absolute(), signed) != others.own:
        what = "the key of this request is not the one that the party's card names"
        remedy = "say it with `securefl provision request --party`, and join anew; or give that request"
        raise OperatorFault(what, remedy, str(request))
    if agent is None and doors is None:
        raise OperatorFault("a kit is of who asks or of who is asked", "give --agent, or --doors", "provision kit")
    if agent is not None and doors is not None and not (others and others.asks and others.asked_by):
        remedy = "give --agent at a site, --doors at the server, both with --party at a custodian"
        raise OperatorFault("only a custodian is asked and asks", remedy, "provision kit")
    components = []
    if agent is not None:
        components.append(flare_kit.agent(agent.absolute(), others.asked_by if others else None))
    if doors is not None:
        users = [user_named(each) for each in let_in or ()]
        components.append(flare_kit.relay(doors.absolute(), users, others.asks if others else None))
    if by_job and (others is None or len(components) > 1):
        remedy = "give --party; a custodian whose members hold shares needs the other arrangement"
        raise OperatorFault("a job carries for parties that a roster names", remedy, "--by-job")
    components = [flare_kit.by_job(each) for each in components] if by_job else components
    made = p.kit(
        loaded, p.Engine(engine), signed.absolute(), request.absolute(), fingerprint, out.absolute(), components
    )
    show(as_json, {"kit": str(made)}, f"{made}\ncheck it with: securefl doctor --flare {made}")


def neighbours(document: Path, federation: str, *, at_server: bool) -> Neighbours:
    """Return who asks this party and whom it asks, by the roster of its home."""
    from securefl.documents import participants  # noqa: PLC0415
    from securefl.home import introduced  # noqa: PLC0415

    home, owner = _home(document, at_server=at_server)
    return participants.neighbours(introduced.roster_at(home, federation), owner)


def _home(document: Path, *, at_server: bool) -> tuple[Path, str]:
    """Return the home of the party with this document, and its name; at its own server, a node is a coordinator."""
    from securefl.documents import coordinator_suite, site_file, strict  # noqa: PLC0415
    from securefl.site import node  # noqa: PLC0415
    from securefl.terms.parties import COORDINATOR  # noqa: PLC0415

    if strict.read(document).has("securefl_coordinator"):
        return coordinator_suite.load(document).home, COORDINATOR
    site = site_file.load(document)
    return (node.of(site).home, COORDINATOR) if at_server else (site.home, site.file.name)
