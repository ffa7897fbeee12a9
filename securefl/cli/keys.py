"""`securefl keys` and `securefl custodian`: who signs, and who holds the decryption key."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.cli import notices
from securefl.cli.options import Json, group, show
from securefl.cli.train import is_suite

if TYPE_CHECKING:
    from securefl.keys import Secret
    from securefl.terms import PublicKey

keys_app = group("Who signs.")
custodian_app = group("Who holds the decryption key.")


keys_app.command("rotate")(notices.rotate)
keys_app.command("revoke")(notices.revoke)
keys_app.command("leave")(notices.leave)
keys_app.command("take")(notices.take)
keys_app.command("list")(notices.list_)


@keys_app.command("init")
def keys_init(
    path: Path,
    encrypt: Annotated[bool, typer.Option(help="Under a passphrase, also if none is set for this process.")] = False,
    as_json: Json = False,
) -> None:
    """Make a key, readable by its owner alone; its public half is what a policy names."""
    from securefl import key_files, passphrases  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415

    if path.exists():
        raise OperatorFault("there is a file already", "choose another place, or use `keys show`", str(path))
    passphrase = passphrases.chosen(path) if encrypt else None
    path.parent.mkdir(parents=True, exist_ok=True)
    public = key_files.load_or_create(path, passphrase).public
    show(as_json, _told(path, public), public.hex())


@keys_app.command("show")
def keys_show(
    path: Path,
    fingerprint: Annotated[bool, typer.Option(help="Print what is read out over a telephone instead.")] = False,
    as_json: Json = False,
) -> None:
    """The public half of a key."""
    from securefl import key_files  # noqa: PLC0415

    told = _told(path, key_files.load(path).public)
    show(as_json, told, told["fingerprint" if fingerprint else "public"])


@keys_app.command("encrypt")
def keys_encrypt(
    path: Annotated[Path, typer.Argument(help="A key, or a home: then everything secret that is its owner's.")],
    to: Annotated[Path | None, typer.Option(help="A file with the new passphrase, of mode 0600.")] = None,
    as_json: Json = False,
) -> None:
    """Put private keys under a passphrase, or under another one: in a file, from the process, or typed twice."""
    from securefl import key_files, passphrases  # noqa: PLC0415
    from securefl.home import identity  # noqa: PLC0415

    following = None if to is None else passphrases.chosen(path, to)
    with identity.in_turn(path):
        held = identity.secrets(path)
        opened = [_opened(each, following) for each in held]
        passphrase = following or passphrases.chosen(path)
        for each, secret in zip(held, opened, strict=True):
            key_files.exchange(each, key_files.encrypted(secret, passphrase))
    show(as_json, {"encrypted": [str(each) for each in held]}, f"encrypted: {', '.join(map(str, held))}")


@keys_app.command("decrypt")
def keys_decrypt(path: Path, as_json: Json = False) -> None:
    """Leave private keys without a passphrase: whoever can read the disk can then sign."""
    from securefl import key_files  # noqa: PLC0415
    from securefl.home import identity  # noqa: PLC0415

    with identity.in_turn(path):
        held = identity.secrets(path)
        for each, secret in [(each, key_files.secret(each)) for each in held]:
            key_files.exchange(each, secret.raw)
    show(as_json, {"decrypted": [str(each) for each in held]}, f"not encrypted: {', '.join(map(str, held))}")


def _opened(path: Path, following: bytes | None) -> Secret:
    """What is kept at ``path``, under this process's passphrase, or already under the one that follows it."""
    from securefl import key_files  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415

    if following is not None and key_files.is_encrypted(path):  # a change that was cut off is made again
        with suppress(OperatorFault):
            return key_files.secret(path, following)
    return key_files.secret(path)


def _told(path: Path, public: PublicKey) -> dict[str, Any]:
    from securefl import key_files  # noqa: PLC0415
    from securefl.keys import fingerprint  # noqa: PLC0415

    return {
        "key": str(path), "public": public.hex(), "fingerprint": fingerprint(public),
        "encrypted": key_files.is_encrypted(path),
    }  # fmt: skip


@custodian_app.command("split")
def custodian_split(
    federation: Annotated[Path, typer.Argument(help="A custodian's SITE document, or a simulation's federation.")],
    threshold: Annotated[int, typer.Option(help="How many members' shares give the key.")],
    sites: Annotated[Path | None, typer.Option(help="Where the sites' homes are; else as the file says.")] = None,
    inside: Annotated[
        str, typer.Option(help="In a tree: the way to the federation below whose key it is, such as west/coast.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Of a SITE document: where each member's sealed share is written.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Split the decryption key among the members; from now on it is whole in the custodian's memory alone."""
    from securefl.documents import strict  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415

    if strict.read(federation).has("securefl_site"):
        _deal(federation, threshold, out, as_json=as_json)
        return
    if out is not None:
        raise OperatorFault("a simulation puts shares into its members' homes", "leave --out out", str(federation))
    from securefl.simulation import introduction  # noqa: PLC0415

    if is_suite(federation):
        from securefl.documents import suite_file  # noqa: PLC0415
        from securefl.simulation import suite  # noqa: PLC0415

        if inside:
            raise OperatorFault("tasks have no federation below", "leave --inside out", str(federation))
        suite.split_key(suite_file.load(federation), sites, threshold)
    else:
        introduction.split_key(federation, sites, threshold, inside)
    show(as_json, {"threshold": threshold}, f"split; {threshold} members' shares give the key when a run begins")


def _deal(document: Path, threshold: int, out: Path | None, *, as_json: bool) -> None:
    from securefl.documents import site_file  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415
    from securefl.site import joining  # noqa: PLC0415

    if out is None:
        raise OperatorFault("a key is split by sealed shares", "say where they go: --out", str(document))
    written = joining.deal(site_file.load(document), threshold, out)
    lines = [*map(str, written), f"split; {threshold} of these give the key. Send each to its member, who runs:",
             "securefl custodian keep SITE SHARE"]  # fmt: skip
    show(as_json, {"threshold": threshold, "shares": [str(each) for each in written]}, "\n".join(lines))


@custodian_app.command("keep")
def custodian_keep(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A member's SITE document.")],
    share: Annotated[Path, typer.Argument(help="The share that its custodian sent.")],
    as_json: Json = False,
) -> None:
    """Keep this member's share of a decryption key: its site gives it to the custodian that asks, sealed."""
    from securefl.documents import site_file, strict  # noqa: PLC0415
    from securefl.site import joining  # noqa: PLC0415

    key, threshold = joining.keep_share(site_file.load(site), strict.text_of(share), str(share))
    told = f"kept; {threshold} shares give the key {key.hex()[:16]}"
    show(as_json, {"key": key.hex(), "threshold": threshold}, told)
