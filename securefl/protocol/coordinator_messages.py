"""The messages that a coordinator sends in each phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from securefl import wire
from securefl.errors import PeerFault
from securefl.protocol import messages as m
from securefl.protocol.coordinator_state import (
    Asking,
    Closing,
    Collecting,
    Ended,
    Enrolling,
    Ports,
    RunState,
    Step,
)
from securefl.shown import short
from securefl.terms import (
    Closed,
    Entry,
    MemberId,
    MessageSent,
    Participant,
    SignedHead,
)


def ask_members(
    state: Any,  # noqa: ANN401 - any state that has a course
    asked: Mapping[MemberId, m.Request],
    round_: int,
    ports: Ports,
    entries: tuple[Entry, ...] = (),
) -> Step:
    """Ask these members; what they are asked stands in the ledger, and waits in the course."""
    session, course = state.course.session, state.course
    plan = wire.plan_hash(course.plan) if isinstance(state, Collecting | Asking) else None
    outbound = tuple(
        m.enclose(ports.identity, session.coordinator.member, to, session.run, round_, message, plan, head=ports.head())
        for to, message in sorted(asked.items())
    )
    course = replace(course, unanswered={envelope.receipt.to: envelope for envelope in outbound})
    sent = tuple(MessageSent(envelope.receipt, envelope.signature) for envelope in outbound)
    return Step(replace(state, course=course), (*entries, *sent), outbound)


def enrol_members(course: RunState, ports: Ports) -> Step:
    """Ask those for keys whose keys for this round did not travel with their last result."""
    joined = [seat.member for seat in course.session.roster if seat.member in course.accepts]
    missing = [member for member in joined if member not in course.enrolled]
    if not missing:
        return propose_plan(course, ports)
    frames = tuple(frame for _, frame in sorted(course.accepts.items()))
    asked: dict[MemberId, m.Request] = {member: m.Enrol(course.plan.round, frames) for member in missing}
    return ask_members(Enrolling(course), asked, course.plan.round, ports)


def propose_plan(course: RunState, ports: Ports) -> Step:
    """Propose the round to all who have keys for it that count now; close the run if they are too few."""
    cohort: tuple[Participant, ...] = tuple(
        seat for seat in course.session.roster if seat.member in course.enrolled and counts(seat, ports)
    )
    if ended := ended_keys(course, ports):
        return close_round(course, "aborted", ended, ports)
    if len(cohort) < course.need:
        why = f"{len(cohort)} members are ready for round {course.plan.round}; {course.need} are needed"
        return close_round(course, "aborted", why, ports)
    plan = replace(course.plan, cohort=cohort)
    course = replace(course, plan=plan)
    names = tuple(seat.member for seat in cohort)
    relayed = ports.protection(course.session.scheme).relay(names, {name: course.enrolled[name] for name in names})
    heads = heads_for(course)
    asked: dict[MemberId, m.Request] = {
        name: m.Propose(plan, course.state, relayed.get(name, b""), heads) for name in names
    }
    return ask_members(Collecting(course, {}, {}, {}), asked, plan.round, ports)


def ended_keys(course: RunState, ports: Ports) -> str:
    """Whose key does not count any more, of those without whom there is no round; empty if none has ended."""
    needed = (course.session.coordinator, *filter(None, (course.session.custodian,)))
    ended = ", ".join(seat.member for seat in needed if not counts(seat, ports))
    return ended and f"the key of {ended} does not count any more"


def counts(seat: Participant, ports: Ports) -> bool:
    """Whether this party still takes part, by the key it has in this run."""
    try:
        ports.standing(seat)
    except PeerFault:
        return False
    return True


def heads_for(course: RunState) -> tuple[SignedHead, ...]:
    """The last head seen of each who takes part."""
    return tuple(course.heads[name] for name in sorted(course.accepts))


def close_round(course: RunState, outcome: str, why: str, ports: Ports, last_round: int | None = None) -> Step:
    """Tell everybody who takes part that the run is over, and how."""
    done, why = course.plan.round - 1 if last_round is None else last_round, short(why, m.MOST_WHY)
    message = m.Close(outcome, why, done, course.state if done else b"", heads_for(course))
    asked: dict[MemberId, m.Request] = {MemberId(name): message for name in course.accepts}
    if not asked:
        return Step(Ended(course, outcome, why, done), (Closed(course.session.run, outcome, why),))
    return ask_members(Closing(course, outcome, why, done), asked, 0, ports)
