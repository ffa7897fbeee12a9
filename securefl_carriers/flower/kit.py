"""A party's folder for Flower: its keys, what it trusts, and one JSON file in which its owner wrote four lines.

There is nothing in it that could loosen anything: `serve.py` composes every option that Flower is started with.
Keys are made where they stay. What travels are a certificate and public keys, with fingerprints to read out.
"""

from __future__ import annotations

import argparse
import datetime as dt
import fcntl
import hashlib
import ipaddress
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securefl_carriers.doors import NAME
from securefl_carriers.flower.nodes import Nodes, NoKey, key_of
from securefl_carriers.flower.private_files import write

FILE, MARK = "kit.json", "securefl_flower_kit"
KIT: Final = "SECUREFL_FLOWER_KIT"  # of this process: the folder
DAYS: Final = 365  # that a certificate is good for
AUTHORITY: Final = "securefl authority"  # of one server, in its own kit
LOOPBACK: Final = "127.0.0.1"
SECRET: Final = 32  # bytes that a Flower process and what works for it on the same machine share
MOST_PUBLIC: Final = 1 << 16  # bytes of a certificate or public key that somebody sent


class NoKit(Exception):
    """The folder is no kit, or what was asked for is no part of one."""


@dataclass(frozen=True, slots=True)
class SiteKit:
    """What a site's owner wrote."""

    folder: Path
    name: str
    superlink: str  # host:port, of the gate
    agent: Path  # the socket of `securefl site serve`
    port: int  # of the SuperNode itself, on this machine only

    kind: ClassVar[str] = "site"

    def __post_init__(self) -> None:
        _named(self.name)
        _absolute("agent", self.agent)
        address(self.superlink)

    @classmethod
    def load(cls, folder: Path) -> SiteKit:
        """Read one.

        Raises:
            NoKit: it is none.
        """
        told = _told(folder, cls.kind, {"name": str, "superlink": str, "agent": str, "port": int})
        return cls(folder, told["name"], told["superlink"], Path(told["agent"]), told["port"])


@dataclass(frozen=True, slots=True)
class ServerKit:
    """What the server's owner wrote."""

    folder: Path
    public: str  # host:port where the gate listens
    port: int  # of the SuperLink itself, on this machine only
    doors: Path
    let_in: Sequence[int] = ()

    kind: ClassVar[str] = "server"

    def __post_init__(self) -> None:
        _absolute("doors", self.doors)
        address(self.public)

    @classmethod
    def load(cls, folder: Path) -> ServerKit:
        """Read one.

        Raises:
            NoKit: it is none.
        """
        told = _told(folder, cls.kind, {"public": str, "port": int, "doors": str, "let_in": list})
        return cls(folder, told["public"], told["port"], Path(told["doors"]), tuple(told["let_in"]))

    @classmethod
    def of_this_process(cls) -> ServerKit:
        """Return the one that this process was started for."""
        return cls.load(Path(os.environ[KIT]))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Carry: one run does, another waits for its end."""
        with self._turn.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def is_carried(self) -> bool:
        """Whether a run carries now."""
        with self._turn.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @property
    def _turn(self) -> Path:
        return self.folder / "turn"

    @property
    def nodes(self) -> Nodes:
        """Whom it lets in."""
        return Nodes(self.folder)


def make_server(kit: ServerKit, host: str) -> str:
    """Make the server's kit; return the fingerprint of its authority, to read out to every site."""
    folder = kit.folder
    (folder / "nodes").mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    authority, ours = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    root = _certificate(AUTHORITY, authority, authority, ())
    leaf = _certificate("securefl server", ours, authority, (host, "localhost", LOOPBACK))
    write(folder / "ca.key", _pem(authority))
    write(folder / "ca.crt", root.public_bytes(serialization.Encoding.PEM))
    write(folder / "server.key", _pem(ours))
    write(folder / "server.crt", leaf.public_bytes(serialization.Encoding.PEM))
    _finish(kit)
    return fingerprint((folder / "ca.crt").read_bytes())


def make_site(kit: SiteKit, root: Path, told: str) -> str:
    """Make a site's kit, with a key of its own; return the fingerprint of that key, to read out to the server.

    Raises:
        NoKit: the authority's certificate is not the one whose fingerprint was read out.
    """
    authority, folder = _as_read_out(root, told), kit.folder
    folder.mkdir(mode=0o700, parents=True)
    key = ec.generate_private_key(ec.SECP384R1())
    ssh = serialization.PrivateFormat.OpenSSH
    write(folder / "node.key", key.private_bytes(serialization.Encoding.PEM, ssh, serialization.NoEncryption()))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write(folder / "node.pub", public)
    write(folder / "ca.crt", authority)
    _finish(kit)
    return fingerprint(public)


def admit(folder: Path, name: str, key: Path, told: str) -> None:
    """Let a site connect, by its public key.

    Raises:
        NoKit: the key is not the one whose fingerprint was read out, is none, is admitted under another name or was
            taken back; or another one has that name.
    """
    nodes = ServerKit.load(folder).nodes
    _named(name)
    public = _as_read_out(key, told)
    try:
        own = key_of(public)
    except NoKey as fault:
        raise NoKit(f"{key}: {fault}") from fault
    if nodes.place(name).exists():
        raise NoKit(f"{name} is admitted already")
    if own in nodes.keys().values():
        raise NoKit(f"{key}: this key is admitted already, under another name")
    if own in nodes.registered().gone:
        raise NoKit(f"{key}: this key was taken back; have {name} make a kit anew")
    write(nodes.place(name), public)


def fingerprint(public: bytes) -> str:
    """Return the SHA-256 of what a public file says."""
    return hashlib.sha256(public).hexdigest()


def _as_read_out(path: Path, told: str) -> bytes:
    """Read a file that somebody sent, once: only these bytes are known to be those whose fingerprint was read out.

    Raises:
        NoKit: it has another fingerprint.
    """
    with path.open("rb") as file:
        public = file.read(MOST_PUBLIC + 1)
    if len(public) > MOST_PUBLIC:
        raise NoKit(f"{path}: more than {MOST_PUBLIC} bytes")
    if fingerprint(public) != told:
        raise NoKit(f"{path}: its fingerprint is {fingerprint(public)}")
    return public


def _finish(kit: SiteKit | ServerKit) -> None:
    write(kit.folder / "secret", secrets.token_bytes(SECRET))
    told = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(kit).items()}
    told.pop("folder")
    write(kit.folder / FILE, json.dumps({MARK: kit.kind, **told}, indent=2).encode())


def _told(folder: Path, kind: str, fields: Mapping[str, type]) -> dict[str, Any]:
    told = _read(folder)
    if told.pop(MARK) != kind:
        raise NoKit(f"{folder} is not the kit of a {kind}")
    if {name: type(value) for name, value in told.items()} != fields:
        raise NoKit(f"{folder / FILE} has not what the kit of a {kind} has: {', '.join(fields)}")
    return told


def kind_of(folder: Path) -> str:
    """Return whose kit a folder is, a site's or the server's.

    Raises:
        NoKit: nobody's.
    """
    return str(_read(folder)[MARK])


def loaded(folder: Path) -> SiteKit | ServerKit:
    """Read a kit of either kind.

    Raises:
        NoKit: it is none.
    """
    return ServerKit.load(folder) if kind_of(folder) == ServerKit.kind else SiteKit.load(folder)


def _read(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise NoKit(f"{folder} is no kit: {fault}") from fault
    if not isinstance(told, dict) or MARK not in told:
        raise NoKit(f"{folder} is no kit")
    return told


def _named(name: str) -> None:
    if NAME.fullmatch(name) is None or name == ServerKit.kind:
        raise NoKit(f"{name} is no name of a site")


def _absolute(what: str, path: Path) -> None:
    if not path.is_absolute():
        raise NoKit(f"{what}: {path} is no absolute path")


def address(text: str) -> tuple[str, int]:
    """Split host:port.

    Raises:
        NoKit: it is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise NoKit(f"{text} is no host:port")
    return host, int(port)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, hosts: Sequence[str]
) -> x509.Certificate:
    """Make a certificate: of an authority if there are no hosts, of a server otherwise."""
    now, leaf = dt.datetime.now(dt.UTC), bool(hosts)
    usage = {
        "digital_signature": leaf, "key_cert_sign": not leaf, "crl_sign": not leaf, "content_commitment": False,
        "key_encipherment": False, "data_encipherment": False, "key_agreement": False, "encipher_only": False,
        "decipher_only": False,
    }  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(_called(name))
        .issuer_name(_called(AUTHORITY))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=not leaf, path_length=None if leaf else 0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if leaf:
        names = x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)])
        made = made.add_extension(names, critical=False)
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return made.sign(signer, hashes.SHA384())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def main(argv: Sequence[str] | None = None) -> None:
    """Make a kit, or admit a site."""
    parser = argparse.ArgumentParser(prog="python -m securefl_carriers.flower.kit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    of_server = commands.add_parser("server", help="make the server's kit")
    of_server.add_argument("kit", type=Path)
    of_server.add_argument("--host", required=True, help="its name, as sites connect to it")
    of_server.add_argument("--public", default="0.0.0.0:8443", help="where sites connect")
    of_server.add_argument("--port", type=int, default=8000, help="of the SuperLink, on this machine only")
    of_server.add_argument("--doors", type=Path, required=True, help="folder of sockets for the coordinator")
    of_server.add_argument("--let-in", type=int, action="append", default=[], help="a user, by uid, who may ask too")
    of_site = commands.add_parser("site", help="make a site's kit")
    of_site.add_argument("kit", type=Path)
    of_site.add_argument("--name", required=True)
    of_site.add_argument("--superlink", required=True, help="host:port of the server")
    of_site.add_argument("--agent", type=Path, required=True, help="socket of `securefl site serve`")
    of_site.add_argument("--port", type=int, default=9094, help="of the SuperNode, on this machine only")
    of_site.add_argument("--ca", type=Path, required=True, help="the authority's certificate, from the server")
    of_site.add_argument("--fingerprint", required=True, help="of that, as it was read out")
    of_admit = commands.add_parser("admit", help="let a site connect")
    of_admit.add_argument("kit", type=Path)
    of_admit.add_argument("--name", required=True)
    of_admit.add_argument("--key", type=Path, required=True, help="the site's node.pub")
    of_admit.add_argument("--fingerprint", required=True, help="of that, as it was read out")
    asked = parser.parse_args(argv)
    try:
        if asked.command == "server":
            print(make_server(ServerKit(asked.kit, asked.public, asked.port, asked.doors, asked.let_in), asked.host))
        elif asked.command == "site":
            kit = SiteKit(asked.kit, asked.name, asked.superlink, asked.agent, asked.port)
            print(make_site(kit, asked.ca, asked.fingerprint))
        else:
            admit(asked.kit, asked.name, asked.key, asked.fingerprint)
    except (NoKit, OSError) as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
