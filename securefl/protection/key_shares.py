"""A decryption key at rest, split ``t`` of ``n`` among members: its custodian has it in memory alone.

The key lies at the custodian under a lock that is stored nowhere. The lock is shared by Shamir's scheme; each share is
sealed to a key of its member and committed to under the custodian's signature. When the custodian starts it asks with a
fresh box key; members open their share and seal it to that. Whoever has the custodian's disk and ``t`` members'
shares has the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from securefl import keys, wire
from securefl.errors import Forged, OperatorFault, PeerFault
from securefl.keys import Identity, Secret
from securefl.protection import shamir
from securefl.terms import Hash, MemberId, PublicKey
from securefl.terms.names import SignatureBytes


@dataclass(frozen=True, slots=True)
class Statement:
    """Which key was split, among whom, and commitments to the shares."""

    key: Hash  # of the public context
    threshold: int
    roster: tuple[MemberId, ...]  # sorted; a member's point is its place here, from 1
    lock: bytes  # X25519 public key: what the key is sealed to
    commitments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Vault:
    """What stays at the custodian."""

    statement: Statement
    locked: bytes


@dataclass(frozen=True, slots=True)
class Share:
    """What one member keeps."""

    statement: Statement
    signature: SignatureBytes
    box: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The custodian wants the shares of a key, sealed to ``box``."""

    key: Hash
    box: bytes
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class Answer:
    """One member's share, sealed to a request."""

    member: MemberId
    box: bytes


def split(
    secret_context: bytes, key: Hash, threshold: int, boxes: Mapping[MemberId, bytes], identity: Identity, rand: Secret
) -> tuple[bytes, dict[MemberId, bytes]]:
    """Return what the custodian keeps instead of the key, and what each member keeps.

    Raises:
        OperatorFault: one share would give the key, or more are asked for than there are members.
    """
    roster = tuple(sorted(boxes))
    if not 2 <= threshold <= len(roster):
        raise OperatorFault(f"a key split {threshold} of {len(roster)}", f"choose a threshold of 2 to {len(roster)}")
    lock = keys.derive(rand, "key-lock")
    points = tuple(range(1, len(roster) + 1))
    shares = shamir.split(lock, threshold, points, keys.derive(rand, "key-lock-polynomial"))
    commitments = tuple(shamir.commitment(key, "he-key", point, shares[point]) for point in points)
    statement = Statement(key, threshold, roster, keys.public_half(lock), commitments)
    locked = keys.seal_box(statement.lock, "he-key", key, secret_context, keys.derive(rand, "key-lock-box"))
    signature = identity.sign("key-shares", wire.encode(statement))
    dealt = {}
    for point, member in zip(points, roster, strict=True):
        fresh = keys.derive(rand, "key-share-box", member.encode())
        box = keys.seal_box(boxes[member], "key-share", key, shares[point], fresh)
        dealt[member] = wire.encode(Share(statement, signature, box))
    return wire.encode(Vault(statement, locked)), dealt


def check_asks(asked: Request, custodian: PublicKey) -> None:
    """Check that this custodian asks for shares; raise Forged otherwise."""
    keys.verify(custodian, "key-share-request", asked.key + asked.box, asked.signature)


def check_dealt(share: Share, custodian: PublicKey) -> None:
    """Check that this custodian signed what a share is of; raise Forged otherwise. Whether it opens is not asked."""
    keys.verify(custodian, "key-shares", wire.encode(share.statement), share.signature)


def is_mine(member: MemberId, share: Share, box: Secret, custodian: PublicKey) -> bool:
    """Return whether this custodian dealt the share to this member: it opens, and is the one that was committed to."""
    statement = share.statement
    try:
        check_dealt(share, custodian)
        opened = keys.open_box(box, "key-share", statement.key, share.box)
        point = statement.roster.index(member) + 1
        due = statement.commitments[point - 1]
    except (Forged, ValueError, IndexError):
        return False
    return shamir.commitment(statement.key, "he-key", point, opened) == due


def answer(
    member: MemberId, share: bytes, boxes: Iterable[Secret], request: bytes, asking: PublicKey, dealer: PublicKey
) -> bytes:
    """This member's share, for the custodian that asks now.

    Args:
        member: whose share it is.
        share: as it was dealt.
        boxes: of every key that the member has had: the share is sealed to one of them.
        request: what the custodian sent.
        asking: the custodian's key that counts now.
        dealer: its key under which the share was dealt: the same, or one that was handed over to it.

    Raises:
        Forged: it is not the custodian who asks, or who dealt the share; or it asks for another key's.
    """
    asked: Request = wire.decode(request, Request)
    held: Share = wire.decode(share, Share)
    check_asks(asked, asking)
    check_dealt(held, dealer)
    if asked.key != held.statement.key:
        raise Forged("a request for the shares of another key")
    for box in boxes:
        with suppress(Forged):
            opened = keys.open_box(box, "key-share", asked.key, held.box)
            fresh = keys.derive(box, "key-share-answer", asked.box + asked.key + opened)  # of one request and one share
            return wire.encode(Answer(member, keys.seal_box(asked.box, "key-share-answer", asked.key, opened, fresh)))
    raise Forged(f"a share that no key of {member} opens")


def assemble(vault: bytes, identity: Identity, gather: Callable[[bytes], Iterable[bytes]], rand: Secret) -> bytes:
    """The key, from the members' answers to one request. A share that is none is left out.

    Raises:
        OperatorFault: fewer good shares than the key was split by.
        Forged: the shares open nothing.
    """
    held: Vault = wire.decode(vault, Vault)
    statement = held.statement
    box = keys.derive(rand, "key-share-request")
    public = keys.public_half(box)
    signature = identity.sign("key-share-request", statement.key + public)
    good: dict[int, bytes] = {}
    for given in gather(wire.encode(Request(statement.key, public, signature))):
        try:
            one: Answer = wire.decode(given, Answer)
            share = keys.open_box(box, "key-share-answer", statement.key, one.box)
            point = statement.roster.index(one.member) + 1
        except (PeerFault, ValueError):
            continue  # the others may be enough
        if shamir.commitment(statement.key, "he-key", point, share) == statement.commitments[point - 1]:
            good[point] = share
        if len(good) == statement.threshold:
            break  # nobody else need be waited for
    if len(good) < statement.threshold:
        what = f"{len(good)} good shares of the decryption key; {statement.threshold} are needed"
        raise OperatorFault(what, f"ask more of: {', '.join(statement.roster)}")
    return keys.open_box(shamir.combine(good, statement.threshold), "he-key", statement.key, held.locked)
