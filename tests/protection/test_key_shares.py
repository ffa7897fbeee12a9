"""A split key comes back from t members' shares, in memory, and from fewer not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from securefl import keys, wire
from securefl.audit.verify import verify
from securefl.errors import Forged, OperatorFault
from securefl.keys import Secret
from securefl.protection import key_shares
from securefl.protection.trust_statement import what_silence_does, who_can_open
from securefl.simulation import introduction
from securefl.site import custody
from securefl.terms import Hash, MemberId, Scheme
from tests.support.small import MEMBERS, Small
from tests.support.worlds import World, identity

KEY = Hash(b"k" * 32)
BOX = {MemberId(name): Secret(name.encode() * 32) for name in "abcd"}
WHOLE = b"the secret context" * 1000
CUSTODIAN = identity("custodian").public
VAULT, SHARES = key_shares.split(
    WHOLE, KEY, 3, {name: keys.public_half(box) for name, box in BOX.items()}, identity("custodian"), Secret(b"r" * 32)
)


def opened(names: str, rand: bytes = b"q" * 32, **changed: bytes) -> bytes:
    def gather(request: bytes) -> Iterator[bytes]:
        for name in names:
            member = MemberId(name)
            given = changed.get(name, SHARES[member])
            yield key_shares.answer(member, given, [BOX[member]], request, CUSTODIAN, CUSTODIAN)

    return key_shares.assemble(VAULT, identity("custodian"), gather, Secret(rand))


def test_any_three_of_four_give_the_key_and_two_do_not() -> None:
    assert all(opened(names) == WHOLE for names in ("abc", "bcd", "dba", "abcd"))
    for names in ("", "ab", "aab", "dd"):
        with pytest.raises(OperatorFault, match="3 are needed"):
            opened(names)


def test_neither_the_vault_nor_a_share_holds_the_key_in_the_clear() -> None:
    for data in (VAULT, *SHARES.values()):
        assert WHOLE[:36] not in data


def test_a_share_goes_to_the_custodian_alone_and_only_as_it_was_dealt() -> None:
    box = keys.public_half(Secret(b"m" * 32))
    for who, key in (("mallory", KEY), ("custodian", Hash(b"o" * 32))):
        request = key_shares.Request(key, box, identity(who).sign("key-share-request", key + box))
        with pytest.raises(Forged):
            key_shares.answer(MemberId("a"), SHARES[MemberId("a")], [BOX[MemberId("a")]], wire.encode(request),
                              CUSTODIAN, CUSTODIAN)  # fmt: skip
    held = wire.decode(SHARES[MemberId("a")], key_shares.Share)
    forged = wire.encode(replace(held, statement=replace(held.statement, threshold=1)))
    with pytest.raises(Forged):
        opened("abc", a=forged)


def test_an_answer_to_another_request_or_in_another_members_name_is_left_out() -> None:
    kept: list[bytes] = []

    def old(request: bytes) -> list[bytes]:
        kept[:] = [key_shares.answer(name, SHARES[name], [BOX[name]], request, CUSTODIAN, CUSTODIAN) for name in BOX]
        return []

    for rand, gather in ((b"1", old), (b"2", lambda _: kept)):
        with pytest.raises(OperatorFault, match="0 good shares"):
            key_shares.assemble(VAULT, identity("custodian"), gather, Secret(rand * 32))

    def renamed(request: bytes) -> list[bytes]:
        old(request)
        moved = [wire.encode(replace(wire.decode(one, key_shares.Answer), member=MemberId("d"))) for one in kept[:2]]
        return [*moved, kept[2]]

    with pytest.raises(OperatorFault, match="1 good shares"):
        key_shares.assemble(VAULT, identity("custodian"), renamed, Secret(b"3" * 32))


def test_a_federation_goes_on_with_a_split_key_and_stops_without_enough_shares(small: Small, tmp_path: Path) -> None:
    members = [{"name": each, "region": "here", "data": {"file": f"{each}.csv"}} for each in MEMBERS]
    fourth = {"name": "east", "region": "here", "data": {"file": "north.csv"}}
    changes = {"protection": "ckks", "training__rounds": 1, "members": [*members, fourth]}
    sites, file = tmp_path / "sites", small.file("split.yaml", **changes)
    small.run(tmp_path / "one", sites, file=file)
    path = sites / "custodian" / "he.key"
    whole = path.read_bytes()
    for low in (0, 1, 2):
        with pytest.raises(OperatorFault, match="0 of 4 members collude; give --threshold 3 or more"):
            introduction.split_key(file, sites, low)
    os.link(path, tmp_path / "other name")
    introduction.split_key(file, sites, 3)
    assert not path.exists()
    left = (tmp_path / "other name").read_bytes()
    assert len(left) == len(whole) and left[-64:] != whole[-64:], "overwritten where it lay"
    assert custody.threshold_of(path) == 3
    for kept in sites.rglob("*"):
        assert not kept.is_file() or whole[-64:] not in kept.read_bytes(), kept
    result = small.run(tmp_path / "two", sites, file=file)
    assert result.outcome == "finished"
    assert verify(tmp_path / "two").ok
    assert "3 members give the key" in result.report["protections"]["who_can_open"]
    assert not path.exists()
    next((sites / MEMBERS[0]).glob("he.key.*.share")).unlink()
    assert small.run(tmp_path / "three", sites, file=file).outcome == "finished"
    next((sites / MEMBERS[1]).glob("he.key.*.share")).unlink()
    with pytest.raises(OperatorFault, match="2 good shares"):
        small.run(tmp_path / "four", sites, file=file)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_every_scheme_says_who_can_open_what(scheme: Scheme) -> None:
    cover = World(scheme=scheme).coordinator.state.course.plan.cover
    said = who_can_open(cover)
    assert ("custodian" in said) == scheme.has_custodian
    assert (f"{cover.threshold} or more members" in said) == scheme.has_masks
    assert ("2 members give" in who_can_open(cover, 2)) == scheme.has_custodian


@pytest.mark.parametrize(("scheme", "members", "threshold", "said"), [
    (Scheme.MASKING, 3, 3, "3 members are needed"), (Scheme.MASKING, 6, 4, "up to 2 of 6"),
    (Scheme.CKKS, 6, 6, "up to 3 of 6"), (Scheme.MASKED_BFV, 6, 5, "up to 1 of 6"),
])  # fmt: skip
def test_every_scheme_says_what_a_silent_member_does(scheme: Scheme, members: int, threshold: int, said: str) -> None:
    plan = World(scheme=scheme).coordinator.state.course.plan
    cover = replace(plan.cover, scheme=scheme, threshold=threshold, min_cohort=3)
    assert what_silence_does(cover, members).startswith(said)
