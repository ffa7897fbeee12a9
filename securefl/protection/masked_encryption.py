"""Masks and encryption together: a single input is noise to the custodian too, key and all.

A member masks its packed integers as in `masking`, encrypts, and seals the ciphertexts to the custodian. The ring of
the masks is the cipher's: what is encrypted for BFV, the ciphertext itself for CKKS.

The survivors are asked for shares first; the custodian then gets the inputs, the enrolments and the shares. It checks
them against what members signed, draws the masks that are left by itself, takes them out, and shows a sum or nothing: a
masked opening would give its secret key away, and so would a polynomial that the coordinator may choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from securefl import wire
from securefl.errors import Forged
from securefl.keys import Identity, Secret
from securefl.protection import encrypted, enrolments, fixed_point, slot_packing, unmasking
from securefl.protection.encrypted import CUSTODIAN, EncryptedCoordinator, Holder, Material, Parameters
from securefl.protection.mask_streams import Stream
from securefl.protection.masking import MaskingCoordinator, MaskingMember
from securefl.protection.masking_terms import TooFew
from securefl.protection.slot_packing import Packing
from securefl.protection.summation import Summation, whole
from securefl.seams import Enrolment
from securefl.terms import Envelope, MemberId, Participant, Plan, PublicKey, RunId, Scheme, SignedReceipt, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MaskedCipher(Parameters, Protocol):
    """What `ckks_coefficients` and `bfv_masked` both are."""

    def encrypt(
        self, public_context: bytes, integers: NDArray[np.int64], packing: Packing, streams: Iterable[Stream]
    ) -> tuple[bytes, ...]:
        """Masked ciphertexts of packed integers."""
        ...

    def open_sum(
        self, secret_context: bytes, inputs: Mapping[MemberId, tuple[bytes, ...]], count: int, packing: Packing,
        streams: Iterable[Stream],
    ) -> NDArray[np.int64]:  # fmt: skip
        """The sum of packed integers, with the masks in ``streams`` taken out."""
        ...


class MaskedMember:
    """The member's half: both halves, one inside the other."""

    def __init__(self, scheme: Scheme, cipher: MaskedCipher) -> None:
        self.scheme, self._cipher, self._masks = scheme, cipher, MaskingMember()

    def enrol(
        self, me: MemberId, run: RunId, round_: int, threshold: int, boxes: Mapping[MemberId, bytes],
        identity: Identity, rand: Secret,
    ) -> Enrolment:  # fmt: skip
        """Keys and shares of masks."""
        return self._masks.enrol(me, run, round_, threshold, boxes, identity, rand)

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """Check what masks ask for and what encryption asks for."""
        self._masks.admit(me, plan, box, enrolment, relayed, b"")
        encrypted.check_keyed(plan, self._cipher, material)

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Masked ciphertexts in a box to the custodian, and the shares that may be asked for."""
        packed = encrypted.check_keyed(plan, self._cipher, material)
        streams, kept = self._masks.streams(me, plan, box, enrolment, relayed)
        integers = slot_packing.pack(fixed_point.encode_update(update, plan, rand), packed)
        given: Material = wire.decode(material, Material)
        chunks = self._cipher.encrypt(given.context, integers, packed, streams)
        return encrypted.boxed(me, plan, given, chunks, rand), kept

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Shares of masks."""
        return self._masks.answer(me, plan, kept, question)

    def about(self, question: bytes) -> frozenset[str]:
        """The survivors."""
        return self._masks.about(question)

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """Check the custodian's public keys."""
        encrypted.check_material(self.scheme, self._cipher, material, custodian)


class MaskedCoordinator(EncryptedCoordinator):
    """The coordinator's half: it asks the survivors for shares, then the custodian for the sum."""

    phases = 2

    def __init__(self, scheme: Scheme) -> None:
        super().__init__(scheme)
        self._masks = MaskingCoordinator()

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Statements and boxes of masks."""
        return self._masks.relay(cohort, enrolled)

    def admit(self, plan: Plan, seat: Participant, roster: tuple[MemberId, ...], enrolled: bytes) -> None:
        """As masks have it."""
        self._masks.admit(plan, seat, roster, enrolled)

    def ask(
        self, phase: int, plan: Plan, enrolled: Mapping[MemberId, bytes],
        sealed: Mapping[MemberId, Envelope | SignedReceipt], answers: Mapping[MemberId, bytes],
    ) -> Mapping[MemberId, bytes]:  # fmt: skip
        """The survivors for shares; then the custodian for the sum, with what they answered.

        Raises:
            TooFew: fewer usable answers than shares open a mask.
        """
        if phase == 0:
            return self._masks.ask(phase, plan, enrolled, sealed, answers)
        found = unmasking.readable(unmasking.publics_of(plan, enrolled), tuple(sorted(sealed)), answers)
        if len(found) < plan.cover.threshold:
            raise TooFew(f"{len(found)} members gave shares; {plan.cover.threshold} are needed")
        cohort = {str(seat.member): enrolled[seat.member] for seat in plan.cohort}
        usable = {str(member): answers[member] for member in found}
        return {CUSTODIAN: wire.encode(Summation(plan, whole(sealed), cohort, usable))}

    def check_answer(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], member: MemberId,
        answer: bytes,
    ) -> None:  # fmt: skip
        """A member's as masks have it; the custodian's as encryption has it."""
        if member == CUSTODIAN:
            super().check_answer(plan, enrolled, survivors, member, answer)
        else:
            self._masks.check_answer(plan, enrolled, survivors, member, answer)


class MaskedKeyHolder(Holder[MaskedCipher]):
    """The custodian's half: it takes the masks out by itself, and shows a sum or nothing."""

    def _opening(
        self, plan: Plan, packed: Packing, inputs: Mapping[MemberId, tuple[bytes, ...]],
        enrolled: Mapping[MemberId, bytes], answers: Mapping[MemberId, bytes],
    ) -> Callable[[], NDArray[np.int64]]:  # fmt: skip
        """Return what decrypts the sum and takes the masks out, once every statement and share is checked.

        Raises:
            TooFew: fewer survivors or good shares than the plan needs.
            Unsafe: shares that two groups could each open the other's half with.
            Forged: an enrolment or a share that its member did not sign for, or shares for another set of survivors.
        """
        enrolments.check_cover(plan)
        survivors = tuple(sorted(inputs))
        if set(enrolled) != {seat.member for seat in plan.cohort}:
            raise Forged("enrolments of others than the cohort", "protocol.another-cohort")
        enrolments.check_enrolled(plan, enrolled)
        publics = unmasking.publics_of(plan, enrolled)
        for member, answer in answers.items():
            unmasking.check_revealed(publics, survivors, member, answer)
        streams = tuple(unmasking.masks_left(plan, enrolled, survivors, answers))
        return partial(self._cipher.open_sum, self._secret, inputs, packed.count(plan.dimension), packed, streams)
