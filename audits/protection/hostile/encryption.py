"""Attacks on encrypted aggregation: malleable ciphertexts, a key that leaks, and what the custodian is asked.

The adversary is the coordinator with one member, ``evil``; the custodian is honest unless an attack says otherwise. An
attack succeeds if a single update can be read, or a sum with less noise than was priced; or if the custodian opens what
it should not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from audits.protection.encrypted_field import (
    EVIL,
    MASKED,
    Field,
    Frames,
    by_coordinator,
    came_to,
    field,
    negated_sum,
    own,
    payload,
    probing,
    readable,
    reads,
    stated,
    units,
)
from securefl import keys, wire
from securefl.errors import PeerFault
from securefl.keys import Secret
from securefl.protection import encrypted, masking_terms
from securefl.protection import tenseal_context as seals
from securefl.protection.encrypted import CUSTODIAN, Encrypted, Material
from securefl.protection.summation import FromCustodian, Summation, Summed
from securefl.protocol import messages as m
from securefl.terms import DistributedDiscreteGaussian, Hash, MemberId, RunId, SumOpened
from tests.support.worlds import an_update, identity, resigned

Forge = Callable[[Field, Summation], Summation]

# Inputs of others, subtracted.


def _left(world: Field, rules: list[str]) -> np.ndarray | None:
    """Hand in minus the inputs of all but the victim; the sum that the coordinator got then, in grid units."""

    def last_word(world: Field, held: Frames) -> m.Submitted | None:
        others = [name for name in held if name not in (EVIL, world.victim)]
        try:
            lists = [readable(world, name, *world.secrets) for name in others]
        except PeerFault as fault:
            rules.append(fault.rule)
            return None
        return stated(world, negated_sum(world.material.context, lists))

    world.last_word = last_word
    world.play()
    for before, moved in world.seen:
        rounds = (before.course.plan.round, moved.state.course.plan.round)
        if rounds == (1, 2):
            states = [np.frombuffer(each.course.state, "<f4").astype(float) for each in (before, moved.state)]
            return units((states[1] - states[0]) * len(before.course.plan.cohort))
    return None


def cancel(number: int, folder: Path) -> Outcome:
    """What is left of the sum is the victim's update."""
    del folder
    world, rules = field(number), list[str]()
    left = _left(world, rules)
    apart = np.abs(left - units(world.update_of(world.victim, 1))).max() if left is not None else np.inf
    return came_to(world, bool(apart <= 2), *rules)


def cancel_noise(number: int, folder: Path) -> Outcome:
    """Under unit client: the shares of noise go with the inputs that are subtracted."""
    del folder
    dimension = 200
    event = DistributedDiscreteGaussian(Fraction(1), Fraction(3, 2), 3, dimension, 16, Fraction(1), 1)
    world, rules = field(number, event=event, dimension=dimension), list[str]()
    state = world.coordinator.state
    plan = state.course.plan  # type: ignore[attr-defined]
    plan = replace(plan, learning=replace(plan.learning, clip_l2=Fraction(1)), cover=replace(plan.cover, min_cohort=4))
    world.coordinator.saved = wire.encode(replace(state, course=replace(state.course, plan=plan)))  # type: ignore[type-var, attr-defined]

    def short(name: str, round_: int) -> np.ndarray:
        drawn = an_update(name, round_, dimension)
        return np.asarray(drawn / np.linalg.norm(drawn) * 0.99)

    world.update_of = short  # type: ignore[method-assign]
    left = _left(world, rules)
    noise = np.inf if left is None else float((left - units(short(world.victim, 1))).std())
    return came_to(world, noise < 1.3 * float(event.deviation), *rules)  # one share, where three are priced


def _submits(number: int, forge: Callable[[Field, Frames], m.Submitted], moment: int = 1) -> Outcome:
    """Success is that the custodian opens a sum with what ``evil`` handed in."""
    world = field(number)
    world.moment, world.last_word = moment, forge
    world.play()
    opened = any(isinstance(entry, SumOpened) and entry.round == moment for entry in world.coordinator.entries)
    return came_to(world, opened)


def _said(world: Field, held: Frames, sealed: bytes) -> m.Submitted:
    del world
    return replace(wire.decode(held[EVIL].envelope.body, m.Submitted), payload=sealed)


def copied(number: int, folder: Path) -> Outcome:
    """A box of the same round, by another member."""
    del folder
    return _submits(number, lambda world, held: _said(world, held, payload(held[world.victim])))


def replayed(number: int, folder: Path) -> Outcome:
    """A box of the round before: one's own, or the victim's."""
    del folder

    def forge(world: Field, held: Frames) -> m.Submitted:
        whose = world.drawn.choice([EVIL, world.victim])
        return _said(world, held, payload(world.submitted[1][whose]))

    return _submits(number, forge, moment=2)


def of_another_plan(number: int, folder: Path) -> Outcome:
    """A box sealed for another run, round, base or dimension."""
    del folder

    def forge(world: Field, held: Frames) -> m.Submitted:
        del held
        other = world.drawn.choice(
            [{"run": RunId(b"r" * 16)}, {"round": 2}, {"base": Hash(b"b" * 32)}, {"dimension": world.dimension + 1}]
        )
        return stated(world, own(world), **other)

    return _submits(number, forge)


def unboxed(number: int, folder: Path) -> Outcome:
    """Good ciphertexts without a box."""
    del folder

    def forge(world: Field, held: Frames) -> m.Submitted:
        plan, key = world.plan, encrypted.key_id(world.material.context)
        bare = Encrypted(key, wire.plan_hash(plan), plan.dimension, plan.cover.encoding, own(world))
        return _said(world, held, wire.encode(bare))

    return _submits(number, forge)


def swapped_box(number: int, folder: Path) -> Outcome:
    """The custodian's acceptance with a box key of the coordinator's, as it is or signed again by who can."""
    del folder
    world = field(number)
    mine = keys.public_half(Secret(world.rand(32)))
    signer = world.drawn.choice(["", "coordinator", str(EVIL)])

    def other(each: m.Frame) -> m.Frame:
        accept = wire.decode(each.envelope.body, m.Accept)
        given = replace(wire.decode(accept.material, Material), box=mine)
        if signer:
            signed = identity(signer).sign("he-key", wire.encode((given.context, mine)))
            given = replace(given, signature=signed)
        made = resigned(each.envelope.receipt, m.Accept(accept.box, wire.encode(given)), signer or "coordinator")
        return m.Frame(made.envelope, each.head)

    def forge(frame: m.Frame) -> m.Frame:
        enrol = wire.decode(frame.envelope.body, m.Enrol)
        accepts = [other(each) if each.envelope.receipt.sender == CUSTODIAN else each for each in enrol.accepts]
        return by_coordinator(frame, replace(enrol, accepts=tuple(accepts)))

    world.forge["Enrol"] = forge
    world.play()
    return came_to(world, any(wire.decode(a, m.Frame).envelope.receipt.kind == "Submitted" for _, a in world.carried))


# The key, made to leak.


def _keyed(number: int, first_chunk: Callable[[Field], bytes | None]) -> Outcome:
    """A multiple of the key is added to the sum. Say the key is known then: it is tried on all that was sent."""
    world, rules, broke = field(number), list[str](), False
    step = 1 << world.drawn.randint(14, 40)

    def last_word(world: Field, held: Frames) -> m.Submitted:
        del held
        probe = probing(world.material.context, first_chunk(world), step)
        return stated(world, (probe, *own(world)[1:]))

    world.last_word = last_word
    world.play()
    for name in world.submitted[1]:
        try:
            chunks = readable(world, name, *world.secrets) if name != EVIL else ()
            broke |= bool(chunks) and reads(world, _key(world), chunks, units(world.update_of(name, 1)))
        except PeerFault as fault:
            rules.append(fault.rule)
    return came_to(world, broke, *rules)


def _key(world: Field) -> bytes:
    assert world.holder is not None
    return world.holder._secret  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001


def key_beside_input(number: int, folder: Path) -> Outcome:
    """An honest input plus (0, step)."""
    del folder
    return _keyed(number, lambda world: own(world)[0])


def key_alone(number: int, folder: Path) -> Outcome:
    """(0, step) and nothing else."""
    del folder
    return _keyed(number, lambda _: None)


# Custodian, coordinator and a member together: what masks are for.


def _together(number: int, *, alone: bool) -> Outcome:
    """Every box and the key are open to all three: an input alone, or one minus another, is tried on each member."""
    world, rules, broke = field(number, MASKED), list[str](), False
    world.play()
    assert world.opens is not None
    honest = [name for name in world.submitted[1] if name != EVIL]
    for name in honest:
        chunks, left = readable(world, name, world.opens), units(world.update_of(name, 1))
        rest = [] if alone else [other for other in honest if other != name][1:]
        if rest:
            negated = negated_sum(world.material.context, [readable(world, other, world.opens) for other in rest])
            chunks = _added(world, chunks, negated)
            left = left - sum(units(world.update_of(other, 1)) for other in rest)
        try:
            broke |= reads(world, _key(world), chunks, left)
        except PeerFault as fault:
            rules.append(fault.rule)
    return came_to(world, broke, *rules)


def _added(world: Field, *lists: tuple[bytes, ...]) -> tuple[bytes, ...]:
    context = world.material.context
    return negated_sum(context, [negated_sum(context, list(lists))])


def corrupt_custodian(number: int, folder: Path) -> Outcome:
    """Each input alone."""
    del folder
    return _together(number, alone=True)


def corrupt_custodian_subtracts(number: int, folder: Path) -> Outcome:
    """Each input with others subtracted."""
    del folder
    return _together(number, alone=False)


def key_of_its_own_making(number: int, folder: Path) -> Outcome:
    """The custodian signs another key pair for one member, whose input it then opens with that."""
    del folder
    world, rules, broke = field(number, MASKED), list[str](), False
    secret = world.cipher.new_context()
    public = seals.public_half(secret)
    handed = world.handle

    def handle(name: str, data: bytes) -> bytes:
        frame: m.Frame = wire.decode(data, m.Frame)
        if name == world.victim and frame.envelope.receipt.kind == "Enrol":
            data = wire.encode(_with_key(frame, public))
        return handed(name, data)

    world.handle = handle  # type: ignore[method-assign]
    world.play()
    world.opens = world.opens or Secret(bytes(32))
    try:
        broke = reads(
            world, secret, readable(world, world.victim, world.opens), units(world.update_of(world.victim, 1))
        )
    except PeerFault as fault:
        rules.append(fault.rule)
    return came_to(world, broke, *rules)


def _with_key(frame: m.Frame, public: bytes) -> m.Frame:
    """The same acceptances, the custodian's with another context, under its own signature."""

    def other(each: m.Frame) -> m.Frame:
        accept = wire.decode(each.envelope.body, m.Accept)
        given = wire.decode(accept.material, Material)
        signature = identity("custodian").sign("he-key", wire.encode((public, given.box)))
        made = m.Accept(accept.box, wire.encode(Material(public, given.box, signature)))
        return m.Frame(resigned(each.envelope.receipt, made, "custodian").envelope, each.head)

    enrol = wire.decode(frame.envelope.body, m.Enrol)
    accepts = [other(each) if each.envelope.receipt.sender == CUSTODIAN else each for each in enrol.accepts]
    return by_coordinator(frame, replace(enrol, accepts=tuple(accepts)))


# What the custodian is asked.


def _asks(world: Field, *forges: Forge) -> Outcome:
    """Questions before the genuine one, signed by the coordinator. Success is that one is answered with a sum."""

    def before(world: Field, frame: m.Frame) -> list[m.Frame]:
        ask = wire.decode(frame.envelope.body, m.Ask)
        genuine = wire.decode(ask.question, Summation)
        questions = [replace(ask, question=wire.encode(forge(world, genuine))) for forge in forges]
        return [by_coordinator(frame, each) for each in questions]

    world.before = before
    world.play()
    broke = any(isinstance(wire.decode(answer, FromCustodian), Summed) for answer in world.given)
    return came_to(world, broke)


def _without(world: Field, question: Summation, left_out: MemberId) -> Summation:
    del world
    return replace(question, inputs=tuple(each for each in question.inputs if each.receipt.sender != left_out))


def second_survivors(number: int, folder: Path) -> Outcome:
    """The same round again without the victim: the difference of both sums is its update."""
    del folder
    world = field(number)
    genuine = world.handle

    def handle(name: str, data: bytes) -> bytes:
        answer = genuine(name, data)
        frame: m.Frame = wire.decode(data, m.Frame)
        if name == CUSTODIAN and frame.envelope.receipt.kind == "Ask" and frame.envelope.receipt.round == 1:
            ask = wire.decode(frame.envelope.body, m.Ask)
            fewer = _without(world, wire.decode(ask.question, Summation), world.victim)
            again = by_coordinator(frame, replace(ask, question=wire.encode(fewer)))
            try:
                world.given.append(genuine(name, wire.encode(again)))
            except PeerFault as fault:
                world.told.append(fault.rule)
        return answer

    world.handle = handle  # type: ignore[method-assign]
    world.play()
    return came_to(world, bool(world.given))


def other_survivors_first(number: int, folder: Path) -> Outcome:
    """Under masks: the inputs of fewer, with the shares that were given for all."""
    del folder
    return _asks(field(number, MASKED), lambda world, question: _without(world, question, world.victim))


def probing_by_refusals(number: int, folder: Path) -> Outcome:
    """An input that makes no sum, then another one, or a question about fewer: refusals that could be counted."""
    del folder
    world = field(number)

    def spoiled(world: Field, question: Summation) -> Summation:
        probe = (probing(world.material.context, None, 1 << 58), *own(world)[1:])
        said = stated(world, probe)
        receipt = next(each.receipt for each in question.inputs if each.receipt.sender == EVIL)
        mine = resigned(receipt, said, EVIL).envelope
        return replace(
            question, inputs=tuple(mine if each.receipt.sender == EVIL else each for each in question.inputs)
        )

    return _asks(world, spoiled, lambda _, question: question)


def _forged_mask(world: Field, question: Summation) -> Summation:
    """An enrolment of the victim by the coordinator, or shares nobody committed to."""
    public = wire.decode(question.enrolled[world.victim], masking_terms.Public)
    kinds = ("statement", "commitments", "shares", "missing", "stranger")
    match world.drawn.choice(kinds):
        case "statement":
            stated_ = replace(public.statement, mask_key=keys.public_half(Secret(world.rand(32))))
            signature = identity("coordinator").sign("mask-key", wire.encode(stated_))
            forged = replace(public, statement=stated_, signature=signature)
        case "commitments":
            forged = replace(public, commitments=(bytes(64), *public.commitments[1:]))
        case "shares":
            told = {name: wire.decode(answer, masking_terms.Revealed) for name, answer in question.answers.items()}
            spoiled = {
                name: wire.encode(replace(each, seeds={**each.seeds, world.victim: bytes(len(each.seeds[EVIL]))}))
                for name, each in told.items()
            }
            return replace(question, answers=spoiled)
        case "missing":
            return replace(question, answers=dict(list(question.answers.items())[: world.threshold - 1]))
        case _:
            return replace(question, answers={**question.answers, "custodian": question.answers[EVIL]})
    return replace(question, enrolled={**question.enrolled, world.victim: wire.encode(forged)})


def correction_of_its_own(number: int, folder: Path) -> Outcome:
    """Under masks: statements, commitments or shares that are not the members'."""
    del folder
    return _asks(field(number, MASKED), _forged_mask)


ATTEMPTS = (
    Attempt("evil subtracts the others' ciphertexts to leave one update", cancel),
    Attempt("evil subtracts the others' ciphertexts to leave one share of noise", cancel_noise),
    Attempt("evil hands in another member's box", copied),
    Attempt("evil hands in a box of the round before", replayed),
    Attempt("evil seals its input for another run, round or plan", of_another_plan),
    Attempt("evil hands in ciphertexts without a box", unboxed),
    Attempt("a coordinator puts its own box key in the custodian's place", swapped_box),
    Attempt("evil adds the key to the sum and tries it on inputs", key_beside_input),
    Attempt("evil sends the key alone and tries it on inputs", key_alone),
    Attempt("a custodian opens each masked input", corrupt_custodian),
    Attempt("a custodian opens masked inputs minus others", corrupt_custodian_subtracts),
    Attempt("a custodian gives one member a key of its own making", key_of_its_own_making),
    Attempt("a coordinator asks for a second sum over other survivors", second_survivors),
    Attempt("a coordinator asks about fewer than gave shares", other_survivors_first),
    Attempt("a coordinator counts refusals of inputs that are no sum", probing_by_refusals),
    Attempt("a coordinator makes up statements or shares of masks", correction_of_its_own),
)
