"""Homomorphic encryption with CKKS: ciphertexts anybody may add and only the custodian can open.

The custodian is neither a member nor the coordinator. It receives the signed inputs, adds them and decrypts the sum; a
single input it could open too, and is trusted not to. What is encrypted, and why the sum is exact, stands in
`ckks_slots`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from securefl import keys, wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import ckks_slots, fixed_point
from securefl.seams import Enrolment
from securefl.terms import Aggregate, Envelope, FixedPoint, Hash, MemberId, Plan, PublicKey, RunId, Scheme, Update

CUSTODIAN = MemberId("custodian")


@dataclass(frozen=True, slots=True)
class Material:
    """What members encrypt with, under the custodian's signature."""

    context: bytes  # public TenSEAL context
    signature: bytes


@dataclass(frozen=True, slots=True)
class Encrypted:
    """An update no member and no coordinator can open."""

    key: Hash  # of the context it was encrypted under
    plan: Hash
    dimension: int
    encoding: FixedPoint
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Summation:
    """The question to the custodian: the sealed inputs of one plan, each as its member signed it."""

    plan: Plan
    inputs: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Summed:
    """The custodian's answer: grid integers, int64, little endian, and whose they are the sum of."""

    values: bytes
    members: tuple[MemberId, ...]


def check_bounds(plan: Plan) -> None:
    """Nothing happens if the sum under this plan is exact.

    Raises:
        Unsafe: it would not be, or it would be over too few members.
    """
    cover, members = plan.cover, len(plan.cohort)
    if members < cover.min_cohort:
        raise Unsafe(f"a cohort of {members}; at least {cover.min_cohort} are needed")
    if cover.min_cohort - cover.colluding <= plan.sharing.sums:
        honest = f"{cover.min_cohort - cover.colluding} honest inputs"
        raise Unsafe(f"{plan.sharing.sums} released over {cover.min_cohort}, {cover.colluding} colluding: {honest}")
    fixed_point.check_encoding(cover.encoding, members)
    ckks_slots.check_exact(cover.encoding, members)


class CkksMember:
    """The member's half."""

    scheme = Scheme.CKKS
    enrols = False

    def enrol(
        self, me: MemberId, run: RunId, round_: int, threshold: int, boxes: Mapping[MemberId, bytes],
        identity: Identity, rand: Secret,
    ) -> Enrolment:  # fmt: skip
        """Nothing to prepare: the key is the custodian's."""
        del me, run, round_, threshold, boxes, identity, rand
        return Enrolment(b"", b"")

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """A sum under this plan is exact and over enough members, and there is a key to encrypt with."""
        del me, box, enrolment, relayed
        check_bounds(plan)
        if plan.cover.custodian is None or not material:
            raise Unsafe("no custodian")

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Ciphertexts of the grid values, bound to key, plan, dimension and encoding."""
        self.admit(me, plan, box, enrolment, relayed, material)
        del rand
        context_bytes = wire.decode(material, Material).context
        encoding = plan.cover.encoding
        chunks = ckks_slots.encrypt(context_bytes, fixed_point.encode_update(update, plan), encoding)
        encrypted = Encrypted(key_id(context_bytes), wire.plan_hash(plan), plan.dimension, encoding, chunks)
        return wire.encode(encrypted), b""

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Members are not asked: only the custodian can open."""
        del me, plan, kept, question
        raise Unsafe("a member has nothing to open a ciphertext with")

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """The context is the custodian's, has the parameters of this module, and no secret key."""
        if custodian is None:
            raise Forged("CKKS without a custodian")
        given: Material = wire.decode(material, Material)
        keys.verify(custodian, "he-key", given.context, given.signature)
        ckks_slots.check_public(given.context)


def key_id(context: bytes) -> Hash:
    """The name of a key: SHA-256 of its public context."""
    return Hash(hashlib.sha256(b"he-key\0" + context).digest())


class CkksCoordinator:
    """The coordinator's half: it hands the signed inputs to the custodian and reads the sum."""

    scheme = Scheme.CKKS
    enrols = False
    asks = True

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Nothing to relay."""
        del enrolled
        return dict.fromkeys(cohort, b"")

    def ask(self, plan: Plan, sealed: Mapping[MemberId, Envelope]) -> Mapping[MemberId, bytes]:
        """One question, to the custodian."""
        return {CUSTODIAN: wire.encode(Summation(plan, tuple(envelope for _, envelope in sorted(sealed.items()))))}

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], sealed: Mapping[MemberId, bytes],
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The sum, as the custodian opened it.

        Raises:
            Forged: there is no answer, or it is of other members or another shape.
        """
        del enrolled
        if CUSTODIAN not in answers:
            raise Forged("the custodian did not answer")
        summed: Summed = wire.decode(answers[CUSTODIAN], Summed)
        if summed.members != tuple(sorted(sealed)) or len(summed.values) != 8 * plan.dimension:
            raise Forged("a sum over other members than were asked for, or of another shape")
        return Aggregate(np.frombuffer(summed.values, "<i8"), summed.members, plan.cover.encoding)


class CkksKeyHolder:
    """The custodian's half: the only secret key there is."""

    scheme = Scheme.CKKS

    def __init__(self, secret_context: bytes, identity: Identity) -> None:
        self._secret = secret_context
        self._public = ckks_slots.public_half(secret_context)
        self._identity = identity

    @classmethod
    def new(cls, identity: Identity) -> CkksKeyHolder:
        """A holder of a fresh key that is stored nowhere."""
        return cls(ckks_slots.new_context(), identity)

    @classmethod
    def at(cls, path: Path, identity: Identity) -> CkksKeyHolder:
        """The holder of the key at ``path``; made there, readable by its owner alone, if there is none.

        Raises:
            OperatorFault: others may read the key.
        """
        return cls(keys.kept(path, ckks_slots.new_context), identity)

    def material(self) -> bytes:
        """The public context, signed."""
        return wire.encode(Material(self._public, self._identity.sign("he-key", self._public)))

    def open_sum(self, plan: Plan, sealed: Mapping[MemberId, bytes]) -> bytes:
        """The sum of these inputs, on the grid.

        Raises:
            Unsafe: too few inputs.
            Forged: an input is for another key, plan, shape or encoding.
        """
        check_bounds(plan)
        if len(sealed) < plan.cover.min_cohort:
            raise Unsafe(f"a sum over {len(sealed)} members; at least {plan.cover.min_cohort} are needed")
        name, encoding, chunks = wire.plan_hash(plan), plan.cover.encoding, ckks_slots.count(plan.dimension)
        inputs: dict[MemberId, tuple[bytes, ...]] = {}
        for member, payload in sorted(sealed.items()):
            given: Encrypted = wire.decode(payload, Encrypted)
            if (given.key, given.plan, given.dimension, given.encoding, len(given.chunks)) != (
                key_id(self._public), name, plan.dimension, encoding, chunks,
            ):  # fmt: skip
                raise Forged(f"{member} sent an input for another key, plan, shape or encoding")
            inputs[member] = given.chunks
        total = ckks_slots.open_sum(self._secret, inputs, plan.dimension, encoding)
        return wire.encode(Summed(total.astype("<i8").tobytes(), tuple(sorted(sealed))))
