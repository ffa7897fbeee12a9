"""FLARE's own offline provisioning: a key is made where it stays, and what travels is a request and its answer.

All of it is done by the `nvflare` command of the engine's own environment; nothing of FLARE is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile, ZipFile

from securefl import files
from securefl.documents.project_file import SERVER, Project
from securefl.errors import OperatorFault
from securefl.kits import engine_certificates, flare_kit
from securefl.terms import Hash

LONGEST_S: Final = 300.0  # for one command of the engine
MOST_BYTES: Final = 1 << 20  # of the description in a request
MOST_REQUEST: Final = 4 << 20  # bytes of a whole request, and of its answer
NO_REQUEST: Final = ("no request of FLARE", "give NAME.request.zip")
NO_ANSWER: Final = ("no answer to a request of FLARE", "give NAME.signed.zip")
CERTIFICATE_DAYS: Final = 365


@dataclass(frozen=True, slots=True)
class Engine:
    """The environment of the engine: the folder with `bin/nvflare`."""

    folder: Path

    def __call__(self, *argv: object, notes: Path) -> None:
        """Run one command of FLARE's; what it notes for itself it writes below ``notes``.

        Raises:
            OperatorFault: it cannot be run, or it says that something is wrong.
        """
        program = self.folder.absolute() / "bin" / "nvflare"
        try:
            done = subprocess.run(  # noqa: S603 - a program that the operator named, with paths and checked names
                [program, *map(str, argv)], capture_output=True, text=True, timeout=LONGEST_S, check=False,
                env={**os.environ, "HOME": str(notes)}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as fault:
            remedy = "give the environment in which nvflare is installed with --engine"
            raise OperatorFault(f"the engine cannot be run: {fault.strerror}", remedy, str(program)) from fault
        except subprocess.TimeoutExpired as fault:
            raise OperatorFault("the engine gave no answer", "try again", str(program)) from fault
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-2000:]
            raise OperatorFault(f"nvflare {argv[0]} {argv[1]} failed: {said}", "do what it says", str(program))


def authority(project: Project, engine: Engine, out: Path) -> str:
    """Make the project's certificate authority in ``out``; its fingerprint, to read out to every party."""
    files.folder(out)
    with _profile(project) as profile:
        engine("cert", "init", "--profile", profile, "-o", out, notes=out)
    return fingerprint(out)


def fingerprint(out: Path) -> str:
    """The fingerprint of the authority in a folder.

    Raises:
        OperatorFault: there is none.
    """
    try:
        return str(json.loads((out / "ca.json").read_text(encoding="utf-8"))["rootCA_fingerprint"])
    except (OSError, ValueError, KeyError) as fault:
        remedy = "make it with `securefl provision authority`"
        raise OperatorFault("no authority of FLARE", remedy, str(out)) from fault


def request(project: Project, engine: Engine, name: str, out: Path) -> tuple[Path, Hash]:
    """Make a party's key in ``out``, and the request that its operator approves. The key never leaves that folder.

    Returns:
        the request, and the public half of the key as ``engine_certificates`` has it.
    """
    called = project.called(name)
    what = {"name": called, "type": "server" if name == SERVER else "client", "org": called.replace(".", "-")}
    files.folder(out)
    with _written({"name": project.file.name, "participants": [what]}) as participant:
        engine("cert", "request", "-p", participant, "--out", out, "--force", notes=out)
    for key in out.glob("*.key"):
        key.chmod(files.FILE)
    return out / f"{called}.request.zip", engine_certificates.key_of_private(out / f"{called}.key")


def key_in(requested: Path, signed: Path) -> Hash:
    """The key that a request was made with, of the party that ``signed`` answers.

    Raises:
        OperatorFault: there is none.
    """
    return engine_certificates.key_of_private(requested / f"{_called(signed)}.key")


def approve(project: Project, engine: Engine, asked: Path, authority_: Path, out: Path) -> Path:
    """Sign a request of a party of this project. It is read once: what is signed is what was looked at.

    Raises:
        OperatorFault: it is no request, or of nobody in this project, or in a role that is not its own.
    """
    with _own_copy(asked, NO_REQUEST) as copy:
        called, kind = _asked(copy, asked)
        name = SERVER if called == project.file.server.host else called
        project.called(name)
        if (kind == "server") != (name == SERVER) or kind not in ("server", "client"):
            raise OperatorFault(f"{called} asks to be a {kind}", "approve none that you did not expect", str(asked))
        with _profile(project) as profile:
            engine(
                "cert", "approve", copy, "--ca-dir", authority_, "--profile", profile, "--out", out,
                "--valid-days", CERTIFICATE_DAYS, "--force", notes=authority_,
            )  # fmt: skip
    return out


def kit(
    project: Project, engine: Engine, signed: Path, requested: Path, told: str, out: Path,
    components: Sequence[Mapping[str, Any]],
) -> Path:  # fmt: skip
    """Make the kit of a party, in which no job can bring code; return its folder.

    Args:
        signed: what its operator sent back.
        requested: the folder of its request, with its key.
        told: the authority's fingerprint, as its operator read it out.
        components: what carries, of ``flare_kit``.
    """
    called = _called(signed)
    with _own_copy(signed, NO_ANSWER) as copy:
        engine(
            "package", copy, "-w", out, "--request-dir", requested, "--fingerprint", told, "--force", notes=requested
        )
    made = out / project.file.name / "prod_00" / called
    flare_kit.harden(made, *components)
    return made


def _called(signed: Path) -> str:
    return signed.name.removesuffix(".signed.zip")


@contextmanager
def _own_copy(sent: Path, otherwise: tuple[str, str]) -> Iterator[Path]:
    """A copy, under its own name, of a file that somebody sent: only this user writes where it lies.

    Whoever can write where the file came from may exchange it between what we read and what the engine reads.

    Raises:
        OperatorFault: it is too long, or cannot be read: ``otherwise`` says what it is not, and what to give.
    """
    try:
        with sent.open("rb") as file:
            data = file.read(MOST_REQUEST + 1)
    except OSError as fault:
        raise OperatorFault(*otherwise, str(sent)) from fault
    if len(data) > MOST_REQUEST:
        raise OperatorFault("a file that is too long", "ask for another", str(sent))
    with tempfile.TemporaryDirectory() as folder:  # 0700
        copy = Path(folder) / sent.name
        files.write(copy, data)
        yield copy


def _asked(path: Path, sent: Path | None = None) -> tuple[str, str]:
    """Whom a request is of, and what it asks to be; an error names ``sent``, if this is a copy of that."""
    place = sent or path
    try:
        with ZipFile(path) as packed:
            info = packed.getinfo("request.json")
            if info.file_size > MOST_BYTES:
                raise OperatorFault("a request that is too long", "ask for another", str(place))
            told = json.loads(packed.read(info))
        return str(told["name"]), str(told["cert_type"])
    except (OSError, BadZipFile, ValueError, KeyError, TypeError) as fault:
        raise OperatorFault(*NO_REQUEST, str(place)) from fault


def _profile(project: Project) -> AbstractContextManager[Path]:
    server = project.file.server
    return _written(
        {
            "name": project.file.name, "scheme": "grpc", "connection_security": "mtls",
            "server": {"host": server.host, "fed_learn_port": server.port, "admin_port": server.port},
        }
    )  # fmt: skip


@contextmanager
def _written(value: Mapping[str, Any]) -> Iterator[Path]:
    """A document for the engine, for as long as a command reads it. JSON is YAML."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "document.yaml"
        path.write_text(json.dumps(value), encoding="utf-8")
        yield path
