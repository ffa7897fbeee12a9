"""A live federation's document: members by name, key and region; what only a simulation needs is refused there."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from securefl.documents import federation_file
from securefl.documents.federation import SIMULATED, SIMULATION, FederationFile, MemberPart
from securefl.errors import OperatorFault
from securefl.simulation.layout import SiteLayout
from tests.support.small import FEDERATION, MEMBERS


def key(number: int) -> str:
    return f"{number:064x}"


LIVE = {name: value for name, value in FEDERATION.items() if name != "data"} | {
    "coordinator": key(9),
    "members": [{"name": name, "region": "here", "key": key(n)} for n, name in enumerate(MEMBERS, 1)],
}


def written(folder: Path, **fields: object) -> Path:
    path = folder / "live.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(LIVE) | fields, sort_keys=False))
    return path


def with_member(**fields: object) -> list[dict]:
    first, *others = LIVE["members"]
    return [{**first, **fields}, *others]


def test_a_live_federation_is_names_keys_and_regions(tmp_path: Path) -> None:
    loaded = federation_file.load(written(tmp_path))
    assert loaded.file.is_live
    assert [(each.name, each.key) for each in loaded.file.members] == [(n, key(i)) for i, n in enumerate(MEMBERS, 1)]
    assert loaded.data == {}
    assert federation_file.load(written(tmp_path, protection="ckks", custodian=key(8))).file.custodian == key(8)


def test_nobody_stands_in_for_a_live_member(tmp_path: Path) -> None:
    loaded = federation_file.load(written(tmp_path))
    with pytest.raises(OperatorFault, match=r"live\.yaml: members: its members are live.*; check each one's own with"):
        SiteLayout(loaded, tmp_path)


BAD = {
    "a member with data": ({"members": with_member(data={"file": "x.csv"})}, "members.0: found a mapping; beside `key`: a live member keeps `data` in its SITE document"),
    "a member with a home": ({"members": with_member(site="x")}, "keeps `site` in its SITE document; leave it out here"),
    "a member with an account": ({"members": with_member(dataset="x")}, "keeps `dataset`"),
    "a member with members": ({"members": with_member(federation={"policy": "x"})}, "keeps `federation`"),
    "a key that is none": ({"members": with_member(key="abc")}, "members.0.key: found 'abc'; write a public key: 64 hexadecimal digits"),
    "one member without a key": ({"members": [*LIVE["members"], {"name": "east", "region": "here"}]}, "members.3: east has no `key`, and north is live: give every member its key, or none"),
    "one key of two": ({"members": [*LIVE["members"], {"name": "east", "region": "here", "key": key(1)}]}, "east and north have one key"),
    "the coordinator's key": ({"coordinator": key(1)}, "members.0: north and coordinator have one key"),
    "data of all": ({"data": {"file": "x.csv"}}, "live.yaml:41: data: `data` is the simulation's, and members are live: leave it out"),
    "a runtime": ({"runtime": "processes"}, "`runtime` is the simulation's"),
    "homes": ({"sites": "sites"}, "`sites` is the simulation's"),
    "a custodian of nothing": ({"custodian": key(8)}, "protection masking has no custodian: leave it out"),
    "no custodian": ({"protection": "ckks"}, "protection: found ckks, which needs a `custodian`: write its key"),
    "a key in a simulation": ({"members": [FEDERATION["members"][0], LIVE["members"][1]], "coordinator": None}, "members.1: south is live and north has no `key`"),
    "a coordinator of a simulation": ({"members": FEDERATION["members"]}, "`coordinator` is a live one's key, and no member has a `key`"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_of_a_simulation_is_refused_in_a_live_document(tmp_path: Path, name: str) -> None:
    fields, told = BAD[name]
    with pytest.raises(OperatorFault, match=re.escape(told)):
        federation_file.load(written(tmp_path, **fields))


def test_every_field_says_whether_it_is_the_simulations() -> None:
    for part, names in ((MemberPart, SIMULATED), (FederationFile, SIMULATION)):
        said = {n: info.description or "" for n, info in part.model_fields.items()}
        assert {name for name, text in said.items() if text.startswith("simulation")} == set(names)
        assert all(said[name].startswith("live") for name in ("key", "coordinator", "custodian") if name in said)
