"""`securefl keys`: a party's key is exchanged, taken in by the others, listed, revoked; and a party leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from securefl.cli.main import main
from tests.support.rotating import COORDINATOR, Living, Rotating


@pytest.fixture
def federation(tmp_path: Path) -> Rotating:
    made = Rotating(tmp_path / "world").made()
    assert Living(made).play(1)[0].outcome == "finished"
    return made


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict:
    capsys.readouterr()
    ended = 0
    try:
        main([*map(str, arguments), "--json"])
    except SystemExit as how:
        ended = int(how.code or 0)
    said = capsys.readouterr()
    assert ended == code, said
    return json.loads(said.out) if code == 0 else {"said": said.out + said.err}


def test_a_key_is_exchanged_taken_in_and_listed_by_command(federation: Rotating, tmp_path: Path, capsys) -> None:
    before = federation.seat("a").key.hex()
    (notice,) = told(capsys, "keys", "rotate", federation.place("a"), "--out", tmp_path / "mail")["notices"]
    after = federation.seat("a").key.hex()
    assert (notice["federation"], notice["notice"]) == ("f", "handover")
    (taken,) = told(capsys, "keys", "take", federation.place("b"), notice["file"])["notices"]
    assert (taken["party"], taken["new"]) == ("a", True)
    (again,) = told(capsys, "keys", "take", federation.place("b"), notice["file"])["notices"]
    assert not again["new"]
    rows = {each["party"]: each for each in told(capsys, "keys", "list", federation.place("b"))["keys"]}
    assert (rows["a"]["key"], rows["a"]["standing"], len(rows["a"]["fingerprint"])) == (after, "counts", 32)
    assert after != before
    assert rows["c"]["since"] is not None
    revoke = ("keys", "revoke", federation.place("a"), "--federation", "f", "--out", tmp_path / "mail", "--key")
    (gone,) = told(capsys, *revoke, after)["notices"]  # the old one counts, too, until the overlap is over
    told(capsys, "keys", "take", federation.place("b"), gone["file"])
    (left,) = told(capsys, "keys", "leave", federation.place("c"), "--federation", "f", "--out", tmp_path / "mail")[
        "notices"
    ]
    told(capsys, "keys", "take", federation.place("b"), left["file"])
    rows = {each["party"]: each["standing"] for each in told(capsys, "keys", "list", federation.place("b"))["keys"]}
    assert "was revoked" in rows["a"]
    assert "has left f" in rows["c"]
    assert rows[COORDINATOR] == "counts"


def test_what_is_no_notice_of_a_known_key_is_refused_and_a_strange_federation_named(
    federation: Rotating, tmp_path: Path, capsys
) -> None:
    mail = tmp_path / "mail"
    (notice,) = told(capsys, "keys", "rotate", federation.place("a"), "--out", mail)["notices"]
    text = Path(notice["file"]).read_text()
    for spoilt in ("", text[:-40], text.replace("A", "B", 20), "nothing of the kind"):
        (mail / "spoilt").write_text(spoilt)
        said = told(capsys, "keys", "take", federation.place("b"), mail / "spoilt", code=4)["said"]
        assert "notice" in said or "sign" in said or "no key of" in said
    said = told(capsys, "keys", "leave", federation.place("a"), "--federation", "g", "--out", mail, code=2)["said"]
    assert "in no federation g" in said
