"""One run, seen from a member. No clock, no socket, no randomness, no records.

Rule 1: every legal move is a row of ``RULES``; nothing else moves the run.
Rule 2: a repeated request gets the stored reply. A second training would spend the budget twice, and two updates
        under one mask show their difference.
Rule 3: reserving and training are effects: the machine asks, its driver does, and the result comes back as an event.
        No state ever holds an ``Update``.
Rule 4: the coordinator's word is not enough. The plan is compared with the member's own charter before the policy
        and the account are asked, and both are asked before a record is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from securefl import keys, wire
from securefl.errors import Forged, OutOfTurn, Unsafe
from securefl.keys import Secret
from securefl.protocol import declining, requests, seen_heads
from securefl.protocol import messages as m
from securefl.protocol.member_checks import acceptances, check_as_agreed, check_cohort, covers, inputs_of, members_only
from securefl.protocol.member_state import (
    Decided,
    Deciding,
    Event,
    Idle,
    InTraining,
    Kept,
    Left,
    Ports,
    Ran,
    Ready,
    Received,
    Reserve,
    Resumed,
    Sealed,
    Seated,
    State,
    Step,
    Stopped,
    Train,
    Trained,
    TrainingAgain,
    UnderWay,
)
from securefl.terms import (
    Closed,
    Entry,
    Envelope,
    Hash,
    MessageReceived,
    MessageSent,
    MicroEpsilon,
    Plan,
    Reason,
    Refusal,
    Refused,
    Released,
    ReservationReleased,
    Reserved,
    RunJoined,
    Settled,
    Witnessed,
    covering,
)
from securefl.terms import Event as PrivacyEvent

UNREAD: Final = declining.UNREAD


def on_invite(state: Idle, event: Received, ports: Ports) -> Step:
    """Join a run that is what this member's own charter says, and no other."""
    charter = state.charter
    invite = requests.opened(event.envelope, m.Invite)
    session = invite.session
    charter, seen = seen_heads.relayed(charter, session, invite.heads, ports.holds, stale=True)
    if session.run != event.envelope.receipt.run:
        raise Forged("an invitation to one run in an envelope of another", "protocol.another-run")
    # 1. the federation, policy, coordinator and custodian are the ones this site was set up with
    if session.federation != charter.federation:
        raise Unsafe(f"{session.federation} is not what this site agreed to", "protocol.another-federation")
    if session.task != charter.task:
        raise Unsafe(f"{session.task or 'no task'} is not the task that was meant here", "protocol.another-task")
    if session.policy != charter.policy:
        what = f"{session.federation} under policy {session.policy.hex()[:12]} is not what this site agreed to"
        raise Unsafe(what, "protocol.stale-policy")
    if (session.coordinator, session.custodian) != (charter.coordinator, charter.custodian):
        raise Forged("another coordinator or custodian than this site was set up with", "protocol.another-party")
    # 2. every peer is one this site knows, under the key it knows, and each stands there once
    strangers = [seat.member for seat in session.roster if seat not in charter.peers]
    if strangers or len(set(session.roster)) != len(session.roster):
        raise Forged(f"a roster with strangers or doubles: {', '.join(strangers) or 'doubles'}", "protocol.stranger")
    if charter.me not in {seat.member for seat in session.roster}:
        raise Unsafe("a roster without this member", "protocol.without-me")
    # 3. those keys count whom every round needs, and its own; each other one is asked about with each plan
    own = next(seat for seat in session.roster if seat.member == charter.me)
    for seat in (session.coordinator, own, *((session.custodian,) if session.custodian else ())):
        ports.standing(seat)
    box = keys.derive(event.rand, "session-box")
    seat = Seated(charter, session, box.raw, {}, b"", 1, b"", Hash(b""), None)
    everybody = (*session.roster, session.coordinator, *((session.custodian,) if session.custodian else ()))
    opened = RunJoined(
        session.run, session.federation, "member", charter.policy_text, charter.dataset, everybody, charter.approvals,
        session.task,
    )  # fmt: skip
    told = seen_heads.told(charter, (each.member for each in everybody))
    return _replied(seat, Ready, event, ports, m.Accept(keys.public_half(box), b"", told), 0, entries=(opened, *seen))


def on_enrol(state: Ready | Sealed | Deciding | UnderWay, event: Received, ports: Ports) -> Step:
    """Make keys and shares for a round that has not been entered yet; pay for a training that was under way."""
    seat = state.seat
    enrol = requests.opened(event.envelope, m.Enrol)
    next_round = seat.next_round + isinstance(state, Deciding | UnderWay)  # that of its plan has begun
    if enrol.round < next_round:
        raise OutOfTurn(f"round {enrol.round} again: the next one is {next_round}", "protocol.replayed-round")
    seen: tuple[Entry, ...] = ()
    if not seat.boxes:
        accepted = acceptances(seat, enrol.accepts)
        charter, of_peers = seen_heads.relayed(seat.charter, seat.session, accepted.shown, ports.holds)
        charter, by_peers = seen_heads.relayed(charter, seat.session, accepted.seen, ports.holds, stale=True)
        seen = (*of_peers, *by_peers)
        ports.protection(seat.session.scheme).check_material(
            accepted.material, seat.session.custodian.key if seat.session.custodian else None
        )
        seat = replace(seat, charter=charter, boxes=accepted.boxes, material=accepted.material)
    enrolment = ports.protection(seat.session.scheme).enrol(
        seat.charter.me, seat.session.run, enrol.round, seat.session.threshold, members_only(seat), ports.identity,
        keys.derive(event.rand, "enrol"),
    )  # fmt: skip
    seat = replace(seat, next_round=enrol.round, enrolment=enrolment.secret)
    if isinstance(state, UnderWay):
        seen = (_paid_whole(state), *seen)
    return _replied(seat, Ready, event, ports, m.Enrolled(enrol.round, enrolment.public), enrol.round, entries=seen)


def on_propose(state: Ready | Sealed, event: Received, ports: Ports) -> Step:
    """Put a plan before policy and account, once it is what this member's own charter and session say."""
    seat, session = state.seat, state.seat.session
    proposal = m.opened(event.envelope, m.Propose)
    assert isinstance(proposal, m.Propose)
    plan = proposal.plan
    # 1. the plan belongs to this run, and to a round that has not been entered
    if (plan.run, plan.federation) != (session.run, session.federation):
        raise Unsafe("a plan of another run or federation", "protocol.another-run")
    if plan.policy != session.policy:
        raise Unsafe("a plan of another policy", "protocol.stale-policy")
    if plan.round != seat.next_round:
        rule = "protocol.replayed-round" if plan.round < seat.next_round else OutOfTurn.rule
        raise OutOfTurn(f"a plan for round {plan.round}: the next one here is {seat.next_round}", rule)
    receipt = event.envelope.receipt
    requests.check(receipt, proposal)
    # 2. its cohort is part of the roster, with this member in it, and each takes part under a key that counts now
    check_cohort(seat, plan)
    for peer in (*plan.cohort, *((session.custodian,) if session.custodian else ())):
        ports.standing(peer)
    # 3. it is covered as the session says, and for the model that is loaded here
    check_as_agreed(seat, plan)
    # 4. it starts from the state it names
    if m.state_digest(proposal.base) != plan.base or not covers(plan, len(proposal.base)):
        raise Forged("an adapter state that is not the one the plan names", "protocol.another-state")
    # 5. what would leave is on its list: else an update would be trained, paid for, and kept
    if m.Egress.WEIGHTS.value not in plan.release:
        raise Unsafe("a plan that does not list `weights` among what leaves a site", "protocol.unlisted-release")
    # 6. a sum under it would be safe
    ports.protection(session.scheme).admit(
        seat.charter.me, plan, Secret(seat.box), seat.enrolment, proposal.relayed, seat.material
    )
    charter, seen = seen_heads.relayed(seat.charter, session, proposal.heads, ports.holds)
    seat, told = (
        replace(seat, charter=charter, request=receipt.digest, reply=None),
        MessageReceived(receipt, event.envelope.signature),
    )
    return Step(Deciding(seat, proposal), (told, *seen), (Reserve(plan, proposal.base),))


def on_decided(state: Deciding, event: Decided, ports: Ports) -> Step:
    """Train what was granted; answer with every reason what was refused."""
    plan = state.proposal.plan
    if isinstance(event.answer, Refusal):
        return _declined(state.seat, plan, event.answer.reasons, ports, ())
    grant = event.answer
    assert grant.plan == wire.plan_hash(plan), "a grant for another plan"
    reserved = Reserved(plan, state.seat.charter.dataset, grant.price, grant.nonce)
    learning = InTraining(state.seat, state.proposal, grant.price.round)
    return Step(learning, (reserved,), (Train(plan, state.proposal.base),))


def on_trained(state: UnderWay, event: Trained, ports: Ports) -> Step:
    """Seal the update in the step that receives it; whatever goes wrong with it, the price is spent."""
    try:
        return _submitted(state, event, ports)
    except Exception as fault:  # noqa: BLE001 - records were read: no fault may tell how, or give anything back
        did = covering(state.proposal.plan.learning.event, event.update.did)
        return _failed(state, did, ports, f"{type(fault).__name__}: {fault}")


def on_stopped(state: InTraining, event: Stopped, ports: Ports) -> Step:
    """Pay for a training that came to nothing, and say the one word that is said of every such training."""
    plan = state.proposal.plan
    spent = event.spent or Ran(plan.learning.event)
    if spent.did is not None:
        return _failed(state, spent.did, ports, event.trouble)
    freed = ReservationReleased(wire.plan_hash(plan), "no record was read")
    declined = _declined(state.seat, plan, (declining.constant(UNREAD, spent.rule),), ports, (freed,))
    return replace(declined, trouble=event.trouble)


def on_stopped_again(state: TrainingAgain, event: Stopped, ports: Ports) -> Step:
    """Pay the whole price: this process does not know what the one before it read."""
    return _failed(state, state.proposal.plan.learning.event, ports, event.trouble)


def _submitted(state: UnderWay, event: Trained, ports: Ports) -> Step:
    """The sealed update, with the next round's keys; what is kept is of this very training."""
    seat, plan = state.seat, state.proposal.plan
    protection = ports.protection(seat.session.scheme)
    name, below = wire.plan_hash(plan), event.update.below
    if event.update.did != plan.learning.event:
        raise Unsafe(f"trained {event.update.did}, and {plan.learning.event} was priced")
    if seat.session.custodian is not None:  # an update is sealed to it for as long as its key counts
        ports.standing(seat.session.custodian)
    payload, kept = protection.seal(
        seat.charter.me, plan, Secret(seat.box), seat.enrolment, state.proposal.relayed, seat.material,
        event.update, keys.derive(event.rand, "seal"),
    )  # fmt: skip
    following = protection.enrol(
        seat.charter.me, seat.session.run, plan.round + 1, seat.session.threshold, members_only(seat), ports.identity,
        keys.derive(event.rand, "enrol"),
    )  # fmt: skip
    seat = replace(seat, next_round=plan.round + 1, enrolment=following.secret)
    message = m.Submitted(plan.round, payload, following.public)
    envelope = _enveloped(seat, ports, message, plan.round, name, state.cost, plan.release)
    settled = Settled(name, event.update.did)
    entries = (settled, *((below,) if below else ()), MessageSent(envelope.receipt, envelope.signature))
    keep = Kept(name, plan.round, event.keep)
    return Step(Sealed(replace(seat, reply=envelope), plan, kept), entries, outbound=envelope, keep=keep)


def _failed(state: UnderWay, did: PrivacyEvent, ports: Ports, trouble: str) -> Step:
    """Out of the round by one constant, which is the same whatever went wrong once records were read."""
    plan, reason = state.proposal.plan, declining.constant(declining.UNFINISHED)
    declined = _declined(state.seat, plan, (reason,), ports, (Settled(wire.plan_hash(plan), did),))
    return replace(declined, trouble=trouble)


def on_ask(state: Sealed, event: Received, ports: Ports) -> Step:
    """Answer one question about the round just sealed, and forget what would answer a second."""
    seat, plan = state.seat, state.plan
    ask = requests.opened(event.envelope, m.Ask, plan)
    if ask.round != plan.round:
        raise OutOfTurn(f"a question about round {ask.round} in round {plan.round}", "protocol.another-round")
    protection = ports.protection(seat.session.scheme)
    answer = protection.answer(seat.charter.me, plan, state.kept, ask.question)
    shown = inputs_of(seat, plan, ask.sealed, protection.about(ask.question), ports.standing)
    charter, seen = seen_heads.relayed(seat.charter, seat.session, shown, ports.holds)
    seat, message = replace(seat, charter=charter), m.Answered(plan.round, answer)
    return _replied(seat, Ready, event, ports, message, plan.round, plan=wire.plan_hash(plan), entries=seen)


def on_close(state: Ready | Sealed | Deciding | UnderWay, event: Received, ports: Ports) -> Step:
    """Leave; keep everybody's head, and pay for a training that was under way."""
    seat = state.seat
    close = requests.opened(event.envelope, m.Close)
    charter, seen = seen_heads.relayed(seat.charter, seat.session, close.heads, ports.holds)
    seat, entries = replace(seat, charter=charter), list[Entry](seen)
    if isinstance(state, UnderWay):
        entries.append(_paid_whole(state))
    if close.state:
        entries.append(Released(seat.session.run, close.round, m.state_digest(close.state)))
    entries.append(Closed(seat.session.run, close.outcome, close.why))
    envelope = _enveloped(seat, ports, m.Bye(close.outcome), 0)
    got = MessageReceived(event.envelope.receipt, event.envelope.signature)
    seat = replace(seat, request=event.envelope.receipt.digest, reply=envelope, box=b"", enrolment=b"")
    entries.append(MessageSent(envelope.receipt, envelope.signature))
    return Step(Left(seat, close.outcome, close.state), (got, *entries), outbound=envelope)


def _paid_whole(state: UnderWay) -> Settled:
    """Return how far this training came is not known: records may have been read."""
    return Settled(wire.plan_hash(state.proposal.plan), state.proposal.plan.learning.event)


def on_resumed(state: State, event: Resumed, ports: Ports) -> Step:
    """Ask again for the effect that was under way; what a training left is not known, so that is another state."""
    del event, ports
    if isinstance(state, Deciding):
        return Step(state, effects=(Reserve(state.proposal.plan, state.proposal.base),))
    if isinstance(state, UnderWay):
        again = TrainingAgain(state.seat, state.proposal, state.cost)
        return Step(again, effects=(Train(state.proposal.plan, state.proposal.base),))
    return Step(state)


Rule = tuple[Callable[[Any, Any, Ports], Step], frozenset[type]]
RULES: Final[Mapping[tuple[type, type], Rule]] = {
    (Idle,     m.Invite):  (on_invite,  frozenset({Ready})),
    (Ready,    m.Enrol):   (on_enrol,   frozenset({Ready})),
    (Ready,    m.Propose): (on_propose, frozenset({Deciding})),
    (Ready,    m.Close):   (on_close,   frozenset({Left})),
    (Deciding, Decided):   (on_decided, frozenset({Ready, InTraining})),
    (Deciding, m.Enrol):   (on_enrol,   frozenset({Ready})),
    (Deciding, m.Close):   (on_close,   frozenset({Left})),
    (InTraining, Trained):   (on_trained, frozenset({Ready, Sealed})),
    (InTraining, Stopped):   (on_stopped, frozenset({Ready})),
    (InTraining, m.Enrol):   (on_enrol,   frozenset({Ready})),
    (InTraining, m.Close):   (on_close,   frozenset({Left})),
    (TrainingAgain, Trained): (on_trained, frozenset({Ready, Sealed})),
    (TrainingAgain, Stopped): (on_stopped_again, frozenset({Ready})),
    (TrainingAgain, m.Enrol): (on_enrol,   frozenset({Ready})),
    (TrainingAgain, m.Close): (on_close,   frozenset({Left})),
    (Sealed,   m.Enrol):   (on_enrol,   frozenset({Ready})),
    (Sealed,   m.Propose): (on_propose, frozenset({Deciding})),
    (Sealed,   m.Ask):     (on_ask,     frozenset({Ready})),
    (Sealed,   m.Close):   (on_close,   frozenset({Left})),
    (Idle,     Resumed):   (on_resumed, frozenset({Idle})),
    (Ready,    Resumed):   (on_resumed, frozenset({Ready})),
    (Deciding, Resumed):   (on_resumed, frozenset({Deciding})),
    (InTraining, Resumed):   (on_resumed, frozenset({TrainingAgain})),
    (TrainingAgain, Resumed): (on_resumed, frozenset({TrainingAgain})),
    (Sealed,   Resumed):   (on_resumed, frozenset({Sealed})),
    (Left,     Resumed):   (on_resumed, frozenset({Left})),
}  # fmt: skip
REQUESTS: Final = {kind.__name__: kind for kind in (m.Invite, m.Enrol, m.Propose, m.Ask, m.Close)}


def step(state: State, event: Event, ports: Ports) -> Step:
    """Move the run by one event.

    Raises:
        OutOfTurn: no rule covers this event in this state.
        PeerFault: the message is not from the coordinator, or asks for what is not allowed.
            After any of these the state is unchanged.
    """
    kind: type = type(event)
    if isinstance(event, Received):
        receipt = event.envelope.receipt
        charter = state.charter if isinstance(state, Idle) else state.seat.charter
        run = receipt.run if isinstance(state, Idle) else state.seat.session.run
        m.check(event.envelope, charter.coordinator.member, charter.me, run, charter.coordinator.key)
        ports.standing(charter.coordinator)
        if not isinstance(state, Idle) and state.seat.request == receipt.digest:
            if state.seat.reply is not None:
                return Step(state, outbound=state.seat.reply)
            moved = on_resumed(state, Resumed(), ports)
            if moved.state == state:
                return moved
            assert isinstance(state, UnderWay)  # that is another state, so the ledger tells of it
            requests.check(receipt, state.proposal)
            seen_heads.beside(charter, event.head, receipt)
            return replace(moved, entries=(MessageReceived(receipt, event.envelope.signature),))
        kind = REQUESTS.get(receipt.kind, type(None))
    rule = RULES.get((type(state), kind))
    if rule is None:
        name = "protocol.second-question" if kind is m.Ask else OutOfTurn.rule
        raise OutOfTurn(f"{kind.__name__} while {type(state).__name__}", name)
    act, targets = rule
    seen: tuple[Witnessed, ...] = ()
    if isinstance(event, Received):
        charter, seen = seen_heads.beside(charter, event.head, event.envelope.receipt)
        state = Idle(charter) if isinstance(state, Idle) else replace(state, seat=replace(state.seat, charter=charter))
    moved = act(state, event, ports)
    assert type(moved.state) in targets, "a rule moved to a state its row does not name"
    return replace(moved, entries=(*moved.entries, *seen)) if seen else moved


def _enveloped(
    seat: Seated, ports: Ports, message: m.Reply, round_: int,
    plan: Hash | None = None, cost: MicroEpsilon | None = None, release: tuple[str, ...] = (),
) -> Envelope:  # fmt: skip
    to, run = seat.session.coordinator.member, seat.session.run
    price = MicroEpsilon(0) if cost is None else cost
    return m.enclose(ports.identity, seat.charter.me, to, run, round_, message, plan, price, release, ports.head())


def _replied(
    seat: Seated, into: type[Ready], event: Received, ports: Ports, message: m.Reply, round_: int,
    plan: Hash | None = None, entries: tuple[Entry, ...] = (),
) -> Step:  # fmt: skip
    envelope = _enveloped(seat, ports, message, round_, plan)
    receipt = event.envelope.receipt
    seat = replace(seat, request=receipt.digest, reply=envelope)
    told = (
        *entries,
        MessageReceived(receipt, event.envelope.signature),
        MessageSent(envelope.receipt, envelope.signature),
    )
    return Step(into(seat), told, outbound=envelope)


def _declined(seat: Seated, plan: Plan, reasons: tuple[Reason, ...], ports: Ports, entries: tuple[Entry, ...]) -> Step:
    """Out of this round, not out of the run: the enrolment is used up, and the round is not entered again.

    This ledger keeps every word of the reasons; the coordinator is told what may leave.
    """
    seat = replace(seat, next_round=plan.round + 1, enrolment=b"")
    message = m.Declined(plan.round, declining.told(reasons))
    envelope = _enveloped(seat, ports, message, plan.round, wire.plan_hash(plan))
    refused = Refused(plan.run, plan.round, "plan", reasons)
    told = (*entries, refused, MessageSent(envelope.receipt, envelope.signature))
    return Step(Ready(replace(seat, reply=envelope)), told, outbound=envelope)
