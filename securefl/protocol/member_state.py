"""A member's machine: its states, the events that move it, and the effects it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from securefl.keys import Identity, Secret
from securefl.protocol import messages as m
from securefl.seams import MemberProtection, Own
from securefl.terms import (
    Entry,
    Envelope,
    Grant,
    Hash,
    Head,
    MemberId,
    MicroEpsilon,
    Model,
    Participant,
    Plan,
    Refusal,
    SignedHead,
    Update,
)
from securefl.terms import Event as PrivacyEvent
from securefl.terms.names import FederationName, TaskName


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """What this member knows on its own authority, whatever a coordinator says."""

    me: MemberId
    federation: FederationName
    policy: Hash
    policy_text: bytes
    dataset: str
    coordinator: Participant
    custodian: Participant | None
    peers: tuple[Participant, ...]  # every member, this one among them
    witnessed: Mapping[str, SignedHead]  # the last head seen of each peer's ledger, under the key that it has here
    model: Model | None  # what is loaded here, by this site's own name for it; None at a custodian
    approvals: bytes = b""  # the signatures this site found for its policy; empty if it agreed to run without
    former: Mapping[str, SignedHead] = field(default_factory=dict)  # longer ones, under other keys of the same line
    task: TaskName | None = None  # which of the federation's tasks it trains, over the members of that task


@dataclass(frozen=True, slots=True)
class Ports:
    """What the machine is given and does not keep: the key that signs, and the scheme."""

    identity: Identity
    protection: Callable[[str], MemberProtection]
    holds: Callable[[Head], bool] = lambda _: (
        True
    )  # whether its own ledger had this head: a home is asked, if it has one
    head: Callable[[], SignedHead | None] = lambda: None  # of its own ledger, as it was committed last: a home is asked
    standing: Callable[[Participant], None] = lambda _: None  # raises if that key does not count now: a home is asked


@dataclass(frozen=True, slots=True)
class Reserve:
    """Check that this plan can be trained, decide about it and set its price aside; the last two in one transaction."""

    plan: Plan
    base: bytes


@dataclass(frozen=True, slots=True)
class Train:
    """Run this plan, from this adapter state."""

    plan: Plan
    base: bytes


Effect = Reserve | Train


@dataclass(frozen=True, slots=True)
class Received:
    """A request that claims to be from the coordinator, and fresh entropy to answer it with."""

    envelope: Envelope
    head: SignedHead | None  # of the coordinator's ledger
    rand: Secret


@dataclass(frozen=True, slots=True)
class Decided:
    """What policy and account say to the plan."""

    answer: Grant | Refusal


@dataclass(frozen=True, slots=True)
class Trained:
    """Training is over; the update is sealed in this same step, and ``keep`` is kept in the same transaction."""

    update: Update
    rand: Secret
    keep: Own = field(default_factory=Own)


@dataclass(frozen=True, slots=True)
class Stopped:
    """Training began and has no result. The whole price is spent, unless ``spent`` says what really was.

    Only a federation below can say so: it has the ledger of what ran there. None: no record was read. Of a training
    that an earlier process of the site began, nothing that is said here counts (``TrainingAgain``).
    """

    trouble: str  # for this site's own operator; it goes nowhere else
    spent: Ran | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """What a federation below spent on a plan that came to nothing; if nothing, by which rule members declined."""

    did: PrivacyEvent | None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The process was restarted: what was under way is asked for again."""


Event = Received | Decided | Trained | Stopped | Resumed


@dataclass(frozen=True, slots=True)
class Idle:
    """No run yet."""

    charter: SiteConfig


@dataclass(frozen=True, slots=True)
class Seated:
    """What every state of a run shares."""

    charter: SiteConfig
    session: m.Session
    box: bytes  # X25519 secret of this session; gone when the run is over
    boxes: Mapping[str, bytes]  # every peer's box key; empty before the first Enrol
    material: bytes
    next_round: int  # no earlier round is ever entered again
    enrolment: bytes  # this member's secrets for `next_round`; empty if not enrolled
    request: Hash  # digest of the request answered last
    reply: Envelope | None


@dataclass(frozen=True, slots=True)
class Ready:
    """Between rounds."""

    seat: Seated


@dataclass(frozen=True, slots=True)
class Deciding:
    """A plan is before policy and account."""

    seat: Seated
    proposal: m.Propose


@dataclass(frozen=True, slots=True)
class InTraining:
    """A plan is paid for, and being trained."""

    seat: Seated
    proposal: m.Propose
    cost: MicroEpsilon


@dataclass(frozen=True, slots=True)
class TrainingAgain:
    """The training of a plan that is paid for was begun by a process that ended, and is begun again.

    What the earlier process read is not known. So nothing of the price is ever given back: no move from here frees a
    reservation, or settles a part of it, whatever this process did itself.
    """

    seat: Seated
    proposal: m.Propose
    cost: MicroEpsilon


@dataclass(frozen=True, slots=True)
class Sealed:
    """The result has left, sealed. One question about it may still be answered."""

    seat: Seated
    plan: Plan
    kept: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """The run is over here."""

    seat: Seated
    outcome: str
    state: bytes  # the adapter the run ended with


State = Idle | Ready | Deciding | InTraining | TrainingAgain | Sealed | Left
UnderWay = InTraining | TrainingAgain  # a price is reserved, and records may have been read


@dataclass(frozen=True, slots=True)
class Kept:
    """What a member keeps of the plan that is settled in the same step."""

    plan: Hash
    round: int
    own: Own


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, what to write down and keep, what to do, and what to answer: in that order."""

    state: State
    entries: tuple[Entry, ...] = ()
    effects: tuple[Effect, ...] = ()
    outbound: Envelope | None = None
    keep: Kept | None = None  # written in the transaction that writes the entries
    trouble: str = ""  # what went wrong, for this site's own operator; it is neither written down nor sent
