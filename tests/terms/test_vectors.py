"""The committed vectors, read back: the good ones hold, the bad ones fail as they say."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from securefl import errors, keys, merkle, wire
from securefl.keys import Secret
from securefl.planning import start_file
from securefl.policy import key_age
from securefl.policy import load as policies
from securefl.protection import shamir
from securefl.terms import Event, FullBatchGaussian, Head, PoissonGaussian
from securefl.terms.start import Start
from tests import make_vectors

KNOWN = json.loads((make_vectors.FOLDER / "known.json").read_text())


def raw(group: str, name: str, field: str) -> bytes:
    return bytes.fromhex(KNOWN[group][name][field])


def test_the_generator_still_makes_them() -> None:
    assert {"good": make_vectors.good(), "bad": make_vectors.bad()} == KNOWN


def test_keys_and_boxes_hold() -> None:
    assert keys.derive(Secret(raw("good", "derive", "secret")), "self-mask", b"\0").raw == raw("good", "derive", "key")
    assert keys.open_box(make_vectors.TWO, "shares", b"c", raw("good", "box", "box")) == b"hello"
    head = wire.decode(raw("good", "head", "bytes"), Head)
    keys.verify(keys.Identity(make_vectors.ONE).public, "head", wire.encode(head), raw("good", "head", "signature"))
    assert merkle.leaf_hash(b"\0") == raw("good", "leaf", "hash")


def test_a_start_is_read_back_whole() -> None:
    start = wire.decode(raw("good", "start", "bytes"), Start)
    assert start == make_vectors.START
    assert (start_file.digest(start), wire.layout_digest(start.layout)) == (
        raw("good", "start", "digest"),
        raw("good", "start", "layout"),
    )


def test_events_are_read_back_whole() -> None:
    for name, rate in (("event", Fraction(1, 8)), ("event with large integers", Fraction(1, 1 << 4095))):
        event = PoissonGaussian(rate, Fraction(9, 10), 4)
        assert wire.decode(raw("good", name, "bytes"), Event) == event
    assert wire.decode(raw("good", "full batch", "bytes"), Event) == FullBatchGaussian(Fraction(9, 10), 4)


def test_a_policy_has_the_hash_and_the_age_that_are_written() -> None:
    for name, age in (("policy", "None"), ("policy that bounds keys", str(90 * 24 * 3600))):
        text = raw("good", name, "text")
        assert policies.parse(text, name).hash == raw("good", name, "hash")
        assert str(key_age.most_age_in(text)) == KNOWN["good"][name]["age"] == age


def test_any_three_shares_give_the_secret() -> None:
    shares = {int(k.split()[1]): bytes.fromhex(v) for k, v in KNOWN["good"]["shamir"].items() if k.startswith("share")}
    assert shamir.combine({p: shares[p] for p in (2, 4, 5)}, 3).raw == raw("good", "shamir", "secret")


@pytest.mark.parametrize("name", KNOWN["bad"])
def test_bad_vectors_fail_as_they_say(name: str) -> None:
    case = KNOWN["bad"][name]
    expected = getattr(errors, case["fails"])
    with pytest.raises(expected):
        if "box" in case:
            keys.open_box(make_vectors.TWO, "shares", b"c", bytes.fromhex(case["box"]))
        elif "event" in case:
            wire.decode(bytes.fromhex(case["event"]), Event)
        elif "policy" in case:
            policies.parse(bytes.fromhex(case["policy"]), "policy.yaml")
        elif "start" in case:
            wire.decode(bytes.fromhex(case["start"]), Start)
        else:
            keys.verify(keys.Identity(make_vectors.ONE).public, "head", b"x", bytes.fromhex(case["signature"]))


def test_a_third_are_bad() -> None:
    assert 3 * len(KNOWN["bad"]) >= len(KNOWN["bad"]) + len(KNOWN["good"])
