"""Known-answer vectors: made again by `make vectors`, which fails if one changed. A third of them are bad, by name."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

from securefl import keys, wire
from securefl.keys import Secret
from securefl.ledger import merkle
from securefl.protection import masking, shamir
from securefl.terms import Hash, Head, MemberId, PoissonGaussian

FOLDER = Path(__file__).parent / "vectors"
ONE, TWO = (Secret(hashlib.sha256(word).digest()) for word in (b"one", b"two"))


def good() -> dict[str, dict[str, str]]:
    shares = shamir.split(ONE, 3, (1, 2, 3, 4, 5), TWO)
    pair = masking._pair_key(ONE, keys.public_half(TWO), Hash(bytes(32)), MemberId("a"), MemberId("b"))
    import numpy as np

    stream = np.zeros(8, "<u4")
    masking.mask(stream, pair)
    head = Head(MemberId("a"), 3, Hash(bytes(32)))
    return {
        "derive": {"secret": ONE.raw.hex(), "label": "self-mask", "context": "00", "key": keys.derive(ONE, "self-mask", b"\0").raw.hex()},
        "agree": {"mine": ONE.raw.hex(), "theirs": keys.public_half(TWO).hex(), "key": keys.agree(ONE, keys.public_half(TWO)).raw.hex()},
        "pair mask": {"key": pair.raw.hex(), "first 8 of ring 32": stream.tobytes().hex()},
        "shamir": {"secret": ONE.raw.hex(), "threshold": "3", **{f"share {point}": share.hex() for point, share in shares.items()}},
        "box": {"to": keys.public_half(TWO).hex(), "message": "68656c6c6f", "box": keys.seal_box(keys.public_half(TWO), "shares", b"c", b"hello", ONE).hex()},
        "head": {"bytes": wire.encode(head).hex(), "signature": keys.Identity(ONE).sign("head", wire.encode(head)).hex()},
        "event": {"bytes": wire.encode(PoissonGaussian(Fraction(1, 8), Fraction(9, 10), 4)).hex()},
        "leaf": {"entry": "00", "hash": merkle.leaf_hash(b"\0").hex()},
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
        "a tail": {"event": (event + b"\0").hex(), "fails": "Malformed"},
        "a head under another label": {"signature": keys.Identity(ONE).sign("receipt", b"x").hex(), "fails": "Forged"},
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "known.json").write_text(json.dumps({"good": good(), "bad": bad()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
