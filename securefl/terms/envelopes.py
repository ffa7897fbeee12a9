"""A message: its receipt, and the signature over it. A receipt names its sender's own ledger as it stood."""

from __future__ import annotations

from dataclasses import dataclass

from securefl.terms.events import MicroEpsilon
from securefl.terms.heads import SignedHead
from securefl.terms.names import Hash, MemberId, RunId, SignatureBytes

KINDS = frozenset({  # every message there is
    "Invite", "Accept", "Enrol", "Enrolled", "Propose", "Submitted", "Declined", "Ask", "Answered", "Close", "Bye",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Receipt:
    """A sender's statement of what left it: signed, kept by both ends, enough to check the bytes later."""

    sender: MemberId
    to: MemberId
    run: RunId
    round: int  # 0 outside any round
    kind: str  # the message's name
    plan: Hash | None  # of the plan it belongs to
    cost: MicroEpsilon  # price of the round this message carries the result of; 0 for all others
    digest: Hash  # SHA-256 of the body
    size: int  # bytes of the body
    head: SignedHead | None = None  # of the sender's own ledger, before this message; None before its first entry

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError("a receipt for a message of no known kind")
        if self.head is not None and self.head.head.owner != self.sender:
            raise ValueError("a receipt that names another party's ledger than its sender's")


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt that its sender signed, without the body: shows that this very message was sent."""

    receipt: Receipt
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way: a receipt, its signature, and the body the receipt speaks of."""

    receipt: Receipt
    signature: SignatureBytes
    body: bytes
