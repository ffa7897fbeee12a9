"""Every derivation, mask, share and signature of a masked round, read back by primitives alone; the bad ones fail by name."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.keys import Secret
from securefl.protection import enrolments, masking, masking_terms, shamir
from securefl.terms import MemberId, Participant, PublicKey
from tests import make_vectors
from tests.support.worlds import World

KNOWN = json.loads((make_vectors.FOLDER / "protection" / "derivations.json").read_text())
GOOD, BAD = KNOWN["good"], KNOWN["bad"]


def raw(name: str, field: str) -> bytes:
    return bytes.fromhex(GOOD[name][field])


def hkdf(secret: bytes, label: str, context: bytes) -> bytes:
    """RFC 5869 with SHA-256, an empty salt and 32 bytes out."""
    info = b"securefl/1/" + label.encode() + b"\0" + context
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\x01", "sha256")


def stream(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def agreed(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def test_the_generator_still_makes_them() -> None:
    assert make_vectors.derivations() == KNOWN


@pytest.mark.parametrize("name", make_vectors.LABELS)
def test_keys_are_hkdf_under_their_label(name: str) -> None:
    given = GOOD[name]
    assert hkdf(raw(name, "secret"), given["label"], raw(name, "context")) == raw(name, "key")


def test_both_ends_of_a_pair_have_one_mask_and_it_is_aes_in_counter_mode() -> None:
    name = "pair mask key"
    a, b = raw(name, "a"), raw(name, "b")
    assert public(raw("public half", "secret")) == raw("public half", "public")
    for shared in (agreed(a, public(b)), agreed(b, public(a))):
        assert hkdf(shared, "pair-mask", raw(name, "plan") + raw(name, "place")) == raw(name, "key")
    assert stream(raw(name, "key"), 20) == raw(name, "first 5 of ring 32")


def test_a_self_mask_is_of_its_seed_and_plan_and_the_seed_is_committed_to() -> None:
    name = "self mask key"
    assert hkdf(raw(name, "seed"), "self-mask", raw(name, "plan")) == raw(name, "key")
    assert stream(raw(name, "key"), 20) == raw(name, "first 5 of ring 32")
    committed = hashlib.sha256(b"self-mask-seed\0" + raw("seed commitment", "seed")).digest()
    assert committed == raw("seed commitment", "commitment")


@pytest.mark.parametrize("kind", ["key", "seed"])
def test_any_two_shares_give_the_secret_and_each_is_committed_to_in_its_place(kind: str) -> None:
    name, prime = f"{kind} shares, 2 of 3", 2**521 - 1
    share = {point: int.from_bytes(raw(name, f"share {point}"), "big") for point in (1, 2, 3)}
    for low, high in ((1, 2), (1, 3), (2, 3)):
        slope = (share[high] - share[low]) * pow(high - low, -1, prime)
        assert ((share[low] - slope * low) % prime).to_bytes(32, "big") == raw(name, "secret")
    for point in share:
        place = b"share\0" + kind.encode() + b"\0" + raw(name, "dealer") + b"\0" + point.to_bytes(2, "big")
        committed = hashlib.sha256(place + raw(name, f"share {point}")).digest()
        assert committed == raw(name, f"commitment {point}")


def test_a_statement_names_the_roster_and_the_root_of_all_commitments_and_a_path_leads_there() -> None:
    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + left + right).digest()

    leaves = [
        hashlib.sha256(
            b"\0" + b"".join(raw(f"{kind} shares, 2 of 3", f"commitment {point}") for kind in ("key", "seed"))
        )
        for point in (1, 2, 3)
    ]
    one, two, three = (leaf.digest() for leaf in leaves)
    assert node(node(one, two), three) == raw("share tree", "root")
    assert one + three == raw("share tree", "path of b")
    assert hashlib.sha256(b"roster\0" + raw("share tree", "roster")).digest() == raw("share tree", "roster hash")
    assert raw("statement", "bytes").endswith(raw("share tree", "root"))


@pytest.mark.parametrize(("name", "label"), [("statement", "mask-key"), ("receipt", "receipt")])
def test_what_is_signed_is_signed_under_its_label(name: str, label: str) -> None:
    said = b"securefl/1/" + label.encode() + b"\0" + raw(name, "bytes")
    Ed25519PublicKey.from_public_bytes(raw(name, "key")).verify(raw(name, "signature"), said)


def test_a_box_opens_with_the_receivers_secret_in_its_place() -> None:
    name = "box of shares"
    to, place, box = raw(name, "to"), raw(name, "place"), raw(name, "box")
    key = hkdf(agreed(to, box[:32]), "shares", box[:32] + public(to) + place)
    assert AESGCM(key).decrypt(bytes(12), box[32:], place) == raw(name, "message")


def fail(case: dict[str, str]) -> None:
    given = {field: bytes.fromhex(value) for field, value in case.items() if field != "fails"}
    said: masking_terms.Statement = wire.decode(raw("statement", "bytes"), masking_terms.Statement)
    if "key share" in given:
        peer = masking_terms.Relayed(said, b"", b"", given.get("path", raw("share tree", "path of b")))
        pair = masking_terms.Pair(given["key share"], given["seed share"])
        masking._check_pair(peer, tuple(map(MemberId, "abc")), MemberId("b"), pair)
    elif "statement" in given:
        plan = World().coordinator.state.course.plan
        plan = replace(plan, run=said.run, round=1, cover=replace(plan.cover, threshold=2))
        told = wire.decode(given["statement"], masking_terms.Statement)
        seat = Participant(MemberId("a"), PublicKey(raw("statement", "key")), "here")
        enrolments.check_statement(told, given["signature"], plan, seat, said.roster)
    elif "box" in given:
        keys.open_box(make_vectors.TWO, "shares", given["place"], given["box"])
    elif "public" in given:
        keys.agree(make_vectors.ONE, given["public"])
    elif "receipt" in given:
        keys.verify(PublicKey(raw("receipt", "key")), "receipt", given["receipt"], given["signature"])
    else:
        shares = {int(field.split()[1]): value for field, value in given.items()}
        assert isinstance(shamir.combine(shares, 2), Secret)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_fails_by_its_name(name: str) -> None:
    with pytest.raises(PeerFault) as caught:
        fail(BAD[name])
    assert caught.value.rule == BAD[name]["fails"]


def test_a_third_are_bad() -> None:
    assert 3 * len(BAD) >= len(BAD) + len(GOOD)
