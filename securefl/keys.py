"""Who somebody is, and every key that is derived: Ed25519 identities, X25519 boxes, HKDF with labels.

Randomness is always an argument. A secret prints as its length.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from securefl.errors import Forged
from securefl.terms import PublicKey
from securefl.terms.names import BoxKey, SignatureBytes

BOX_BYTES: Final = 48  # of a box beside its message: an ephemeral key and a tag


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """32 bytes with one use, named by the code that makes it."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise ValueError(f"a secret has 32 bytes, not {len(self.raw)}")

    def __repr__(self) -> str:
        return "Secret(32 bytes, not shown)"


def derive(secret: Secret, label: str, context: bytes = b"") -> Secret:
    """A key that is good for ``label`` in ``context`` alone (HKDF-SHA-256, RFC 5869)."""
    info = b"securefl/1/" + label.encode() + b"\0" + context
    return Secret(HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret.raw))


class Identity:
    """A long-term signing key. Everything it signs carries a label, so no statement passes for another."""

    def __init__(self, seed: Secret, former: tuple[Identity, ...] = ()) -> None:
        self._seed, self.former = seed, former  # newest first: what they sealed is still opened, what they began ended
        self._key = Ed25519PrivateKey.from_private_bytes(seed.raw)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:16]})"

    def sign(self, label: str, statement: bytes) -> SignatureBytes:
        """64 bytes that only this identity can make for this label and statement (RFC 8032)."""
        return SignatureBytes(self._key.sign(_labelled(label, statement)))

    @property
    def every(self) -> tuple[Identity, ...]:
        """This identity, then those it took the place of, newest first."""
        return (self, *self.former)

    @property
    def first(self) -> PublicKey:
        """The key that this identity was made with: what is named after it keeps its name when the key is exchanged."""
        return self.every[-1].public

    def under(self, key: PublicKey) -> Identity | None:
        """The one of these identities that has this public key; None if none has."""
        return next((each for each in self.every if each.public == key), None)

    def opened_at_rest(self, context: bytes, sealed: bytes, within: bytes | None = None) -> bytes:
        """What one of these identities sealed in ``context``; ``within`` is a secret that it was sealed under, too.

        Raises:
            Forged: altered, or sealed by nobody of these.
        """
        for each in self.every:
            key = each.at_rest(context) if within is None else derive(each.at_rest(within), "at-rest", context)
            with suppress(Forged):
                return open_at_rest(key, context, sealed)
        raise Forged("what was stored does not open", "protocol.box")

    def at_rest(self, context: bytes) -> Secret:
        """The key of what this identity's owner stores where others may look: one for each context."""
        return derive(self._seed, "at-rest", context)

    @property
    def box(self) -> Secret:
        """What opens a share of a decryption key that was sealed to this identity's owner (X25519, 32 bytes)."""
        return derive(self._seed, "key-share-box")


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key, its first 16 bytes in hex: short enough to read out over a telephone."""
    return hashlib.sha256(key).hexdigest()[:32]


def verify(key: PublicKey, label: str, statement: bytes, signature: bytes) -> None:
    """Check that the signature holds.

    Raises:
        Forged: it does not, or the key is no key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _labelled(label, statement))
    except (InvalidSignature, ValueError) as fault:
        what = f"a signature for {label!r} does not hold under key {key.hex()[:16]}"
        raise Forged(what, "protocol.signature") from fault


def _labelled(label: str, statement: bytes) -> bytes:
    return b"securefl/1/" + label.encode() + b"\0" + statement


def public_half(secret: Secret) -> BoxKey:
    """The X25519 public key of a secret: 32 bytes (RFC 7748)."""
    return BoxKey(X25519PrivateKey.from_private_bytes(secret.raw).public_key().public_bytes_raw())


def agree(secret: Secret, public: bytes) -> Secret:
    """The secret two parties share, each from its own secret and the other's public key.

    Raises:
        Forged: the public key is malformed or of low order.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(secret.raw).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as fault:
        raise Forged("an X25519 key that agrees on nothing", "protocol.weak-key") from fault
    return Secret(shared)


def seal_box(to: bytes, label: str, context: bytes, message: bytes, rand: Secret) -> bytes:
    """A message only the holder of ``to`` can open: ephemeral X25519, HKDF, AES-256-GCM; 48 bytes longer.

    Args:
        rand: fresh for every box. The nonce is constant because the key never returns.
    """
    ephemeral = public_half(rand)
    key = derive(agree(rand, to), label, ephemeral + to + context)
    return ephemeral + AESGCM(key.raw).encrypt(bytes(12), message, context)


def open_box(secret: Secret, label: str, context: bytes, box: bytes) -> bytes:
    """The message in a box.

    Raises:
        Forged: altered, for somebody else, or for another label or context.
    """
    ephemeral, sealed = box[:32], box[32:]
    if len(ephemeral) < 32:
        raise Forged("a box that is too short", "protocol.box")
    key = derive(agree(secret, ephemeral), label, ephemeral + public_half(secret) + context)
    try:
        return AESGCM(key.raw).decrypt(bytes(12), sealed, context)
    except InvalidTag as fault:
        raise Forged(f"a box for {label!r} does not open", "protocol.box") from fault


def seal_at_rest(key: Secret, context: bytes, message: bytes, nonce: bytes) -> bytes:
    """A message for whoever holds ``key``: AES-256-GCM over message and ``context``; 28 bytes longer.

    Args:
        nonce: 12 random bytes, fresh for every write under one key.
    """
    return nonce + AESGCM(key.raw).encrypt(nonce, message, context)


def open_at_rest(key: Secret, context: bytes, sealed: bytes) -> bytes:
    """The message.

    Raises:
        Forged: altered, or sealed under another key or context.
    """
    try:
        return AESGCM(key.raw).decrypt(sealed[:12], sealed[12:], context)
    except (InvalidTag, ValueError) as fault:
        raise Forged("what was stored does not open", "protocol.box") from fault
