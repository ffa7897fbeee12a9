"""What the receipt of a request names: a round and a plan. Whoever is asked holds it to the request itself.

An auditor reads receipts, not messages: one that named another plan than the message under it, or none, would tell of
a question that nobody was asked. So no request is acted on, or written down, whose receipt says something else.

===========  =======================  ==============================================
request      round                    plan
===========  =======================  ==============================================
``Invite``   0                        none
``Enrol``    the one to prepare       none
``Propose``  that of its plan         its plan
``Ask``      the one asked about      the plan whose sum is opened, by whoever is asked
``Close``    0                        none
===========  =======================  ==============================================
"""

from __future__ import annotations

from typing import TypeVar

from securefl import wire
from securefl.errors import Forged
from securefl.protocol import messages as m
from securefl.terms import Envelope, Hash, Plan, Receipt

R = TypeVar("R", m.Invite, m.Enrol, m.Propose, m.Ask, m.Close)


def opened(envelope: Envelope, kind: type[R], plan: Plan | None = None) -> R:
    """Return the request inside, if its receipt names what it is about.

    Args:
        envelope: one that was checked.
        kind: of request.
        plan: that whoever is asked knows an ``Ask`` to be about.

    Raises:
        Malformed, Forged: it is none of this kind, or its receipt says something else.
    """
    message = m.opened(envelope, kind)
    assert isinstance(message, kind)
    check(envelope.receipt, message, plan)
    return message


def check(receipt: Receipt, message: m.Request, plan: Plan | None = None) -> None:
    """Check that a receipt names the round and the plan of the request under it, and none where it has none.

    Raises:
        Forged: it does not.
    """
    due = round_, name = _named(message, plan)
    if (receipt.round, receipt.plan) != due:
        about = f"round {round_}" if name is None else f"round {round_} of plan {name.hex()[:12]}"
        of_plan = receipt.plan != name or isinstance(message, m.Propose)
        rule = "protocol.another-plan" if of_plan else "protocol.another-round"
        raise Forged(f"a {receipt.kind} about {about}: its receipt says something else", rule)


def _named(message: m.Request, plan: Plan | None) -> tuple[int, Hash | None]:
    if isinstance(message, m.Propose):
        return message.plan.round, wire.plan_hash(message.plan)
    if isinstance(message, m.Ask):
        return message.round, None if plan is None else wire.plan_hash(plan)
    return (message.round if isinstance(message, m.Enrol) else 0), None
