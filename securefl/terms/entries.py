"""What is written into a ledger."""

from __future__ import annotations

from dataclasses import dataclass

from securefl.terms.decisions import Price, Reason
from securefl.terms.envelopes import Receipt
from securefl.terms.events import Event
from securefl.terms.heads import Head, SignedHead
from securefl.terms.names import FederationName, Hash, MemberId, Nonce, RunId, SignatureBytes, TaskName, text_made_plain
from securefl.terms.notices import Handover, SignedNotice
from securefl.terms.plans import Participant, Plan

ROLES = ("member", "coordinator", "custodian")


@dataclass(frozen=True, slots=True)
class RunJoined:
    """A run begins, here, under this policy, with these peers."""

    run: RunId
    federation: FederationName
    role: str  # one of ROLES
    policy: bytes  # the document itself, so that a copied ledger can be checked alone
    dataset: str  # the account's root at this site; empty where no records are held
    peers: tuple[Participant, ...]
    approvals: bytes = b""  # the signatures the policy was used with; empty for a run under an unsigned policy
    task: TaskName | None = None  # which of the federation's tasks is trained; None where it has one alone


@dataclass(frozen=True, slots=True)
class Reserved:
    """A plan was allowed and its price set aside, before any record was touched."""

    plan: Plan
    dataset: str
    price: Price
    nonce: Nonce


@dataclass(frozen=True, slots=True)
class Settled:
    """What a reserved plan really did. It replaces the reservation."""

    plan: Hash
    did: Event


@dataclass(frozen=True, slots=True)
class Gathered:
    """A plan's result was made by a federation below: totals and hashes, no name and no key of its members."""

    plan: Hash
    run: RunId  # of the federation below, for this plan alone
    plans: tuple[Hash, ...]  # of its rounds
    contributors: tuple[int, ...]  # to the sum of each
    head: Hash  # root of its coordinator's ledger, ...
    size: int  # ... of so many entries


@dataclass(frozen=True, slots=True)
class ReservationReleased:
    """A reservation given back, because no result of the plan exists."""

    plan: Hash
    why: str

    def __post_init__(self) -> None:
        text_made_plain(self, "why")


@dataclass(frozen=True, slots=True)
class Refused:
    """A plan or a request was refused, by policy, budget or protocol."""

    run: RunId
    round: int
    what: str
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        text_made_plain(self, "what")


@dataclass(frozen=True, slots=True)
class MessageSent:
    """A message left this party."""

    receipt: Receipt
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message arrived here, and its signature held."""

    receipt: Receipt
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class SumOpened:
    """A sum was opened, over these survivors."""

    run: RunId
    round: int
    plan: Hash
    survivors: tuple[MemberId, ...]
    digest: Hash  # of the integer sum


@dataclass(frozen=True, slots=True)
class Released:
    """The adapter state a round ended with; every member receives the same."""

    run: RunId
    round: int
    digest: Hash


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Another party's head, seen here: from now on it cannot show less."""

    head: SignedHead


@dataclass(frozen=True, slots=True)
class Noticed:
    """What the owner of a key has said of it, taken in here: from now on it counts here."""

    notice: SignedNotice


@dataclass(frozen=True, slots=True)
class Closed:
    """A run ended here: ``finished``, ``refused`` or ``aborted``, and why."""

    run: RunId
    outcome: str
    why: str

    def __post_init__(self) -> None:
        text_made_plain(self, "outcome", "why")


@dataclass(frozen=True, slots=True)
class FileLeft:
    """One file of what a run left."""

    path: str  # from the run's folder, with slashes
    digest: Hash  # SHA-256


@dataclass(frozen=True, slots=True)
class Reported:
    """All of what a run left stands, and is this. Written by its coordinator, once, when the report is computed."""

    run: RunId
    ledgers: tuple[Head, ...]  # what the report was computed from
    files: tuple[FileLeft, ...]


Entry = (
    RunJoined | Reserved | Settled | Gathered | ReservationReleased | Refused | MessageSent | MessageReceived
    | SumOpened | Released | Witnessed | Noticed | Closed | Reported
)  # fmt: skip


def heads_in(entry: Entry) -> tuple[SignedHead, ...]:
    """Return every signed head that stands in an entry: each binds its owner's ledger, wherever it is found."""
    if isinstance(entry, Witnessed):
        return (entry.head,)
    if isinstance(entry, MessageReceived | MessageSent):
        return () if entry.receipt.head is None else (entry.receipt.head,)
    if isinstance(entry, Noticed) and isinstance(entry.notice.notice, Handover):
        return () if entry.notice.notice.head is None else (entry.notice.notice.head,)
    return ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One line of a ledger: when, and what."""

    at: int  # seconds since 1970, by the owner's clock
    entry: Entry
