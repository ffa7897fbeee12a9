"""Write each party's SITE document: a simulated site is built from it like a live one.

What is the party's own follows from the federation's file; whom it trusts follows from the roster that it took in. A
document stands in its party's home, under a name that follows from what it says: runs that go on at once read their
own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl import files
from securefl.documents import emit, site_file, strict
from securefl.documents.federation import MemberPart
from securefl.documents.offer import Offer
from securefl.documents.site_file import Site
from securefl.home.introduced import Introduced
from securefl.policy.load import Policy
from securefl.simulation.layout import SiteLayout
from securefl.terms import MemberId
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from securefl.training.sources import PACKED, TABLES

FOLDER = "site"  # of a home: its SITE documents, one for each federation and what is trained there
HEAD = "A SITE document that a simulation wrote: this party's own, of one federation.\nsecurefl site check THIS-FILE"
Route = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Roster:
    """Who was introduced to each other in one federation, under which policy, and each one's SITE document."""

    policy: Policy
    everybody: Introduced
    documents: Mapping[MemberId, Path]


def own(rosters: Mapping[Route, Roster], places: SiteLayout, name: MemberId) -> dict[str, Any]:
    """Return what a party's SITE document says before it joins its federation.

    Args:
        rosters: of the federations below, by the way from the root.
        places: of the party's federation.
        name: whose.
    """
    first = {"securefl_site": 1, "name": name}
    loaded, home = places.loaded, str(places.of(name).absolute())
    if name == CUSTODIAN:
        return {**first, "home": home}
    file = loaded.file
    member = next(each for each in file.members if each.name == name)
    return {
        **first,
        "region": member.region,
        "home": home,
        "model": {
            "name": places.top.loaded.file.model,
            "at": located(file.model, loaded.folder),
            "engine": file.training.engine,
        },
        **_charged(rosters, places, member),
    }


def offered(places: SiteLayout) -> Offer:
    """Return what the federation's coordinator offers to train."""
    file, top, task = places.loaded.file, places.top.loaded.file, places.loaded.of_task
    first = {"securefl_offer": 1, "model": top.model, "protection": file.protection}
    what = {
        "task": file.task, "adapter": file.adapter, "max_tokens": top.training.max_tokens, "probe": file.strategy.probe,
    }  # fmt: skip
    if task is None:
        return Offer.model_validate({**first, **what})
    return Offer.model_validate({**first, "tasks": {task: {**what, "members": [each.name for each in file.members]}}})


def read(fields: Mapping[str, Any], home: Path) -> Site:
    """The SITE document of a home that says so; it stands in no file yet."""
    path = home / FOLDER / "site.yaml"
    return site_file.of(strict.parse(emit.text_of(fields), str(path)), path)


def write(fields: Mapping[str, Any], home: Path, federation: str) -> Path:
    """Write a SITE document into its party's home."""
    text, folder = emit.text_of(fields, HEAD), home / FOLDER
    files.folder(folder)
    path = folder / f"{federation}-{hashlib.sha256(text).hexdigest()[:12]}.yaml"
    files.keep(path, text)
    return path


def located(name: str, folder: Path) -> str:
    """A model or data file by a name that means the same in every folder; see ``training.sources.resolve``."""
    path = (folder / Path(name).expanduser()).resolve()
    is_path = name.startswith((".", "/", "~")) or Path(name.removesuffix(PACKED)).suffix in TABLES
    if name.startswith("distribution:") or not (is_path or path.exists()):
        return name
    return str(path)


def _charged(rosters: Mapping[Route, Roster], places: SiteLayout, member: MemberPart) -> dict[str, Any]:
    """Return what a member trains with, and its account; of one task among several, under that one's name."""
    found, task = _trained(rosters, places, MemberId(member.name)), places.loaded.of_task
    found |= {"dataset": member.dataset} if member.dataset else {}
    return found if task is None else {"tasks": {places.loaded.file.name: {task: found}}}


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
    everybody = roster.everybody
    rounds = next(each.rounds for each in places.loaded.file.members if each.name == name)
    return {
        "name": roster.policy.federation,
        "home": str(inside.of(COORDINATOR).absolute()),
        "rounds": rounds,
        **({"custodian": everybody.custodian.key.hex()} if everybody.custodian else {}),
        "members": {seat.member: {"key": seat.key.hex(), "region": seat.region} for seat in everybody.members},
        "protection": emit.fields_of(loaded.file.protection),
        "strategy": emit.fields_of(loaded.file.strategy),
        **({"patience": emit.fields_of(loaded.file.patience)} if loaded.file.patience else {}),
    }
