"""A sum, an input or a plan that was put in place of another is found, by whoever meets it first."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest

from securefl import wire
from securefl.audit import price_checks
from securefl.audit.ledger_files import Ledger
from securefl.errors import Forged, PeerFault, Tampered
from securefl.protection.summation import Summation, Summed
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.terms import Hash, Leaf, MemberId, RunId, Scheme, SumOpened
from tests.support.worlds import World, identity, resigned, signed_head

SCHEMES = [scheme for scheme in Scheme if scheme.has_custodian]


def caught(scheme: Scheme) -> tuple[World, bytes, bytes, bytes, bytes]:
    """A world; the question to its custodian and the state it met; the answer, and the coordinator's state then."""
    world = World(scheme=scheme, rounds=1)
    honest, found = world.handle, {}

    def listen(name: str, data: bytes) -> bytes:
        before, waiting = world.parties[name].saved, world.coordinator.saved
        answer = honest(name, data)
        if name == "custodian" and wire.decode(data, m.Frame).envelope.receipt.kind == "Ask":
            found.update(ask=data, before=before, answer=answer, waiting=waiting)
        return answer

    world.handle = listen  # type: ignore[method-assign]
    assert world.play().outcome == "finished"
    world.handle = honest  # type: ignore[method-assign]
    return world, found["ask"], found["before"], found["answer"], found["waiting"]


def flipped(data: bytes, drawn: random.Random) -> bytes:
    place = drawn.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << drawn.randrange(8))]) + data[place + 1 :]


def another_input(question: Summation, drawn: random.Random) -> Summation:
    """One member's input is not what it signed, or is not signed by it, or is another member's."""
    place = drawn.randrange(len(question.inputs))
    one = question.inputs[place]
    kind = drawn.choice(["bytes", "ciphertext", "signer", "copy", "receipt"])
    if kind == "bytes":
        new = replace(one, body=flipped(one.body, drawn))
    elif kind == "copy":
        new = question.inputs[place - 1]
    elif kind == "receipt":
        new = replace(one, receipt=replace(one.receipt, digest=Hash(drawn.randbytes(32))))
    else:
        submitted = wire.decode(one.body, m.Submitted)
        payload = submitted.payload
        if kind == "ciphertext":
            payload = wire.decode(question.inputs[place - 1].body, m.Submitted).payload
        body = replace(submitted, payload=payload)
        new = resigned(one.receipt, body, drawn.choice(["coordinator", "mallory"])).envelope
    return replace(question, inputs=(*question.inputs[:place], new, *question.inputs[place + 1 :]))


def another_plan(question: Summation, drawn: random.Random) -> Summation:
    """A plan that the inputs were not made for."""
    plan = question.plan
    return replace(
        question,
        plan=drawn.choice(
            [
                replace(plan, base=Hash(drawn.randbytes(32))),
                replace(plan, dimension=plan.dimension + 1),
                replace(plan, purpose=f"purpose {drawn.random()}"),
                replace(plan, cohort=plan.cohort[:-1]),
                replace(plan, cover=replace(plan.cover, min_cohort=2)),
                replace(plan, round=plan.round + 1),
            ]
        ),
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_hundred_substituted_inputs_plans_and_sums_are_a_hundred_refusals(scheme: Scheme) -> None:
    world, ask, before, answer, waiting = caught(scheme)
    drawn, detected = random.Random(scheme.value), 0
    frame = wire.decode(ask, m.Frame)
    question = wire.decode(wire.decode(frame.envelope.body, m.Ask).question, Summation)
    replied = wire.decode(answer, m.Frame)
    for trial in range(100):
        world.parties["custodian"].saved, world.coordinator.saved = before, waiting
        if trial % 3 < 2:
            other = (another_input, another_plan)[trial % 3](question, drawn)
            assert other != question
            asked = replace(wire.decode(frame.envelope.body, m.Ask), question=wire.encode(other))
            with pytest.raises(PeerFault):
                world.handle("custodian", wire.encode(resigned(frame.envelope.receipt, asked, "coordinator")))
            assert world.parties["custodian"].saved == before
        else:
            answered = wire.decode(replied.envelope.body, m.Answered)
            summed = wire.decode(answered.answer, Summed)
            altered = replace(answered, answer=wire.encode(replace(summed, values=flipped(summed.values, drawn))))
            new = resigned(replied.envelope.receipt, altered, drawn.choice(["coordinator", "mallory", "a"])).envelope
            if drawn.random() < 0.5:  # the custodian's own signature, over what it did not say
                new = replace(new, receipt=replied.envelope.receipt, signature=replied.envelope.signature)
            with pytest.raises(Forged):
                world.advance(
                    coordinator_state.Received(MemberId("custodian"), m.Frame(new, signed_head("custodian", 9)))
                )
        detected += 1
    assert detected == 100


def ledger(owner: str, opening: SumOpened) -> Ledger:
    return Ledger(MemberId(owner), identity(owner).public, (Leaf(1, opening),), ())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_coordinator_that_uses_another_sum_than_the_custodian_opened_is_found_in_the_ledgers(scheme: Scheme) -> None:
    world, *_ = caught(scheme)
    of = {
        name: next(entry for entry in party.entries if isinstance(entry, SumOpened))
        for name, party in (("coordinator", world.coordinator), ("custodian", world.parties["custodian"]))
    }
    honest = {MemberId(name): ledger(name, opening) for name, opening in of.items()}
    runs = {of["custodian"].run}
    price_checks.check_sums(honest, runs)
    drawn = random.Random(1)
    for _ in range(100):
        digest = Hash(hashlib.sha256(drawn.randbytes(8)).digest())
        lied = {**honest, MemberId("coordinator"): ledger("coordinator", replace(of["coordinator"], digest=digest))}
        with pytest.raises(Tampered, match="another sum of round 1"):
            price_checks.check_sums(lied, runs)
    fewer = replace(of["coordinator"], survivors=of["coordinator"].survivors[:-1])
    with pytest.raises(Tampered, match="over others"):
        price_checks.check_sums({**honest, MemberId("coordinator"): ledger("coordinator", fewer)}, runs)
    assert RunId(bytes(16)) == of["custodian"].run
