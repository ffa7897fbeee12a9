"""Known-answer vectors: made again by `make vectors`, which fails if one changed. A third of them are bad, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from securefl import keys, merkle, wire
from securefl.keys import Secret
from securefl.ledger import heads
from securefl.planning import start_file
from securefl.policy import key_age
from securefl.policy import load as policies
from securefl.protection import enrolments, mask_streams, masking, masking_terms, shamir
from securefl.terms import (
    Adapter,
    AdapterRule,
    FixedPoint,
    FullBatchGaussian,
    Hash,
    Head,
    MemberId,
    MicroEpsilon,
    Model,
    Plan,
    PoissonGaussian,
    Receipt,
    RunId,
    Task,
    Update,
)
from securefl.terms.layout import Layout, Tensor
from securefl.terms.start import Start
from tests.support.sums import sum_of
from tests.support.worlds import POLICY, World, identity, seat

FOLDER = Path(__file__).parent / "vectors"
START = Start(
    Model("m", Hash(bytes(32))), Task("classification", ("no", "yes")), Adapter(("query",), 2, 4, 1),
    Layout((Tensor("head.bias", (2,)),), AdapterRule.B_ONLY), np.array([0.5, -1], "<f4").tobytes(),
)  # fmt: skip
ONE, TWO = (Secret(hashlib.sha256(word).digest()) for word in (b"one", b"two"))


OTHER_FORMS = {  # of the fraction 1/8, which is [1, 8]
    "a rational of a library's own": bytes.fromhex("d81e820108"),
    "a list that is marked as shared": bytes.fromhex("d81c820108"),
    "a list without its length": bytes.fromhex("9f0108ff"),
    "a list of more than there are bytes": bytes.fromhex("9b0000010000000000"),
    "a longer head than is needed": bytes.fromhex("82180108"),
    "an integer of 513 bytes": b"\x82\x01\xc2\x59\x02\x01\x01" + bytes(512),
    "a large integer that is small": bytes.fromhex("8201c24108"),
    "a float": bytes.fromhex("f93000"),
    "a map whose key is a number": bytes.fromhex("a10108"),
}


def bounded(days: object) -> bytes:
    """A policy under which keys are as old as this at most."""
    return POLICY + f"keys: {{max_age_days: {days}}}\n".encode()


def good() -> dict[str, dict[str, str]]:
    shares = shamir.split(ONE, 3, (1, 2, 3, 4, 5), TWO)
    pair = mask_streams.pair_key(ONE, keys.public_half(TWO), Hash(bytes(32)), MemberId("a"), MemberId("b"))
    stream = np.zeros(8, "<u4")
    mask_streams.mask(stream, [mask_streams.Stream(pair)])
    head = Head(MemberId("a"), 3, Hash(bytes(32)))
    return {
        "derive": {"secret": ONE.raw.hex(), "label": "self-mask", "context": "00", "key": keys.derive(ONE, "self-mask", b"\0").raw.hex()},
        "agree": {"mine": ONE.raw.hex(), "theirs": keys.public_half(TWO).hex(), "key": keys.agree(ONE, keys.public_half(TWO)).raw.hex()},
        "pair mask": {"key": pair.raw.hex(), "first 8 of ring 32": stream.tobytes().hex()},
        "shamir": {"secret": ONE.raw.hex(), "threshold": "3", **{f"share {point}": share.hex() for point, share in shares.items()}},
        "box": {"to": keys.public_half(TWO).hex(), "message": "68656c6c6f", "box": keys.seal_box(keys.public_half(TWO), "shares", b"c", b"hello", ONE).hex()},
        "head": {"bytes": wire.encode(head).hex(), "signature": keys.Identity(ONE).sign("head", wire.encode(head)).hex()},
        "head for its own store": {"signature": heads.sign_stored(keys.Identity(ONE), head).signature.hex()},
        "event": {"bytes": wire.encode(PoissonGaussian(Fraction(1, 8), Fraction(9, 10), 4)).hex()},
        "full batch": {"bytes": wire.encode(FullBatchGaussian(Fraction(9, 10), 4)).hex()},
        "event with large integers": {"bytes": wire.encode(PoissonGaussian(Fraction(1, 1 << 4095), Fraction(9, 10), 4)).hex()},
        "leaf": {"entry": "00", "hash": merkle.leaf_hash(b"\0").hex()},
        "policy": {"text": POLICY.hex(), "hash": policies.policy_hash(POLICY).hex(), "age": str(key_age.most_age_in(POLICY))},
        "policy that bounds keys": {"text": bounded(90).hex(), "hash": policies.policy_hash(bounded(90)).hex(), "age": str(key_age.most_age_in(bounded(90)))},
        "start": {"bytes": wire.encode(START).hex(), "digest": start_file.digest(START).hex(), "layout": wire.layout_digest(START.layout).hex()},
    }  # fmt: skip


def bad() -> dict[str, dict[str, str]]:
    box = bytearray(keys.seal_box(keys.public_half(TWO), "shares", b"c", b"hello", ONE))
    box[40] ^= 1
    event = wire.encode(PoissonGaussian(Fraction(1, 8), Fraction(9, 10), 4))
    return {
        "a box with a flipped bit": {"box": bytes(box).hex(), "fails": "Forged"},
        "a fraction that is not reduced": {
            "event": event.replace(b"\x82\x01\x08", b"\x82\x02\x10").hex(),
            "fails": "Malformed",
        },
        "noise of zero": {"event": event.replace(b"\x82\x09\x0a", b"\x82\x00\x01").hex(), "fails": "Malformed"},
        **{
            what: {"event": event.replace(b"\x82\x01\x08", part).hex(), "fails": "Malformed"}
            for what, part in OTHER_FORMS.items()
        },
        "a full batch with a sampling rate": {
            "event": event.replace(b"\x6fPoissonGaussian", b"\x71FullBatchGaussian").hex(),
            "fails": "Malformed",
        },
        "a tail": {"event": (event + b"\0").hex(), "fails": "Malformed"},
        "a store's head shown as a promise": {
            "signature": keys.Identity(ONE).sign(heads.STORED, b"x").hex(),
            "fails": "Forged",
        },
        "a start with a value too few": {
            "start": wire.encode(START).replace(b"\x48", b"\x44")[:-4].hex(),
            "fails": "Malformed",
        },
        **{
            f"a key's age of {days} days": {"policy": bounded(days).hex(), "fails": "OperatorFault"}
            for days in ("0", "-1", "1.5", "true", "36501")
        },
        "a head under another label": {"signature": keys.Identity(ONE).sign("receipt", b"x").hex(), "fails": "Forged"},
    }


def masked_round() -> dict[str, Any]:
    """One masked round of four, the last of whom falls silent before sealing; every byte an independent reader needs."""
    plan = replace(World().coordinator.state.course.plan, dimension=6, round=1)
    names = [MemberId(name) for name in "abcd"]
    cover = replace(plan.cover, threshold=3, min_cohort=3, colluding=1, encoding=FixedPoint(24, 16, 32))
    plan = replace(plan, cohort=tuple(seat(name) for name in names), cover=cover)
    member, coordinator = masking.MaskingMember(), masking.MaskingCoordinator()
    box = {name: Secret(hashlib.sha256(b"box " + name.encode()).digest()) for name in names}
    boxes = {name: keys.public_half(box[name]) for name in names}
    rand = {name: Secret(hashlib.sha256(b"enrol " + name.encode()).digest()) for name in names}
    enrolment = {name: member.enrol(name, plan.run, 1, 3, boxes, identity(name), rand[name]) for name in names}
    enrolled = {name: enrolment[name].public for name in names}
    relays = coordinator.relay(tuple(names), enrolled)
    made: dict[str, Any] = {"plan": wire.encode(plan).hex(), "ring bits": 32, "fraction bits": 16, "members": {}}
    sealed, answers = {}, {}
    for place, name in enumerate(names[:3]):
        integers = np.array([0, 1, -1, (1 << 23) - 1, -(1 << 23), 1000 * place], np.int64)
        update = Update(integers / 2.0**16, plan.learning.event)
        sealed[name], kept = member.seal(name, plan, box[name], enrolment[name].secret, relays[name], b"", update, ONE)
        question = wire.encode(masking_terms.Survivors(tuple(names[:3])))
        answers[name] = member.answer(name, plan, kept, question)
        made["members"][name] = {
            "box": box[name].raw.hex(), "secret": enrolment[name].secret.hex(), "relay": relays[name].hex(),
            "integers": [int(each) for each in integers], "payload": sealed[name].hex(), "kept": kept.hex(),
            "question": question.hex(), "answer": answers[name].hex(),
        }  # fmt: skip
    made["enrolled"] = {name: public.hex() for name, public in enrolled.items()}
    made["total"] = [int(each) for each in sum_of(coordinator, plan, enrolled, sealed, answers).total]
    return {"good": made, "bad": bad_rounds(plan, made, relays, answers)}


def bad_rounds(
    plan: Plan, made: dict[str, Any], relays: Mapping[MemberId, bytes], answers: dict[MemberId, bytes]
) -> list[Any]:
    """What must fail, where, and as what: each takes the place of one value of the good round."""
    relay: masking_terms.Relay = wire.decode(relays[MemberId("a")], masking_terms.Relay)
    first, other, *rest = relay.peers

    def relayed(peer: masking_terms.Relayed) -> str:
        return wire.encode(masking_terms.Relay(relay.roster, (first, peer, *rest))).hex()

    swapped = replace(other, statement=replace(other.statement, mask_key=keys.public_half(ONE)))
    box = replace(other, box=other.box[:-1] + bytes([other.box[-1] ^ 1]))
    answer: masking_terms.Revealed = wire.decode(answers[MemberId("b")], masking_terms.Revealed)
    wrong = masking_terms.Revealed({name: bytes(66) for name in answer.seeds}, answer.keys)
    lower = replace(plan, cover=replace(plan.cover, threshold=2))
    short = bytes.fromhex(made["members"]["c"]["payload"])
    return [
        {"what": "a swapped mask key", "member": "a", "relay": relayed(swapped), "fails": "Forged"},
        {"what": "a box with a flipped bit", "member": "a", "relay": relayed(box), "fails": "Forged"},
        {"what": "a threshold a minority meets", "member": "a", "plan": wire.encode(lower).hex(), "fails": "Unsafe"},
        {"what": "a question about two", "member": "a", "question": wire.encode(masking_terms.Survivors((MemberId("a"), MemberId("b")))).hex(), "fails": "Unsafe"},
        {"what": "a survivor called dropped", "member": "a", "question": wire.encode(masking_terms.Survivors(tuple(map(MemberId, "bcd")))).hex(), "fails": "Unsafe"},
        {"what": "a wrong share with none to spare", "member": "b", "answer": wire.encode(wrong).hex(), "fails": "TooFew"},
        {"what": "a vector that is too short", "member": "c", "payload": wire.encode(masking_terms.Masked(wire.decode(short, masking_terms.Masked).elements[:-1])).hex(), "fails": "Forged"},
    ]  # fmt: skip


LABELS = {
    "session box": ("session-box", b""), "enrolment": ("enrol", b""), "sealing": ("seal", b""), "mask key": ("mask-key", b""),
    "self mask seed": ("self-mask-seed", b""), "key polynomial": ("key-polynomial", b""), "seed polynomial": ("seed-polynomial", b""),
    "box to a peer": ("box", b"b"), "self mask": ("self-mask", bytes(range(32))), "pair mask": ("pair-mask", bytes(range(32))),
}  # fmt: skip


def derivations() -> dict[str, dict[str, dict[str, str]]]:
    """Every key, mask, share, commitment, box and signature of a masked round, one at a time; and what must fail, by name."""
    run, context, a, b, c = RunId(bytes(range(16))), Hash(bytes(range(32))), *map(MemberId, "abc")
    pair, own = mask_streams.pair_key(ONE, keys.public_half(TWO), context, a, b), mask_streams.self_key(TWO, context)
    streams = {name: np.zeros(5, "<u4") for name in ("pair", "self")}
    mask_streams.mask(streams["pair"], [mask_streams.Stream(pair)])
    mask_streams.mask(streams["self"], [mask_streams.Stream(own)])
    dealer, place = enrolments.place_of(run, 1, a, MemberId("")), enrolments.place_of(run, 1, a, b)
    shares = {
        kind: shamir.split(secret, 2, (1, 2, 3), keys.derive(TWO, f"{kind}-polynomial"))
        for kind, secret in (("key", ONE), ("seed", TWO))
    }
    committed = {
        kind: tuple(shamir.commitment(dealer, kind, point, share) for point, share in of.items())
        for kind, of in shares.items()
    }
    pairs = [key + seed for key, seed in zip(committed["key"], committed["seed"], strict=True)]
    said = masking_terms.Statement(
        run,
        1,
        a,
        2,
        keys.public_half(ONE),
        enrolments.seed_commitment(TWO.raw),
        enrolments.roster_hash((a, b, c)),
        merkle.root([merkle.leaf_hash(both) for both in pairs]),
    )
    path = b"".join(merkle.inclusion_proof([merkle.leaf_hash(both) for both in pairs], 1))
    signer = identity("a")
    held = masking_terms.Pair(shares["key"][2], shares["seed"][2])
    box = keys.seal_box(keys.public_half(TWO), "shares", place, wire.encode(held), ONE)
    receipt = wire.encode(Receipt(a, b, run, 1, "Submitted", context, MicroEpsilon(7), Hash(bytes(32)), 9))
    good = {
        **{name: {"label": label, "context": at.hex(), "secret": ONE.raw.hex(), "key": keys.derive(ONE, label, at).raw.hex()} for name, (label, at) in LABELS.items()},
        "public half": {"secret": ONE.raw.hex(), "public": keys.public_half(ONE).hex()},
        "pair mask key": {"a": ONE.raw.hex(), "b": TWO.raw.hex(), "plan": context.hex(), "place": wire.encode(("a", "b")).hex(), "key": pair.raw.hex(), "first 5 of ring 32": streams["pair"].tobytes().hex()},
        "self mask key": {"seed": TWO.raw.hex(), "plan": context.hex(), "key": own.raw.hex(), "first 5 of ring 32": streams["self"].tobytes().hex()},
        "seed commitment": {"seed": TWO.raw.hex(), "commitment": said.seed.hex()},
        **{f"{kind} shares, 2 of 3": {"secret": secret.raw.hex(), "dealer": dealer.hex(), **{f"share {p}": s.hex() for p, s in shares[kind].items()}, **{f"commitment {p}": committed[kind][p - 1].hex() for p in shares[kind]}} for kind, secret in (("key", ONE), ("seed", TWO))},
        "statement": {"key": signer.public.hex(), "bytes": wire.encode(said).hex(), "signature": signer.sign("mask-key", wire.encode(said)).hex()},
        "share tree": {"roster": wire.encode((a, b, c)).hex(), "roster hash": said.roster.hex(), "root": said.shares.hex(), "path of b": path.hex()},
        "box of shares": {"to": TWO.raw.hex(), "place": place.hex(), "box": box.hex(), "message": wire.encode(held).hex()},
        "receipt": {"key": signer.public.hex(), "bytes": receipt.hex(), "signature": signer.sign("receipt", receipt).hex()},
    }  # fmt: skip
    flipped = bytes([*held.key[:20], held.key[20] ^ 1, *held.key[21:]])
    of = good["statement"]
    bad = {
        "a key share with a flipped bit": {"key share": flipped.hex(), "seed share": held.seed.hex(), "fails": "protocol.wrong-share"},
        "a seed share of another point": {"key share": held.key.hex(), "seed share": shares["seed"][3].hex(), "fails": "protocol.wrong-share"},
        "a key share for a seed share": {"key share": held.key.hex(), "seed share": held.key.hex(), "fails": "protocol.wrong-share"},
        "a path in another order": {"key share": held.key.hex(), "seed share": held.seed.hex(), "path": (path[32:] + path[:32]).hex(), "fails": "protocol.wrong-share"},
        "a path with one more hash": {"key share": held.key.hex(), "seed share": held.seed.hex(), "path": (path + path[:32]).hex(), "fails": "protocol.wrong-share"},
        "a statement somebody else signed": {"statement": of["bytes"], "signature": identity("b").sign("mask-key", wire.encode(said)).hex(), "fails": "protocol.swapped-key"},
        "a statement signed as a receipt": {"statement": of["bytes"], "signature": signer.sign("receipt", wire.encode(said)).hex(), "fails": "protocol.swapped-key"},
        "a statement of another round": {"statement": wire.encode(replace(said, round=2)).hex(), "signature": of["signature"], "fails": "protocol.replayed-key"},
        "a statement with another threshold": {"statement": wire.encode(replace(said, threshold=3)).hex(), "signature": of["signature"], "fails": "protocol.another-threshold"},
        "a box for another peer": {"box": box.hex(), "place": enrolments.place_of(run, 1, a, c).hex(), "fails": "protocol.box"},
        "a box that is too short": {"box": box[:31].hex(), "place": place.hex(), "fails": "protocol.box"},
        "a key of low order": {"public": bytes(32).hex(), "fails": "protocol.weak-key"},
        "one share where two are needed": {"share 2": held.key.hex(), "fails": "protocol.forged"},
        "shares of no secret": {"share 1": shares["key"][1].hex(), "share 2": flipped.hex(), "fails": "protocol.forged"},
        "a receipt with another cost": {"receipt": receipt.replace(b"\x07", b"\x08").hex(), "signature": good["receipt"]["signature"], "fails": "protocol.signature"},
    }  # fmt: skip
    return {"good": good, "bad": bad}


def main() -> None:
    (FOLDER / "protection").mkdir(parents=True, exist_ok=True)
    (FOLDER / "protection" / "masked_round.json").write_text(json.dumps(masked_round(), indent=1) + "\n")
    (FOLDER / "protection" / "derivations.json").write_text(json.dumps(derivations(), indent=1) + "\n")
    (FOLDER / "known.json").write_text(json.dumps({"good": good(), "bad": bad()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
