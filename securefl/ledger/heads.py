"""A party's word on its whole ledger: size and root, under its key. One form for others, one for its own store.

A store is sent a head before its transaction is committed, and whoever administers it may refuse the commit and keep
the head. So what it is sent is signed under a label of its own, which nobody else takes for a promise. What others are
shown is signed once it is certain.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from securefl import keys, wire
from securefl.errors import Forged
from securefl.terms import Head, PublicKey, SignedHead
from securefl.terms.names import SignatureBytes

LABEL = "head"
STORED = "stored-head"


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A head as a store has it: its owner's word to itself. Of one size there may be several: commits are refused."""

    head: Head
    signature: SignatureBytes


def sign(identity: keys.Identity, head: Head) -> SignedHead:
    """The head, under its owner's key, for others. The caller is certain of it: no other of its size is ever signed."""
    return SignedHead(head, identity.sign(LABEL, wire.encode(head)))


def verify(key: PublicKey, signed: SignedHead) -> None:
    """Check that the holder of ``key`` signed this head.

    Raises:
        Forged: it did not.
    """
    _verify(key, LABEL, signed)


def is_under(keys_: Iterable[PublicKey], signed: SignedHead) -> bool:
    """Whether the holder of one of these keys signed this head."""
    for key in keys_:
        with suppress(Forged):
            verify(key, signed)
            return True
    return False


def sign_stored(identity: keys.Identity, head: Head) -> StoredHead:
    """The head, for the store of its owner alone."""
    return StoredHead(head, identity.sign(STORED, wire.encode(head)))


def verify_stored(key: PublicKey, stored: StoredHead) -> None:
    """Check that the holder of ``key`` gave this head to its store.

    Raises:
        Forged: it did not.
    """
    _verify(key, STORED, stored)


def _verify(key: PublicKey, label: str, signed: SignedHead | StoredHead) -> None:
    try:
        keys.verify(key, label, wire.encode(signed.head), signed.signature)
    except Forged as fault:
        raise Forged(f"{signed.head.owner}'s head over {signed.head.size} entries: {fault}") from fault
