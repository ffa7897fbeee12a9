"""Homomorphic encryption: ciphertexts anybody may add and only the custodian can open, each in a box to the custodian.

The custodian is neither a member nor the coordinator. It opens the boxes, adds the inputs and decrypts the sum. It
could open a single input too, and is trusted not to: `masked_encryption` takes that trust away.

Ciphertexts are malleable: whoever sees them can hand in the negated sum of the others, or one that adds a multiple of
the secret key to the sum, and no check of a sum tells. So nobody but the custodian sees one. A box is bound to the run,
the round, the plan and the sender, and its key is the session's: it opens once, where it belongs.

What is encrypted, and why the sum is exact, stands in `ckks_slots`, `bfv_coefficients`, `ckks_coefficients` and
`bfv_masked`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import numpy as np

from securefl import keys, wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import fixed_point, honest_count, slot_packing, tenseal_context
from securefl.protection.key_file import KeyFile
from securefl.protection.slot_packing import Packing
from securefl.protection.summation import FromCustodian, Summation, Summed, Unopened, whole
from securefl.seams import Enrolment, Prepared
from securefl.terms import (
    Aggregate,
    Envelope,
    FixedPoint,
    Hash,
    MemberId,
    Participant,
    Plan,
    PublicKey,
    RunId,
    Scheme,
    SignedReceipt,
    Update,
    rules,
)
from securefl.terms.names import BoxKey, SignatureBytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUSTODIAN = MemberId("custodian")
ANOTHER_INPUT, NO_SUM = "protocol.another-input", "protocol.no-sum"


class Parameters(Protocol):
    """What every cipher has."""

    INTEGERS: int  # in one ciphertext

    def new_context(self) -> bytes:
        """A fresh key pair; the secret key is in it."""
        ...

    def check_public(self, context: bytes) -> None:
        """Check that this is a public key of this cipher's parameters, and no more."""
        ...

    def packing(self, encoding: FixedPoint, members: int) -> Packing:
        """The densest packing that is exact."""
        ...


class Cipher(Parameters, Protocol):
    """What `ckks_slots` and `bfv_coefficients` both are."""

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
    """What members encrypt with and seal to, under the custodian's signature."""

    context: bytes  # public TenSEAL context
    box: BoxKey  # the custodian's, for one run
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class Encrypted:
    """An update no member and no coordinator can open. It travels in a box."""

    key: Hash  # of the context it was encrypted under
    plan: Hash
    dimension: int
    encoding: FixedPoint
    chunks: tuple[bytes, ...]


def check_bounds(plan: Plan, cipher: Parameters) -> Packing:
    """Return how values are packed under this plan, whose sum is exact.

    Raises:
        Unsafe: it would not be, or it would be over too few members.
    """
    cover, members = plan.cover, len(plan.cohort)
    if members < cover.min_cohort:
        raise Unsafe(f"a cohort of {members}; at least {cover.min_cohort} are needed", "protocol.small-cohort")
    honest_count.check(plan)
    fixed_point.check_plan(plan)
    return cipher.packing(cover.encoding, members)


def check_keyed(plan: Plan, cipher: Parameters, material: bytes) -> Packing:
    """The same, where there is a key to encrypt with.

    Raises:
        Unsafe: there is none.
    """
    packed = check_bounds(plan, cipher)
    if plan.cover.custodian is None or not material:
        raise Unsafe("no custodian")
    return packed


def key_id(context: bytes) -> Hash:
    """The name of a key: SHA-256 of its public context."""
    return Hash(hashlib.sha256(b"he-key\0" + context).digest())


def sealed_at(run: RunId, round_: int, plan: Hash, sender: MemberId) -> bytes:
    """Return what a box of an input is bound to: it opens nowhere else."""
    return wire.encode((bytes(run), round_, plan, sender))


class EncryptedMember:
    """The member's half."""

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
        check_keyed(plan, self._cipher, material)

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Ciphertexts of the grid values, bound to key, plan, dimension and encoding, in a box to the custodian."""
        del box, enrolment, relayed
        packed = check_keyed(plan, self._cipher, material)
        integers = slot_packing.pack(fixed_point.encode_update(update, plan, rand), packed)
        given: Material = wire.decode(material, Material)
        return boxed(me, plan, given, self._cipher.encrypt(given.context, integers, packed), rand), b""

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Members are not asked: only the custodian can open."""
        del me, plan, kept, question
        raise Unsafe("a member has nothing to open a ciphertext with")

    def about(self, question: bytes) -> frozenset[str]:
        """Members are not asked."""
        del question
        raise Unsafe("a member has nothing to open a ciphertext with")

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """Check that the context is the custodian's, has this cipher's parameters, and no secret key."""
        check_material(self.scheme, self._cipher, material, custodian)


def boxed(me: MemberId, plan: Plan, material: Material, chunks: tuple[bytes, ...], rand: Secret) -> bytes:
    """An `Encrypted` of these ciphertexts that only the custodian can read."""
    name = wire.plan_hash(plan)
    given = Encrypted(key_id(material.context), name, plan.dimension, plan.cover.encoding, chunks)
    place, fresh = sealed_at(plan.run, plan.round, name, me), keys.derive(rand, "input-box")
    return keys.seal_box(material.box, "he-input", place, wire.encode(given), fresh)


def check_material(scheme: Scheme, cipher: Parameters, material: bytes, custodian: PublicKey | None) -> None:
    """Check that the custodian signed this context and box key, and that the context is of this cipher alone.

    Raises:
        Forged: it did not, or there is no custodian.
        Unsafe: the context has other parameters, or a secret key.
    """
    if custodian is None:
        raise Forged(f"{scheme} without a custodian")
    given: Material = wire.decode(material, Material)
    keys.verify(custodian, "he-key", wire.encode((given.context, given.box)), given.signature)
    keys.agree(Secret(hashlib.sha256(given.context).digest()), given.box)  # found now, a weak key costs no budget
    cipher.check_public(given.context)


class EncryptedCoordinator:
    """The coordinator's half: it hands the signed inputs to the custodian and reads the sum."""

    phases = 1

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Nothing to relay."""
        del enrolled
        return dict.fromkeys(cohort, b"")

    def admit(self, plan: Plan, seat: Participant, roster: tuple[MemberId, ...], enrolled: bytes) -> None:
        """No keys: there are none here."""
        del plan, roster
        if enrolled:
            raise Forged(f"{seat.member} enrolled with keys, and this scheme has none")

    def add(self, plan: Plan, total: bytes, member: MemberId, payload: bytes) -> None:
        """Nothing: the custodian adds, from inputs as their members signed them."""

    def ask(
        self, phase: int, plan: Plan, enrolled: Mapping[MemberId, bytes],
        sealed: Mapping[MemberId, Envelope | SignedReceipt], answers: Mapping[MemberId, bytes],
    ) -> Mapping[MemberId, bytes]:  # fmt: skip
        """One question, to the custodian."""
        del phase, enrolled, answers
        return {CUSTODIAN: wire.encode(Summation(plan, whole(sealed)))}

    def check_answer(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], member: MemberId,
        answer: bytes,
    ) -> None:  # fmt: skip
        """The custodian's is read by ``open``, at once: nobody else is asked beside it, and its reason may be told."""
        del plan, enrolled, survivors, answer
        if member != CUSTODIAN:
            raise Forged(f"{member} answers what nobody asked it")

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], total: bytes,
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The sum, as the custodian opened it.

        Raises:
            Forged: there is no answer, it is no sum, or it is of other members or another shape.
            Unsafe: the plan is priced for more noise than its sums are sure to have.
        """
        del enrolled, total
        fixed_point.check_plan(plan)
        return Aggregate(summed(survivors, answers, plan.dimension), survivors, plan.cover.encoding)


def summed(survivors: tuple[MemberId, ...], answers: Mapping[MemberId, bytes], count: int) -> NDArray[np.int64]:
    """The custodian's ``count`` integers, over exactly these survivors.

    Raises:
        Forged: there is no answer, it is no sum, or it is of other members or another shape.
    """
    if CUSTODIAN not in answers:
        raise Forged("the custodian did not answer", "protocol.too-few")
    given: FromCustodian = wire.decode(answers[CUSTODIAN], FromCustodian)
    if isinstance(given, Unopened):
        rule = given.why if given.why in rules.FAULTS else NO_SUM
        raise Forged(f"the custodian opened no sum: {rules.FAULTS[rule]}", rule)
    if given.members != survivors or len(given.values) != 8 * count:
        raise Forged("a sum over other members than were asked for, or of another shape")
    return np.frombuffer(given.values, "<i8")


C = TypeVar("C", bound=Parameters)


class Holder(ABC, Generic[C]):
    """The custodian's half: the only secret key there is."""

    def __init__(self, scheme: Scheme, cipher: C, secret_context: bytes, file: KeyFile | None = None) -> None:
        self.scheme, self._cipher, self._file = scheme, cipher, file
        self._secret = secret_context
        self._public = tenseal_context.public_half(secret_context)

    @classmethod
    def new(cls, scheme: Scheme, cipher: C) -> Self:
        """A holder of a fresh key that is stored nowhere."""
        return cls(scheme, cipher, cipher.new_context())

    @classmethod
    def at(cls, scheme: Scheme, cipher: C, path: Path, identity: Identity, whole: bytes | None = None) -> Self:
        """The holder of the key at ``path``; made there, readable by its owner alone, if there is none.

        Args:
            whole: the key itself, where its shares were assembled and ``path`` only has its count beside it.

        Raises:
            OperatorFault: others may read the key, or nothing says how many sums it opened.
        """
        file = KeyFile(path, identity)
        if whole is not None:
            file.spent(whole)
        return cls(scheme, cipher, whole or file.kept(cipher.new_context), file)

    def material(self, box: BoxKey, identity: Identity) -> bytes:
        """The public context and the run's box key, signed by who the custodian is in that run."""
        signature = identity.sign("he-key", wire.encode((self._public, box)))
        return wire.encode(Material(self._public, box, signature))

    def prepare(
        self, plan: Plan, box: Secret, sealed: Mapping[MemberId, bytes], enrolled: Mapping[MemberId, bytes],
        answers: Mapping[MemberId, bytes],
    ) -> Prepared:  # fmt: skip
        """These inputs, out of their boxes and checked; nothing is decrypted.

        Raises:
            Unsafe: too few inputs.
            Forged: an input is not in a box of this run, round, plan and sender, or for another key, shape or encoding.
        """
        packed = check_bounds(plan, self._cipher)
        if len(sealed) < plan.cover.min_cohort:
            what = f"a sum over {len(sealed)} members; at least {plan.cover.min_cohort} are needed"
            raise Unsafe(what, "protocol.few-survivors")
        count, survivors = packed.count(plan.dimension), tuple(sorted(sealed))
        inputs = {member: self._chunks(plan, box, member, sealed[member], count) for member in survivors}
        opening = self._opening(plan, packed, inputs, enrolled, answers)

        def total() -> NDArray[np.int64]:
            return slot_packing.unpack(opening(), packed, plan.dimension, plan.cover.encoding, len(inputs))

        return Prepared(survivors, total)

    def open_sum(self, prepared: Prepared) -> bytes:
        """The sum of these inputs, on the grid; or `Unopened`, where what was decrypted is none.

        Raises:
            Unsafe: a key that opened as many sums as one may.
        """
        if self._file is not None:
            self._file.spend(self._secret)
        try:
            total = prepared.total()
        except Forged:  # decrypted once: what it was is told by no fault, and the round has no second opening
            return wire.encode(Unopened(NO_SUM))
        return wire.encode(Summed(total.astype("<i8").tobytes(), prepared.survivors))

    def _chunks(self, plan: Plan, box: Secret, member: MemberId, payload: bytes, count: int) -> tuple[bytes, ...]:
        """The ciphertexts in one member's box."""
        name = wire.plan_hash(plan)
        try:
            opened = keys.open_box(box, "he-input", sealed_at(plan.run, plan.round, name, member), payload)
        except Forged as fault:
            what = f"{member} sent no box that was sealed by it for this run, round and plan"
            raise Forged(what, "protocol.box") from fault
        given: Encrypted = wire.decode(opened, Encrypted)
        due = (key_id(self._public), name, plan.dimension, plan.cover.encoding, -(-count // self._cipher.INTEGERS))
        if (given.key, given.plan, given.dimension, given.encoding, len(given.chunks)) != due:
            what = f"{member} sent an input for another key, plan, shape or encoding"
            raise Forged(what, ANOTHER_INPUT)
        return given.chunks

    @abstractmethod
    def _opening(
        self, plan: Plan, packed: Packing, inputs: Mapping[MemberId, tuple[bytes, ...]],
        enrolled: Mapping[MemberId, bytes], answers: Mapping[MemberId, bytes],
    ) -> Callable[[], NDArray[np.int64]]:  # fmt: skip
        """Return what decrypts the sum, once everything is checked that can be before.

        Raises:
            PeerFault: an enrolment or answer is not what it should be.
        """


class EncryptedKeyHolder(Holder[Cipher]):
    """The custodian of a scheme without masks."""

    def _opening(
        self, plan: Plan, packed: Packing, inputs: Mapping[MemberId, tuple[bytes, ...]],
        enrolled: Mapping[MemberId, bytes], answers: Mapping[MemberId, bytes],
    ) -> Callable[[], NDArray[np.int64]]:  # fmt: skip
        """Return what decrypts the sum."""
        if enrolled or answers:
            raise Forged(f"shares of masks, which {self.scheme} has not", ANOTHER_INPUT)
        return partial(self._cipher.open_sum, self._secret, inputs, packed.count(plan.dimension), packed)
