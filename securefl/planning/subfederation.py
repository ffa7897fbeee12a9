"""What a sub-federation has of its own, and the plan it makes of its parent's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from securefl.errors import Loosens, OperatorFault, Unsafe
from securefl.planning.patience import patience_below
from securefl.policy.load import ABOVE
from securefl.policy.narrow import loosened
from securefl.protection import honest_count
from securefl.protocol import messages as m
from securefl.protocol.subfederation import learning_below, run_below
from securefl.terms import (
    MemberId,
    Participant,
    Patience,
    Plan,
    ProtectionSpec,
    Scheme,
    Sharing,
)

if TYPE_CHECKING:
    from securefl.policy.load import Policy


def check_policy(parent: Policy, child: Policy, place: str) -> None:
    """Check that the child's policy stands under its parent's very own.

    Raises:
        Loosens: it allows what its parent's forbids; each field with both values.
        OperatorFault: it names no parent, or another one.
    """
    found = loosened(parent.document, child.document)
    if found:
        raise Loosens(tuple(f"{place}: {each}" for each in found))
    if child.text.partition(ABOVE)[2] != parent.text:
        what = f"the policy of {child.federation} does not stand under the one of {parent.federation} that is used here"
        raise OperatorFault(what, "name that policy's file under `parent`", place)


@dataclass(frozen=True, slots=True)
class Inside:
    """What the federation below has of its own, whatever its parent plans."""

    above: Policy  # its parent's: no other plan is trained inside
    policy: Policy
    approvals: bytes
    cover: ProtectionSpec
    sharing: Sharing
    rounds: int  # of its own for each round of its parent
    coordinator: Participant
    custodian: Participant | None
    members: tuple[Participant, ...]
    patience: Patience | None = None  # None: its parent's time, divided among its phases
    place: str = field(default="the policy below", compare=False)  # in an error

    def __post_init__(self) -> None:
        """Check that the policy stands under its parent's; raise as for ``check_policy``."""
        check_policy(self.above, self.policy, self.place)

    def check_plan(self, plan: Plan) -> None:
        """Check that a plan of the federation above is under the very policy that this one's stands under.

        Raises:
            Unsafe: it is under another one, such as a later version of it.
        """
        if plan.policy != self.above.hash:
            what = f"a plan under another policy than the one that the policy of {self.policy.federation} stands under"
            raise Unsafe(what, "protocol.stale-policy")


def check_acceptable_below(plan: Plan, inside: Inside) -> None:
    """Check that members below may accept what is made of this plan, before any of them is asked.

    Raises:
        Unsafe: none may, by the rule that each of them would refuse it by; or as for ``Inside.check_plan``.
        PeerFault: this plan cannot be trained by rounds inside.
    """
    inside.check_plan(plan)
    if inside.cover.scheme is Scheme.CLEAR:
        return
    learning = learning_below(plan, inside.rounds)
    below = replace(plan, learning=learning, cover=inside.cover, sharing=inside.sharing, cohort=())
    try:
        honest_count.check(below, len(inside.members))
    except Unsafe as fault:
        what = f"no member of {inside.policy.federation} may accept its plan: {fault.rule}: {fault}"
        raise Unsafe(what, fault.rule) from fault


def plan_below(plan: Plan, name: MemberId, inside: Inside, start: bytes, dimension: int) -> Plan:
    """The first plan inside: the parent's training under the federation's own policy and cover.

    Raises:
        PeerFault: this plan cannot be trained by rounds inside.
    """
    inside.check_plan(plan)
    return replace(
        plan,
        federation=inside.policy.federation,
        policy=inside.policy.hash,
        run=run_below(plan, name),
        round=1,
        learning=learning_below(plan, inside.rounds),
        cover=inside.cover,
        cohort=(),
        base=m.state_digest(start),
        dimension=dimension,
        sharing=inside.sharing,
        patience=patience_below(plan.patience, inside.patience, inside.rounds),
    )
