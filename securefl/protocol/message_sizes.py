"""How long a message may be: known before it is read, from the plan, or from a site's own document before there is one.

Every bound is the parts that grow with the adapter, and what the protocol itself says: keys, shares and heads for each
party, and heads of each that another one saw. A longer message is none that an honest party sends.
"""

from __future__ import annotations

from typing import Final

from securefl.terms import Plan
from securefl.terms.layout import VALUE_BYTES
from securefl.wire import LIMIT_BYTES

FIXED: Final = 4 << 20  # bytes: a plan, whose document has 1 MiB at most, reasons, and a key to encrypt under
EACH_PARTY: Final = 32 << 10  # its seat, receipt, acceptance, commitments and shares
COPIES: Final = 2  # of each entry in a state that is sent, at most: residuals may stand behind what is trained
EACH_PAIR: Final = 512  # a signed head, or what one party sealed to another


def said_by_protocol(parties: int) -> int:
    """Bytes of a message beside what grows with the adapter, among so many parties."""
    return FIXED + parties * EACH_PARTY + parties**2 * EACH_PAIR


def longest_request(parties: int, entries: int) -> int:
    """The longest request to a member: a plan is proposed from an adapter state of so many entries.

    Args:
        parties: of the federation, its coordinator and custodian among them.
        entries: of its adapter state.
    """
    return min(LIMIT_BYTES, said_by_protocol(parties) + COPIES * entries * VALUE_BYTES)


def longest_answer(plan: Plan, parties: int) -> int:
    """The longest answer in a round of this plan: an update as its scheme hides it, or the sum of all of them."""
    return min(LIMIT_BYTES, said_by_protocol(parties) + plan.dimension * plan.cover.scheme.promise.value_bytes)
