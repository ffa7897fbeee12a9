"""The coordinator's steps, carried into the world: record, save, send; in that order, here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from securefl import wire
from securefl.errors import Elsewhere, OperatorFault, PeerFault
from securefl.protocol import coordinator as c
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.protocol.message_sizes import longest_answer
from securefl.protocol.waiting import enough, seconds
from securefl.seams import Failure, Runtime, Waiting
from securefl.terms import MemberId, Reason, Refused, RunId, rules

if TYPE_CHECKING:
    from securefl.home.home import Home
    from securefl.keys import Identity
    from securefl.terms import Envelope

Observer = Callable[[coordinator_state.State, coordinator_state.Step], None]


def drive(
    home: Home,
    start: coordinator_state.State,
    ports: coordinator_state.Ports,
    runtime: Runtime,
    observe: Observer,
    clock: Callable[[], float] = time.monotonic,
) -> coordinator_state.Ended:
    """The end of a run, from wherever it stood: an interrupted run goes on where its last saved step left it.

    Args:
        clock: seconds that only grow, by which the plan's patience is measured.
    """
    run = start.course.session.run
    with home.transaction() as conn:
        saved = home.saved(conn, run, coordinator_state.State)
    state: coordinator_state.State = saved or start
    session = state.course.session
    signer = home.under(session.coordinator.key)  # the key that the run began with, while both count
    ports = replace(
        ports, identity=signer, head=lambda: home.head_under(signer),
        standing=home.standing_in(session.federation, state.course.policy_text),
    )  # fmt: skip
    try:
        pending = _advance(
            home, state, coordinator_state.Resumed() if saved else coordinator_state.Started(), ports, observe
        )
    except PeerFault as fault:  # nothing was written: its own key counts no more
        remedy = "exchange one that is too old (`securefl keys rotate`); for one that was revoked, join anew"
        raise OperatorFault(f"no run begins: {fault}", remedy, str(home.path)) from fault
    while not isinstance(pending.state, coordinator_state.Ended):
        state = pending.state
        asked, pending = _framed(home, signer, pending.outbound), coordinator_state.Step(state)
        waiting = Waiting(seconds(state), clock, _longest_answer(state))
        if enough(state):  # by what came with the round before: whoever is asked now fell silent in it
            waiting.shorten(state.course.plan.patience.grace_s)
        for sender, answer in runtime.exchange(asked, waiting):
            if isinstance(answer, Failure):
                _note(home, run, sender, f"no signed answer came: {answer.why}")
                continue
            try:
                frame: m.Frame = wire.decode(answer, m.Frame)
                moved = _advance(home, pending.state, coordinator_state.Received(sender, frame), ports, observe)
            except PeerFault as fault:
                _note(home, run, sender, f"what came does not count: {m.NoAnswer.by(fault)}", rules.of_fault(fault))
                continue
            pending = coordinator_state.Step(moved.state, outbound=(*pending.outbound, *moved.outbound))
            if enough(moved.state):
                waiting.shorten(moved.state.course.plan.patience.grace_s)
        if not pending.outbound and not isinstance(pending.state, coordinator_state.Ended):
            pending = _advance(home, pending.state, coordinator_state.Elapsed(), ports, observe)
    return pending.state


def _longest_answer(state: coordinator_state.State) -> int:
    course = state.course
    return longest_answer(course.plan, len(course.session.roster) + 2)


def _framed(home: Home, signer: Identity, outbound: tuple[Envelope, ...]) -> Iterator[tuple[MemberId, bytes]]:
    """Each message beside the ledger's head as it is when the message leaves: other runs may go on meanwhile."""
    for envelope in outbound:
        with home.transaction():
            head = home.head_under(signer)
        yield envelope.receipt.to, wire.encode(m.Frame(envelope, head))


def _advance(
    home: Home,
    state: coordinator_state.State,
    event: coordinator_state.Event,
    ports: coordinator_state.Ports,
    observe: Observer,
) -> coordinator_state.Step:
    """One step, judged by the keys that count as it is written: adding up may take long, and holds no lock.

    Raises:
        Elsewhere: another process moved the run.
        PeerFault: as for the machine; nothing is written.
    """
    run = state.course.session.run
    while True:
        home.catch_up()
        known = home.live.now.standings
        moved = c.step(state, event, ports)
        with home.transaction() as conn:
            if home.live.now.standings != known:
                continue  # a notice was taken in meanwhile
            if not home.stands(conn, run, state):
                remedy = "let one command go on with it, from one folder"
                raise Elsewhere(f"another process goes on with run {run.hex()} too", remedy, str(home.path))
            home.commit(conn, run, moved.entries, moved.state)
        observe(state, moved)
        return moved


def _note(home: Home, run: RunId, sender: MemberId, why: str, rule: str = "protocol.no-answer") -> None:
    """Write down that a party was asked, and what is missing: nothing that it said, for nothing of this is signed."""
    reason = Reason(rule, sender, "an answer while patience lasts", why)
    with home.transaction() as conn:
        home.record(conn, (Refused(run, 0, "answer", (reason,)),))
