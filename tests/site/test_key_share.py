"""Shares of a decryption key travel sealed: kept by whom they were dealt to, given to the custodian that dealt them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from securefl import keys, wire
from securefl.errors import Forged, Malformed, OperatorFault, PeerFault
from securefl.home.home import Home
from securefl.protection import key_shares
from securefl.protocol.key_line import KeyLine
from securefl.site import key_share
from securefl.terms import Hash, MemberId, Participant
from tests.support.apart import everything

NAMES = ("north", "south", "west")
KEY = Hash(b"k" * 32)
CUSTODIAN, MALLORY = keys.Identity(keys.Secret(b"c" * 32)), keys.Identity(keys.Secret(b"m" * 32))


def rand(label: str) -> keys.Secret:
    return keys.Secret(hashlib.sha256(label.encode()).digest())


@pytest.fixture
def homes(tmp_path: Path) -> dict[MemberId, Home]:
    return {MemberId(name): Home.at(tmp_path / name, MemberId(name), lambda: 0) for name in NAMES}


def lines(home: Home, *custodians: keys.Identity) -> list[KeyLine]:
    return [home.key_line("f", Participant(MemberId("custodian"), each.public, "")) for each in custodians]


def dealt(homes, identity: keys.Identity = CUSTODIAN) -> tuple[bytes, dict[MemberId, bytes]]:
    boxes = {name: keys.public_half(home.identity.box) for name, home in homes.items()}
    return key_shares.split(b"the key", KEY, 2, boxes, identity, rand("deal"))


def test_enough_members_that_kept_what_they_were_sent_give_the_key(homes) -> None:
    vault, shares = dealt(homes)
    for name in NAMES[:2]:
        statement = key_share.keep(homes[name], lines(homes[name], MALLORY, CUSTODIAN), shares[name], "share")
        assert (statement.key, statement.threshold) == (KEY, 2)
    asked: list[str] = []

    def gather(request: bytes):
        assert wire.decode(request, key_shares.Request)
        for name, home in homes.items():
            asked.append(name)
            yield key_share.answer(home, lines(home, CUSTODIAN), request)

    assert key_shares.assemble(vault, CUSTODIAN, gather, rand("ask")) == b"the key"
    assert asked == ["north", "south"], "nobody is waited for once there are enough"


def test_a_share_that_is_another_partys_altered_or_of_no_custodian_is_not_kept(homes) -> None:
    _, shares = dealt(homes)
    _, forged = dealt(homes, MALLORY)
    altered = wire.decode(shares["north"], key_shares.Share)
    swapped = replace(altered, box=altered.box[:-1] + bytes([altered.box[-1] ^ 1]))
    north = homes[MemberId("north")]
    before = everything(north.path)
    for data in (shares["south"], forged["north"], wire.encode(swapped), b"", shares["north"] + b"\0"):
        with pytest.raises(OperatorFault):
            key_share.keep(north, lines(north, CUSTODIAN), data, "share")
    assert everything(north.path) == before
    with pytest.raises(OperatorFault, match="dealt to north"):
        key_share.keep(north, [], shares["north"], "share")


def test_another_custodians_share_takes_no_share_s_place_whatever_it_is_called(homes) -> None:
    vault, shares = dealt(homes)
    _, others = dealt(homes, MALLORY)  # of a key that it calls by the same hash
    for name, home in homes.items():
        for data in (shares[name], others[name]):
            key_share.keep(home, lines(home, MALLORY, CUSTODIAN), data, "share")

    def gather(request: bytes):
        return [key_share.answer(home, lines(home, CUSTODIAN), request) for home in homes.values()]

    assert key_shares.assemble(vault, CUSTODIAN, gather, rand("ask")) == b"the key"


def test_two_shares_for_one_request_are_sealed_under_two_keys(homes) -> None:
    """A key that is split anew: who has an old share and both answers must not read the new one."""
    north = homes[MemberId("north")]
    box = keys.public_half(rand("box"))
    request = wire.encode(key_shares.Request(KEY, box, CUSTODIAN.sign("key-share-request", KEY + box)))
    answers = []
    for deal in ("first", "second"):
        boxes = {name: keys.public_half(home.identity.box) for name, home in homes.items()}
        _, shares = key_shares.split(b"the key", KEY, 2, boxes, CUSTODIAN, rand(deal))
        key_share.keep(north, lines(north, CUSTODIAN), shares[MemberId("north")], "share")
        given = key_share.answer(north, lines(north, CUSTODIAN), request)
        assert key_share.answer(north, lines(north, CUSTODIAN), request) == given
        answers.append(wire.decode(given, key_shares.Answer).box)
    assert answers[0][:32] != answers[1][:32], "one ephemeral key for two messages"


def test_nobody_else_is_given_a_share_and_what_is_given_opens_for_the_request_alone(homes) -> None:
    vault, shares = dealt(homes)
    north = homes[MemberId("north")]
    key_share.keep(north, lines(north, CUSTODIAN), shares["north"], "share")
    requests: list[bytes] = []
    for identity in (CUSTODIAN, MALLORY):
        with pytest.raises(OperatorFault, match="0 good shares"):
            key_shares.assemble(vault, identity, lambda request: requests.append(request) or (), rand("ask"))
    good, strange = requests
    with pytest.raises(PeerFault):
        key_share.answer(north, lines(north, CUSTODIAN), strange)
    given = wire.decode(key_share.answer(north, lines(north, CUSTODIAN), good), key_shares.Answer)
    with pytest.raises(Forged):
        keys.open_box(rand("another"), "key-share-answer", KEY, given.box)
    with pytest.raises(Forged, match="not here"):
        key_share.answer(homes[MemberId("south")], lines(homes[MemberId("south")], CUSTODIAN), good)
    with pytest.raises(Malformed):
        wire.decode(shares["north"], key_shares.Request)
