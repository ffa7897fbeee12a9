"""A site that is a federation is served with the way to its own parties: each of them, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefl.documents import emit, site_file
from securefl.errors import OperatorFault
from securefl.runtime.sockets import Sockets
from securefl.site.build import Environment
from securefl.site.dispatch import built, way_to_members
from tests.documents.test_site_file import CUSTODIAN_DOCUMENT, INSIDE, MEMBER, changed

NODE = changed(MEMBER, data=None, subfederation=INSIDE)
LOCKED = changed(NODE, subfederation__custodian="c" * 64, subfederation__protection="ckks")


def site(document: dict, tmp_path: Path) -> site_file.Site:
    path = tmp_path / "site.yaml"
    path.write_bytes(emit.text_of(document, "A site."))
    return site_file.load(path)


def test_every_party_of_the_sub_federation_has_a_way(tmp_path: Path) -> None:
    assert isinstance(way_to_members(site(NODE, tmp_path), ["a=doors/a", "b=/doors/b=2"]), Sockets)
    locked = site(LOCKED, tmp_path)
    assert isinstance(way_to_members(locked, ["a=a", "custodian=c", "b=b"]), Sockets)
    assert way_to_members(site(MEMBER, tmp_path), []) is None


@pytest.mark.parametrize(
    ("document", "doors", "told"),
    [
        (NODE, [], "no way to a, b; add --member a=SOCKET --member b=SOCKET"),
        (NODE, ["a=doors/a"], "no way to b; add --member b=SOCKET"),
        (NODE, ["a=doors/a", "b"], "no way to b"),
        (NODE, ["a=1", "b=2", "c=3"], "c, where a, b may be given"),
        (NODE, ["a=1", "b=2", "a=3"], "a party given twice, where a, b may be given"),
        (LOCKED, ["a=1", "b=2"], "no way to custodian"),
        (MEMBER, ["a=1"], "a, where nobody may be given"),
    ],
)
def test_a_way_that_is_missing_or_too_many_is_told(document: dict, doors: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorFault) as fault:
        way_to_members(site(document, tmp_path), doors)
    assert told in str(fault.value)


def test_a_site_in_no_federation_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match="write whom this site trusts under `federations`"):
        built(site(changed(CUSTODIAN_DOCUMENT, federations={}), tmp_path), Environment())
