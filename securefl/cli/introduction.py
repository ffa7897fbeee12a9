"""`securefl site invite`, `join`, `roster` and `show`: parties are introduced by signed public documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from securefl.cli.options import Json, Unsigned, say, show

Out = Annotated[Path | None, typer.Option(help="Where the signed document goes.", show_default=False)]
Valid = Annotated[int, typer.Option("--days", help="For how long the document counts.", min=1, max=3650)]
CoordinatorArgument = Annotated[Path, typer.Argument(metavar="COORDINATOR", help="A COORDINATOR document.")]
InvitingArgument = Annotated[
    Path,
    typer.Argument(metavar="COORDINATOR", help="A COORDINATOR document, or the SITE document of a sub-federation."),
]
BY_PHONE = "compare it by telephone with {whom}: their voice says whose key it is, not the document"


def invite(
    coordinator: InvitingArgument, out: Out = None, days: Valid = 30, unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Sign an invitation: this coordinator's key, the policy with its signatures, and what is trained.

    A site that is a federation invites its own members, as the coordinator of its sub-federation.
    """
    from securefl.coordinator import inviting  # noqa: PLC0415
    from securefl.site import node  # noqa: PLC0415

    found = _inviting(coordinator)
    invited = node.invite if isinstance(found, node.Node) else inviting.invite
    made = invited(found, days, unsafe_unsigned=unsafe_unsigned)
    place = out or found.path.parent / f"{found.file.name}.invitation"
    _written(place, made, BY_PHONE.format(whom="each party that you send it to"), as_json=as_json)


def roster(coordinator: InvitingArgument, out: Out = None, days: Valid = 365, as_json: Json = False) -> None:
    """Sign the roster: everybody's own answer, so that each party learns the others' keys."""
    from securefl.coordinator import inviting  # noqa: PLC0415

    found = _inviting(coordinator)
    made = inviting.roster(found, days)
    whom = "nobody: the members compare it with each other"
    _written(out or found.path.parent / f"{found.file.name}.roster", made, BY_PHONE.format(whom=whom), as_json=as_json)


def join(
    party: Annotated[Path, typer.Argument(metavar="PARTY", help="This party's SITE or COORDINATOR document.")],
    document: Annotated[Path, typer.Argument(help="An invitation, an answer, or a roster.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="As its author read it out; else it is asked for.", show_default=False)
    ] = None,
    out: Out = None,
    days: Valid = 90,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Take in another party's signed document, once its fingerprint is the one that its author read out.

    A site answers an invitation with its own document, and takes in a roster; a coordinator admits who answers, and so
    does a site that is a federation.
    """
    from securefl.coordinator import inviting  # noqa: PLC0415
    from securefl.documents import introduction, site_file, strict  # noqa: PLC0415
    from securefl.documents.introduction import Answer, Invitation, Roster  # noqa: PLC0415
    from securefl.home.clock import clock  # noqa: PLC0415

    text, now, place = strict.text_of(document, introduction.LIMIT_BYTES), clock(), str(document)
    coordinates, found = strict.read(party).has("securefl_coordinator"), introduction.read_any(text, now, place)
    site = None if coordinates else site_file.load(party)
    if site is None or (site.file.subfederation is not None and isinstance(found.document, Answer)):
        coordinator = _inviting(party)
        answer = introduction.read(text, Answer, now, place)
        inviting.admit(coordinator, _confirmed(answer, fingerprint))
        told = f"{answer.document.card.name}: admitted to {coordinator.file.name}"
        show(as_json, {**_facts(answer), "joined": "answer"}, told)
        return
    from securefl.site import joining  # noqa: PLC0415

    if isinstance(found.document, Roster):
        rostered = introduction.read(text, Roster, now, place)
        everybody = joining.complete(site, _confirmed(rostered, fingerprint))
        federation, names = rostered.document.card.federation, [each.member for each in everybody.everybody]
        then = "serve" if site.file.subfederation is None else "invite"
        told = f"in {federation}, with {', '.join(names)}; next: securefl site {then} {party}"
        show(as_json, {**_facts(rostered), "joined": "roster", "parties": names}, told)
        return
    invitation = introduction.read(text, Invitation, now, place)
    made = joining.answer(site, _confirmed(invitation, fingerprint), days, unsafe_unsigned=unsafe_unsigned)
    federation = invitation.document.card.federation
    answered = out or site.folder / f"{federation}.{site.file.name}.answer"
    _written(answered, made, BY_PHONE.format(whom="the coordinator that you send it to"), as_json=as_json)


def look(
    document: Annotated[Path, typer.Argument(help="An invitation, an answer, or a roster.")], as_json: Json = False
) -> None:
    """What a signed document says, and its fingerprint; nothing is taken in."""
    from securefl.documents import introduction, strict  # noqa: PLC0415
    from securefl.home.clock import clock  # noqa: PLC0415

    now = clock()
    found = introduction.read_any(strict.text_of(document, introduction.LIMIT_BYTES), now, str(document))
    show(as_json, _facts(found), "\n".join(f"{name:<12}{value}" for name, value in _lines(found, now)))


def _inviting(document: Path) -> Any:  # noqa: ANN401 - coordinator.inviting.Inviting
    from securefl.documents import coordinator_suite, site_file, strict  # noqa: PLC0415
    from securefl.site import node  # noqa: PLC0415

    if strict.read(document).has("securefl_site"):
        return node.of(site_file.load(document))
    return coordinator_suite.load(document)


def _confirmed(found: Any, fingerprint: str | None) -> Any:  # noqa: ANN401 - of the kind that was given
    from securefl.documents import introduction  # noqa: PLC0415
    from securefl.home.clock import clock  # noqa: PLC0415

    if fingerprint is None:
        lines = [f"{name:<12}{value}" for name, value in _lines(found, clock()) if name != "fingerprint"]
        say("\n".join([*lines, "", "fingerprint, as its author reads it out: "]), end="")
        fingerprint = sys.stdin.readline().strip()
        if not sys.stdin.isatty():
            say("")
    return introduction.confirmed(found, fingerprint)


def _written(place: Path, made: Any, by_phone: str, *, as_json: bool) -> None:  # noqa: ANN401 - of any kind
    from securefl.errors import OperatorFault  # noqa: PLC0415

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(made.text, encoding="utf-8")
    except OSError as fault:
        what = f"cannot be written: {fault.strerror}"
        raise OperatorFault(what, "choose a folder you may write, with --out", str(place)) from fault
    facts = _facts(made)
    lines = [str(place), f"fingerprint  {facts['fingerprint']}", by_phone]
    show(as_json, {"document": str(place), **facts}, "\n".join(lines))


def _facts(found: Any) -> dict[str, Any]:  # noqa: ANN401 - documents.introduction.Authentic
    card = found.document.card
    return {
        "kind": type(found.document).__name__.lower(), "federation": card.federation, "name": card.name,
        "role": card.role.value, "region": card.region, "key": card.key.hex(), "policy": card.policy.hex(),
        "expires": card.expires, "fingerprint": found.fingerprint,
    }  # fmt: skip


def _lines(found: Any, now: int) -> list[tuple[str, str]]:  # noqa: ANN401 - documents.introduction.Authentic
    from securefl.documents.introduction import DAY_S, Invitation, Roster, answers_of  # noqa: PLC0415

    facts = _facts(found)
    days = f"{-(-max(0, facts.pop('expires') - now) // DAY_S)} days"
    lines = [*((name, str(value)) for name, value in facts.items() if value), ("counts for", days)]
    if isinstance(found.document, Invitation):
        lines += [("offer", line) for line in found.document.offer.decode(errors="replace").splitlines()]
    if isinstance(found.document, Roster):
        cards = [each.document.card for each in answers_of(found)]
        lines += [("party", f"{card.name}, {card.role.value}, {card.region} {card.key.hex()}") for card in cards]
    return lines
