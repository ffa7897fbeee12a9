"""Write each party's SITE document from a federation's file: a simulated site is built from it like a live one.

A document stands in its party's home, under a name that follows from what it says: runs that go on at once read their
own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl import files
from securefl.documents import emit
from securefl.policy.load import Policy
from securefl.simulation.layout import SiteLayout
from securefl.terms import MemberId, Participant
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from securefl.training.sources import PACKED, TABLES

FOLDER = "site"  # of a home: its SITE documents, one for each federation and what is trained there
HEAD = "A SITE document that a simulation wrote: this party's own, of one federation.\nsecurefl site check THIS-FILE"
Route = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Roster:
    """Who was introduced to each other in one federation, under which policy."""

    policy: Policy
    coordinator: Participant
    custodian: Participant | None
    members: tuple[Participant, ...]

    def fields(self) -> dict[str, Any]:
        """The same, as a SITE document says it."""
        custodian = {"custodian": self.custodian.key.hex()} if self.custodian else {}
        members = {seat.member: {"key": seat.key.hex(), "region": seat.region} for seat in self.members}
        return {**custodian, "members": members}


def write(rosters: Mapping[Route, Roster], places: SiteLayout, name: MemberId) -> Path:
    """The SITE document of one party, readable by its user alone; ``rosters`` are by the way from the root."""
    text, federation = emit.text_of(document(rosters, places, name), HEAD), rosters[places.route].policy.federation
    folder = places.of(name) / FOLDER
    files.folder(folder)
    path = folder / f"{federation}-{hashlib.sha256(text).hexdigest()[:12]}.yaml"
    files.write(path, text)
    return path


def document(rosters: Mapping[Route, Roster], places: SiteLayout, name: MemberId) -> dict[str, Any]:
    """Return what the party's SITE document says."""
    loaded, roster, home = places.loaded, rosters[places.route], str(places.of(name).absolute())
    trusted = {"coordinator": roster.coordinator.key.hex(), **roster.fields()}
    if name == CUSTODIAN:
        trusted["protection"] = emit.fields_of(loaded.file.protection)
        return {
            "securefl_site": 1,
            "name": name,
            "home": home,
            "federations": {roster.policy.federation: trusted},
        }
    file, top = loaded.file, places.top.loaded.file
    member = next(each for each in file.members if each.name == name)
    trusted |= {
        "task": emit.fields_of(file.task),
        "adapter": emit.fields_of(file.adapter),
        "max_tokens": top.training.max_tokens,
        **({"probe": [emit.fields_of(each) for each in file.strategy.probe]} if file.strategy.probe else {}),
    }
    return {
        "securefl_site": 1,
        "name": name,
        "region": member.region,
        "home": home,
        "model": {
            "name": top.model,
            "at": located(file.model, loaded.folder),
            "engine": file.training.engine,
        },
        **({"dataset": member.dataset} if member.dataset else {}),
        **_trained(rosters, places, name),
        "federations": {roster.policy.federation: trusted},
    }


def located(name: str, folder: Path) -> str:
    """A model or data file by a name that means the same in every folder; see ``training.sources.resolve``."""
    path = (folder / Path(name).expanduser()).resolve()
    is_path = name.startswith((".", "/", "~")) or Path(name.removesuffix(PACKED)).suffix in TABLES
    if name.startswith("distribution:") or not (is_path or path.exists()):
        return name
    return str(path)


def _trained(rosters: Mapping[Route, Roster], places: SiteLayout, name: MemberId) -> dict[str, Any]:
    """Return what a member trains with: its records, its own members, or nothing."""
    if name in places.loaded.below:
        return {"subfederation": _inside(rosters, places, name)}
    source = places.loaded.data.get(name)
    if source is None:
        return {"without_records": True}
    return {"data": {**emit.fields_of(source), "file": located(source.file, places.loaded.folder)}}


def _inside(rosters: Mapping[Route, Roster], places: SiteLayout, name: MemberId) -> dict[str, Any]:
    inside = places.inside(name)
    loaded, roster = inside.loaded, rosters[inside.route]
    rounds = next(each.rounds for each in places.loaded.file.members if each.name == name)
    return {
        "name": roster.policy.federation,
        "home": str(inside.of(COORDINATOR).absolute()),
        "rounds": rounds,
        **roster.fields(),
        "protection": emit.fields_of(loaded.file.protection),
        "strategy": emit.fields_of(loaded.file.strategy),
        **({"patience": emit.fields_of(loaded.file.patience)} if loaded.file.patience else {}),
    }


def of_tree(rosters: Mapping[Route, Roster], places: SiteLayout) -> dict[Route, dict[MemberId, Path]]:
    """Every party's document in a tree, but the coordinators': by the way to its federation, and its name."""
    names = [each for each in places.parties if each != COORDINATOR]
    written = {places.route: {name: write(rosters, places, name) for name in names}}
    for inside in places.insides.values():
        written |= of_tree(rosters, inside)
    return written
