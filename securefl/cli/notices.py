"""`securefl keys rotate`, `revoke`, `leave`, `take`, `list`: what a party says of its key, and what others said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securefl.cli.options import Json, say, show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from securefl.home.home import Home
    from securefl.terms import SignedNotice

Party = Annotated[Path, typer.Argument(metavar="PARTY", help="A SITE or COORDINATOR document, or a home.")]
Into = Annotated[Path, typer.Option("--out", help="A folder for the notices that the other parties take in.")]
Federation = Annotated[str, typer.Option(help="In which federation.")]
Key = Annotated[
    str | None, typer.Option(help="Which of this party's keys, or its fingerprint; a former one too: see `keys list`.")
]
HOUR_S = 3600


def _home(party: Path) -> Home:
    from securefl.documents import coordinator_suite, site_file, strict  # noqa: PLC0415
    from securefl.home import export  # noqa: PLC0415

    if party.is_dir():
        return export.home_of(party)
    if strict.read(party).has("securefl_coordinator"):
        from securefl.coordinator import inviting  # noqa: PLC0415

        return inviting.opened(coordinator_suite.load(party))
    from securefl.site.build import opened  # noqa: PLC0415

    return opened(site_file.load(party))


def rotate(
    party: Party,
    out: Into,
    overlap: Annotated[int, typer.Option(min=0, help="Hours in which the old key still ends runs that began.")] = 24,
    as_json: Json = False,
) -> None:
    """Exchange this party's key. The old one vouches for it; runs go on, and a served site need not be restarted."""
    from securefl.home.rotation import rotate as exchange  # noqa: PLC0415

    home = _home(party)
    _written(exchange(home, overlap * HOUR_S), out, as_json=as_json)


def revoke(party: Party, federation: Federation, out: Into, key: Key = None, as_json: Json = False) -> None:
    """A key of this party speaks for it no more: from the next message on, whoever takes the notice refuses it.

    Without `--key`, the one that counts. While two do, because the old one of a rotation still does, say which.
    """
    from securefl.home import notices  # noqa: PLC0415

    home = _home(party)
    said = notices.revoke(home, federation, key)
    if said.notice.key != home.identity.public:
        first = "a former key: whoever has not taken its hand-over in does so first, and then this"
        say(first)
    _written((said,), out, as_json=as_json)


def leave(party: Party, federation: Federation, out: Into, as_json: Json = False) -> None:
    """Leave a federation for good: no later round of any run includes this party, under whatever key."""
    from securefl.home import notices  # noqa: PLC0415

    _written((notices.leave(_home(party), federation),), out, as_json=as_json)


def take(
    party: Party,
    notice: Annotated[list[Path], typer.Argument(help="What other parties said of their keys.")],
    as_json: Json = False,
) -> None:
    """Take in what another party said of its key: signed by that key alone, it counts from now on. Else exit 4."""
    from securefl.documents.strict import text_of  # noqa: PLC0415
    from securefl.home import notices  # noqa: PLC0415

    home, told, lines = _home(party), list[dict[str, object]](), list[str]()
    for path in notice:
        signed = notices.read(text_of(path), str(path))
        is_new = notices.take(home, signed.notice.federation, signed)
        what = type(signed.notice).__name__.lower()
        told.append({"file": str(path), "party": signed.notice.party, "notice": what, "new": is_new})
        lines.append(f"{path}: {what} of {signed.notice.party}, {'taken in' if is_new else 'known before'}")
    show(as_json, {"notices": told}, "\n".join(lines))


def list_(party: Party, as_json: Json = False) -> None:
    """Everybody's key as this party knows it: fingerprint, age beside what the policy allows, whether it counts now."""
    from securefl.home import notices  # noqa: PLC0415

    rows = notices.listed(_home(party))
    told = [
        {"federation": each.federation, "party": each.party, "key": each.key.hex(), "fingerprint": each.fingerprint,
         "since": each.since, "standing": each.standing, "age_days": _days(each.age.age_s),
         "max_age_days": _days(each.age.most_s)}
        for each in rows
    ]  # fmt: skip
    lines = [
        f"{each.federation}  {each.party:<16}{each.fingerprint}  {each.age!s:<20}{each.standing}"
        + ("; SOON TOO OLD: its owner runs `securefl keys rotate`" if each.age.is_soon and not each.age.is_over else "")
        for each in rows
    ]
    show(as_json, {"keys": told}, "\n".join(lines))


def _days(seconds: int | None) -> int | None:
    return None if seconds is None else seconds // (24 * HOUR_S)


def _written(said: Iterable[SignedNotice], out: Path, *, as_json: bool) -> None:
    from securefl import files  # noqa: PLC0415
    from securefl.home import notices  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    told, lines = list[dict[str, str]](), list[str]()
    for signed in said:
        notice = signed.notice
        kind = type(notice).__name__.lower()
        path = out / f"{notice.federation}.{notice.party}.{kind}"
        files.write(path, notices.text_of(signed).encode())
        path.chmod(0o644)  # signed, and nothing secret
        told.append({"federation": notice.federation, "notice": kind, "file": str(path)})
        lines.append(
            f"{path}: send it to the others in {notice.federation}, who run: securefl keys take PARTY {path.name}"
        )
    show(as_json, {"notices": told}, "\n".join(lines))
