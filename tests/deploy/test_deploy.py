"""What stands in `deploy/`: least rights for each party, and the commands that the runbooks show."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from securefl.cli.main import command_line
from tests.test_architecture import ROOT

DEPLOY = ROOT / "deploy"
IMAGES = {path.name.removesuffix(".Dockerfile"): path for path in sorted(DEPLOY.glob("*.Dockerfile"))}
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PARTIES = {"site", "coordinator", "custodian"}
NEEDED = {  # of a unit: what each of these is for stands in systemd.exec(5)
    "PrivateNetwork": "yes", "IPAddressDeny": "any", "RestrictAddressFamilies": "AF_UNIX", "CapabilityBoundingSet": "",
    "AmbientCapabilities": "", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
    "PrivateDevices": "yes", "PrivateIPC": "yes", "ProtectProc": "invisible", "ProcSubset": "pid", "ProtectClock": "yes", "ProtectHostname": "yes",
    "ProtectControlGroups": "yes", "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes",
    "RestrictNamespaces": "yes", "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes", "LockPersonality": "yes", "RemoveIPC": "yes",
    "KeyringMode": "private", "UMask": "0077", "SystemCallArchitectures": "native", "LimitCORE": "0", "StateDirectoryMode": "0700",
    "RuntimeDirectoryMode": "0711", "User": "%i", "Group": "%i",
}  # fmt: skip


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's, without comments, each with its words."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line]  # type: ignore[misc]


def settings(path: Path) -> dict[str, list[str]]:
    """A unit's, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def options(words: list[str]) -> set[str]:
    """The options of a command, once the command line knows all of it."""
    place = typer.main.get_command(command_line())
    rest = list(words)
    while hasattr(place, "commands"):
        place = place.commands[rest.pop(0)]  # type: ignore[attr-defined]
    given = [each for each in rest if each.startswith("--")]
    assert set(given) <= {name for each in place.params for name in each.opts}, words
    return set(given)


def test_there_is_an_image_and_a_unit_for_each_party() -> None:
    assert set(IMAGES) == {re.fullmatch(r"securefl-(\w+)@\.service", path.name)[1] for path in UNITS} == PARTIES


@pytest.mark.parametrize("name", sorted(PARTIES))
def test_an_image_runs_as_a_user_without_rights_shell_or_installer(name: str) -> None:
    told = instructions(IMAGES[name])
    stages = [at for at, (what, _) in enumerate(told) if what == "FROM"]
    final = told[stages[-1] :]
    assert {what for what, _ in told} <= {
        "FROM",
        "COPY",
        "RUN",
        "ENV",
        "WORKDIR",
        "USER",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    }
    for what, words in told:
        if what == "FROM":
            assert re.match(r"python:\d+\.\d+\.\d+-slim-bookworm( AS build)?$", words), "a base by its whole version"
        if what == "COPY" and "--from" not in words:
            assert not set(words.split()) & {".", "*"}, "what is copied is named"
    users = [words for what, words in final if what == "USER"]
    assert len(users) == 1
    uid, gid = users[0].split(":")
    assert uid == gid
    assert int(uid) >= 10_000
    at = [what for what, _ in final].index("USER")
    assert "RUN" not in [what for what, _ in final[at:]]
    for what, words in final:
        if what in {"RUN", "ENTRYPOINT", "CMD"}:
            assert isinstance(json.loads(words), list), "no shell reads it"
    (removing,) = (json.loads(words)[-1] for what, words in final if what == "RUN")
    compile(removing, name, "exec")
    for gone in ("'sh'", "'bash'", "'dash'", "'perl'", "site-packages/pip"):
        assert gone in removing
    (command,) = (json.loads(words) for what, words in final if what == "CMD")
    assert {"--metrics", "--log"} < options(command)


def test_what_an_image_is_made_of_is_here_and_pinned() -> None:
    for path in IMAGES.values():
        for what, words in instructions(path):
            if what == "COPY" and "--from" not in words:
                assert all((ROOT / each).exists() for each in words.split()[:-1])
            if what == "RUN" and "pip install" in words:
                assert "--constraint /source/requirements.lock" in words
    pins = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+==\S+", each) for each in pins if each and not each.startswith("#"))


def test_containers_share_sockets_and_nothing_else() -> None:
    written = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = written["services"]
    assert set(services) == {"north", "south", "west", "custodian", "coordinator"}
    homes = []
    for name, each in services.items():
        assert (each["network_mode"], each["read_only"], each["cap_drop"]) == ("none", True, ["ALL"])
        assert each["security_opt"] == ["no-new-privileges:true"]
        assert not {"ports", "privileged", "user", "devices", "env_file", "environment", "pid", "ipc"} & set(each)
        assert (DEPLOY / each["build"]["context"] / each["build"]["dockerfile"]).exists()
        assert each["mem_limit"] and each["pids_limit"]
        mounts = [part.split(":") for part in each["volumes"]]
        homes += [source for source, place, *_ in mounts if place == "/srv/party"]
        for source, place, *mode in mounts:
            assert source in written["volumes"], "a volume, and no folder of the machine"
            if name == "coordinator" and source.startswith("door-"):
                assert mode == ["ro"] and place == f"/srv/doors/{source.removeprefix('door-')}"
        if "command" in each:
            options(each["command"])
    assert len(set(homes)) == len(services), "nobody sees another's home"
    coordinator = json.loads(dict(instructions(IMAGES["coordinator"]))["CMD"])
    assert coordinator[:2] == ["coordinate", "coordinator.yaml"]
    uid = dict(instructions(IMAGES["coordinator"]))["USER"].split(":")[0]
    for command in [each["command"] for each in services.values() if "command" in each] + [
        json.loads(dict(instructions(IMAGES[name]))["CMD"]) for name in ("site", "custodian")
    ]:
        assert command[command.index("--let-in") + 1] == uid


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_takes_every_right_away_that_its_party_does_not_need(path: Path) -> None:
    found = settings(path)
    assert {name: found[name][-1] for name in NEEDED} == NEEDED
    assert found["SystemCallFilter"][0] == "@system-service"
    assert set(found["SystemCallFilter"][1].removeprefix("~").split()) >= {"@privileged", "@mount", "@debug"}
    assert found["MemoryDenyWriteExecute"] == ["no" if "site" in path.name else "yes"]
    words = shlex.split(found["ExecStart"][0])
    assert words[0] == "/opt/securefl/bin/securefl"
    assert {"--metrics", "--log"} < options(words[1:])
    page = (ROOT / "docs" / "runbooks.md").read_text()
    shown = re.findall(r"^\w+\$ securefl ((?:site serve|coordinate) .*?)(?: &)?$", page, re.MULTILINE)
    assert options(words[1:]) in [options(shlex.split(each)) for each in shown], "as the runbook shows it"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_nothing_wrong_where_it_is_installed(path: Path, tmp_path: Path) -> None:
    unit = tmp_path / path.name.replace("@", "@north")
    unit.write_text(path.read_text().replace("/opt/securefl/bin/securefl", sys.executable))
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # what it would look at, the test above does
    verified = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    said = [line for line in (verified.stdout + verified.stderr).splitlines() if unit.name in line or path.name in line]
    assert (verified.returncode, said) == (0, []), said
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=10", unit], capture_output=True, text=True
    )
    assert rated.returncode == 0, rated.stdout[-200:]  # an exposure of at most 1.0 of 10


def test_the_runbooks_name_files_that_are_there() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    for place in re.findall(r"\]\((\S+?)\)", page):
        assert (ROOT / "docs" / place).exists(), place
    for rule in re.findall(r"`(protocol\.[a-z-]+)`", page):
        from securefl.terms import rules

        assert rule in rules.FAULTS
    from securefl.coordinator import counts as coordinating
    from securefl.site import counts as serving

    names = {f"securefl_{each.name}" for each in (*coordinating.FAMILIES, *serving.FAMILIES)}
    assert set(re.findall(r"securefl_[a-z_]+", page)) - {"securefl_carriers"} <= names
