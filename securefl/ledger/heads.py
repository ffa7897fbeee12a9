"""A party's promise about its whole ledger: size and root, under its key."""

from __future__ import annotations

from securefl import keys, wire
from securefl.errors import Forged
from securefl.terms import Head, PublicKey, SignedHead

LABEL = "head"


def sign(identity: keys.Identity, head: Head) -> SignedHead:
    """The head, under its owner's key."""
    return SignedHead(head, identity.sign(LABEL, wire.encode(head)))


def verify(key: PublicKey, signed: SignedHead) -> None:
    """Nothing happens if the holder of ``key`` signed this head.

    Raises:
        Forged: it did not.
    """
    try:
        keys.verify(key, LABEL, wire.encode(signed.head), signed.signature)
    except Forged as fault:
        raise Forged(f"{signed.head.owner}'s head over {signed.head.size} entries: {fault}") from fault
