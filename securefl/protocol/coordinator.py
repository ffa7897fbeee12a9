"""One run, seen from the coordinator. No clock, no socket, no randomness, and no way to look at one member.

Rule 1: every legal move is a row of ``RULES``; nothing else moves the run.
Rule 2: a duplicate or late message is a row too, so that "ignored" is a decision.
Rule 3: who does not answer while patience lasts is left out of that phase (``Elapsed``). A sum is opened over at least
        ``max(threshold, min_cohort)`` members, or the run ends cleanly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from securefl import wire
from securefl.errors import OutOfTurn, PeerFault
from securefl.protection import max_update
from securefl.protocol import acceptances
from securefl.protocol import messages as m
from securefl.protocol.coordinator_checks import check_answer, check_enrolment, check_reply, with_seen
from securefl.protocol.coordinator_messages import (
    ask_members,
    close_round,
    counts,
    ended_keys,
    enrol_members,
    propose_plan,
)
from securefl.protocol.coordinator_state import (
    Asking,
    Closing,
    Collecting,
    Elapsed,
    Ended,
    Enrolling,
    Event,
    Inviting,
    Planned,
    Ports,
    Received,
    Resumed,
    RunState,
    Started,
    State,
    Step,
)
from securefl.protocol.key_standing import revocation
from securefl.terms import (
    Closed,
    Hash,
    MemberId,
    MessageReceived,
    Refused,
    Released,
    RunJoined,
    SignedReceipt,
    SumOpened,
    Witnessed,
)

DECLINED: Final = "plan, by "  # what was refused, in the words of a coordinator's ledger; the member's name follows


def on_started(state: Planned, event: Started, ports: Ports) -> Step:
    """Invite every member, and the custodian if there is one."""
    del event
    course, session = state.course, state.course.session
    custodian = (session.custodian,) if session.custodian else ()
    ports.standing(session.coordinator)  # whoever is invited would refuse it, and the entry would stay
    peers = (*session.roster, *custodian)
    opened = RunJoined(
        session.run,
        session.federation,
        "coordinator",
        course.policy_text,
        "",
        (*peers, session.coordinator),
        course.approvals,
        session.task,
    )
    heads = tuple(course.heads[seat.member] for seat in peers if seat.member in course.heads)
    asked = {seat.member: m.Invite(session, heads) for seat in peers}
    return ask_members(Inviting(course), asked, 0, ports, (opened,))


def on_accept(state: Inviting, event: Received, ports: Ports) -> Step:
    """Note who takes part; when everybody has spoken, enrol them."""
    accept = acceptances.checked(event.frame, state.course.session)
    course = with_seen(_answered(state.course, event), accept)
    course = replace(course, accepts={**course.accepts, event.sender: event.frame})
    return _when_answered(replace(state, course=course), event, ports, invited)


def invited(state: Inviting, ports: Ports) -> Step:
    """Enrol those who accepted, for the first round."""
    course = state.course
    session = course.session
    missing = [seat.member for seat in session.roster if seat.member not in course.accepts]
    if len(session.roster) - len(missing) < course.need:
        return close_round(
            course, "aborted", f"{', '.join(missing)} did not accept; {course.need} members are needed", ports
        )
    if session.custodian is not None and session.custodian.member not in course.accepts:
        return close_round(course, "aborted", "the custodian did not accept", ports)
    return enrol_members(replace(course, unanswered={}), ports)


def on_enrolled(state: Enrolling, event: Received, ports: Ports) -> Step:
    """Note a member's keys and shares; when everybody has spoken, propose the plan."""
    enrolled = m.opened(event.frame.envelope, m.Enrolled)
    assert isinstance(enrolled, m.Enrolled)
    course = _answered(state.course, event)
    check_enrolment(course, event.sender, enrolled.public, course.plan.round, ports)
    course = replace(course, enrolled={**course.enrolled, event.sender: enrolled.public})
    return _when_answered(replace(state, course=course), event, ports, enlisted)


def enlisted(state: Enrolling, ports: Ports) -> Step:
    """Propose the round's plan to everybody who is enrolled."""
    course = replace(state.course, unanswered={})
    return propose_plan(course, ports)


def on_submitted(state: Collecting, event: Received, ports: Ports) -> Step:
    """Add a sealed result, or keep it for the custodian; when everybody has spoken, ask what opening the sum needs."""
    submitted = m.opened(event.frame.envelope, m.Submitted)
    assert isinstance(submitted, m.Submitted)
    course = _answered(state.course, event)
    check_enrolment(course, event.sender, submitted.following, course.plan.round + 1, ports)
    protection, envelope = ports.protection(course.session.scheme), event.frame.envelope
    added = protection.add(course.plan, state.total, event.sender, submitted.payload)
    kept = envelope if added is None else SignedReceipt(envelope.receipt, envelope.signature)
    state = replace(
        state, course=course, sealed={**state.sealed, event.sender: kept}, total=added or b"",
        following={**state.following, event.sender: submitted.following},
    )  # fmt: skip
    return _when_answered(state, event, ports, collected)


def on_declined(state: Collecting, event: Received, ports: Ports) -> Step:
    """Note who refuses this round, and why."""
    declined = m.opened(event.frame.envelope, m.Declined)
    assert isinstance(declined, m.Declined)
    course = _answered(state.course, event)
    state = replace(state, course=course, declined={**state.declined, event.sender: declined.reasons})
    refused = Refused(course.session.run, declined.round, f"{DECLINED}{event.sender}", declined.reasons)
    moved = _when_answered(state, event, ports, collected)
    return replace(moved, entries=(*moved.entries[:1], refused, *moved.entries[1:]))


def collected(state: Collecting, ports: Ports) -> Step:
    """Ask the survivors, or end cleanly if they are too few."""
    course = replace(state.course, unanswered={})
    if ended := ended_keys(course, ports):
        return close_round(course, "aborted", ended, ports)
    gone = {seat.member for seat in course.plan.cohort if not counts(seat, ports)}
    left = {n: kept for n, kept in state.sealed.items() if n not in gone or isinstance(kept, SignedReceipt)}
    state = replace(state, sealed=left)  # what was added came under a key that counted, and stays
    if len(state.sealed) < course.need:
        if state.declined:
            member, reasons = min(state.declined.items())
            others = f" (and {len(state.declined) - 1} more)" if len(state.declined) > 1 else ""
            names = ", ".join(dict.fromkeys(reason.rule for reason in reasons))  # no word of a member goes to others
            why = f"round {course.plan.round} refused by {member}{others}: {names}"
            return close_round(course, "refused", why, ports)
        why = f"{len(state.sealed)} of {len(course.plan.cohort)} sealed results arrived; {course.need} are needed"
        return close_round(course, "aborted", why, ports)
    return _next_question(Asking(course, state.sealed, state.following, {}, total=state.total), ports)


def asked(state: Asking, ports: Ports) -> Step:
    """Go on to the scheme's next phase."""
    return _next_question(replace(state, phase=state.phase + 1), ports)


def _next_question(state: Asking, ports: Ports) -> Step:
    """Ask what this phase asks; when there is no such phase, open the sum."""
    course = replace(state.course, unanswered={})
    protection, plan = ports.protection(course.session.scheme), course.plan
    revoked = [seat.member for seat in plan.cohort if seat.member in state.sealed and revocation(seat, ports.standing)]
    if revocation(course.session.coordinator, ports.standing):
        why = f"the key of {course.session.coordinator.member} was revoked: round {plan.round} is not opened"
        return close_round(course, "aborted", why, ports)
    if revoked:  # whoever stole that key may have made the input: no sum with it is asked for, or opened
        why = f"round {plan.round} has an input under a key that was revoked: {', '.join(revoked)}"
        return close_round(course, "aborted", why, ports)
    if state.phase >= protection.phases:
        return opened(state, ports)
    sealed = {MemberId(name): kept for name, kept in state.sealed.items()}
    answers = {MemberId(name): answer for name, answer in state.answers.items()}
    try:
        questions = protection.ask(state.phase, plan, _enrolled(course), sealed, answers)
    except PeerFault as fault:
        return close_round(course, "aborted", _unopened(state, fault), ports)
    receipts = tuple(SignedReceipt(each.receipt, each.signature) for _, each in sorted(state.sealed.items()))
    messages = {
        member: m.Ask(plan.round, question, receipts if member in state.sealed else ())
        for member, question in questions.items()
    }
    return ask_members(replace(state, course=course), messages, plan.round, ports)


def on_answered(state: Asking, event: Received, ports: Ports) -> Step:
    """Keep an answer; when everybody has spoken, ask what is next, or open the sum."""
    answered = m.opened(event.frame.envelope, m.Answered)
    assert isinstance(answered, m.Answered)
    course, survivors = _answered(state.course, event), tuple(sorted(map(MemberId, state.sealed)))
    ports.protection(course.session.scheme).check_answer(
        course.plan, _enrolled(course), survivors, event.sender, answered.answer
    )
    state = replace(state, course=course, answers={**state.answers, event.sender: answered.answer})
    return _when_answered(state, event, ports, asked)


def opened(state: Asking, ports: Ports) -> Step:
    """Open the sum, make the next adapter state of it, and go on to the next round."""
    course, plan = replace(state.course, unanswered={}), state.course.plan
    survivors = tuple(sorted(map(MemberId, state.sealed)))
    answers = {MemberId(name): answer for name, answer in state.answers.items()}
    try:
        aggregate = ports.protection(course.session.scheme).open(
            plan, _enrolled(course), survivors, state.total, answers
        )
        max_update.check_sum(plan, aggregate)
        after, memory = ports.strategy.advance(plan.round, course.state, course.previous, aggregate)
    except PeerFault as fault:
        return close_round(course, "aborted", _unopened(state, fault), ports)
    digest = m.state_digest(after)
    run = course.session.run
    sum_digest = Hash(hashlib.sha256(aggregate.total.tobytes()).digest())
    entries = (
        SumOpened(run, plan.round, wire.plan_hash(plan), tuple(sorted(aggregate.survivors)), sum_digest),
        Released(run, plan.round, digest),
    )
    rate = course.rates[min(plan.round, course.rounds - 1)]
    learning = replace(plan.learning, learning_rate=rate)
    dimension = ports.strategy.dimension(plan.round + 1, after)
    following = replace(plan, round=plan.round + 1, base=digest, learning=learning, dimension=dimension)
    course = replace(course, plan=following, state=after, previous=memory, enrolled=state.following)
    if plan.round >= course.rounds:
        moved = close_round(course, "finished", "every round ran", ports, plan.round)
    else:
        moved = enrol_members(course, ports)
    return replace(moved, entries=(*entries, *moved.entries))


def _unopened(state: Asking, fault: PeerFault) -> str:
    """Why there is no sum: counts and the name of a rule, for a fault's own words may be a member's."""
    had = f"{len(state.sealed)} results and {len(state.answers)} answers"
    return f"round {state.course.plan.round} cannot be opened with {had}: {m.NoAnswer.by(fault)}"


def _enrolled(course: RunState) -> dict[MemberId, bytes]:
    return {seat.member: course.enrolled[seat.member] for seat in course.plan.cohort}


def on_bye(state: Closing, event: Received, ports: Ports) -> Step:
    """Keep a peer's last head."""
    course = _answered(state.course, event)
    return _when_answered(replace(state, course=course), event, ports, said)


def said(state: Closing, ports: Ports) -> Step:
    """Write down the end."""
    del ports
    course = replace(state.course, unanswered={})
    closed = Closed(course.session.run, state.outcome, state.why)
    return Step(Ended(course, state.outcome, state.why, state.last_round), (closed,))


def on_elapsed(state: Any, event: Elapsed, ports: Ports) -> Step:  # noqa: ANN401 - any state that waits
    """Go on without those who did not answer."""
    del event
    return WHEN_ANSWERED[type(state)](state, ports)


def on_resumed(state: State, event: Resumed, ports: Ports) -> Step:
    """Ask again whoever has not answered."""
    del event, ports
    return Step(state, outbound=tuple(envelope for _, envelope in sorted(state.course.unanswered.items())))


def ignore(state: State, event: Event, ports: Ports) -> Step:
    """A late or repeated answer changes nothing."""
    del event, ports
    return Step(state)


WHEN_ANSWERED: Final[Mapping[type, Callable[[Any, Ports], Step]]] = {
    Inviting: invited,
    Enrolling: enlisted,
    Collecting: collected,
    Asking: asked,
    Closing: said,
}
Rule = tuple[Callable[[Any, Any, Ports], Step], frozenset[type]]
_ROUND: Final = frozenset({Enrolling, Collecting, Closing})
RULES: Final[Mapping[tuple[type, type], Rule]] = {
    (Planned,    Started):     (on_started,   frozenset({Inviting})),
    (Inviting,   m.Accept):    (on_accept,    frozenset({Inviting}) | _ROUND),
    (Inviting,   Elapsed):     (on_elapsed,   frozenset({Ended}) | _ROUND),
    (Enrolling,  m.Accept):    (ignore,       frozenset({Enrolling})),
    (Enrolling,  m.Enrolled):  (on_enrolled,  _ROUND),
    (Enrolling,  m.Submitted): (ignore,       frozenset({Enrolling})),
    (Enrolling,  m.Declined):  (ignore,       frozenset({Enrolling})),
    (Enrolling,  m.Answered):  (ignore,       frozenset({Enrolling})),
    (Enrolling,  Elapsed):     (on_elapsed,   _ROUND),
    (Collecting, m.Enrolled):  (ignore,       frozenset({Collecting})),
    (Collecting, m.Submitted): (on_submitted, frozenset({Asking}) | _ROUND),
    (Collecting, m.Declined):  (on_declined,  frozenset({Asking}) | _ROUND),
    (Collecting, m.Answered):  (ignore,       frozenset({Collecting})),
    (Collecting, Elapsed):     (on_elapsed,   frozenset({Asking}) | _ROUND),
    (Asking,     m.Submitted): (ignore,       frozenset({Asking})),
    (Asking,     m.Declined):  (ignore,       frozenset({Asking})),
    (Asking,     m.Answered):  (on_answered,  frozenset({Asking}) | _ROUND),
    (Asking,     Elapsed):     (on_elapsed,   frozenset({Asking}) | _ROUND),
    (Closing,    m.Accept):    (ignore,       frozenset({Closing})),
    (Closing,    m.Enrolled):  (ignore,       frozenset({Closing})),
    (Closing,    m.Submitted): (ignore,       frozenset({Closing})),
    (Closing,    m.Declined):  (ignore,       frozenset({Closing})),
    (Closing,    m.Answered):  (ignore,       frozenset({Closing})),
    (Closing,    m.Bye):       (on_bye,       frozenset({Closing, Ended})),
    (Closing,    Elapsed):     (on_elapsed,   frozenset({Ended})),
    (Ended,      m.Bye):       (ignore,       frozenset({Ended})),
    (Planned,    Resumed):     (on_resumed,   frozenset({Planned})),
    (Inviting,   Resumed):     (on_resumed,   frozenset({Inviting})),
    (Enrolling,  Resumed):     (on_resumed,   frozenset({Enrolling})),
    (Collecting, Resumed):     (on_resumed,   frozenset({Collecting})),
    (Asking,     Resumed):     (on_resumed,   frozenset({Asking})),
    (Closing,    Resumed):     (on_resumed,   frozenset({Closing})),
    (Ended,      Resumed):     (on_resumed,   frozenset({Ended})),
}  # fmt: skip
REPLIES: Final = {kind.__name__: kind for kind in (m.Accept, m.Enrolled, m.Submitted, m.Declined, m.Answered, m.Bye)}


def step(state: State, event: Event, ports: Ports) -> Step:
    """Move the run by one event.

    Raises:
        OutOfTurn: no rule covers this event in this state.
        PeerFault: the answer is not from who it says, or not to the request that is open.
            After any of these the state is unchanged.
    """
    kind: type = type(event)
    if isinstance(event, Received):
        kind = REPLIES.get(event.frame.envelope.receipt.kind, type(None))
        check_answer(state.course, event, ports)
        if event.sender not in state.course.unanswered and (type(state), kind) in RULES:
            return ignore(state, event, ports)
    rule = RULES.get((type(state), kind))
    if rule is None:
        raise OutOfTurn(f"{kind.__name__} while {type(state).__name__}")
    act, targets = rule
    if isinstance(event, Received) and act is not ignore:
        check_reply(state.course, event)
    moved = act(state, event, ports)
    assert type(moved.state) in targets, "a rule moved to a state its row does not name"
    return moved


def _answered(course: RunState, event: Received) -> RunState:
    assert event.frame.head is not None, "checked when it arrived"
    unanswered = {name: envelope for name, envelope in course.unanswered.items() if name != event.sender}
    return replace(course, unanswered=unanswered, heads={**course.heads, event.sender: event.frame.head})


def _when_answered(state: Any, event: Received, ports: Ports, then: Callable[[Any, Ports], Step]) -> Step:  # noqa: ANN401
    assert event.frame.head is not None, "checked when it arrived"
    told = (MessageReceived(event.frame.envelope.receipt, event.frame.envelope.signature), Witnessed(event.frame.head))
    if state.course.unanswered:
        return Step(state, told)
    moved = then(state, ports)
    return replace(moved, entries=(*told, *moved.entries))
