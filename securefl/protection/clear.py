"""No protection: the coordinator sees every update. For comparison alone; policies that allow it say so by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from securefl import wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import fixed_point, max_update
from securefl.protection.schemes import Powers, SchemeSpec
from securefl.seams import Enrolment
from securefl.terms import (
    Aggregate,
    DistributedDiscreteGaussian,
    Envelope,
    MemberId,
    Participant,
    Plan,
    ProtectionSpec,
    PublicKey,
    RunId,
    Scheme,
    SignedReceipt,
    Update,
)
from securefl.terms.uploads import check_weight, upload_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Bare:
    """A vector anybody can read: grid integers, int64, little endian."""

    values: bytes


class ClearMember:
    """The member's half."""

    scheme = Scheme.CLEAR

    def enrol(
        self, me: MemberId, run: RunId, round_: int, threshold: int, boxes: Mapping[MemberId, bytes],
        identity: Identity, rand: Secret,
    ) -> Enrolment:  # fmt: skip
        """Nothing to prepare."""
        del me, run, round_, threshold, boxes, identity, rand
        return Enrolment(b"", b"")

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """The cohort is large enough and the sum fits."""
        del me, box, enrolment, relayed, material
        if len(plan.cohort) < plan.cover.min_cohort:
            what = f"a cohort of {len(plan.cohort)}; at least {plan.cover.min_cohort} are needed"
            raise Unsafe(what, "protocol.small-cohort")
        fixed_point.check_plan(plan)

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """The vector as it is."""
        self.admit(me, plan, box, enrolment, relayed, material)
        return wire.encode(Bare(fixed_point.encode_update(update, plan, rand).astype("<i8").tobytes())), b""

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Nobody asks."""
        del me, plan, kept, question
        raise Unsafe("there is nothing to ask about a vector in the clear")

    def about(self, question: bytes) -> frozenset[str]:
        """Nobody asks."""
        del question
        raise Unsafe("there is nothing to ask about a vector in the clear")

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """This scheme has no key."""
        if material or custodian is not None:
            raise Forged("a vector in the clear has no custodian")


class ClearCoordinator:
    """The coordinator's half."""

    scheme = Scheme.CLEAR
    phases = 0

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Nothing to relay."""
        del enrolled
        return dict.fromkeys(cohort, b"")

    def admit(self, plan: Plan, seat: Participant, roster: tuple[MemberId, ...], enrolled: bytes) -> None:
        """No keys: there are none here."""
        del plan, roster
        if enrolled:
            raise Forged(f"{seat.member} enrolled with keys, and this scheme has none")

    def add(self, plan: Plan, total: bytes, member: MemberId, payload: bytes) -> bytes:
        """The vectors so far and this one.

        Raises:
            Forged: it is no vector of this plan, or a longer one or other weights than an honest member sends.
        """
        bare: Bare = wire.decode(payload, Bare)
        if len(bare.values) != 8 * plan.dimension:
            raise Forged(f"{member} sent {len(bare.values)} bytes where {8 * plan.dimension} belong")
        values = np.frombuffer(bare.values, "<i8")
        check_input(plan, values)
        return (np.frombuffer(total, "<i8") + values if total else values).tobytes()

    def ask(
        self, phase: int, plan: Plan, enrolled: Mapping[MemberId, bytes],
        sealed: Mapping[MemberId, Envelope | SignedReceipt], answers: Mapping[MemberId, bytes],
    ) -> Mapping[MemberId, bytes]:  # fmt: skip
        """Nothing to ask."""
        del phase, plan, enrolled, sealed, answers
        return {}

    def check_answer(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], member: MemberId,
        answer: bytes,
    ) -> None:  # fmt: skip
        """Nobody asks."""
        del plan, enrolled, survivors, answer
        raise Forged(f"{member} answers what nobody asked")

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], total: bytes,
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The sum."""
        del enrolled, answers
        fixed_point.check_plan(plan)
        return Aggregate(np.frombuffer(total, "<i8"), survivors, plan.cover.encoding)


def check_input(plan: Plan, values: NDArray[np.int64]) -> None:
    """Check one member's vector, (dimension,), where it lies open: its size as a sum's, and each weight in it.

    A weight that carries noise is its strategy's to check, in a sum.

    Raises:
        Forged: no honest member sends it.
    """
    sent = values.astype("<f8")  # one member's, so no sum and no ``Aggregate``
    max_update.check_size(plan, float(abs(sent).max(initial=0.0)), float(np.linalg.norm(sent)), 1)
    if isinstance(plan.learning.event, DistributedDiscreteGaussian):
        return
    grid = float(1 << plan.cover.encoding.fraction_bits)
    for place, clip in upload_of(plan.sharing).weighed(plan.dimension):
        check_weight(clip, float(sent[place]) / grid, 1, grid)


def _statement(cover: ProtectionSpec, shares: int | None) -> str:
    del cover, shares
    return "UNSAFE: the coordinator sees every update"


def _powers(threshold: int) -> Powers:
    del threshold
    return (("the coordinator", "every update"),)


SPEC = SchemeSpec(ClearMember, ClearCoordinator, _statement, _powers)
