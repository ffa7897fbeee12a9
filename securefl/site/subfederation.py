"""A federation as a member of another one: for each plan of its parent it runs rounds of its own, and sends their sum.

To its parent it is a site like any other, with a key, an account and a ledger of its own; only its trainer differs.
What goes up is the change that its own rounds made. It is already a sum over its members, with their noise in it. The
run inside has a name that follows from the plan's, so one that was killed goes on and nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from securefl import wire
from securefl.coordinator.drive import Observer, drive
from securefl.home.ledger_view import AskedToTrain
from securefl.planning.patience import patience_below
from securefl.planning.subfederation import Inside, check_acceptable_below, plan_below
from securefl.protocol import coordinator as c
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.protocol.declining import UNFINISHED, one_below
from securefl.protocol.subfederation import learning_below
from securefl.seams import MemberHalf, Own, Runtime, Unfinished
from securefl.terms import (
    Event,
    Gathered,
    Hash,
    MemberId,
    Plan,
    Refused,
    SumOpened,
    Update,
    Weighting,
)
from securefl.training.local_state import own_weights
from securefl.training.probes import check_probes

if TYPE_CHECKING:
    from securefl.home.home import Home


class NestedTrainer:
    """Training at a federation that is a member: its own coordinator, at home here, and its own members.

    ``half`` is this node's own part in its parent's strategy, as at any member; ``probe`` the digest of the labelled
    text that its weights are by, if it has any. The runtime is made when it is first needed, and kept for all rounds.
    """

    def __init__(
        self, name: MemberId, inside: Inside, home: Home, ports: coordinator_state.Ports,
        runtime: Callable[[], Runtime], half: MemberHalf, score: Callable[[Weighting, bytes, bytes], float],
        observe: Observer, probe: Hash | None = None,
    ) -> None:  # fmt: skip
        self._name, self._inside, self._home, self._plugs = name, inside, home, ports
        self._half, self._score, self._observe, self._probe = half, score, observe, probe
        self._make, self._runtime = runtime, None

    _runtime: Runtime | None

    def admit(self, plan: Plan, base: bytes) -> None:
        """Check that rounds inside can train this plan; nobody below is asked.

        Raises:
            PeerFault: they cannot.
        """
        del base
        check_acceptable_below(plan, self._inside)
        learning_below(plan, self._inside.rounds)
        patience_below(plan.patience, self._inside.patience, self._inside.rounds)
        check_probes(plan, self._probe)

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """The change that the rounds inside made, from ``base`` or from what this node kept.

        Raises:
            Unfinished: the run inside did not finish; it says what was spent below all the same.
        """
        start = self._half.start(plan, base, own.model if plan.sharing.keeps else b"")
        dimension = self._plugs.strategy.dimension(1, start)
        inside = self._current()
        below = plan_below(plan, self._name, inside, start, dimension)
        ended = self._rounds(inside, below, start)
        rounds = inside.rounds
        if ended.outcome != "finished":
            raise Unfinished(*self._spent(ended, below))
        after = ended.course.state
        weights, kept = own_weights(self._half, plan, self._score, base, start, after, own.weights)
        did = replace(below.learning.event, steps=below.learning.event.steps * rounds)
        update = Update(self._half.share(plan, base, start, after, weights), did, self._gathered(plan, below))
        return update, Own(after if plan.sharing.keeps else b"", kept)

    def _current(self) -> Inside:
        """Everybody inside under the key that is theirs now: a run that begins goes on under it, to its end."""
        inside, name = self._inside, self._inside.policy.federation
        custodian = None if inside.custodian is None else self._home.current(name, inside.custodian)
        return replace(
            inside,
            cover=replace(inside.cover, custodian=None if custodian is None else custodian.key),
            coordinator=self._home.current(name, inside.coordinator),
            custodian=custodian,
            members=tuple(self._home.current(name, each) for each in inside.members),
        )

    def _rounds(self, inside: Inside, plan: Plan, start: bytes) -> coordinator_state.Ended:
        peers = (*inside.members, *((inside.custodian,) if inside.custodian else ()))
        session = m.Session(
            plan.run, inside.policy.federation, inside.policy.hash, inside.cover.scheme, inside.cover.threshold,
            inside.coordinator, inside.custodian, inside.members,
        )  # fmt: skip
        with self._home.transaction() as conn:
            seen = self._home.witnessed(conn, peers)
        rates = (plan.learning.learning_rate,) * inside.rounds
        course = coordinator_state.RunState(
            session, inside.policy.text, rates, plan, start, self._plugs.strategy.begin(start), {}, {},
            seen.shown, {}, inside.approvals, seen.former,
        )  # fmt: skip
        if self._runtime is None:
            self._runtime = self._make()
        return drive(self._home, coordinator_state.Planned(course), self._plugs, self._runtime, self._observe)

    def _spent(self, ended: coordinator_state.Ended, plan: Plan) -> tuple[str, Event | None, str]:
        """Why there is no result, what was spent (each round that cost somebody), and one rule if it cost nobody.

        A round is free only if each member that was asked to train it has declined that very plan unread, once.
        """
        may_have: set[tuple[int, str]] = set()
        rules: set[str] = set()
        with self._home.transaction() as conn:
            told = self._home.told(conn, plan.run)
        for entry in told:
            if isinstance(entry, AskedToTrain):
                may_have.add((entry.round, entry.member))
        for entry in told:
            if isinstance(entry, Refused) and entry.what.startswith(c.DECLINED):
                found = {reason.rule for reason in entry.reasons}
                rules |= found
                if UNFINISHED not in found:
                    may_have.discard((entry.round, entry.what.removeprefix(c.DECLINED)))
        event = plan.learning.event
        rounds = len({round_ for round_, _ in may_have})
        why = f"the run {plan.run.hex()[:12]} below was {ended.outcome}"
        return why, replace(event, steps=event.steps * rounds) if rounds else None, one_below(rules)

    def _gathered(self, plan: Plan, below: Plan) -> Gathered:
        with self._home.transaction() as conn:
            mine = [each for each in self._home.told(conn, below.run) if isinstance(each, SumOpened)]
            signed = self._home.head()
        assert signed is not None, "a run that finished stands in the ledger"
        return Gathered(
            wire.plan_hash(plan),
            below.run,
            tuple(each.plan for each in mine),
            tuple(len(each.survivors) for each in mine),
            signed.head.root,
            signed.head.size,
        )
