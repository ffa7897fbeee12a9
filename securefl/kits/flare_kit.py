"""A kit of NVIDIA FLARE in which no job can bring code, nothing is streamed out, and one component of ours carries.

What FLARE reads at each start is `local/*.json` in the kit, written by the kit's owner; where a file is missing it
takes its own default. Everything else in a kit, `startup/` above all, is as FLARE made it.
"""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securefl.documents.participants import Neighbours
from securefl.errors import OperatorFault
from securefl.kits import engine_certificates
from securefl.terms import Hash

AGENT, RELAY = "securefl_carriers.flare.parents.Agent", "securefl_carriers.flare.parents.Relay"
_JOBS = "securefl_carriers.flare.jobs"
SUPERVISED, SUBMITTING = f"{_JOBS}.Supervised", f"{_JOBS}.Submitting"
JOB_CLASSES: Final = (f"{_JOBS}.JobAgent", f"{_JOBS}.JobRelay")  # what the one job of that arrangement builds
SUBMITTER = "securefl"  # a role that no certificate can have: it is said of the job that the server's kit submits
OURS: Final = {AGENT: "agent", RELAY: "doors", SUPERVISED: "agent", SUBMITTING: "doors"}  # each one's path
PEERS: Final = {AGENT: "asked_by", RELAY: "sites", SUPERVISED: "asked_by", SUBMITTING: "sites"}  # and its participants
LEAKS: Final = ("site_log_streamer", "log_receiver")  # components that send logs to the server, and take them there
NEVER: Final = (
    "byoc",
    "submit_job",
    "clone_job",
    "shell_commands",
    "server-predeployed-flwr",
)  # rights to run something
SHARED: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are refused
HARMLESS: Final = ("manage_job", "download_job", "view", "operate")  # where no job can be submitted
LOGGING = "log_config.json"
RESOURCES, RIGHTS = "resources.json", "authorization.json"
OK, WRONG = "ok", "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at in a kit."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def agent(socket: Path, asked_by: Mapping[str, Hash] | None = None) -> Mapping[str, Any]:
    """The component of who is asked: it hands what these participants ask to the socket of `securefl site serve`.

    ``None``: whoever the engine calls the server, under any key.
    """
    return {"id": "securefl_agent", "path": AGENT, "args": {"agent": str(socket), **_listed("asked_by", asked_by)}}


def relay(doors: Path, users: Sequence[int] = (), sites: Mapping[str, Hash] | None = None) -> Mapping[str, Any]:
    """The component of who asks: a socket in ``doors`` for each of ``sites``, for this user and ``users``.

    ``None``: at the server, for whoever joins, under any key.
    """
    told = {"doors": str(doors), "let_in": list(users), **_listed("sites", sites)}
    return {"id": "securefl_relay", "path": RELAY, "args": told}


def by_job(component: Mapping[str, Any]) -> Mapping[str, Any]:
    """The component that has a job carry, in the place of one that carries itself."""
    if component["path"] == AGENT:
        return {**component, "id": "process_launcher", "path": SUPERVISED}
    return {**component, "path": SUBMITTING}


def _has_job(components: Iterable[Mapping[str, Any]]) -> bool:
    return any(each["path"] in (SUPERVISED, SUBMITTING) for each in components)


def _listed(name: str, known: Mapping[str, Hash] | None) -> Mapping[str, Any]:
    """The argument ``name`` of a component: participants with their keys, as NAME=HEX."""
    return {} if known is None else {name: [f"{each}={key.hex()}" for each, key in known.items()]}


def harden(kit: Path, *components: Mapping[str, Any]) -> None:
    """Write the kit's `local/resources.json` and `local/authorization.json`; what stood there is replaced.

    Raises:
        OperatorFault: this is no kit, or a component's path is not absolute.
    """
    for component in components:
        place = component["args"][OURS[component["path"]]]
        if not Path(place).is_absolute():
            raise OperatorFault(f"{place} is no absolute path", "give the whole path", str(kit))
    resources = _absolute(_default(kit, RESOURCES), kit.absolute() / "storage")
    by_job = _has_job(components)
    classes = [*JOB_CLASSES] if by_job else []
    resources |= {"class_allow_list": classes, "class_list_enforcement_mode": "enforce", "allow_log_streaming": False}
    ours = {component["id"] for component in components}
    kept = [each for each in resources["components"] if each["id"] not in {*LEAKS, *ours}]
    resources["components"] = [*kept, *components]
    rights = _default(kit, RIGHTS)
    rights["permissions"] = {role: _without_code(of) for role, of in rights["permissions"].items()}
    if by_job:
        rights["permissions"][SUBMITTER] = {"submit_job": "any"}
    for name, value in ((RESOURCES, resources), (RIGHTS, rights)):
        path = kit / "local" / name
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        path.chmod(0o600)


def _absolute(value: Any, storage: Path) -> Any:  # noqa: ANN401 - JSON
    """FLARE keeps jobs and snapshots in a folder that all users of a machine share; here they stay with the kit."""
    if isinstance(value, dict):
        return {key: _absolute(each, storage) for key, each in value.items()}
    if isinstance(value, list):
        return [_absolute(each, storage) for each in value]
    if isinstance(value, str) and _is_shared(value):
        return str(storage / Path(value).name)
    return value


def _is_shared(value: str) -> bool:
    """Whether a value is a path below a folder that all users of a machine share."""
    path = Path(value)
    return path.is_absolute() and any(path.is_relative_to(each) for each in (*SHARED, tempfile.gettempdir()))


def _without_code(rights: Any) -> Any:  # noqa: ANN401 - JSON
    """The rights of one role, without any to run something; "any" for all becomes a list of what is left."""
    if rights == "any":
        return {
            **dict.fromkeys(HARMLESS, "any"),
            **dict.fromkeys(NEVER, "none"),
        }
    return {**rights, **dict.fromkeys(NEVER, "none")}


def examine(kit: Path, neighbours: Neighbours | None = None) -> tuple[Finding, ...]:
    """What this kit lets anybody do, as FLARE will read it at its next start. Nothing is changed.

    Args:
        kit: its folder.
        neighbours: whom the party's roster names, with which keys; the kit is held against them.

    Raises:
        OperatorFault: this is no kit.
    """
    resources, rights = _read(kit, RESOURCES), _read(kit, RIGHTS)
    found = [each for look in LOOKS for each in look(kit, resources, rights)]
    return (*found, *_peers(resources, neighbours), *(_identity(kit, neighbours) if neighbours else ()))


def is_servers(kit: Path) -> bool:
    """Whether this is the kit of the server."""
    return (kit / "startup" / "fed_server.json").exists()


def project_of(kit: Path) -> str:
    """Return what the project of a kit is called.

    Raises:
        OperatorFault: this is no kit.
    """
    told = _parsed(kit / "startup" / f"fed_{'server' if is_servers(kit) else 'client'}.json")
    servers = told.get("servers") or [{}]
    return str(servers[0].get("name", ""))


def _code(_: Path, resources: dict[str, Any], rights: dict[str, Any]) -> Iterator[Finding]:
    roles = rights.get("permissions", {"every role": "any"})
    roles = roles if isinstance(roles, dict) else {"every role": roles}
    ours = JOB_CLASSES if _has_job(resources["components"]) else ()
    persons = {role: of for role, of in roles.items() if not ours or (role, of) != (SUBMITTER, {"submit_job": "any"})}
    allowed = sorted(f"{role}: {right}" for role, of in persons.items() for right in _beyond(of))
    yield _found("code", "no role may submit a job, bring code or open a shell", allowed, RIGHTS)
    listed = resources.get("class_allow_list", ["FLARE's own default"])
    mode = resources.get("class_list_enforcement_mode")
    more = [str(each) for each in listed if each not in ours]
    classes = [*more, *([] if mode == "enforce" else [f"enforcement is {mode}"])]
    yield _found("classes", f"a job can build {'what carries' if ours else 'nothing'}", classes[:5], RESOURCES)


def _beyond(of: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """What a role may do that is not known to be harmless; FLARE reads names in any case, and single commands."""
    if of == "none":
        return
    for right, value in of.items() if isinstance(of, dict) else [("everything", of)]:
        if not (right in HARMLESS or (right in NEVER and value == "none")):
            yield str(right)


def _streams(kit: Path, resources: dict[str, Any], __: dict[str, Any]) -> Iterator[Finding]:
    found = [each["id"] for each in resources["components"] if each["id"] in LEAKS or "log_streamer" in each["path"]]
    if resources.get("allow_log_streaming") is not False:
        found.append("allow_log_streaming")
    own, theirs = kit / "local" / LOGGING, kit / "local" / f"{LOGGING}.default"
    if own.exists() and not (theirs.exists() and own.read_bytes() == theirs.read_bytes()):
        found.append(f"a {LOGGING} that is not FLARE's own")
    yield _found("logs", "stay here", found, RESOURCES)


def _storage(kit: Path, resources: dict[str, Any], __: dict[str, Any]) -> Iterator[Finding]:
    theirs = [each for each in resources["components"] if each["path"] not in OURS]
    named = _texts({**resources, "components": theirs})
    found = [each for each in named if _is_shared(each) and not Path(each).is_relative_to(kit.absolute())]
    yield _found("storage", "absolute, and with the kit", found, RESOURCES)


def _ours(_: Path, resources: dict[str, Any], __: dict[str, Any]) -> Iterator[Finding]:
    ours = [each for each in resources["components"] if each["path"].startswith("securefl_carriers.")]
    if not ours:
        yield Finding("carrier", WRONG, "no component of securefl", "make the kit with `securefl provision kit`")
    for each in ours:
        given = each.get("args", {})
        place = given.get(OURS.get(each["path"], ""), "")
        status = OK if Path(str(place)).is_absolute() and each["path"] in OURS else WRONG
        remedy = "" if status == OK else "make the kit with `securefl provision kit`"
        yield Finding("carrier", status, f"{each['path'].rpartition('.')[2]} at {place}", remedy)


def _peers(resources: dict[str, Any], neighbours: Neighbours | None) -> Iterator[Finding]:
    """Whom each carrier knows, and whether by the keys that the roster has: each goes by its own list alone."""
    lists = [
        (PEERS[each["path"]], (each.get("args") or {}).get(PEERS[each["path"]]))
        for each in resources["components"]
        if each["path"] in PEERS
    ]
    roster = {} if neighbours is None else {"asked_by": neighbours.asked_by, "sites": neighbours.asks}
    bad = [f"{whose}: {wrong}" for whose, listed in lists for wrong in _wrong_peers(listed, roster.get(whose))]
    without = roster.keys() - {whose for whose, _ in lists}
    bad += [f"{whose}: {name} is missing" for whose in sorted(without) for name in roster[whose]]
    known = dict.fromkeys(str(each).partition("=")[0] for _, listed in lists for each in listed or ())
    remedy = "make the kit with `securefl provision kit --party`"
    yield _found("peers", f"{', '.join(known)}: each by its key", bad, RESOURCES, remedy)


def _wrong_peers(listed: Sequence[object] | None, expected: Mapping[str, Hash] | None) -> Iterator[str]:
    """What is wrong with the list of one carrier; ``expected`` is what the roster has for it, where that is known."""
    if listed is None:
        yield "whoever joins"
    named = [str(each).partition("=") for each in listed or ()]
    names = [name for name, _, _ in named]
    yield from (f"{name} stands twice" for name in sorted({name for name in names if names.count(name) > 1}))
    yield from (f"{name} under any key" for name, _, key in named if not key)
    if expected is None:
        return
    yield from (f"{name} is not in the roster" for name in names if name not in expected)
    yield from (f"{name} is missing" for name in expected if name not in names)
    for name, _, key in named:
        if key and name in expected and key != expected[name].hex():
            yield f"{name}: not the key of its card"


def _identity(kit: Path, neighbours: Neighbours) -> Iterator[Finding]:
    """Whether this kit is the one of the party whose roster it is held against."""
    file = kit / "startup" / ("server.crt" if is_servers(kit) else "client.crt")
    is_own = engine_certificates.key_of_certificate(file) == neighbours.own
    bad = [] if is_own else ["its key is not the one that this party's card names"]
    remedy = "say it: `securefl provision request --party`, then join anew"
    yield _found("identity", "its key is the one that this party's card names", bad, f"startup/{file.name}", remedy)


def _connection(kit: Path, _: dict[str, Any], __: dict[str, Any]) -> Iterator[Finding]:
    for path in sorted((kit / "startup").glob("fed_*.json")):
        parts = json.loads(path.read_text(encoding="utf-8"))
        ends = (parts.get("client") or {}, *parts["servers"])
        found = {each["connection_security"] for each in ends if "connection_security" in each}
        bad = sorted(found - {"mtls"}) or ([] if found else ["not said"])
        yield _found("connection", "mutual TLS", bad, f"startup/{path.name}", "provision it anew with mtls")
    loose = [path.name for path in (kit / "startup").glob("*.key") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    yield _found("key", "its owner's alone", loose, "startup", "chmod 600")


LOOKS: Final[tuple[Callable[[Path, dict[str, Any], dict[str, Any]], Iterator[Finding]], ...]] = (
    _ours, _code, _streams, _storage, _connection,
)  # fmt: skip


def _found(name: str, good: str, bad: Sequence[str], file: str, remedy: str = "") -> Finding:
    if not bad:
        return Finding(name, OK, good)
    return Finding(name, WRONG, f"{file}: {', '.join(bad)}", remedy or "make the kit with `securefl provision kit`")


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _default(kit: Path, name: str) -> dict[str, Any]:
    return _parsed(kit / "local" / f"{name}.default")


def _read(kit: Path, name: str) -> dict[str, Any]:
    """What FLARE will read: the owner's file, or its default where there is none."""
    own = kit / "local" / name
    return _parsed(own if own.exists() else kit / "local" / f"{name}.default")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise OperatorFault(
            f"no kit of FLARE: {fault}", "give the folder with `startup` and `local`", str(path)
        ) from fault
    if not isinstance(value, dict):
        raise OperatorFault("no kit of FLARE", "give the folder with `startup` and `local`", str(path))
    return value
