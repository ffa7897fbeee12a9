"""A party's folder for Flower: whom does it let in, and what could be read or run by others? Nothing is changed.

Every option that Flower is started with is composed by `securefl_carriers.flower.serve`; what is left to look at are
the folder itself, what it trusts, and whether what runs now was started so.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from securefl.errors import OperatorFault
from securefl.kits.flare_kit import OK, WRONG, Finding

FILE, MARK, SERVER, SITE = "kit.json", "securefl_flower_kit", "server", "site"
FIELDS: Final = {SERVER: {"public", "port", "doors", "let_in"}, SITE: {"name", "superlink", "agent", "port"}}
SOCKETS: Final = {SERVER: "doors", SITE: "agent"}  # the one path that is not in the folder
NODES: Final = "nodes.json"  # of the server's kit: which keys it had Flower register
RUNNING: Final = "`python -m securefl_carriers.flower.serve KIT` takes back, while it runs, what is not in nodes/"
LISTENS: Final = "0A"  # a socket's state in the kernel's own table
LOOPBACKS: Final = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
SOON: Final = dt.timedelta(days=30)  # a certificate that is over by then is worth a word


def examine(kit: Path, tables: Sequence[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> tuple[Finding, ...]:
    """What this kit lets anybody do; ``tables`` are the kernel's, of who listens on this machine.

    Raises:
        OperatorFault: this is no kit.
    """
    told = _told(kit)
    looks = (_fields(told), _private(kit), _keys(kit, told), _certificate(kit), _alone(told, tables))
    return tuple(each for look in looks for each in look)


def _told(kit: Path) -> dict[str, Any]:
    remedy = "give the folder that `python -m securefl_carriers.flower.kit` made"
    try:
        told = json.loads((kit / FILE).read_text(encoding="utf-8"))
        kind, port = told[MARK], told["port"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise OperatorFault(f"no kit of Flower: {fault}", remedy, str(kit)) from fault
    if kind not in FIELDS or not isinstance(port, int) or not isinstance(told.get(SOCKETS[kind]), str):
        raise OperatorFault("no kit of Flower", remedy, str(kit / FILE))
    return dict(told)


def _fields(told: Mapping[str, Any]) -> Iterator[Finding]:
    strange = sorted(told.keys() ^ {MARK, *FIELDS[told[MARK]]})
    yield _found("settings", f"those of a {told[MARK]}, and no other", strange, f"{FILE}: make the kit anew")
    place = told[SOCKETS[told[MARK]]]
    relative = [] if Path(place).is_absolute() else [place]
    yield _found("carrier", f"{SOCKETS[told[MARK]]} at {place}", relative, f"{FILE}: give an absolute path")


def _private(kit: Path) -> Iterator[Finding]:
    """Whoever else can read the folder has the key; whoever can write it decides what runs."""
    loose = [str(path.relative_to(kit)) for path in (kit, *sorted(kit.rglob("*"))) if _is_shared(path, kit)]
    yield _found(
        "folder", "its owner's alone", [each if each != "." else str(kit) for each in loose][:5], "chmod -R go= it"
    )


def _is_shared(path: Path, kit: Path) -> bool:
    """Whether others can reach it: what lies in a private folder is private, unless others may write it."""
    seen = path.lstat()
    others = stat.S_IRWXG | stat.S_IRWXO if path == kit or path.suffix == ".key" or path.name == "secret" else 0o022
    return not stat.S_ISLNK(seen.st_mode) and bool(stat.S_IMODE(seen.st_mode) & others)


def _keys(kit: Path, told: Mapping[str, Any]) -> Iterator[Finding]:
    if told[MARK] == SITE:
        try:
            own = serialization.load_ssh_private_key((kit / "node.key").read_bytes(), None).public_key()
            public = own.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            bad = [] if public == (kit / "node.pub").read_bytes() else ["node.pub is of another key"]
        except (OSError, ValueError) as fault:
            bad = [f"node.key: {fault}"]
        yield _found("key", "the node's own, known to the server by its other half", bad, "make the kit anew")
        return
    keys = {path.stem: _key_of(path) for path in sorted((kit / "nodes").glob("*.pub"))}
    owners = {key: [name for name, other in keys.items() if other == key] for key in keys.values() if key}
    bad = [f"{' and '.join(names)} have one key" for names in owners.values() if len(names) > 1]
    bad += [f"nodes/{name}.pub is no key" for name, key in keys.items() if not key]
    nodes, gone = _registered(kit)
    bad += [f"{name} has a key that was taken back: it makes a kit anew" for name, key in keys.items() if key in gone]
    remedy = f"remove it from nodes/, of two one; {RUNNING}"
    yield _found("sites", f"{len(keys)} are let in, each by a key of its own", bad, remedy)
    strays = [f"{NODES}: a node whose key {key[:16]} is not in nodes/" for key in nodes if key not in owners]
    yield _found("nodes", "nobody is registered who is not let in", strays, RUNNING)


def _key_of(path: Path) -> str:
    """SHA-256 of a node's public key, however it was written down; empty if it is none."""
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        return hashlib.sha256(key.public_bytes(*form)).hexdigest()
    except (OSError, ValueError, UnsupportedAlgorithm):
        return ""


def _registered(kit: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of the nodes that Flower was told of, and those of the nodes that it was told to forget."""
    try:
        told = json.loads((kit / NODES).read_text(encoding="utf-8"))
        return tuple(map(str, told["nodes"])), tuple(map(str, told["gone"]))
    except FileNotFoundError:
        return (), ()
    except (OSError, ValueError, KeyError, TypeError) as fault:
        remedy = "move it away, and make the server's kit anew"
        raise OperatorFault(f"cannot be read: {fault}", remedy, str(kit / NODES)) from fault


def _certificate(kit: Path) -> Iterator[Finding]:
    try:
        root = x509.load_pem_x509_certificate((kit / "ca.crt").read_bytes())
        own = kit / "server.crt"
        leaf = x509.load_pem_x509_certificate(own.read_bytes()) if own.exists() else root
        leaf.verify_directly_issued_by(root)
        left = min(root.not_valid_after_utc, leaf.not_valid_after_utc) - dt.datetime.now(dt.UTC)
        bad = [f"over in {left.days} days"] if left < SOON else []
    except (OSError, ValueError, TypeError, InvalidSignature) as fault:
        bad = [str(fault) or type(fault).__name__]
    yield _found("connection", "TLS, under this server's own authority", bad, "make the server's kit anew")


def _alone(told: Mapping[str, Any], tables: Sequence[Path]) -> Iterator[Finding]:
    """Flower's own port asks nobody who they are: whoever reaches it registers nodes and submits runs."""
    port, bad = f"{told['port']:04X}", []
    for table in tables:
        for line in table.read_text(encoding="utf-8").splitlines()[1:] if table.exists() else ():
            local, state = line.split()[1], line.split()[3]
            if state == LISTENS and local.endswith(f":{port}") and local.rpartition(":")[0] not in LOOPBACKS:
                bad.append(f"port {told['port']} listens beyond this machine")
    yield _found(
        "interface",
        "Flower's own port is this machine's alone",
        bad,
        "start the kit with securefl_carriers.flower.serve",
    )


def _found(name: str, good: str, bad: Sequence[str], remedy: str) -> Finding:
    return Finding(name, WRONG, ", ".join(bad), remedy) if bad else Finding(name, OK, good)
