"""How long a coordinator waits in each of its states, and when enough have answered: read from the run's own plan."""

from __future__ import annotations

from securefl.protocol.coordinator_state import Asking, Closing, Collecting, Enrolling, Inviting, State


def seconds(state: State) -> int:
    """Return how long answers are waited for; nobody is waited for where nothing is asked."""
    patience = state.course.plan.patience
    named = {
        Inviting: patience.join_s,
        Enrolling: patience.enrol_s,
        Collecting: patience.train_s,
        Asking: patience.ask_s,
        Closing: patience.close_s,
    }
    return named.get(type(state), 0)


def enough(state: State) -> bool:
    """Whether the round may go on without those who have not answered: the plan's quorum has, and a sum can be opened.

    A custodian is always waited for; so is everybody who is invited to a run, or told of its end.
    """
    course, quorum = state.course, state.course.plan.patience.quorum
    if not quorum or not course.unanswered or not course.unanswered.keys() <= _members(state):
        return False
    if isinstance(state, Enrolling):
        answered = len(course.enrolled)
    elif isinstance(state, Collecting):
        answered = len(state.sealed)
    elif isinstance(state, Asking):
        answered = len(state.answers)
    else:
        return False
    return answered >= max(quorum, course.need)


def _members(state: State) -> set[str]:
    return {seat.member for seat in state.course.session.roster}
