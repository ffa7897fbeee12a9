"""The coordinator's machine: its states, the events that move it, and what a run has gathered so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from securefl.keys import Identity
from securefl.protocol import messages as m
from securefl.seams import CoordinatorProtection, Strategy
from securefl.terms import (
    Entry,
    Envelope,
    MemberId,
    Participant,
    Plan,
    Reason,
    SignedHead,
    SignedReceipt,
)


@dataclass(frozen=True, slots=True)
class Ports:
    """What the machine is given and does not keep."""

    identity: Identity
    protection: Callable[[str], CoordinatorProtection]
    strategy: Strategy
    head: Callable[[], SignedHead | None] = lambda: None  # of its own ledger, as it was committed last: a home is asked
    standing: Callable[[Participant], None] = lambda _: None  # raises if that key does not count now: a home is asked


@dataclass(frozen=True, slots=True)
class Started:
    """Somebody wants this run."""


@dataclass(frozen=True, slots=True)
class Received:
    """An answer, as it came."""

    sender: MemberId
    frame: m.Frame


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Patience is over: who has not answered will not."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The process was restarted: whoever has not answered is asked again, with the same bytes."""


Event = Started | Received | Elapsed | Resumed


@dataclass(frozen=True, slots=True)
class RunState:
    """What every state of a run shares. ``plan`` is the plan of the round under way, or of the next one."""

    session: m.Session
    policy_text: bytes
    rates: tuple[Fraction, ...]  # the members' learning rate in each round: as many as there are rounds
    plan: Plan
    state: bytes  # the adapter state ``plan`` starts from
    previous: bytes  # what the strategy remembers: for FedAvg the state before it
    accepts: Mapping[str, m.Frame]
    enrolled: Mapping[str, bytes]  # for ``plan.round``
    heads: Mapping[str, SignedHead]  # the latest seen of each peer's ledger, in this run or an earlier one
    unanswered: Mapping[str, Envelope]  # asked, not answered
    approvals: bytes = b""  # the policy's signatures; empty if it is unsigned
    former: Mapping[str, SignedHead] = field(default_factory=dict)  # longer heads, under other keys of a peer's line

    @property
    def rounds(self) -> int:
        """How many there are to be."""
        return len(self.rates)

    @property
    def need(self) -> int:
        """Fewer survivors than this and no sum is opened."""
        cover = self.plan.cover
        return max(cover.min_cohort, cover.threshold if cover.scheme.has_masks else 0)


@dataclass(frozen=True, slots=True)
class Planned:
    """Nobody has been asked yet."""

    course: RunState


@dataclass(frozen=True, slots=True)
class Inviting:
    """Waiting for who takes part."""

    course: RunState


@dataclass(frozen=True, slots=True)
class Enrolling:
    """Waiting for keys and shares of the round ahead."""

    course: RunState


Sealed = Envelope | SignedReceipt  # whole, for a custodian; or the receipt of what was added


@dataclass(frozen=True, slots=True)
class Collecting:
    """Waiting for sealed results: each is added as it comes and its receipt kept, or it is kept for a custodian."""

    course: RunState
    sealed: Mapping[str, Sealed]
    following: Mapping[str, bytes]
    declined: Mapping[str, tuple[Reason, ...]]
    total: bytes = b""  # of those that were added; as the scheme has it


@dataclass(frozen=True, slots=True)
class Asking:
    """Waiting for what opening the sum needs. A scheme may ask in phases: each begins when the one before is over."""

    course: RunState
    sealed: Mapping[str, Sealed]
    following: Mapping[str, bytes]
    answers: Mapping[str, bytes]
    phase: int = 0
    total: bytes = b""


@dataclass(frozen=True, slots=True)
class Closing:
    """Waiting for everybody's last word."""

    course: RunState
    outcome: str
    why: str
    last_round: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Over. ``course.state`` is the adapter the run ended with."""

    course: RunState
    outcome: str
    why: str
    last_round: int


State = Planned | Inviting | Enrolling | Collecting | Asking | Closing | Ended


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, what to write down, and what to send: in that order."""

    state: State
    entries: tuple[Entry, ...] = ()
    outbound: tuple[Envelope, ...] = ()
