"""Homomorphic encryption: ciphertexts anybody may add and only the custodian can open.

The custodian is neither a member nor the coordinator. It receives the signed inputs, adds them and decrypts the sum; a
single input it could open too, and is trusted not to: `masked_bfv` takes that trust away. What is encrypted, and why
the sum is exact, stands in `ckks_slots` and `bfv_coefficients`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from securefl import keys, wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import digits, fixed_point, seal
from securefl.protection.digits import Packing
from securefl.protection.key_file import KeyFile
from securefl.seams import Enrolment
from securefl.terms import Aggregate, Envelope, FixedPoint, Hash, MemberId, Plan, PublicKey, RunId, Scheme, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUSTODIAN = MemberId("custodian")


class Cipher(Protocol):
    """What `ckks_slots` and `bfv_coefficients` both are."""

    INTEGERS: int  # in one ciphertext

    def new_context(self) -> bytes:
        """A fresh key pair; the secret key is in it."""
        ...

    def check_public(self, context: bytes) -> None:
        """Nothing happens if this is a public key of this cipher's parameters, and no more."""
        ...

    def packing(self, encoding: FixedPoint, members: int) -> Packing:
        """The densest packing that is exact."""
        ...

    def encrypt(self, public_context: bytes, integers: NDArray[np.int64], packing: Packing) -> tuple[bytes, ...]:
        """Ciphertexts of packed integers."""
        ...

    def open_sum(
        self, secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int, packing: Packing
    ) -> NDArray[np.int64]:
        """The sum of packed integers."""
        ...


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
    """The custodian's answer: integers, int64, little endian, and whose they are the sum of.

    They are grid integers; under masks, packed and masked ones.
    """

    values: bytes
    members: tuple[MemberId, ...]


def check_bounds(plan: Plan, cipher: Cipher) -> Packing:
    """How values are packed under this plan, whose sum is exact.

    Raises:
        Unsafe: it would not be, or it would be over too few members.
    """
    cover, members = plan.cover, len(plan.cohort)
    if members < cover.min_cohort:
        raise Unsafe(f"a cohort of {members}; at least {cover.min_cohort} are needed", "protocol.small-cohort")
    if cover.min_cohort - cover.colluding <= plan.sharing.sums:
        over = f"{cover.min_cohort}, {cover.colluding} colluding"
        what = f"sums released over {over}: {plan.sharing.sums}, too many for its honest inputs"
        raise Unsafe(what, "protocol.few-honest")
    fixed_point.check_plan(plan)
    return cipher.packing(cover.encoding, members)


def key_id(context: bytes) -> Hash:
    """The name of a key: SHA-256 of its public context."""
    return Hash(hashlib.sha256(b"he-key\0" + context).digest())


class EncryptedMember:
    """The member's half."""

    enrols = False

    def __init__(self, scheme: Scheme, cipher: Cipher) -> None:
        self.scheme, self._cipher = scheme, cipher

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
        check_bounds(plan, self._cipher)
        if plan.cover.custodian is None or not material:
            raise Unsafe("no custodian")

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Ciphertexts of the grid values, bound to key, plan, dimension and encoding."""
        self.admit(me, plan, box, enrolment, relayed, material)
        packed = digits.pack(fixed_point.encode_update(update, plan, rand), check_bounds(plan, self._cipher))
        return self.encrypted(plan, material, packed), b""

    def encrypted(self, plan: Plan, material: bytes, packed: NDArray[np.int64]) -> bytes:
        """An `Encrypted` of packed integers."""
        context = wire.decode(material, Material).context
        chunks = self._cipher.encrypt(context, packed, check_bounds(plan, self._cipher))
        return wire.encode(
            Encrypted(key_id(context), wire.plan_hash(plan), plan.dimension, plan.cover.encoding, chunks)
        )

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Members are not asked: only the custodian can open."""
        del me, plan, kept, question
        raise Unsafe("a member has nothing to open a ciphertext with")

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """The context is the custodian's, has this cipher's parameters, and no secret key."""
        if custodian is None:
            raise Forged(f"{self.scheme} without a custodian")
        given: Material = wire.decode(material, Material)
        keys.verify(custodian, "he-key", given.context, given.signature)
        self._cipher.check_public(given.context)


class EncryptedCoordinator:
    """The coordinator's half: it hands the signed inputs to the custodian and reads the sum."""

    enrols = False
    asks = True

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme

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
            Unsafe: the plan is priced for more noise than its sums are sure to have.
        """
        del enrolled
        fixed_point.check_plan(plan)
        return Aggregate(summed(sealed, answers, plan.dimension), tuple(sorted(sealed)), plan.cover.encoding)


def summed(sealed: Mapping[MemberId, bytes], answers: Mapping[MemberId, bytes], count: int) -> NDArray[np.int64]:
    """The custodian's ``count`` integers, over exactly the members in ``sealed``.

    Raises:
        Forged: there is no answer, or it is of other members or another shape.
    """
    if CUSTODIAN not in answers:
        raise Forged("the custodian did not answer")
    given: Summed = wire.decode(answers[CUSTODIAN], Summed)
    if given.members != tuple(sorted(sealed)) or len(given.values) != 8 * count:
        raise Forged("a sum over other members than were asked for, or of another shape")
    return np.frombuffer(given.values, "<i8")


class EncryptedKeyHolder:
    """The custodian's half: the only secret key there is."""

    def __init__(
        self, scheme: Scheme, cipher: Cipher, secret_context: bytes, identity: Identity, file: KeyFile | None = None
    ) -> None:
        self.scheme, self._cipher, self._file = scheme, cipher, file
        self._secret = secret_context
        self._public = seal.public_half(secret_context)
        self._identity = identity

    @classmethod
    def new(cls, scheme: Scheme, cipher: Cipher, identity: Identity) -> EncryptedKeyHolder:
        """A holder of a fresh key that is stored nowhere."""
        return cls(scheme, cipher, cipher.new_context(), identity)

    @classmethod
    def at(
        cls, scheme: Scheme, cipher: Cipher, path: Path, identity: Identity, whole: bytes | None = None
    ) -> EncryptedKeyHolder:
        """The holder of the key at ``path``; made there, readable by its owner alone, if there is none.

        Args:
            whole: the key itself, where its shares were assembled and ``path`` only has its count beside it.

        Raises:
            OperatorFault: others may read the key, or nothing says how many sums it opened.
        """
        file = KeyFile(path)
        if whole is not None:
            file.spent(whole)
        return cls(scheme, cipher, whole or file.kept(cipher.new_context), identity, file)

    def material(self) -> bytes:
        """The public context, signed."""
        return wire.encode(Material(self._public, self._identity.sign("he-key", self._public)))

    def open_sum(self, plan: Plan, sealed: Mapping[MemberId, bytes]) -> bytes:
        """The sum of these inputs: on the grid, or, under masks, packed and masked.

        Raises:
            Unsafe: too few inputs, or a key that opened as many sums as one may.
            Forged: an input is for another key, plan, shape or encoding.
        """
        packed = check_bounds(plan, self._cipher)
        if len(sealed) < plan.cover.min_cohort:
            raise Unsafe(f"a sum over {len(sealed)} members; at least {plan.cover.min_cohort} are needed")
        name, encoding, count = wire.plan_hash(plan), plan.cover.encoding, packed.count(plan.dimension)
        chunks = -(-count // self._cipher.INTEGERS)
        inputs: dict[MemberId, tuple[bytes, ...]] = {}
        for member, payload in sorted(sealed.items()):
            given: Encrypted = wire.decode(payload, Encrypted)
            if (given.key, given.plan, given.dimension, given.encoding, len(given.chunks)) != (
                key_id(self._public), name, plan.dimension, encoding, chunks,
            ):  # fmt: skip
                what = f"{member} sent an input for another key, plan, shape or encoding"
                raise Forged(what, "protocol.another-input")
            inputs[member] = given.chunks
        if self._file is not None:
            self._file.spend(self._secret)
        total = self._cipher.open_sum(self._secret, inputs, count, packed)
        if not plan.cover.scheme.has_masks:
            total = digits.unpack(total, packed, plan.dimension, encoding, len(inputs))
        return wire.encode(Summed(total.astype("<i8").tobytes(), tuple(sorted(sealed))))
