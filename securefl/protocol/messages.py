"""Every message, and the signed envelope it travels in.

The coordinator asks, a peer answers at most once; peers never start.

=============  ==========================  ====================================================
asked          answered with               what is true afterwards
=============  ==========================  ====================================================
``Invite``     ``Accept``                  both sides agree on the run, its policy and its peers
``Enrol``      ``Enrolled``                the peer's keys and shares for one round are out
``Propose``    ``Submitted``, ``Declined`` a plan was trained and sealed, or refused with reasons
``Ask``        ``Answered``                what opening the sum needs; one question a round
``Close``      ``Bye``                     the run is over, and everybody has seen everybody's head
=============  ==========================  ====================================================

In place of an answer a site may say ``NoAnswer`` (by which rule) or ``InProgress`` (ask again); neither is signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, get_args

from securefl import keys, wire
from securefl.errors import Forged, Unsafe
from securefl.terms import (
    Envelope,
    Hash,
    MemberId,
    MicroEpsilon,
    Participant,
    Plan,
    PublicKey,
    Reason,
    Receipt,
    RunId,
    Scheme,
    SignedHead,
    SignedReceipt,
    rules,
)
from securefl.terms.names import RUN_BYTES, BoxKey, FederationName, TaskName

OUTCOMES: Final = frozenset({"finished", "refused", "aborted"})
MOST_WHY: Final = 2000  # characters of why a run ended, which every party writes down
MOST_REASONS: Final = 100  # of one refusal: a policy has fewer rules


@dataclass(frozen=True, slots=True)
class Session:
    """What a whole run has in common; a member agrees to it once."""

    run: RunId
    federation: FederationName
    policy: Hash
    scheme: Scheme
    threshold: int
    coordinator: Participant
    custodian: Participant | None
    roster: tuple[Participant, ...]
    task: TaskName | None = None  # which of the federation's tasks is trained; None where it has one alone

    def __post_init__(self) -> None:
        if len(self.run) != RUN_BYTES:  # an operator names runs, and folders are named after them
            raise ValueError(f"a run named by {len(self.run)} bytes; each has {RUN_BYTES}")


@dataclass(frozen=True, slots=True)
class Invite:
    """Will you take part in this run? With the last head that was seen of each ledger, yours among them."""

    session: Session
    heads: tuple[SignedHead, ...] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """I will. Peers seal to ``box`` for this run alone; a custodian also sends what members need to encrypt.

    ``seen`` are the longest ledgers its sender saw of the others. Every peer is shown it, so no coordinator can hide
    from a home that was set back what others saw of it.
    """

    box: BoxKey
    material: bytes
    seen: tuple[SignedHead, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """An envelope and, from a peer with a ledger, the head of that ledger as it was when the envelope left.

    It is signed, and bound to no message: whoever passes the envelope on may put an older one beside it. What binds a
    message to its sender's ledger is the head that its receipt names.
    """

    envelope: Envelope
    head: SignedHead | None


@dataclass(frozen=True, slots=True)
class Enrol:
    """Prepare round ``round``. The first time it carries every peer's acceptance, as its sender signed it."""

    round: int
    accepts: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """My keys and shares for that round, to be relayed."""

    round: int
    public: bytes


@dataclass(frozen=True, slots=True)
class Propose:
    """Run this plan from this adapter state. With the last head that was seen of each peer's ledger."""

    plan: Plan
    base: bytes
    relayed: bytes
    heads: tuple[SignedHead, ...] = ()


@dataclass(frozen=True, slots=True)
class Submitted:
    """The plan ran; here is the sealed result, and what the next round needs from me."""

    round: int
    payload: bytes
    following: bytes  # as `Enrolled.public`, for round + 1


@dataclass(frozen=True, slots=True)
class Declined:
    """My policy, my budget or my checks say no; or I trained, and by one constant word there is no result."""

    round: int
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.reasons) <= MOST_REASONS:
            raise ValueError(f"{len(self.reasons)} reasons: a refusal has 1 to {MOST_REASONS}")


@dataclass(frozen=True, slots=True)
class Ask:
    """Sealing is over: this is what opening the sum needs from you.

    ``sealed`` are the receipts of the inputs that it is the sum of, as their senders signed them: a member that helps
    to open a sum has seen the ledger of each whose input is in it, with the reservation that paid for that input.
    """

    round: int
    question: bytes
    sealed: tuple[SignedReceipt, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """The one answer for that round."""

    round: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The run is over. The final adapter state, and every peer's head for you to keep."""

    outcome: str  # "finished" | "refused" | "aborted"
    why: str
    round: int  # the last round that ended with a release; 0 if none
    state: bytes
    heads: tuple[SignedHead, ...]

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError("a run ends finished, refused or aborted")
        if len(self.why) > MOST_WHY:
            raise ValueError(f"a reason of {len(self.why)} characters; at most {MOST_WHY} are written down")


@dataclass(frozen=True, slots=True)
class Bye:
    """Recorded. My ledger's final head travels beside this message."""

    outcome: str

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError("a run ends finished, refused or aborted")


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """What a site says in place of an answer: by which rule, and nothing else. It is not signed."""

    rule: str

    def __post_init__(self) -> None:
        if self.rule not in rules.FAULTS:
            raise ValueError("a rule that is not on the list of what a site says in place of an answer")

    def __str__(self) -> str:
        return f"{self.rule}: {rules.FAULTS[self.rule]}"

    @classmethod
    def by(cls, fault: BaseException) -> NoAnswer:
        """Return what is said of this fault; its own words stay at the site."""
        return cls(rules.of_fault(fault))


@dataclass(frozen=True, slots=True)
class InProgress:
    """What a site says while it works on a run: ask again. It costs nothing, and is neither signed nor written down.

    ``done`` of the plan's ``steps`` are over; it is told coarsely, for the time of one step tells the size of a sample.
    """

    done: int
    steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.done <= self.steps:
            raise ValueError(f"{self.done} steps of {self.steps}")

    @classmethod
    def coarse(cls, done: int, steps: int) -> InProgress:
        """Say ``done`` in quarters of ``steps``, and never one step at a time, nor all but the last one."""
        unit = max(2, -(-steps // 4))
        told = done // unit * unit
        if told and told == steps - 1:
            told = steps if done == steps else told - unit
        return cls(told, steps)


Request = Invite | Enrol | Propose | Ask | Close
Reply = Accept | Enrolled | Submitted | Declined | Answered | Bye


class Egress(StrEnum):
    """What a field of a reply is. Nothing else leaves a site: a field without one of these has no encoding."""

    PROTOCOL = "protocol"  # rounds and outcomes: the same whatever a site's records are
    KEYS = "keys"  # public keys, and shares sealed to others'
    WEIGHTS = "weights"  # a noised, covered update: what the plan's event is the price of
    HEADS = "heads"  # of other parties' ledgers, as those signed them
    OPENING = "opening"  # shares of masks, or a sum of covered inputs: what opening one sum needs
    REASONS = "reasons"  # of a refusal: made of plan, policy, account and model, all before a record is read
    FAULT = "fault"  # the name of one rule of the closed list `rules.FAULTS`, and its sentence: nothing of the site


EGRESS: Final[Mapping[type, Mapping[str, Egress]]] = {
    Accept: {"box": Egress.KEYS, "material": Egress.KEYS, "seen": Egress.HEADS},
    Enrolled: {"round": Egress.PROTOCOL, "public": Egress.KEYS},
    Submitted: {"round": Egress.PROTOCOL, "payload": Egress.WEIGHTS, "following": Egress.KEYS},
    Declined: {"round": Egress.PROTOCOL, "reasons": Egress.REASONS},
    Answered: {"round": Egress.PROTOCOL, "answer": Egress.OPENING},
    Bye: {"outcome": Egress.PROTOCOL},
    NoAnswer: {"rule": Egress.FAULT},
    InProgress: {"done": Egress.PROTOCOL, "steps": Egress.PROTOCOL},
}
PRICED: Final = frozenset({Egress.WEIGHTS})  # what leaves only where the plan's own list names it
_SHAPES: Final[Mapping[Egress, tuple[type, ...]]] = {
    Egress.PROTOCOL: (int, str), Egress.KEYS: (bytes,), Egress.WEIGHTS: (bytes,), Egress.OPENING: (bytes,),
    Egress.REASONS: (tuple,), Egress.FAULT: (str,), Egress.HEADS: (tuple,),
}  # fmt: skip
_ITEMS: Final[Mapping[Egress, type]] = {Egress.REASONS: Reason, Egress.HEADS: SignedHead}


def check_egress(message: Request | Reply, release: tuple[str, ...]) -> None:
    """Check that every field of a reply may leave: it is on the list, and on the plan's if it has a price.

    Raises:
        Unsafe: a message or field that is not on the list, or ``release`` does not name.
    """
    if type(message) in get_args(Request):
        return
    listed = EGRESS.get(type(message))
    if listed is None:
        raise Unsafe(f"a {type(message).__name__} is not on the list of what leaves a site")
    for each in fields(message):
        kind, value = listed.get(each.name), getattr(message, each.name)
        if kind is None or type(value) not in _SHAPES[kind]:
            raise Unsafe(f"{type(message).__name__}.{each.name} is not on the list of what leaves a site")
        if kind in _ITEMS and any(type(item) is not _ITEMS[kind] for item in value):
            raise Unsafe(f"{type(message).__name__}.{each.name} holds something that is no {_ITEMS[kind].__name__}")
        if kind in PRICED and kind.value not in release:
            raise Unsafe(f"the plan does not list `{kind.value}` among what leaves a site")


def enclose(
    identity: keys.Identity,
    sender: MemberId,
    to: MemberId,
    run: RunId,
    round_: int,
    message: Request | Reply,
    plan: Hash | None = None,
    cost: MicroEpsilon = MicroEpsilon(0),  # noqa: B008 - an int
    release: tuple[str, ...] = (),
    head: SignedHead | None = None,
) -> Envelope:
    """The message under its sender's signature: the receipt says what left, and the signature is over the receipt.

    Args:
        head: of the sender's own ledger, before this message.

    Raises:
        Unsafe: it holds what may not leave a site under a plan that lists ``release``.
    """
    check_egress(message, release)
    body = wire.encode(message)
    digest = Hash(hashlib.sha256(body).digest())
    receipt = Receipt(sender, to, run, round_, type(message).__name__, plan, cost, digest, len(body), head)
    return Envelope(receipt, identity.sign("receipt", wire.encode(receipt)), body)


def check(envelope: Envelope, sender: MemberId, to: MemberId, run: RunId, key: PublicKey) -> None:
    """Check that this is from ``sender``, for ``to``, of this run, unaltered.

    Raises:
        Forged: it is not.
    """
    receipt = envelope.receipt
    _check_way(receipt, sender, to, run)
    if hashlib.sha256(envelope.body).digest() != receipt.digest or len(envelope.body) != receipt.size:
        raise Forged(f"a {receipt.kind} whose body is not the one its receipt names", "protocol.altered")
    keys.verify(key, "receipt", wire.encode(receipt), envelope.signature)


def check_receipt(signed: SignedReceipt, sender: MemberId, to: MemberId, run: RunId, key: PublicKey) -> None:
    """Check that ``sender`` signed this receipt, of a message to ``to`` in this run.

    Raises:
        Forged: it did not.
    """
    _check_way(signed.receipt, sender, to, run)
    keys.verify(key, "receipt", wire.encode(signed.receipt), signed.signature)


def _check_way(receipt: Receipt, sender: MemberId, to: MemberId, run: RunId) -> None:
    if (receipt.sender, receipt.to, receipt.run) != (sender, to, run):
        what = f"a {receipt.kind} from {receipt.sender} to {receipt.to} where one from {sender} to {to} belongs"
        raise Forged(what, "protocol.misdirected")


def opened(envelope: Envelope, expected: object) -> Request | Reply:
    """The message inside.

    Raises:
        Malformed: the body is none of ``expected``.
        Forged: the receipt names another kind of message.
    """
    message: Request | Reply = wire.decode(envelope.body, expected)
    if type(message).__name__ != envelope.receipt.kind:
        what = f"a {type(message).__name__} with the receipt of a {envelope.receipt.kind}"
        raise Forged(what, "protocol.altered")
    return message


def state_digest(state: bytes) -> Hash:
    """SHA-256 of an adapter state: what plans and releases name it by."""
    return Hash(hashlib.sha256(state).digest())


def check_head(signed: SignedHead, owner: MemberId, key: PublicKey) -> None:
    """Check that ``owner`` signed this head.

    Raises:
        Forged: it did not.
    """
    if signed.head.owner != owner:
        raise Forged(f"a head of {signed.head.owner}'s ledger where {owner}'s belongs", "protocol.misdirected")
    keys.verify(key, "head", wire.encode(signed.head), signed.signature)


def check_progress(known: SignedHead | None, shown: SignedHead) -> None:
    """Check that a ledger that showed ``known`` may show ``shown`` now.

    Raises:
        Forged: it is shorter than it was, or another ledger of the same length.
    """
    if known is None or shown == known:
        return
    if shown.head.size < known.head.size:
        was, now = known.head.size, shown.head.size
        what = f"{shown.head.owner} shows a ledger of {now} entries, and has shown {was} before"
        raise Forged(what, "protocol.ledger-set-back")
    if shown.head.size == known.head.size and shown.head.root != known.head.root:
        raise Forged(f"{shown.head.owner} shows two ledgers of {shown.head.size} entries", "protocol.ledger-set-back")
