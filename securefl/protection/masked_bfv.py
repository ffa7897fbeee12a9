"""Masks inside the ciphertext: custodian and coordinator together see the sum, as either of them does alone.

A member packs its grid values, masks the packed integers modulo 2**44 as in `masking`, and encrypts what comes out:
the ring of the masks is BFV's plaintext ring, so nothing carries from one into the other. The custodian opens a sum
that is still masked by the survivors' own masks; the coordinator takes those out with the survivors' shares.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from securefl.keys import Identity, Secret
from securefl.protection import bfv_coefficients as bfv
from securefl.protection import digits, encrypted, fixed_point
from securefl.protection.encrypted import EncryptedCoordinator, EncryptedMember
from securefl.protection.masking import MaskingCoordinator, MaskingMember
from securefl.seams import Enrolment
from securefl.terms import Aggregate, Envelope, MemberId, Plan, PublicKey, RunId, Scheme, Update

RING = np.uint64((1 << bfv.PLAIN_BITS) - 1)


class MaskedBfvMember:
    """The member's half: both halves, one inside the other."""

    scheme = Scheme.MASKED_BFV
    enrols = True

    def __init__(self) -> None:
        self._masks, self._cipher = MaskingMember(), EncryptedMember(self.scheme, bfv)

    def enrol(
        self, me: MemberId, run: RunId, round_: int, threshold: int, boxes: Mapping[MemberId, bytes],
        identity: Identity, rand: Secret,
    ) -> Enrolment:  # fmt: skip
        """Keys and shares of masks."""
        return self._masks.enrol(me, run, round_, threshold, boxes, identity, rand)

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """What masks ask for and what encryption asks for."""
        self._masks.admit(me, plan, box, enrolment, relayed, b"")
        self._cipher.admit(me, plan, box, b"", b"", material)

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Ciphertexts of masked integers, and the shares that may be asked for."""
        self._cipher.admit(me, plan, box, b"", b"", material)
        packed = digits.pack(fixed_point.encode_update(update, plan, rand), encrypted.check_bounds(plan, bfv))
        elements = packed.astype("<u8")
        kept = self._masks.mask_in_place(me, plan, box, enrolment, relayed, elements)
        return self._cipher.encrypted(plan, material, (elements & RING).astype(np.int64)), kept

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Shares of masks."""
        return self._masks.answer(me, plan, kept, question)

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """The custodian's public key."""
        self._cipher.check_material(material, custodian)


class MaskedBfvCoordinator:
    """The coordinator's half: the custodian opens the masked sum, the survivors' shares unmask it."""

    scheme = Scheme.MASKED_BFV
    enrols = True
    asks = True

    def __init__(self) -> None:
        self._masks, self._cipher = MaskingCoordinator(), EncryptedCoordinator(self.scheme)

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Statements and boxes of masks."""
        return self._masks.relay(cohort, enrolled)

    def ask(self, plan: Plan, sealed: Mapping[MemberId, Envelope]) -> Mapping[MemberId, bytes]:
        """The survivors for shares, the custodian for the sum."""
        return {**self._masks.ask(plan, sealed), **self._cipher.ask(plan, sealed)}

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], sealed: Mapping[MemberId, bytes],
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The exact integer sum over the survivors.

        Raises:
            TooFew: fewer survivors or usable answers than the plan needs.
            Forged: no sum from the custodian, or one that the masks do not fit.
        """
        packed, survivors = encrypted.check_bounds(plan, bfv), tuple(sorted(sealed))
        total = encrypted.summed(sealed, answers, packed.count(plan.dimension)).astype("<u8")
        self._masks.unmask_in_place(plan, enrolled, survivors, answers, total)
        values = digits.unpack(
            packed.centred(total, bfv.PLAIN_BITS), packed, plan.dimension, plan.cover.encoding, len(survivors)
        )
        return Aggregate(values, survivors, plan.cover.encoding)
