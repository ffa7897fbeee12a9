"""`securefl site adopt`: a later version of a policy is laid out only if the ledger of this site lets it follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefl.home import adoption
from securefl.home.clock import clock
from tests.support.apart import Apart, everything
from tests.support.sites import Introduced
from tests.support.small import POLICY, sign


@pytest.fixture
def world(small, tmp_path) -> Introduced:
    return Introduced(small, tmp_path, small.file("adopted.yaml"))


def version(folder: Path, text: str, *, signed: bool) -> Path:
    path = folder / "next.yaml"
    path.write_text(text)
    if signed:
        sign(path)
    return path


@pytest.mark.parametrize(
    ("text", "signed", "code", "told"),
    [
        (POLICY.replace("version: 1", "version: 2"), True, 0, "begins under version 2"),
        (POLICY.replace("version: 1", "version: 2"), False, 3, "is not signed"),
        (POLICY.replace("federation: small", "federation: large"), True, 2, "this site is in small"),
        (POLICY.replace("epsilon: 20", "epsilon: 19"), True, 0, "begins under version 1"),  # no run began under one yet
    ],
)
def test_what_is_adopted_is_signed_and_of_a_federation_of_this_site(
    world, tmp_path, capsys, text, signed, code, told
) -> None:
    site, home = world.site("north"), world.places.of("north")
    path = version(tmp_path, text, signed=signed)
    before = everything(home)
    ended, said = Apart.asked(type("Here", (), {"capsys": capsys})(), "north", "site", "adopt", site.path, path)
    assert (ended, told in said) == (code, True), said
    if code:
        assert everything(home) == before
    else:
        assert adoption.staged(home, "small", clock())[0].text == path.read_bytes()


def test_once_a_run_began_only_a_later_version_may_follow(finished, tmp_path, capsys) -> None:
    import shutil

    shutil.copytree(finished / "sites", tmp_path / "sites")
    home = tmp_path / "sites" / "north"
    (document,) = (home / "site").glob("*.yaml")
    document.write_text(document.read_text().replace(str(finished / "sites"), str(tmp_path / "sites")))
    here = type("Here", (), {"capsys": capsys})()
    changed = version(tmp_path, POLICY.replace("epsilon: 20", "epsilon: 19"), signed=True)
    code, said = Apart.asked(here, "north", "site", "adopt", document, changed)
    assert (code, "its version is still 1" in said) == (2, True), said
    code, said = Apart.asked(
        here,
        "north",
        "site",
        "adopt",
        document,
        version(tmp_path, POLICY.replace("version: 1", "version: 2"), signed=True),
    )
    assert code == 0, said
