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
from dataclasses import dataclass, field, replace
from typing import Any, Final

from securefl import keys, wire
from securefl.errors import Forged, OutOfTurn, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import honest
from securefl.protocol import declining, sight
from securefl.protocol import messages as m
from securefl.seams import MemberProtection, Own
from securefl.terms import (
    AdapterRule,
    Closed,
    Entry,
    Envelope,
    Freed,
    Got,
    Grant,
    Hash,
    Head,
    MemberId,
    MicroEpsilon,
    Model,
    Opened,
    Plan,
    Reason,
    Refusal,
    Refused,
    Released,
    Reserved,
    Seat,
    Sent,
    Settled,
    SignedHead,
    Update,
    Witnessed,
    covering,
)
from securefl.terms import Event as PrivacyEvent

UNREAD: Final = declining.UNREAD


@dataclass(frozen=True, slots=True)
class Charter:
    """What this member knows on its own authority, whatever a coordinator says."""

    me: MemberId
    federation: str
    policy: Hash
    policy_text: bytes
    dataset: str
    coordinator: Seat
    custodian: Seat | None
    peers: tuple[Seat, ...]  # every member, this one among them
    witnessed: Mapping[str, SignedHead]  # the last head seen of each peer's ledger
    model: Model | None  # what is loaded here, by this site's own name for it; None at a custodian
    approvals: bytes = b""  # the signatures this site found for its policy; empty if it agreed to run without


@dataclass(frozen=True, slots=True)
class Plugs:
    """What the machine is given and does not keep: the key that signs, and the scheme."""

    identity: Identity
    protection: Callable[[str], MemberProtection]
    holds: Callable[[Head], bool] = lambda _: (
        True
    )  # whether its own ledger had this head: a home is asked, if it has one


# Effects: what the machine asks its driver to do.


@dataclass(frozen=True, slots=True)
class Reserve:
    """Check that this plan can be trained, decide about it and set its price aside; the last two in one transaction."""

    plan: Plan
    base: bytes


@dataclass(frozen=True, slots=True)
class Train:
    """Run this plan, from this adapter state."""

    plan: Plan
    base: bytes


Effect = Reserve | Train

# Events: what can happen to a run.


@dataclass(frozen=True, slots=True)
class Received:
    """A request that claims to be from the coordinator, and fresh entropy to answer it with."""

    envelope: Envelope
    head: SignedHead | None  # of the coordinator's ledger
    rand: Secret


@dataclass(frozen=True, slots=True)
class Decided:
    """What policy and account say to the plan."""

    answer: Grant | Refusal


@dataclass(frozen=True, slots=True)
class Trained:
    """Training is over; the update is sealed in this same step, and ``keep`` is kept in the same transaction."""

    update: Update
    rand: Secret
    keep: Own = field(default_factory=Own)


@dataclass(frozen=True, slots=True)
class Stopped:
    """Training began and has no result. The whole price is spent, unless ``spent`` says what really was.

    Only a federation below can say so: it has the ledger of what ran there. None: no record was read.
    """

    trouble: str  # for this site's own operator; it goes nowhere else
    spent: Ran | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """What a federation below spent on a plan that came to nothing; if nothing, by which rule members declined."""

    did: PrivacyEvent | None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The process was restarted: what was under way is asked for again."""


Event = Received | Decided | Trained | Stopped | Resumed

# States: where we are. Each holds what its own moves need.


@dataclass(frozen=True, slots=True)
class Idle:
    """No run yet."""

    charter: Charter


@dataclass(frozen=True, slots=True)
class Seated:
    """What every state of a run shares."""

    charter: Charter
    session: m.Session
    box: bytes  # X25519 secret of this session; gone when the run is over
    boxes: Mapping[str, bytes]  # every peer's box key; empty before the first Enrol
    material: bytes
    next_round: int  # no earlier round is ever entered again
    enrolment: bytes  # this member's secrets for `next_round`; empty if not enrolled
    request: Hash  # digest of the request answered last
    reply: Envelope | None


@dataclass(frozen=True, slots=True)
class Ready:
    """Between rounds."""

    seat: Seated


@dataclass(frozen=True, slots=True)
class Deciding:
    """A plan is before policy and account."""

    seat: Seated
    proposal: m.Propose


@dataclass(frozen=True, slots=True)
class Learning:
    """A plan is paid for, and being trained."""

    seat: Seated
    proposal: m.Propose
    cost: MicroEpsilon


@dataclass(frozen=True, slots=True)
class Sealed:
    """The result has left, sealed. One question about it may still be answered."""

    seat: Seated
    plan: Plan
    kept: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """The run is over here."""

    seat: Seated
    outcome: str
    state: bytes  # the adapter the run ended with


State = Idle | Ready | Deciding | Learning | Sealed | Left


@dataclass(frozen=True, slots=True)
class Kept:
    """What a member keeps of the plan that is settled in the same step."""

    plan: Hash
    round: int
    own: Own


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, what to write down and keep, what to do, and what to answer: in that order."""

    state: State
    entries: tuple[Entry, ...] = ()
    effects: tuple[Effect, ...] = ()
    outbound: Envelope | None = None
    keep: Kept | None = None  # written in the transaction that writes the entries
    trouble: str = ""  # what went wrong, for this site's own operator; it is neither written down nor sent


def on_invite(state: Idle, event: Received, plugs: Plugs) -> Step:
    """Join a run that is what this member's own charter says, and no other."""
    charter = state.charter
    invite = m.opened(event.envelope, m.Invite)
    assert isinstance(invite, m.Invite)
    session = invite.session
    charter, seen = sight.relayed(charter, invite.heads, plugs.holds, stale=True)
    if session.run != event.envelope.receipt.run:
        raise Forged("an invitation to one run in an envelope of another", "protocol.another-run")
    # 1. the federation, policy, coordinator and custodian are the ones this site was set up with
    if session.federation != charter.federation:
        raise Unsafe(f"{session.federation} is not what this site agreed to", "protocol.another-federation")
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
    box = keys.derive(event.rand, "session-box")
    seat = Seated(charter, session, box.raw, {}, b"", 1, b"", Hash(b""), None)
    everybody = (*session.roster, session.coordinator, *((session.custodian,) if session.custodian else ()))
    opened = Opened(
        session.run, session.federation, "member", charter.policy_text, charter.dataset, everybody, charter.approvals
    )
    return _replied(seat, Ready, event, plugs, m.Accept(keys.public_half(box), b""), 0, entries=(opened, *seen))


def on_enrol(state: Ready | Sealed, event: Received, plugs: Plugs) -> Step:
    """Make keys and shares for a round that has not been entered yet."""
    seat = state.seat
    enrol = m.opened(event.envelope, m.Enrol)
    assert isinstance(enrol, m.Enrol)
    if enrol.round < seat.next_round:
        raise OutOfTurn(f"round {enrol.round} again: the next one is {seat.next_round}", "protocol.replayed-round")
    seen: tuple[Witnessed, ...] = ()
    if not seat.boxes:
        boxes, material = _acceptances(seat, enrol.accepts)
        heads = (frame.head for frame in enrol.accepts if frame.head is not None)
        charter, seen = sight.relayed(seat.charter, heads, plugs.holds)
        seat = replace(seat, charter=charter)
        plugs.protection(seat.session.scheme).check_material(
            material, seat.session.custodian.key if seat.session.custodian else None
        )
        seat = replace(seat, boxes=boxes, material=material)
    enrolment = plugs.protection(seat.session.scheme).enrol(
        seat.charter.me, seat.session.run, enrol.round, seat.session.threshold, _members_only(seat), plugs.identity,
        keys.derive(event.rand, "enrol"),
    )  # fmt: skip
    seat = replace(seat, next_round=enrol.round, enrolment=enrolment.secret)
    return _replied(seat, Ready, event, plugs, m.Enrolled(enrol.round, enrolment.public), enrol.round, entries=seen)


def on_propose(state: Ready | Sealed, event: Received, plugs: Plugs) -> Step:
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
    if (receipt.plan, receipt.round) != (wire.plan_hash(plan), plan.round):
        raise Forged("a plan that is not the one its receipt names", "protocol.another-plan")
    # 2. its cohort is part of the roster, with this member in it
    _check_cohort(seat, plan)
    # 3. it is covered as the session says, and for the model that is loaded here
    _check_as_agreed(seat, plan)
    # 4. it starts from the state it names
    if m.state_digest(proposal.base) != plan.base or not _covers(plan, len(proposal.base)):
        raise Forged("an adapter state that is not the one the plan names", "protocol.another-state")
    # 5. what would leave is on its list: else an update would be trained, paid for, and kept
    if m.Egress.WEIGHTS.value not in plan.release:
        raise Unsafe("a plan that does not list `weights` among what leaves a site", "protocol.unlisted-release")
    # 6. a sum under it would be safe
    plugs.protection(session.scheme).admit(
        seat.charter.me, plan, Secret(seat.box), seat.enrolment, proposal.relayed, seat.material
    )
    charter, seen = sight.relayed(seat.charter, proposal.heads, plugs.holds)
    seat, told = (
        replace(seat, charter=charter, request=receipt.digest, reply=None),
        Got(receipt, event.envelope.signature),
    )
    return Step(Deciding(seat, proposal), (told, *seen), (Reserve(plan, proposal.base),))


def _check_as_agreed(seat: Seated, plan: Plan) -> None:
    """Check the plan's cover against the session, and its model, name and digest, against this site's own.

    The policy's rule on models judges the name in the plan: only the name this site knows the digest by is let through.
    """
    session = seat.session
    custodian = session.custodian.key if session.custodian else None
    if (plan.cover.scheme, plan.cover.threshold, plan.cover.custodian) != (
        session.scheme, session.threshold, custodian,
    ):  # fmt: skip
        raise Unsafe("a plan under another protection than the session", "protocol.another-cover")
    if plan.model != seat.charter.model:
        raise Unsafe("a plan for another model than this site has loaded", "protocol.another-model")


def on_decided(state: Deciding, event: Decided, plugs: Plugs) -> Step:
    """Train what was granted; answer with every reason what was refused."""
    plan = state.proposal.plan
    if isinstance(event.answer, Refusal):
        return _declined(state.seat, plan, event.answer.reasons, plugs, ())
    grant = event.answer
    assert grant.plan == wire.plan_hash(plan), "a grant for another plan"
    reserved = Reserved(plan, state.seat.charter.dataset, grant.price, grant.nonce)
    learning = Learning(state.seat, state.proposal, grant.price.round)
    return Step(learning, (reserved,), (Train(plan, state.proposal.base),))


def on_trained(state: Learning, event: Trained, plugs: Plugs) -> Step:
    """Seal the update in the step that receives it; whatever goes wrong with it, the price is spent."""
    try:
        return _submitted(state, event, plugs)
    except Exception as fault:  # noqa: BLE001 - records were read: no fault may tell how, or give anything back
        did = covering(state.proposal.plan.learning.event, event.update.did)
        return _failed(state, did, "", plugs, f"{type(fault).__name__}: {fault}")


def on_stopped(state: Learning, event: Stopped, plugs: Plugs) -> Step:
    """Pay for a training that came to nothing, and say the one word that is said of every such training."""
    priced = state.proposal.plan.learning.event
    if event.spent is None:
        return _failed(state, priced, "", plugs, event.trouble)
    return _failed(state, event.spent.did, event.spent.rule, plugs, event.trouble)


def _submitted(state: Learning, event: Trained, plugs: Plugs) -> Step:
    """The sealed update, with the next round's keys; what is kept is of this very training."""
    seat, plan = state.seat, state.proposal.plan
    protection = plugs.protection(seat.session.scheme)
    name, below = wire.plan_hash(plan), event.update.below
    if event.update.did != plan.learning.event:
        raise Unsafe(f"trained {event.update.did}, and {plan.learning.event} was priced")
    payload, kept = protection.seal(
        seat.charter.me, plan, Secret(seat.box), seat.enrolment, state.proposal.relayed, seat.material,
        event.update, keys.derive(event.rand, "seal"),
    )  # fmt: skip
    following = protection.enrol(
        seat.charter.me, seat.session.run, plan.round + 1, seat.session.threshold, _members_only(seat), plugs.identity,
        keys.derive(event.rand, "enrol"),
    )  # fmt: skip
    seat = replace(seat, next_round=plan.round + 1, enrolment=following.secret)
    message = m.Submitted(plan.round, payload, following.public)
    envelope = _enveloped(seat, plugs, message, plan.round, name, state.cost, plan.release)
    settled = Settled(name, event.update.did)
    entries = (settled, *((below,) if below else ()), Sent(envelope.receipt, envelope.signature))
    keep = Kept(name, plan.round, event.keep)
    return Step(Sealed(replace(seat, reply=envelope), plan, kept), entries, outbound=envelope, keep=keep)


def _failed(state: Learning, did: PrivacyEvent | None, below: str, plugs: Plugs, trouble: str) -> Step:
    """Out of the round by one constant, which is the same whatever went wrong once records were read."""
    name = wire.plan_hash(state.proposal.plan)
    reason = declining.constant(UNREAD, below) if did is None else declining.constant(declining.UNFINISHED)
    entry = Freed(name, "no record was read") if did is None else Settled(name, did)
    declined = _declined(state.seat, state.proposal.plan, (reason,), plugs, (entry,))
    return replace(declined, trouble=trouble)


def on_ask(state: Sealed, event: Received, plugs: Plugs) -> Step:
    """Answer one question about the round just sealed, and forget what would answer a second."""
    seat, plan = state.seat, state.plan
    ask = m.opened(event.envelope, m.Ask)
    assert isinstance(ask, m.Ask)
    if ask.round != plan.round:
        raise OutOfTurn(f"a question about round {ask.round} in round {plan.round}", "protocol.another-round")
    answer = plugs.protection(seat.session.scheme).answer(seat.charter.me, plan, state.kept, ask.question)
    message = m.Answered(plan.round, answer)
    return _replied(seat, Ready, event, plugs, message, plan.round, plan=wire.plan_hash(plan))


def on_close(state: Ready | Sealed | Deciding | Learning, event: Received, plugs: Plugs) -> Step:
    """Leave; keep everybody's head, and pay for a training that was under way."""
    seat = state.seat
    close = m.opened(event.envelope, m.Close)
    assert isinstance(close, m.Close)
    charter, seen = sight.relayed(seat.charter, close.heads, plugs.holds)
    seat, entries = replace(seat, charter=charter), list[Entry](seen)
    if isinstance(state, Learning):  # how far training came is not known: records may have been read
        entries.append(Settled(wire.plan_hash(state.proposal.plan), state.proposal.plan.learning.event))
    if close.state:
        entries.append(Released(seat.session.run, close.round, m.state_digest(close.state)))
    entries.append(Closed(seat.session.run, close.outcome, close.why))
    envelope = _enveloped(seat, plugs, m.Bye(close.outcome), 0)
    got = Got(event.envelope.receipt, event.envelope.signature)
    seat = replace(seat, request=event.envelope.receipt.digest, reply=envelope, box=b"", enrolment=b"")
    entries.append(Sent(envelope.receipt, envelope.signature))
    return Step(Left(seat, close.outcome, close.state), (got, *entries), outbound=envelope)


def on_resumed(state: State, event: Resumed, plugs: Plugs) -> Step:
    """Ask again for the effect that was under way; its result was saved nowhere, so it left nothing."""
    del event, plugs
    if isinstance(state, Deciding):
        return Step(state, effects=(Reserve(state.proposal.plan, state.proposal.base),))
    if isinstance(state, Learning):
        return Step(state, effects=(Train(state.proposal.plan, state.proposal.base),))
    return Step(state)


Rule = tuple[Callable[[Any, Any, Plugs], Step], frozenset[type]]

RULES: Final[Mapping[tuple[type, type], Rule]] = {
    (Idle,     m.Invite):  (on_invite,  frozenset({Ready})),
    (Ready,    m.Enrol):   (on_enrol,   frozenset({Ready})),
    (Ready,    m.Propose): (on_propose, frozenset({Deciding})),
    (Ready,    m.Close):   (on_close,   frozenset({Left})),
    (Deciding, Decided):   (on_decided, frozenset({Ready, Learning})),
    (Deciding, m.Close):   (on_close,   frozenset({Left})),
    (Learning, Trained):   (on_trained, frozenset({Ready, Sealed})),
    (Learning, Stopped):   (on_stopped, frozenset({Ready})),
    (Learning, m.Close):   (on_close,   frozenset({Left})),
    (Sealed,   m.Enrol):   (on_enrol,   frozenset({Ready})),
    (Sealed,   m.Propose): (on_propose, frozenset({Deciding})),
    (Sealed,   m.Ask):     (on_ask,     frozenset({Ready})),
    (Sealed,   m.Close):   (on_close,   frozenset({Left})),
    (Idle,     Resumed):   (on_resumed, frozenset({Idle})),
    (Ready,    Resumed):   (on_resumed, frozenset({Ready})),
    (Deciding, Resumed):   (on_resumed, frozenset({Deciding})),
    (Learning, Resumed):   (on_resumed, frozenset({Learning})),
    (Sealed,   Resumed):   (on_resumed, frozenset({Sealed})),
    (Left,     Resumed):   (on_resumed, frozenset({Left})),
}  # fmt: skip

REQUESTS: Final = {kind.__name__: kind for kind in (m.Invite, m.Enrol, m.Propose, m.Ask, m.Close)}


def step(state: State, event: Event, plugs: Plugs) -> Step:
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
        if not isinstance(state, Idle) and state.seat.request == receipt.digest:
            return (
                on_resumed(state, Resumed(), plugs)
                if state.seat.reply is None
                else Step(state, outbound=state.seat.reply)
            )
        kind = REQUESTS.get(receipt.kind, type(None))
    rule = RULES.get((type(state), kind))
    if rule is None:
        name = "protocol.second-question" if kind is m.Ask else OutOfTurn.rule
        raise OutOfTurn(f"{kind.__name__} while {type(state).__name__}", name)
    act, targets = rule
    seen: tuple[Witnessed, ...] = ()
    if isinstance(event, Received):
        charter, seen = sight.beside(state.charter if isinstance(state, Idle) else state.seat.charter, event.head)
        state = Idle(charter) if isinstance(state, Idle) else replace(state, seat=replace(state.seat, charter=charter))
    moved = act(state, event, plugs)
    assert type(moved.state) in targets, "a rule moved to a state its row does not name"
    return replace(moved, entries=(*moved.entries, *seen)) if seen else moved


def _enveloped(
    seat: Seated,
    plugs: Plugs,
    message: m.Reply,
    round_: int,
    plan: Hash | None = None,
    cost: MicroEpsilon | None = None,
    release: tuple[str, ...] = (),
) -> Envelope:
    to, run = seat.session.coordinator.member, seat.session.run
    price = MicroEpsilon(0) if cost is None else cost
    return m.enclose(plugs.identity, seat.charter.me, to, run, round_, message, plan, price, release)


def _replied(
    seat: Seated, into: type[Ready], event: Received, plugs: Plugs, message: m.Reply, round_: int,
    plan: Hash | None = None, entries: tuple[Entry, ...] = (),
) -> Step:  # fmt: skip
    envelope = _enveloped(seat, plugs, message, round_, plan)
    receipt = event.envelope.receipt
    seat = replace(seat, request=receipt.digest, reply=envelope)
    told = (*entries, Got(receipt, event.envelope.signature), Sent(envelope.receipt, envelope.signature))
    return Step(into(seat), told, outbound=envelope)


def _declined(seat: Seated, plan: Plan, reasons: tuple[Reason, ...], plugs: Plugs, entries: tuple[Entry, ...]) -> Step:
    """Out of this round, not out of the run: the enrolment is used up, and the round is not entered again.

    This ledger keeps every word of the reasons; the coordinator is told what may leave.
    """
    seat = replace(seat, next_round=plan.round + 1, enrolment=b"")
    message = m.Declined(plan.round, declining.told(reasons))
    envelope = _enveloped(seat, plugs, message, plan.round, wire.plan_hash(plan))
    refused = Refused(plan.run, plan.round, "plan", reasons)
    told = (*entries, refused, Sent(envelope.receipt, envelope.signature))
    return Step(Ready(replace(seat, reply=envelope)), told, outbound=envelope)


def _check_cohort(seat: Seated, plan: Plan) -> None:
    """Return if the cohort is of the roster, each member once and this one among them; all of it for what is kept.

    Raises:
        Forged: it has strangers or doubles.
        Unsafe: it is without this member, or sums of a run over different cohorts could be solved for one member.
    """
    roster = seat.session.roster
    if any(each not in roster for each in plan.cohort) or len(set(plan.cohort)) != len(plan.cohort):
        raise Forged("a cohort with strangers or doubles", "protocol.stranger")
    if seat.charter.me not in {each.member for each in plan.cohort}:
        raise Unsafe("a cohort without this member", "protocol.without-me")
    if not honest.is_fresh(plan.sharing) and len(plan.cohort) != len(roster):
        raise Unsafe("weights that members keep, over another cohort than the whole roster", "protocol.stale-input")


def _covers(plan: Plan, size: int) -> bool:
    """Whether a state of ``size`` bytes holds what the plan's update moves: all of it, or more where tensors rest."""
    attention, copies = plan.sharing.attention, len(plan.sharing.weightings)
    if (
        attention is not None
    ):  # an update is a state and its residuals, and for each sum as many weights as there are keys
        weights = plan.dimension - size // 4
        return size % 4 == 0 and weights >= plan.sharing.sums and weights % plan.sharing.sums == 0
    moved, rest = divmod(plan.dimension, copies) if copies else (plan.dimension, 0)
    moved -= 1 if copies else 0  # the weight
    rests = plan.adapter.rule in (AdapterRule.ALTERNATING, AdapterRule.SVD) or plan.sharing.home
    return rest == 0 == size % 4 and (size > 4 * moved if rests else size == 4 * moved)


def _acceptances(seat: Seated, frames: tuple[m.Frame, ...]) -> tuple[dict[str, bytes], bytes]:
    """Every peer's box key, each under its own signature, from a ledger that is not older than what was seen."""
    session = seat.session
    known = {each.member: each for each in (*session.roster, *_custodian(seat))}
    boxes: dict[str, bytes] = {}
    material = b""
    for frame in frames:
        sender = frame.envelope.receipt.sender
        if sender not in known or sender in boxes:
            raise Forged(f"an acceptance of {sender}, who is no peer or stands here twice", "protocol.stranger")
        m.check(frame.envelope, sender, session.coordinator.member, session.run, known[sender].key)
        accept = m.opened(frame.envelope, m.Accept)
        assert isinstance(accept, m.Accept)
        if frame.head is None:
            raise Forged(f"an acceptance of {sender} without its ledger's head", "protocol.no-ledger")
        boxes[sender] = accept.box
        if session.custodian is not None and sender == session.custodian.member:
            material = accept.material
    if boxes.get(seat.charter.me) != keys.public_half(Secret(seat.box)):
        raise Forged("this member's own acceptance is missing or altered", "protocol.swapped-key")
    return boxes, material


def _members_only(seat: Seated) -> dict[MemberId, bytes]:
    members = {each.member for each in seat.session.roster}
    return {MemberId(name): box for name, box in seat.boxes.items() if name in members}


def _custodian(seat: Seated) -> tuple[Seat, ...]:
    return (seat.session.custodian,) if seat.session.custodian else ()
