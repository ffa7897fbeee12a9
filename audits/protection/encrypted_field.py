"""A federation under encryption whose coordinator is hostile and has one member, ``evil``, for what a member must do.

Members, custodian and coordinator are the unmodified machines. The coalition sees every message, lets ``evil`` speak
last, and may put questions of its own before the custodian.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from audits.protection.attempt import Outcome
from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.keys import Secret
from securefl.protection import (
    bfv_coefficients,
    ckks_coefficients,
    ckks_slots,
    encrypted,
    masked_bfv_payload,
    residues,
    slot_packing,
)
from securefl.protection import tenseal_context as seals
from securefl.protection.encrypted import CUSTODIAN, Encrypted, Material
from securefl.protocol import messages as m
from securefl.seams import Failure
from securefl.terms import Event, MemberId, Plan, Scheme
from tests.support.worlds import EVENT, World, entropy, resigned

EVIL = MemberId("evil")
CIPHERS: Mapping[Scheme, ModuleType] = {
    Scheme.CKKS: ckks_slots, Scheme.BFV: bfv_coefficients, Scheme.MASKED_CKKS: ckks_coefficients,
    Scheme.MASKED_BFV: masked_bfv_payload,
}  # fmt: skip
ALL, MASKED = tuple(CIPHERS), (Scheme.MASKED_CKKS, Scheme.MASKED_BFV)

Frames = dict[MemberId, m.Frame]


class Field(World):
    """A federation of random shape whose coordinator lets ``evil`` speak last, and may ask the custodian first."""

    def prepare(self, drawn: random.Random) -> None:
        """Set every hook to honest."""
        self.rand = entropy(f"encryption {drawn.random()}")
        self.drawn, self.moment, self.tried = drawn, 1, False
        self.victim = MemberId(drawn.choice([name for name in self.names if name != EVIL]))
        self.last_word: Callable[[Field, Frames], m.Submitted | None] = lambda *_: None
        self.before: Callable[[Field, m.Frame], Iterable[m.Frame]] = lambda *_: ()
        self.submitted: dict[int, Frames] = {}
        self.plans: dict[int, Plan] = {}
        self.secrets: tuple[Secret, ...] = ()  # of the coalition: what a box might open by
        self.opens: Secret | None = None  # the custodian's, for attacks that it takes part in
        self.given: list[bytes] = []  # what the custodian answered to a forged question
        self.told: list[str] = []  # by which rules it refused one

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], patience_s: float = 0
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Hold every result back until all are here: then ``evil`` has seen them."""
        held: Frames = {}
        for name, answer in super().exchange(outbound, patience_s):
            frame = wire.decode(answer, m.Frame) if isinstance(answer, bytes) else None
            if frame is None or frame.envelope.receipt.kind != "Submitted":
                yield name, answer
                continue
            held[name] = frame
        if EVIL in held:
            round_ = held[EVIL].envelope.receipt.round
            self.submitted[round_], self.plans[round_] = dict(held), self.coordinator.state.course.plan  # type: ignore[attr-defined]
            self.secrets = (Secret(self.parties[EVIL].state.seat.box),)  # type: ignore[attr-defined]
            said = self.last_word(self, held) if round_ == self.moment else None
            if said is not None:
                forged = resigned(held[EVIL].envelope.receipt, said, EVIL)
                held[EVIL] = m.Frame(forged.envelope, self.parties[EVIL].head())
        for name, frame in held.items():
            yield name, wire.encode(frame)

    def handle(self, name: str, data: bytes) -> bytes:
        """Before the custodian gets the genuine question it gets the forged ones."""
        frame: m.Frame = wire.decode(data, m.Frame)
        receipt = frame.envelope.receipt
        if name == CUSTODIAN and receipt.kind == "Ask":
            self.opens = Secret(self.parties[CUSTODIAN].state.box)  # type: ignore[attr-defined]
            if receipt.round == self.moment and not self.tried:
                self.tried = True
                for forged in self.before(self, frame):
                    try:
                        answered = wire.decode(super().handle(name, wire.encode(forged)), m.Frame)
                    except PeerFault as fault:
                        self.told.append(fault.rule)
                    else:
                        self.given.append(wire.decode(answered.envelope.body, m.Answered).answer)
        return super().handle(name, data)

    @property
    def plan(self) -> Plan:
        """The plan of the round that is attacked."""
        return self.plans[self.moment]

    @property
    def material(self) -> Material:
        """What the custodian showed, as ``evil`` has it."""
        return wire.decode(self.parties[EVIL].state.seat.material, Material)  # type: ignore[attr-defined, no-any-return]

    @property
    def cipher(self) -> Any:  # noqa: ANN401 - one of four modules
        """What the plan's scheme encrypts with."""
        return CIPHERS[self.scheme]

    @property
    def packing(self) -> slot_packing.Packing:
        """How values are packed."""
        made: slot_packing.Packing = self.cipher.packing(self.plan.cover.encoding, len(self.plan.cohort))
        return made


def field(number: int, allowed: tuple[Scheme, ...] = ALL, event: Event = EVENT, dimension: int | None = None) -> Field:
    """A federation for one trial: each scheme in turn, 4 to 6 members."""
    drawn = random.Random(f"encryption/{number}")  # noqa: S311 - trials that can be repeated
    names = (*"abcde"[: drawn.randint(3, 5)], str(EVIL))
    made = Field(
        names, allowed[number % len(allowed)], rounds=2, min_cohort=3,
        threshold=drawn.randint((len(names) + 1) // 2 + 1, len(names)), colluding=1,
        dimension=dimension or drawn.randint(1, 80), event=event,
    )  # fmt: skip
    made.prepare(drawn)
    return made


def units(values: np.ndarray) -> np.ndarray:
    """Reals in grid units."""
    return np.rint(values * 2**16).astype(np.int64)


def payload(frame: m.Frame) -> bytes:
    """What a member sealed."""
    return wire.decode(frame.envelope.body, m.Submitted).payload


def by_coordinator(frame: m.Frame, message: m.Request) -> m.Frame:
    """The message in the place of the frame's own, beside the same head: the genuine one can still follow."""
    return m.Frame(resigned(frame.envelope.receipt, message, "coordinator").envelope, frame.head)


def readable(world: Field, name: MemberId, *secrets: Secret) -> tuple[bytes, ...]:
    """The ciphertexts in what a member sealed, by one of these secrets, or where there is no box.

    Raises:
        PeerFault: it shows none.
    """
    plan, sealed = world.plan, payload(world.submitted[world.moment][name])
    place = encrypted.sealed_at(plan.run, plan.round, wire.plan_hash(plan), name)
    try:
        return wire.decode(sealed, Encrypted).chunks  # type: ignore[no-any-return]
    except PeerFault as fault:
        why = fault
    for secret in secrets:
        try:
            return wire.decode(keys.open_box(secret, "he-input", place, sealed), Encrypted).chunks  # type: ignore[no-any-return]
        except PeerFault as fault:
            why = fault
    raise why


def stated(world: Field, chunks: tuple[bytes, ...], **changes: object) -> m.Submitted:
    """These ciphertexts in ``evil``'s own, good box."""
    said = wire.decode(world.submitted[world.moment][EVIL].envelope.body, m.Submitted)
    made = encrypted.boxed(EVIL, replace(world.plan, **changes), world.material, chunks, Secret(world.rand(32)))  # type: ignore[arg-type]
    return replace(said, payload=made)


def own(world: Field) -> tuple[bytes, ...]:
    """Honest ciphertexts of ``evil``'s own update, without masks that would not come off."""
    packed = slot_packing.pack(units(world.update_of(EVIL, world.moment)), world.packing)
    streams = ((),) if world.scheme.has_masks else ()
    chunks: tuple[bytes, ...] = world.cipher.encrypt(world.material.context, packed, world.packing, *streams)
    return chunks


def negated_sum(context: bytes, lists: list[tuple[bytes, ...]]) -> tuple[bytes, ...]:
    """Minus the sum of ciphertexts, chunk by chunk, with the public key alone."""
    api, seal = seals.tenseal().sealapi, seals.loaded(context).seal_context().data
    evaluator, out = api.Evaluator(seal), []
    with seals.passage() as path:
        for index in range(len(lists[0])):
            total = None
            for _, cipher in seals.read(api, seal, path, [(EVIL, chunks[index]) for chunks in lists]):
                if total is None:
                    total = cipher
                else:
                    evaluator.add_inplace(total, cipher)
            evaluator.negate_inplace(total)
            out.append(seals.write(total, path))
    return tuple(out)


def probing(context: bytes, chunk: bytes | None, step: int) -> bytes:
    """A ciphertext, or none, plus (0, step): what is decrypted has ``step`` times the secret key in it."""
    api, seal = seals.tenseal().sealapi, seals.loaded(context).seal_context().data
    parms_id = b"".join(part.to_bytes(8, "little") for part in seal.first_context_data().parms_id())
    one, evaluator, probe = np.zeros(seals.DEGREE, np.uint64), api.Evaluator(seal), api.Ciphertext()
    one[0] = step
    with seals.passage() as path:
        path.write_bytes(residues.as_ciphertext(parms_id, np.zeros(seals.DEGREE, np.uint64), one, 1.0))
        probe.load(seal, str(path))
        if seal.first_context_data().parms().scheme().name == "CKKS":
            evaluator.transform_to_ntt_inplace(probe)
        if chunk is not None:
            ((_, cipher),) = seals.read(api, seal, path, [(EVIL, chunk)])
            probe.scale = cipher.scale
            evaluator.add_inplace(probe, cipher)
        return seals.write(probe, path)


def reads(world: Field, secret: bytes, chunks: tuple[bytes, ...], expected: np.ndarray) -> bool:
    """Whether the decryption key opens these ciphertexts to these grid integers.

    Raises:
        PeerFault: what comes out is none.
    """
    packed, plan = world.packing, world.plan
    streams = ((),) if world.scheme.has_masks else ()
    opened = world.cipher.open_sum(secret, {EVIL: chunks}, packed.count(plan.dimension), packed, *streams)
    values = slot_packing.unpack(opened, packed, plan.dimension, plan.cover.encoding, len(plan.cohort))
    return bool(np.array_equal(values, expected))


def came_to(world: Field, broke: bool, *rules: str) -> Outcome:  # noqa: FBT001
    """What it came to: the first rule that was in the way."""
    heard = [*rules, *world.told, *(fault.rule for _, fault in world.faults)]
    return Outcome(broke, next(iter(heard), ""))
