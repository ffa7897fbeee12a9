"""CKKS through TenSEAL: ciphertexts anybody may add and only the custodian can open.

Parameters are add-only: ring dimension 4096 and primes of 60 + 49 bits, the 109 bits that the homomorphic encryption
standard allows at 128-bit security (Albrecht et al. 2018, table 1). There is no relinearisation or rotation key.

Values are grid integers / 2**fraction_bits at scale 2**40. Decrypted sums are rounded back to the grid, so a sum is
exact as long as the scheme's error stays under half a grid step, and no low-order residue of a decryption is ever shown
(Li and Micciancio 2021). SEAL draws its own randomness (BLAKE2, seeded by the operating system).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl import keys, wire
from securefl.errors import Forged, Missing, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import fixed_point
from securefl.seams import Enrolment
from securefl.terms import Aggregate, Envelope, FixedPoint, Hash, MemberId, Plan, PublicKey, RunId, Scheme, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEGREE = 4096
PRIMES = (60, 49)
SCALE_BITS = 40
SLOTS = DEGREE // 2
ERROR_PER_INPUT = 2.0**-24  # ten times the largest error measured for one fresh ciphertext (5.5e-9)
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


def _tenseal() -> Any:  # noqa: ANN401 - a module without types
    try:
        import tenseal  # noqa: PLC0415
        import tenseal.sealapi  # noqa: PLC0415 - gives Python names to the types of SEAL's parameters
    except ImportError as fault:
        raise Missing("CKKS needs TenSEAL, which is not installed", "pip install 'securefl[he]'") from fault
    return tenseal


def check_bounds(plan: Plan) -> None:
    """Nothing happens if the sum under this plan is exact.

    Raises:
        Unsafe: it would not be, or it would be over too few members.
    """
    cover, members = plan.cover, len(plan.cohort)
    if members < cover.min_cohort:
        raise Unsafe(f"a cohort of {members}; at least {cover.min_cohort} are needed")
    if cover.min_cohort - cover.colluding <= 1:
        raise Unsafe(f"a sum over {cover.min_cohort}, {cover.colluding} colluding, holds fewer than two honest inputs")
    encoding = cover.encoding
    fixed_point.check_encoding(encoding, members)
    if members * ERROR_PER_INPUT >= 2.0 ** -(encoding.fraction_bits + 1):
        raise Unsafe(
            f"{encoding.fraction_bits} fraction bits are finer than a CKKS sum over {members} members is exact"
        )
    largest = members * 2.0 ** (encoding.value_bits - 1 - encoding.fraction_bits)
    if largest * 2.0**SCALE_BITS >= 2.0 ** (PRIMES[0] - 2):
        raise Unsafe(f"a sum of up to {largest:g} overflows the ciphertext's {PRIMES[0]}-bit prime")


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
        context = _tenseal().context_from(context_bytes)
        encoding = plan.cover.encoding
        reals = fixed_point.encode_update(update, plan) / float(1 << encoding.fraction_bits)
        chunks = tuple(
            _tenseal().ckks_vector(context, reals[start : start + SLOTS].tolist()).serialize()
            for start in range(0, plan.dimension, SLOTS)
        )
        encrypted = Encrypted(key_id(context_bytes), wire.plan_hash(plan), plan.dimension, encoding, chunks)
        return wire.encode(encrypted), b""

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Members are not asked: only the custodian can open."""
        raise Unsafe("a member has nothing to open a ciphertext with")

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """The context is the custodian's, has the parameters of this module, and no secret key."""
        if custodian is None:
            raise Forged("CKKS without a custodian")
        given: Material = wire.decode(material, Material)
        keys.verify(custodian, "he-key", given.context, given.signature)
        context = _tenseal().context_from(given.context)
        if context.has_secret_key() or context.has_galois_keys() or context.has_relin_keys():
            raise Unsafe("a context with more than a public key")
        parameters = context.seal_context().data.key_context_data().parms()
        bits = tuple(prime.bit_count() for prime in parameters.coeff_modulus())
        if parameters.poly_modulus_degree() != DEGREE or bits != PRIMES:
            raise Unsafe(f"a context of degree {parameters.poly_modulus_degree()} and primes of {bits} bits")


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
        context = _tenseal().context_from(secret_context)
        self._public = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        self._identity = identity

    @classmethod
    def new(cls, identity: Identity) -> CkksKeyHolder:
        """A holder of a fresh key that is stored nowhere."""
        return cls(_new_context(), identity)

    @classmethod
    def at(cls, path: Path, identity: Identity) -> CkksKeyHolder:
        """The holder of the key at ``path``; made there, readable by its owner alone, if there is none.

        Raises:
            OperatorFault: others may read the key.
        """
        return cls(keys.kept(path, _new_context), identity)

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
        context = _tenseal().context_from(self._secret)
        name, encoding = wire.plan_hash(plan), plan.cover.encoding
        chunks = -(-plan.dimension // SLOTS)
        totals: list[Any] = []
        for member, payload in sorted(sealed.items()):
            given: Encrypted = wire.decode(payload, Encrypted)
            if (given.key, given.plan, given.dimension, given.encoding, len(given.chunks)) != (
                key_id(self._public), name, plan.dimension, encoding, chunks,
            ):  # fmt: skip
                raise Forged(f"{member} sent an input for another key, plan, shape or encoding")
            vectors = [_loaded(context, chunk, member) for chunk in given.chunks]
            totals = vectors if not totals else [total + vector for total, vector in zip(totals, vectors, strict=True)]
        reals = np.concatenate([np.array(total.decrypt()) for total in totals])
        return wire.encode(Summed(_on_grid(reals, plan).astype("<i8").tobytes(), tuple(sorted(sealed))))


def _on_grid(reals: NDArray[np.float64], plan: Plan) -> NDArray[np.int64]:
    if reals.shape != (plan.dimension,):
        raise Forged(f"{len(reals)} values where the plan says {plan.dimension}")
    return np.rint(reals * float(1 << plan.cover.encoding.fraction_bits)).astype(np.int64)


def _loaded(context: Any, chunk: bytes, member: MemberId) -> Any:  # noqa: ANN401 - TenSEAL's own types
    try:
        return _tenseal().ckks_vector_from(context, chunk)
    except (ValueError, RuntimeError) as fault:
        raise Forged(f"{member} sent bytes that are no ciphertext: {fault}") from fault


def _new_context() -> bytes:
    ts = _tenseal()
    context = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIMES))
    context.global_scale = 2.0**SCALE_BITS
    secret: bytes = context.serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return secret
