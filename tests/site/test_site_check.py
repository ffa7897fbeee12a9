"""`securefl site check` and `schema`: what a site's operator is told, of a whole document or of what does not fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from securefl.cli.main import main
from securefl.documents import site_file
from securefl.home.home import Home
from securefl.site import charged_records
from securefl.site.check import MISSING, OK, WRONG, examine
from securefl.terms import MemberId
from securefl.terms.parties import CUSTODIAN
from tests.support.sites import NOW, Introduced
from tests.support.small import Small


@pytest.fixture(scope="module")
def world(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Introduced:
    return Introduced(small, tmp_path_factory.mktemp("world"), small.file("checked.yaml", protection="ckks"))


def asked(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    try:
        main([str(each) for each in arguments])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    return code, said.out + said.err


def statuses(world: Introduced, name: str, *, load: bool = False, **fields: object) -> dict[str, tuple[str, str]]:
    found = examine(world.site(name, **fields), load=load)
    return {each.what: (each.status, f"{each.detail}; {each.remedy}") for each in found}


def test_a_site_that_is_ready_is_told_what_it_has(world: Introduced, capsys: pytest.CaptureFixture) -> None:
    code, said = asked(capsys, "site", "check", world.documents[MemberId("north")], "--load")
    assert code == 0, said
    for line in (r"north$", r"ok +home", r"ok +store", r"ok +federations\.small", r"policy of small +version 1, .* signed",
                 r"ok +model", r"ok +data", r"records in small +\d+ rows: .*\d+ to train on, \d+ held out, on the account north"):  # fmt: skip
        assert re.search(line, said, re.MULTILINE), said
    code, said = asked(capsys, "site", "check", world.documents[MemberId(CUSTODIAN)], "--json")
    answer = json.loads(said)
    assert (code, answer["ok"], answer["name"]) == (0, True, "custodian")
    assert {each["status"] for each in answer["findings"]} == {OK}


def test_what_may_still_come_is_missing_and_nothing_is_made(world: Introduced, tmp_path: Path) -> None:
    found = statuses(world, "north", home=str(tmp_path / "new"))
    assert {what for what, (status, _) in found.items() if status == MISSING} == {"home", "policy of small"}
    assert not any(status == WRONG for status, _ in found.values())
    assert not (tmp_path / "new").exists()


WRONGS = {
    "no such model": ({"model": "./nowhere"}, "model", "there is no .*nowhere"),
    "no such file": ({"data": {"file": "nowhere.csv"}}, "data", r"there is no .*nowhere\.csv; check the path"),
    "another's home": ({"home": "SOUTH"}, "federations.small", r"members.north.key: found the key .*, and this home's is"),
    "a store, and a ledger here": (
        {"store": "postgresql+psycopg://u:w@host/db"}, "store", "others may read this file; run: chmod 600",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONGS)
def test_what_does_not_fit_is_wrong_and_says_what_would_do(
    world: Introduced, capsys: pytest.CaptureFixture, name: str
) -> None:
    fields, what, told = WRONGS[name]
    fields = {key: str(world.places.of("south")) if value == "SOUTH" else value for key, value in fields.items()}
    site = world.site("north", **fields)
    findings = {each.what: each for each in examine(site)}
    assert findings[what].status == WRONG
    assert re.search(told, f"{findings[what].detail}; {findings[what].remedy}")
    code, said = asked(capsys, "site", "check", site.path)
    assert code == 2
    assert re.search(told.split(";")[0], said)


def test_a_peer_that_showed_another_key_is_wrong(world: Introduced) -> None:
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    document["federations"]["small"]["members"]["south"]["key"] = f"{7:064x}"
    status, told = statuses(world, "north", federations=document["federations"])["federations.small"]
    assert status == WRONG
    assert re.search(r"south has the key 0000000000000000\.\.\. here, and showed .* to this home before", told)


def test_records_that_were_charged_under_another_name_are_wrong(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("charged.yaml"))
    from securefl.simulation import parties

    home = Home.at(world.places.of("north"), MemberId("north"), lambda: NOW)
    charged_records.remember(home, "notes", parties.records_of(world.places.loaded, "north").forms)
    status, told = statuses(world, "north", load=True)["records in small"]
    assert status == WRONG
    assert "records that were charged to 'notes'" in told
    assert "say `dataset: notes`" in told


def live(small: Small, world: Introduced, **fields: object) -> Path:
    """A live federation's document of this world."""
    document = yaml.safe_load(world.file.read_text())
    keys = {seat.member: seat.key.hex() for seat in world.roster.members}
    document |= {
        "coordinator": world.roster.coordinator.key.hex(),
        "custodian": world.roster.custodian.key.hex(),
        "members": [{"name": name, "region": "here", "key": key} for name, key in keys.items()],
    }  # fmt: skip
    path = small.folder / "live.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if k != "data"} | fields, sort_keys=False))
    return path


def test_a_document_is_held_against_a_live_federations(
    small: Small, world: Introduced, capsys: pytest.CaptureFixture
) -> None:
    for name in ("north", CUSTODIAN):
        code, said = asked(capsys, "site", "check", world.documents[MemberId(name)], "--federation", live(small, world))
        assert code == 0, said
        assert "fields agree" in said
    others = {
        "coordinator": {"coordinator": f"{5:064x}"},
        "members.north, members.east": {
            "members": [{"name": n, "region": "here", "key": f"{i:064x}"} for i, n in enumerate(("east", "west"), 1)]
        },
        "task": {"task": {"kind": "classification", "labels": ["good", "bad"]}},
        "adapter": {"adapter": {"targets": ["query"], "rank": 4, "alpha": 8, "seed": 1}},
        "max_tokens": {"training": yaml.safe_load(world.file.read_text())["training"] | {"max_tokens": 8}},
    }
    for names, fields in others.items():
        file = live(small, world, **fields)
        code, said = asked(capsys, "site", "check", world.documents[MemberId("north")], "--federation", file)
        assert code == 2
        (line,) = [each for each in said.splitlines() if "against small" in each]
        assert all(name in line for name in names.split(", ")), line
    code, said = asked(capsys, "site", "check", world.documents[MemberId("north")], "--federation", world.file)
    assert code == 2
    assert "a simulation's document, which names no keys" in said


def test_who_has_no_records_of_its_own_is_told_so(world: Introduced, tmp_path: Path) -> None:
    document = yaml.safe_load(world.documents[MemberId("north")].read_text())
    del document["data"]
    inside = {
        "name": "inside", "home": str(tmp_path / "inside"), "protection": "masking",
        "members": {name: {"key": f"{i:064x}", "region": "here"} for i, name in enumerate(("a", "b"), 1)},
    }  # fmt: skip
    for fields, told in (({"without_records": True}, "noise alone"), ({"subfederation": inside}, "its members'")):
        path = tmp_path / "SITE.yaml"
        path.write_text(yaml.safe_dump(document | fields))
        found = {each.what: each for each in examine(site_file.load(path), load=True)}
        assert (found["records in small"].status, told in found["records in small"].detail) == (OK, True)
        assert not any(each.status == WRONG for each in found.values())
        assert ("policy of inside" in found) == ("subfederation" in fields)


def test_a_document_that_is_none_ends_with_line_and_remedy(
    world: Introduced, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "SITE.yaml"
    path.write_text("securefl_site: 1\nname: north\nregoin: here\n")
    code, said = asked(capsys, "site", "check", path)
    assert code == 2
    assert f"{path}:3: regoin: unknown key; did you mean `region`?" in said


def test_the_schema_is_the_documents_own(capsys: pytest.CaptureFixture) -> None:
    code, said = asked(capsys, "site", "schema")
    assert (code, said) == (0, site_file.schema_text())


def test_a_custodian_is_built_without_torch(world: Introduced) -> None:
    program = (
        "import sys; from pathlib import Path; from securefl.documents import site_file\n"
        "from securefl.site.build import build\n"
        f"build(site_file.load(Path({str(world.documents[MemberId(CUSTODIAN)])!r})))\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
