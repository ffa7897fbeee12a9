"""Hold a COORDINATOR document against what is here: home, policy, who answered. Nothing is made or changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

from securefl.coordinator import inviting
from securefl.coordinator.run import start_of
from securefl.documents.coordinator_file import Coordinator
from securefl.documents.coordinator_suite import CoordinatorSuite
from securefl.documents.finding import MISSING, OK, WRONG, Finding, tried
from securefl.home import adoption, ageing, identity
from securefl.home.clock import clock
from securefl.planning import start_file
from securefl.planning.possible import check_first_plan
from securefl.policy import approvals, key_age
from securefl.policy import load as policies

__all__ = ["MISSING", "OK", "WRONG", "Finding", "examine"]


def examine(coordinator: Coordinator | CoordinatorSuite) -> tuple[Finding, ...]:
    """Everything that a run would trip over."""
    return tuple(_examined(coordinator))


def _examined(coordinator: Coordinator | CoordinatorSuite) -> Iterator[Finding]:
    tasks = coordinator.tasks if isinstance(coordinator, CoordinatorSuite) else {"": coordinator}
    yield tried("home", lambda: _home(coordinator))
    yield tried("policy", lambda: _policy(coordinator))
    for name, each in tasks.items():
        for what, look in (("start", _start), ("plan", _plan)):
            called = f"{what} of {name}" if name else what
            yield replace(tried(called, lambda look=look, each=each: look(each)), what=called)  # type: ignore[misc]
    yield tried("parties", lambda: _parties(coordinator))
    yield tried("keys", lambda: _keys(coordinator))


def _home(coordinator: inviting.Inviting) -> Finding:
    return identity.found(coordinator.home, "make it: `securefl coordinator init`")


def _policy(coordinator: inviting.Inviting) -> Finding:
    policy = policies.load(coordinator.policy)
    told = f"version {policy.version}, hash {policy.hash.hex()[:16]}"
    if policy.federation != coordinator.file.name:
        return Finding("policy", WRONG, f"it is of {policy.federation}", "write one name into both")
    signatures = adoption.found_signatures(coordinator.policy, policy, clock(), unsafe_unsigned=True)
    if signatures is None:
        remedy = "sign it (`securefl policy sign`, `approve`), or use --unsafe-unsigned, which every report will say"
        return Finding("policy", MISSING, f"{told}, UNSIGNED", remedy)
    return Finding("policy", OK, f"{told}, {approvals.judge(policy, signatures, clock())}")


def _start(coordinator: Coordinator) -> Finding:
    file = coordinator.file
    if file.start is None:
        if find_spec("torch") is None:
            return Finding("start", MISSING, "no start file, and no torch to read the model with", start_file.REMEDY)
        return Finding("start", OK, "as the model says, which is read here")
    start = start_file.checked(coordinator.folder / file.start, file.model.name, file, coordinator.path)
    return Finding("start", OK, f"{start.layout.entries} values, digest {start_file.digest(start).hex()}")


def _plan(coordinator: Coordinator) -> Finding:
    """Return whether members may accept the first plan, as ``coordinate`` checks before it asks anybody."""
    if coordinator.file.start is None and find_spec("torch") is None:
        return Finding("plan", MISSING, "no start to plan with", start_file.REMEDY)
    loaded = coordinator.whoever_answers()
    check_first_plan(loaded, policies.load(coordinator.policy), start_of(coordinator, loaded))
    return Finding("plan", OK, f"members may accept it: {len(coordinator.file.members)} of them")


def _keys(coordinator: inviting.Inviting) -> Finding:
    if not identity.is_made(coordinator.home):
        return Finding("keys", MISSING, "nobody answered yet", "invite them: `securefl site invite`")
    limit = key_age.most_age_s(policies.load(coordinator.policy))
    return ageing.found(inviting.opened(coordinator), coordinator.file.name, limit)


def _parties(coordinator: inviting.Inviting) -> Finding:
    if not identity.is_made(coordinator.home):
        return Finding("parties", MISSING, "nobody answered yet", "invite them: `securefl site invite`")
    known = inviting.known(coordinator, inviting.opened(coordinator))
    if known.missing:
        what = f"{', '.join(known.missing)}: no answer is admitted, and no key is written"
        return Finding("parties", MISSING, what, "take their answers in: `securefl site join`")
    return Finding("parties", OK, f"{len(coordinator.file.parties)} parties, each with a key")
