"""The ports. Read this file second: who may be replaced, and what each must keep.

Randomness is an argument everywhere; a plug never draws its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from securefl.errors import PeerFault
from securefl.keys import Identity, Secret
from securefl.terms import (
    Aggregate,
    Envelope,
    Event,
    MemberId,
    Participant,
    Plan,
    PublicKey,
    RunId,
    Scheme,
    SignedReceipt,
    Update,
)
from securefl.terms.names import BoxKey
from securefl.wire import LIMIT_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a member brings to one round before the plan is known."""

    secret: bytes  # kept by the member, used in this round alone
    public: bytes  # goes to the coordinator, which relays each peer's part


class MemberProtection(Protocol):
    """The member's half of a scheme. Pure: state comes in as bytes and goes out as bytes."""

    scheme: Scheme

    def enrol(
        self, me: MemberId, run: RunId, round_: int, threshold: int, boxes: Mapping[MemberId, bytes],
        identity: Identity, rand: Secret,
    ) -> Enrolment:  # fmt: skip
        """Keys and shares for one round: the keys signed by ``identity``, the shares sealed to each peer's box key."""
        ...

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """Check that a sum under this plan would be safe; asked before any record is touched.

        Raises:
            Unsafe: the cohort, threshold or capacity does not bear a safe sum.
            Forged: a relayed key or share does not hold under its member's identity.
        """
        ...

    def seal(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
             update: Update, rand: Secret) -> tuple[bytes, bytes]:  # fmt: skip
        """The update, hidden; and what the member must keep to answer a question afterwards.

        Everything `admit` checks is checked here too.

        Args:
            box: the session's X25519 secret, opens what peers sealed for this member.
            enrolment: the secret this member kept from `enrol`.
            relayed: what the coordinator passed on from the peers for this round.
            material: what the scheme was given for the whole session (a public key), checked on joining.

        Raises:
            Unsafe: the cohort, threshold or capacity does not bear a safe sum.
            Forged: a relayed key or share does not hold.
        """
        ...

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """The one answer after sealing.

        Raises:
            Unsafe: the question would open more than one sum over enough members.
        """
        ...

    def about(self, question: bytes) -> frozenset[str]:
        """Whose inputs the sum is of that an answer to this question would help to open.

        Raises:
            Malformed: it is no question.
        """
        ...

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """Check that the session's material is what it should be.

        Raises:
            Forged: it is not signed by the custodian, or not for this scheme.
        """
        ...


class CoordinatorProtection(Protocol):
    """The coordinator's half of a scheme. It relays, asks, and opens sums; it can open nothing else."""

    scheme: Scheme
    phases: int  # how often it asks, once sealing is over; each time when everybody asked before has answered

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Return what each member of the cohort is given with the plan, of enrolments that ``admit`` let pass."""
        ...

    def admit(self, plan: Plan, seat: Participant, roster: tuple[MemberId, ...], enrolled: bytes) -> None:
        """Check that a member's enrolment can be relayed: no peer will refuse it for anything that shows here.

        Args:
            plan: of the round that it is for; its cohort is not known yet.
            roster: who was shown to each member as taking part, in order of names.

        Raises:
            PeerFault: a peer would refuse it. It counts as no answer, and the others go on.
        """
        ...

    def add(self, plan: Plan, total: bytes, member: MemberId, payload: bytes) -> bytes | None:
        """The inputs that came so far and this one, added: what is kept of them.

        None if this coordinator adds nothing: inputs are kept then as they were signed, for whoever adds them.

        Args:
            total: what this returned for the input before; empty for the first.

        Raises:
            PeerFault: it is no input of this plan, and counts as none.
        """
        ...

    def ask(
        self, phase: int, plan: Plan, enrolled: Mapping[MemberId, bytes],
        sealed: Mapping[MemberId, Envelope | SignedReceipt], answers: Mapping[MemberId, bytes],
    ) -> Mapping[MemberId, bytes]:  # fmt: skip
        """Return who is asked what in this phase, from 0, with what was answered in those before.

        Args:
            sealed: whose inputs came: as they were signed, or their receipts where the inputs were added.

        Raises:
            PeerFault: too few answers to go on: a clean abort.
        """
        ...

    def check_answer(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], member: MemberId,
        answer: bytes,
    ) -> None:  # fmt: skip
        """Check that an answer helps to open the sum over these survivors: the sum is not waited for on its account.

        Raises:
            PeerFault: it does not. It counts as no answer, and the others go on.
        """
        ...

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], total: bytes,
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The sum over the survivors, whose inputs ``add`` made ``total`` of, or somebody else added.

        Raises:
            PeerFault: too few answers, or answers that do not fit: a clean abort, never a wrong sum.
        """
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Prepared:
    """A sum of which nothing is decrypted yet. It has no encoding: after a restart its question is checked again."""

    survivors: tuple[MemberId, ...]
    total: Callable[[], NDArray[np.int64]]  # decrypts; raises `Forged` where what comes out is no sum


class KeyHolder(Protocol):
    """The custodian's half of a scheme with a decryption key."""

    scheme: Scheme

    def material(self, box: BoxKey, identity: Identity) -> bytes:
        """Return what members need to encrypt and to seal to ``box``, signed by the custodian's key of this run."""
        ...

    def prepare(
        self, plan: Plan, box: Secret, sealed: Mapping[MemberId, bytes], enrolled: Mapping[MemberId, bytes],
        answers: Mapping[MemberId, bytes],
    ) -> Prepared:  # fmt: skip
        """The sealed inputs, checked as far as they can be before their sum is decrypted.

        Args:
            box: the run's X25519 secret, opens what members sealed for this custodian.
            enrolled: every enrolment of the cohort, where there are masks.
            answers: what the survivors revealed of their shares, where there are masks.

        Raises:
            PeerFault: an input, enrolment or answer is not what the plan says it is. Nothing was decrypted.
        """
        ...

    def open_sum(self, prepared: Prepared) -> bytes:
        """The sum, as grid integers; or that what was decrypted is no sum. Asked once this is committed, not before.

        Raises:
            Unsafe: the key opened as many sums as one may. Nothing was decrypted.
        """
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Own:
    """What a member keeps of a run from one round to the next. It is private like an update, and never leaves."""

    model: bytes = b""  # the state trained last: float32, little endian; empty: none
    weights: bytes = b""  # its weight in each sum, and what they were made under: `training.local_state`; empty: none


class Unfinished(PeerFault):
    """A training below has no result. ``did`` of its price is spent all the same; None if no record was read.

    ``below`` is the one rule that is named of those by which members below declined before anything trained.
    """

    rule = "training.unfinished"

    def __init__(self, what: str, did: Event | None, below: str = "") -> None:
        self.did, self.below = did, below if did is None else ""
        super().__init__(what)


class StepWatch(Protocol):
    """Whoever is told of each step of a training: the way by which a site ends one that its round went on without."""

    def __call__(self, done: int, steps: int) -> None:
        """Take note that ``done`` of ``steps`` are done. Whatever is raised here ends the training after that step."""
        ...


class Trainer(Protocol):
    """Training at one member, in two parts: what is checked before a record is read, and what has begun.

    Whatever ``train`` raises is paid for, so whatever can be checked without records belongs in ``admit``.
    """

    def admit(self, plan: Plan, base: bytes) -> None:
        """Check that this plan can be trained here; no record is read.

        Raises:
            PeerFault: the plan does not fit what is loaded here.
            OperatorFault: what is loaded here cannot be trained safely.
        """
        ...

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """Train as the plan says, from the adapter state ``base`` and what was kept; private noise is in the result.

        The second value is what to keep for the next round. Nothing else may be left behind: no file, no global.

        Raises:
            Unfinished: a federation below came to no result; it says what was spent there.
            Exception: anything else; the whole price is spent.
        """
        ...


class MemberHalf(Protocol):
    """A strategy at its member: functions of broadcast state, own state and public constants, never of a record."""

    def start(self, plan: Plan, base: bytes, kept: bytes) -> bytes:
        """The adapter state to train from; ``kept`` is what this member kept of the round before, empty at first."""
        ...

    def moved(self, base: bytes, start: bytes, after: bytes) -> bytes:
        """``base``, moved by the change from ``start`` to ``after``: the state that is scored."""
        ...

    def weights(self, plan: Plan, scores: tuple[float, ...], kept: bytes) -> tuple[float, ...]:
        """This member's weight in each sum of the round, from its scores and what it kept of its weights before."""
        ...

    def share(
        self, plan: Plan, base: bytes, start: bytes, after: bytes, own: tuple[float, ...]
    ) -> NDArray[np.float64]:  # fmt: skip
        """What leaves of this round's change, from ``start`` to ``after``, by its own weights: (plan.dimension,)."""
        ...


class Strategy(Protocol):
    """A strategy at its coordinator. It is handed an ``Aggregate``, so it cannot look at one member."""

    def begin(self, state: bytes) -> bytes:
        """Return what it remembers before the first round."""
        ...

    def advance(self, round_: int, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        """The adapter state after ``round_``, float32, little endian, (entries,), and what it remembers then.

        Both follow from this state, from what is remembered, and from sums: from nothing of one member.

        Raises:
            PeerFault: no state can be made of this sum.
        """
        ...

    def dimension(self, round_: int, state: bytes) -> int:
        """Entries of an update in ``round_``, which starts from ``state``."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A peer that did not answer, and why, as data."""

    why: str


class Waiting:
    """How long an exchange waits for answers. Whoever asked may shorten it once enough have come.

    Args:
        seconds: from now on.
        clock: seconds that only grow.
        most_bytes: of one answer. A longer one is not read, and counts as a fault of its peer.
    """

    def __init__(self, seconds: float, clock: Callable[[], float], most_bytes: int = LIMIT_BYTES) -> None:
        self.most_bytes = most_bytes
        self._clock, self._begun, self._seconds = clock, clock(), seconds
        self.late = Failure(f"silent for {seconds:.0f} s")  # what is said of whoever has not answered when it is over

    def left(self) -> float:
        """Seconds until it is over; 0 once it is."""
        return max(0.0, self._seconds - (self._clock() - self._begun))

    @property
    def is_over(self) -> bool:
        """Whether what comes now is late."""
        return self._clock() - self._begun > self._seconds

    def shorten(self, seconds: float) -> None:
        """Wait for at most so many seconds from now on."""
        if seconds < self.left():
            self._seconds = self._clock() - self._begun + seconds
            self.late = Failure(f"silent for {seconds:.0f} s after enough others had answered")

    def took(self, seconds: float) -> None:
        """Count so many seconds as gone since the beginning: for answers that came one after the other."""
        self._clock, self._begun = (lambda: seconds), 0.0


class Runtime(Protocol):
    """How messages travel. The coordinator asks, a peer answers at most once; peers never start."""

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Carry each message; yield each answer as it comes, or a failure in the words of ``runtime.answering``.

        A peer that says ``InProgress`` is asked again, with the same bytes, until ``waiting`` is over. It may become
        shorter whenever an answer was yielded.
        """
        ...
