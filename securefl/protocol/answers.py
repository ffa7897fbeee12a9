"""Whether a reply answers the very request that is open: the one place where a coordinator looks.

A request is open to one peer until that peer answers it or patience ends. A run asks no peer twice with the same kind,
round and plan, so those three name the request; a signed reply to an earlier one never counts for a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from securefl.errors import Forged
from securefl.protocol import messages as m
from securefl.terms import Envelope

ANSWERED_BY: Final[Mapping[str, tuple[type, ...]]] = {
    "Invite": (m.Accept,),
    "Enrol": (m.Enrolled,),
    "Propose": (m.Submitted, m.Declined),
    "Ask": (m.Answered,),
    "Close": (m.Bye,),
}


def check(asked: Envelope, reply: Envelope) -> None:
    """Check that ``reply`` answers ``asked``, by its receipt and by what it says itself.

    Raises:
        Forged: it answers another request.
        Malformed: its body is not the message its receipt names.
    """
    request, receipt = asked.receipt, reply.receipt
    kinds = {kind.__name__: kind for kind in ANSWERED_BY[request.kind]}
    if receipt.kind not in kinds:
        raise Forged(f"a {receipt.kind} in answer to {request.kind}", "protocol.out-of-turn")
    if (receipt.sender, receipt.to, receipt.run) != (request.to, request.sender, request.run):
        raise Forged(f"a {receipt.kind} of another run or party than was asked", "protocol.misdirected")
    if receipt.round != request.round:
        what = f"{receipt.sender} answers about round {receipt.round}, and was asked about round {request.round}"
        raise Forged(what, "protocol.another-round")
    if receipt.plan != request.plan:
        raise Forged(f"{receipt.sender} answers about another plan than it was asked about", "protocol.another-plan")
    message = m.opened(reply, kinds[receipt.kind])
    if getattr(message, "round", receipt.round) != receipt.round:
        raise Forged(f"a {receipt.kind} that says another round than its receipt", "protocol.another-round")
