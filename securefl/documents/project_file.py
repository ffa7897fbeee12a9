"""A PROJECT document: who takes part in an engine's network, as its operator writes it. It holds nothing secret.

The engine carries frames and reads none: who is in a federation, and under which keys, is agreed elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, model_validator

from securefl.documents import strict
from securefl.documents.federation import Name
from securefl.documents.strict import First, Part, Whole
from securefl.errors import OperatorFault

SERVER: Final = "server"  # what commands call it; the network calls it by its host
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class ServerPart(Part):
    """The one machine that listens; every site connects to it, and nobody to a site."""

    host: str = Field(min_length=1, max_length=253, description="its name, as sites look it up")
    port: Whole = Field(8002, ge=1, le=65535, description="the one port that is open to sites")

    @model_validator(mode="after")
    def _is_a_host(self) -> ServerPart:
        if _HOST.fullmatch(self.host) is None:
            raise ValueError(f"host: {self.host} is no name of a machine")
        return self


class ProjectFile(Part):
    """One engine's network, as it is written down."""

    securefl_project: First
    name: Name = Field(description="what the engine calls it; the federation's name will do")
    engine: Literal["flare"] = Field("flare", description="what carries the frames: NVIDIA FLARE")
    server: ServerPart
    sites: tuple[Name, ...] = Field(min_length=1, description="who is asked: members, and a custodian")

    @model_validator(mode="after")
    def _each_once(self) -> ProjectFile:
        if len({*self.sites, SERVER, self.server.host}) < len(self.sites) + 2 - (self.server.host == SERVER):
            raise ValueError("sites: each has a name of its own, and none is the server's")
        return self


@dataclass(frozen=True, slots=True)
class Project:
    """A PROJECT document and where it came from."""

    file: ProjectFile
    path: Path

    def called(self, name: str) -> str:
        """What the engine calls a party.

        Raises:
            OperatorFault: it is none of this project.
        """
        if name not in (SERVER, *self.file.sites):
            remedy = f"give {SERVER}, or one of {', '.join(self.file.sites)}"
            raise OperatorFault(f"{name} is nobody in this project", remedy, f"{self.path}: sites")
        return self.file.server.host if name == SERVER else name


def load(path: Path) -> Project:
    """The PROJECT document at ``path``.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line, field and what would do.
    """
    return Project(strict.validate(strict.read(path), ProjectFile), path)
