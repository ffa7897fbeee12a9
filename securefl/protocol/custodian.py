"""One run, seen from the custodian of a decryption key.

The custodian is neither a member nor the coordinator. It adds the signed inputs itself and decrypts their sum, once a
round, over at least ``min_cohort`` members. It could open a single input, and is trusted not to; under masks what it
would find is noise.

What it decrypted and found to be no sum is the round's one opening too. Else a coordinator could ask about other
members, or with another input of a colluding one, until enough refusals have told what no sum does.

Decrypting is an effect: that this question is the round's only one is committed before it, so whoever keeps a store
from committing gets no second sum. After a restart the same question is decrypted again, and no other. A fault while
decrypting is an answer too: the round ends by its name, and is not tried again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from securefl import keys, wire
from securefl.errors import Forged, OutOfTurn, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection.summation import FromCustodian, Summation, Unopened
from securefl.protocol import messages as m
from securefl.protocol import requests, seen_heads
from securefl.protocol.member_state import Received, SiteConfig
from securefl.seams import KeyHolder, Prepared
from securefl.terms import (
    Closed,
    Entry,
    Envelope,
    Hash,
    Head,
    MemberId,
    MessageReceived,
    MessageSent,
    Participant,
    Plan,
    Reason,
    Refused,
    Released,
    RunJoined,
    SignedHead,
    SumOpened,
    rules,
)


@dataclass(frozen=True, slots=True)
class Ports:
    """What the machine is given and does not keep."""

    identity: Identity
    holder: KeyHolder
    min_cohort: int  # from the custodian's own copy of the policy
    holds: Callable[[Head], bool] = lambda _: True  # as a member's
    head: Callable[[], SignedHead | None] = lambda: None  # as a member's
    standing: Callable[[Participant], None] = lambda _: None  # as a member's


@dataclass(frozen=True, slots=True)
class Idle:
    """No run yet."""

    charter: SiteConfig


@dataclass(frozen=True, slots=True)
class Holding:
    """In a run. ``opened_round`` is the last round something was decrypted for: each round has one."""

    charter: SiteConfig
    session: m.Session
    box: bytes  # X25519 secret of this run: opens members' inputs, and is gone when the run is over
    opened_round: int
    request: Hash
    reply: Envelope


@dataclass(frozen=True, slots=True)
class Decrypting:
    """A round's one question is written down, and not answered yet. No other question of that round ever is."""

    held: Holding
    plan: Hash
    round: int
    request: Hash  # digest of the question, inputs and all

    @property
    def charter(self) -> SiteConfig:
        """As before."""
        return self.held.charter

    @property
    def session(self) -> m.Session:
        """As before."""
        return self.held.session


@dataclass(frozen=True, slots=True)
class Left:
    """The run is over here."""

    charter: SiteConfig
    session: m.Session
    request: Hash
    reply: Envelope
    outcome: str


State = Idle | Holding | Decrypting | Left


@dataclass(frozen=True, slots=True)
class Decrypt:
    """Decrypt this sum, once the step that asks for it is committed."""

    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Decrypted:
    """What the holder of the key found."""

    answer: bytes

    @classmethod
    def not_at_all(cls, fault: Exception) -> Self:
        """Whatever went wrong: the round had its one opening, and the name of one rule is all that is told of it."""
        return cls(wire.encode(Unopened(rules.of_fault(fault))))


Event = Received | Decrypted


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, what to write down, what to do, and what to answer: in that order."""

    state: State
    entries: tuple[Entry, ...] = ()
    outbound: Envelope | None = None
    effects: tuple[Decrypt, ...] = ()


def on_invite(state: Idle, event: Received, ports: Ports) -> Step:
    """Join, and hand out what members need to encrypt."""
    charter = state.charter
    invite = requests.opened(event.envelope, m.Invite)
    session = invite.session
    charter, seen = seen_heads.relayed(charter, session, invite.heads, ports.holds, stale=True)
    if session.run != event.envelope.receipt.run:
        raise Forged("an invitation to one run in an envelope of another", "protocol.another-run")
    if session.federation != charter.federation:
        raise Unsafe("another federation than this custodian agreed to", "protocol.another-federation")
    if session.task != charter.task:
        raise Unsafe("another task than this custodian was asked about", "protocol.another-task")
    if session.policy != charter.policy:
        raise Unsafe("another policy than this custodian agreed to", "protocol.stale-policy")
    if (session.coordinator, session.custodian) != (charter.coordinator, charter.custodian):
        raise Forged("another coordinator or custodian than this one was set up with", "protocol.another-party")
    if any(seat not in charter.peers for seat in session.roster) or len(set(session.roster)) != len(session.roster):
        raise Forged("a roster with strangers or doubles", "protocol.stranger")
    ports.standing(session.coordinator)
    if session.custodian is not None:  # its own: it may have left, or revoked its key
        ports.standing(session.custodian)
    box = keys.derive(event.rand, "session-box")
    material = ports.holder.material(keys.public_half(box), ports.identity)
    everybody = (*session.roster, session.coordinator, *((session.custodian,) if session.custodian else ()))
    told = seen_heads.told(charter, (each.member for each in everybody))
    accept = m.Accept(keys.public_half(box), material, told)
    envelope = _enveloped(charter, session, ports, accept, 0)
    opened = RunJoined(
        session.run, session.federation, "custodian", charter.policy_text, "", everybody, charter.approvals,
        session.task,
    )  # fmt: skip
    holding = Holding(charter, session, box.raw, 0, event.envelope.receipt.digest, envelope)
    return Step(holding, (opened, *_both(event, envelope), *seen), envelope)


def on_ask(state: Holding, event: Received, ports: Ports) -> Step:
    """Take one round's only question: a sum of signed inputs, which is decrypted once this is committed."""
    plan, prepared, shown = _checked(state, event, ports)
    charter, seen = seen_heads.relayed(state.charter, state.session, shown, ports.holds)
    receipt = event.envelope.receipt
    asked = Decrypting(replace(state, charter=charter), wire.plan_hash(plan), plan.round, receipt.digest)
    return Step(asked, (MessageReceived(receipt, event.envelope.signature), *seen), effects=(Decrypt(prepared),))


def on_decrypted(state: Decrypting, event: Decrypted, ports: Ports) -> Step:
    """Answer with the round's one sum, or that there is none."""
    held, message = state.held, m.Answered(state.round, event.answer)
    reply = _enveloped(held.charter, held.session, ports, message, state.round, state.plan)
    entries = (_what_became(held.session, state, event.answer), MessageSent(reply.receipt, reply.signature))
    return Step(replace(held, opened_round=state.round, request=state.request, reply=reply), entries, reply)


def _checked(state: Holding, event: Received, ports: Ports) -> tuple[Plan, Prepared, list[SignedHead]]:
    """The plan, its sum that may be decrypted, and the ledger that each member named as it handed its input in.

    Raises:
        PeerFault: it may not.
    """
    ask = m.opened(event.envelope, m.Ask)
    assert isinstance(ask, m.Ask)
    question: Summation = wire.decode(ask.question, Summation)
    plan, session = question.plan, state.session
    name = wire.plan_hash(plan)
    # 1. the plan belongs to this run, and its round has not been opened
    if (plan.run, plan.federation) != (session.run, session.federation):
        raise Unsafe("a plan of another run or federation", "protocol.another-run")
    if plan.policy != session.policy:
        raise Unsafe("a plan of another policy", "protocol.stale-policy")
    if plan.round <= state.opened_round or {ask.round, event.envelope.receipt.round} != {plan.round}:
        what = f"a sum for round {plan.round}: the last one opened was of round {state.opened_round}"
        raise OutOfTurn(what, "protocol.replayed-round")
    requests.check(event.envelope.receipt, ask, plan)
    # 2. every input is signed by a member of the cohort for this very plan, and each member stands there once
    if any(seat not in session.roster for seat in plan.cohort):
        raise Forged("a cohort with strangers", "protocol.stranger")
    _check_keys(question, session, ports)
    known = {seat.member: seat.key for seat in plan.cohort}
    payloads: dict[MemberId, bytes] = {}
    shown = list[SignedHead]()
    for envelope in question.inputs:
        receipt = envelope.receipt
        if receipt.sender not in known or receipt.sender in payloads:
            what = f"an input of {receipt.sender}, who is not in the cohort or stands there twice"
            raise Forged(what, "protocol.stranger")
        m.check(envelope, receipt.sender, session.coordinator.member, session.run, known[receipt.sender])
        if receipt.plan != name:
            raise Forged(f"an input of {receipt.sender} for another plan", "protocol.another-plan")
        shown.append(seen_heads.paying(receipt))
        submitted = m.opened(envelope, m.Submitted)
        assert isinstance(submitted, m.Submitted)
        payloads[receipt.sender] = submitted.payload
    # 3. they are enough
    if len(payloads) < max(ports.min_cohort, plan.cover.min_cohort):
        what = f"a sum over {len(payloads)} members; at least {ports.min_cohort} are needed"
        raise Unsafe(what, "protocol.few-survivors")
    enrolled = {MemberId(member): public for member, public in question.enrolled.items()}
    answers = {MemberId(member): answer for member, answer in question.answers.items()}
    return plan, ports.holder.prepare(plan, Secret(state.box), payloads, enrolled, answers), shown


def _check_keys(question: Summation, session: m.Session, ports: Ports) -> None:
    """Check that the custodian, and each party that an input is of, takes part, under a key that counts now."""
    given = {each.receipt.sender for each in question.inputs}
    asked = [seat for seat in question.plan.cohort if seat.member in given]
    for seat in (*asked, *filter(None, (session.custodian,))):
        ports.standing(seat)


def _what_became(session: m.Session, asked: Decrypting, answer: bytes) -> Entry:
    """A sum that was opened, or that there was none."""
    summed: FromCustodian = wire.decode(answer, FromCustodian)
    if isinstance(summed, Unopened):
        reason = Reason(summed.why, "no sum", "a sum of the inputs in range", rules.FAULTS[summed.why])
        return Refused(session.run, asked.round, "Ask", (reason,))
    digest = Hash(hashlib.sha256(summed.values).digest())  # what the coordinator's own record of the sum must say too
    return SumOpened(session.run, asked.round, asked.plan, summed.members, digest)


def on_close(state: Holding | Decrypting, event: Received, ports: Ports) -> Step:
    """Leave, and keep everybody's head."""
    close = requests.opened(event.envelope, m.Close)
    session = state.session
    reply = _enveloped(state.charter, session, ports, m.Bye(close.outcome), 0)
    charter, seen = seen_heads.relayed(state.charter, session, close.heads, ports.holds)
    entries: list[Entry] = list(seen)
    if close.state:
        entries.append(Released(session.run, close.round, m.state_digest(close.state)))
    entries.append(Closed(session.run, close.outcome, close.why))
    left = Left(charter, session, event.envelope.receipt.digest, reply, close.outcome)
    return Step(left, (*entries, *_both(event, reply)), reply)


def ask_again(state: State, event: Received, ports: Ports) -> Step:
    """The stored reply; or, of a question that is written down and not answered yet, what is to be decrypted."""
    if isinstance(state, Decrypting):
        return Step(state, effects=(Decrypt(_checked(state.held, event, ports)[1]),))
    assert not isinstance(state, Idle), "nothing was asked yet"
    return Step(state, (), state.reply)


Rule = tuple[Callable[[Any, Any, Ports], Step], frozenset[type]]

RULES: Final[Mapping[tuple[type, type], Rule]] = {
    (Idle,       m.Invite):  (on_invite,    frozenset({Holding})),
    (Holding,    m.Ask):     (on_ask,       frozenset({Decrypting})),
    (Holding,    m.Close):   (on_close,     frozenset({Left})),
    (Decrypting, Decrypted): (on_decrypted, frozenset({Holding})),
    (Decrypting, m.Close):   (on_close,     frozenset({Left})),
}  # fmt: skip

REQUESTS: Final = {kind.__name__: kind for kind in (m.Invite, m.Ask, m.Close)}


def step(state: State, event: Event, ports: Ports) -> Step:
    """Move the run by one request, or by what was decrypted.

    Raises:
        OutOfTurn: no rule covers this request in this state.
        PeerFault: it is forged, or asks for what is not allowed. The state is unchanged.
    """
    if isinstance(event, Decrypted):
        return _moved(state, type(event), event, ports)
    receipt = event.envelope.receipt
    charter = state.charter
    run = receipt.run if isinstance(state, Idle) else state.session.run
    m.check(event.envelope, charter.coordinator.member, charter.me, run, charter.coordinator.key)
    ports.standing(charter.coordinator)
    if not isinstance(state, Idle) and state.request == receipt.digest:
        return ask_again(state, event, ports)
    kind = REQUESTS.get(receipt.kind, type(None))
    if (type(state), kind) not in RULES:
        name = "protocol.second-question" if isinstance(state, Decrypting) else OutOfTurn.rule
        raise OutOfTurn(f"{receipt.kind} while {type(state).__name__}", name)
    charter, seen = seen_heads.beside(charter, event.head, receipt)
    moved = _moved(_with(state, charter), kind, event, ports)
    return replace(moved, entries=(*moved.entries, *seen))


def _moved(state: State, kind: type, event: Event, ports: Ports) -> Step:
    rule = RULES.get((type(state), kind))
    if rule is None:
        raise OutOfTurn(f"{kind.__name__} while {type(state).__name__}")
    act, targets = rule
    moved = act(state, event, ports)
    assert type(moved.state) in targets, "a rule moved to a state its row does not name"
    return moved


def _with(state: State, charter: SiteConfig) -> State:
    if isinstance(state, Decrypting):
        return replace(state, held=replace(state.held, charter=charter))
    return replace(state, charter=charter)


def _enveloped(
    charter: SiteConfig, session: m.Session, ports: Ports, message: m.Reply, round_: int, plan: Hash | None = None
) -> Envelope:
    to, head = session.coordinator.member, ports.head()
    return m.enclose(ports.identity, charter.me, to, session.run, round_, message, plan, head=head)


def _both(event: Received, reply: Envelope) -> tuple[Entry, Entry]:
    return MessageReceived(event.envelope.receipt, event.envelope.signature), MessageSent(
        reply.receipt, reply.signature
    )
