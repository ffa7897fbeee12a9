"""`securefl site init`, `invite`, `join`, `roster`: parties are introduced by commands and signed documents alone."""

from __future__ import annotations

import re

import pytest

from securefl.documents import site_file
from securefl.home.peers import known
from securefl.site.build import build
from tests.support.apart import Apart


@pytest.fixture
def apart(small, tmp_path, capsys) -> Apart:
    return Apart(small, tmp_path, capsys)


@pytest.mark.parametrize("protection", ["masking", "ckks"])
def test_parties_that_share_no_file_are_introduced_and_their_sites_can_be_built(
    small, tmp_path, capsys, protection
) -> None:
    apart = Apart(small, tmp_path, capsys, protection)
    apart.found()
    for name in apart.parties:
        code, said = apart.asked("one", "site", "check", apart.document(name), "--load")
        assert code == 0, said
    apart.introduce()
    pinned = [known(apart.of(name) / "home", "small") for name in ("coordinator", *apart.parties)]
    assert all(each == pinned[0] for each in pinned)
    assert set(pinned[0]) == {"coordinator", *apart.parties}
    for name in apart.parties:
        code, said = apart.asked("one", "site", "check", apart.document(name), "--load")
        assert code == 0, said
        assert re.search(r"ok +federations\.small", said), said
        assert re.search(r"ok +policy of small +version 1, .* signed", said), said
        agent = build(site_file.load(apart.document(name)))
        assert {seat.member for seat in agent.charter.peers} == set(apart.members)
    code, said = apart.asked("one", "coordinator", "check", apart.document("coordinator"))
    assert code == 0, said
    assert "each with a key" in said
