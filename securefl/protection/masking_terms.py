"""What members, relay and coordinator say to each other when masks hide an update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from securefl import wire
from securefl.errors import PeerFault
from securefl.terms import Hash, MemberId, RunId
from securefl.terms.names import BoxKey, CommitmentBytes, ShareBytes, SignatureBytes


class TooFew(PeerFault):
    """Not enough members are left to open a sum."""

    rule = "protocol.too-few"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a member publishes for one round, signed by its identity."""

    run: RunId
    round: int
    member: MemberId
    threshold: int
    mask_key: BoxKey  # X25519 public key
    seed: Hash  # SHA-256 commitment of the self-mask seed
    roster: Hash  # of the sorted names of all who were dealt shares
    shares: Hash  # root of a Merkle tree: at place i, the commitments of both shares of the roster's i-th


@dataclass(frozen=True, slots=True)
class Public:
    """A statement, its signature, what the statement's hashes are of, and a box for each peer."""

    statement: Statement
    signature: SignatureBytes
    roster: tuple[MemberId, ...]  # sorted; a member's point is its place here, from 1
    commitments: tuple[CommitmentBytes, ...]  # of a key's share and a seed's, in roster order
    boxes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """One peer's shares of one member's secrets of one round."""

    key: ShareBytes
    seed: ShareBytes


@dataclass(frozen=True, slots=True, repr=False)
class Private:
    """What a member keeps of its enrolment, until the round is over."""

    round: int
    threshold: int
    key: bytes
    seed: bytes
    own: Pair


@dataclass(frozen=True, slots=True)
class Relayed:
    """What one member of a cohort is given of one peer's enrolment."""

    statement: Statement
    signature: SignatureBytes
    box: bytes  # empty for a member's own
    path: bytes  # from the receiver's commitments to the root in the statement


@dataclass(frozen=True, slots=True)
class Relay:
    """What one member of a cohort is given of all of them."""

    roster: tuple[MemberId, ...]
    peers: tuple[Relayed, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """The masked vector: integers modulo 2**`sum_bits`, packed."""

    elements: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Kept:
    """The shares a member holds of its cohort, to answer one question."""

    shares: Mapping[str, Pair]


@dataclass(frozen=True, slots=True)
class Survivors:
    """The question: these members' vectors are in the sum."""

    members: tuple[MemberId, ...]


def question_about(survivors: Iterable[MemberId]) -> bytes:
    """Return what everybody in this set is asked: one question for one set, to the byte."""
    return wire.encode(Survivors(tuple(sorted(survivors))))


@dataclass(frozen=True, slots=True, repr=False)
class Revealed:
    """The answer: seed shares of survivors, key shares of the dropped; never both of one member."""

    seeds: Mapping[str, ShareBytes]
    keys: Mapping[str, ShareBytes]
