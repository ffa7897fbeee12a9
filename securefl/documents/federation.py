"""A federation as a person writes it: its policy, model, task and members, and how they train.

Paths in it are relative to the file itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from securefl.documents.compatibility import misfits
from securefl.documents.data_source import DataSource
from securefl.documents.patience import PatiencePart
from securefl.documents.protection import ProtectionPart
from securefl.documents.strategy import StrategyPart
from securefl.documents.strict import First, Part, Whole
from securefl.documents.task import AdapterPart, TaskPart
from securefl.documents.training import TrainingPart
from securefl.terms.names import NAME_FORM, TaskName

Name = Annotated[str, Field(pattern=NAME_FORM)]
_KEY = r"^[0-9a-f]{64}$"


def _key(raw: str) -> str:
    if not re.match(_KEY, raw):
        raise ValueError(
            "write a public key: 64 hexadecimal digits, as `securefl keys show HOME/identity.key` prints it"
        )
    return raw


Key = Annotated[str, AfterValidator(_key), WithJsonSchema({"type": "string", "pattern": _KEY})]
RESERVED_NAMES = ("coordinator", "custodian")
SIMULATED = ("dataset", "site", "data", "federation", "rounds")  # fields of a member that a live one has at home
SIMULATION = ("data", "runtime", "sites")  # fields of a federation that is run on one machine


class MemberPart(Part):
    """One member, by name and region. A live one is known by its key, and keeps all else in its own SITE document.

    In a simulation there is no key: its data, account and home stand here, for one person who runs every site; or it
    stands for a whole federation.
    """

    name: Name
    region: str = Field(min_length=1)
    key: Key | None = Field(None, description="live: its public key; `securefl keys show HOME/identity.key` prints it")
    dataset: str | None = Field(
        None, description="simulation: the account its budget is kept under; the name if not given"
    )
    site: str | None = Field(None, description="simulation: its home, with keys, ledger and account")
    data: dict[str, Any] = Field(default_factory=dict, description="simulation: added to the federation's own `data`")
    federation: str | dict[str, Any] | None = Field(
        None, description="simulation: a federation as a member; its file, or what differs there from this one"
    )
    rounds: Whole = Field(
        1, ge=1, description="simulation, of a federation as a member: its own rounds for each one of this one"
    )

    @model_validator(mode="after")
    def _live_or_simulated(self) -> MemberPart:
        given = [name for name in SIMULATED if name in self.model_fields_set]
        if self.key is not None and given:
            raise ValueError(f"beside `key`: a live member keeps `{given[0]}` in its SITE document; leave it out here")
        return self

    @model_validator(mode="after")
    def _of_its_kind(self) -> MemberPart:
        if self.federation is not None and self.data:
            raise ValueError("a federation's data are its members': leave `data` out here")
        if self.federation is None and self.rounds != 1:
            raise ValueError("`rounds` are those of a federation as a member: leave it out")
        return self


class FederationFile(Part):
    """A whole federation, as it is written down: what is trained, how it is hidden, and by whom.

    Of a live federation nothing else is written: members are names, keys and regions. What only a simulation needs
    says so.
    """

    securefl_federation: First
    name: Name
    policy: str = Field(description="the policy's file")
    purpose: str = Field(min_length=1)
    model: str = Field(description="a Hugging Face name, a folder, or distribution:NAME/PATH")
    task: TaskPart
    adapter: AdapterPart
    data: dict[str, Any] = Field(default_factory=dict, description="simulation: what all members' data have in common")
    training: TrainingPart
    protection: ProtectionPart
    patience: PatiencePart | None = Field(
        None, description="how long answers are waited for; a sub-federation's default is what its parent leaves it"
    )
    strategy: StrategyPart = Field(default_factory=lambda: StrategyPart.model_validate({}))
    runtime: Literal["inprocess", "processes"] = Field(
        "inprocess", description="simulation: all parties in one process, or each in its own"
    )
    sites: str = Field("sites", description="simulation: folder of the homes that are not named")
    start: str | None = Field(
        None, description="live: the start file, made by `securefl start make`: the coordinator then needs no model"
    )
    coordinator: Key | None = Field(None, description="live: the coordinator's public key")
    custodian: Key | None = Field(None, description="live: the custodian's public key, where updates are encrypted")
    members: tuple[MemberPart, ...] = Field(min_length=2)

    @property
    def is_live(self) -> bool:
        """Whether members are known by their keys, each at a place of its own."""
        return self.members[0].key is not None

    @model_validator(mode="after")
    def _names_once(self) -> FederationFile:
        names = [member.name for member in self.members]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two members are called {name}")
            if name in RESERVED_NAMES:
                raise ValueError(f"no member can be called {name}")
        for what, remedy in misfits(self.task, self.adapter, self.strategy):
            raise ValueError(f"{what}: {remedy}")
        if self.strategy.average_last > self.training.rounds:
            found = f"strategy.average_last {self.strategy.average_last} is above training.rounds"
            raise ValueError(f"{found}: write {self.training.rounds} or less")
        return self


class Loaded(Part):
    """A federation file and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    file: FederationFile
    path: Path
    written: bytes  # the document itself, with whatever was put in place of its fields
    data: dict[str, DataSource]  # of each member that is a site
    below: dict[str, Loaded] = Field(default_factory=dict)  # of each member that is a federation
    of_task: TaskName | None = None  # the one that it is, where a file has several

    @property
    def whole(self) -> bytes:
        """The document, and those of all federations below."""
        return b"\0".join((self.written, *(each.whole for each in self.below.values())))

    @property
    def folder(self) -> Path:
        """What the document's paths are relative to."""
        return self.path.parent
