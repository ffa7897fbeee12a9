"""What follows from the verified entries of one home's ledger: its account, who was seen how far, which runs began.

A fold, so it cannot differ from the ledger. Nothing here is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass

from securefl.ledger import heads
from securefl.merkle import Frontier
from securefl.privacy.account import Account
from securefl.protocol import key_ages, key_line, key_standing
from securefl.protocol.key_ages import KeyAges
from securefl.protocol.key_standing import Standings
from securefl.protocol.seen_heads import Seen
from securefl.terms import (
    Closed,
    Entry,
    Handover,
    Hash,
    Leaf,
    MemberId,
    MessageReceived,
    MessageSent,
    Noticed,
    Participant,
    PublicKey,
    Refused,
    Released,
    Reported,
    ReservationReleased,
    Reserved,
    RunId,
    RunJoined,
    Settled,
    SignedHead,
    SignedNotice,
    SumOpened,
    Witnessed,
)

ASKED_TO_TRAIN = "Propose"
SEEN = 64  # heads of one party, a power of two, that are kept as they came
DEAD_KEYS = frozenset({key_standing.REVOKED, key_standing.HANDED_OVER, key_standing.LEFT, key_ages.RULE})


@dataclass(frozen=True, slots=True)
class AskedToTrain:
    """A plan was sent to a member: what of its receipt a run's own parties ask for later."""

    round: int
    member: MemberId


Told = SumOpened | Refused | Reported | AskedToTrain


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a ledger had grown when it last told of one run."""

    size: int = 0
    root: Hash = Hash(b"")  # noqa: RUF009 - bytes


class LedgerView:
    """What the entries so far amount to; ``add`` is given each of them once, in order."""

    def __init__(self) -> None:
        self.account = Account()
        self.opened: list[tuple[int, RunJoined]] = []  # each with its time
        self.standings = Standings()
        self.noticed: frozenset[SignedNotice] = frozenset()
        self.ages = KeyAges()
        self.turned_away: frozenset[str] = frozenset()  # rules by which a key was refused since a run or a notice
        self._seen: dict[str, list[SignedHead]] = {}
        self._keys: dict[str, frozenset[PublicKey]] = {}  # that a party had in some run, or was handed over to
        self._marks: dict[RunId, Frontier] = {}
        self._told: dict[RunId, list[Told]] = {}
        self._reserved: dict[RunId, int] = {}  # when the latest round of a run was

    def __copy__(self) -> LedgerView:
        made = LedgerView()
        made.account, made.opened, made._marks = self.account, list(self.opened), dict(self._marks)
        made.standings, made.noticed, made.ages = self.standings, self.noticed, self.ages
        made._keys = dict(self._keys)
        made.turned_away = self.turned_away
        made._seen = {owner: list(found) for owner, found in self._seen.items()}
        made._told = {run: list(told) for run, told in self._told.items()}
        made._reserved = dict(self._reserved)
        return made

    def with_all(self, leaves: Iterable[tuple[Leaf, Frontier]]) -> LedgerView:
        """The fold after these entries too; each comes with the tree it ends.

        Raises:
            AccountFault: charges do not fit together.
        """
        made = copy(self)
        made._take(leaves)  # noqa: SLF001 - its own kind
        return made

    def _take(self, leaves: Iterable[tuple[Leaf, Frontier]]) -> None:
        charges: list[Entry] = []
        for leaf, tree in leaves:
            entry, self.ages = leaf.entry, self.ages.after(leaf)
            if isinstance(entry, Reserved):
                self._reserved[entry.plan.run] = leaf.at
            if isinstance(entry, Reserved | Settled | ReservationReleased):
                charges.append(entry)
            elif isinstance(entry, RunJoined):
                self._opens(leaf.at, entry)
            elif isinstance(entry, Witnessed):
                self._sees(entry.head)
            elif isinstance(entry, Noticed):
                self._notice(entry.notice)
            elif isinstance(entry, SumOpened | Refused | Reported | MessageSent):
                self._tells(entry)
            run = run_of(entry)
            if run is not None:
                self._marks[run] = tree
        if charges:
            self.account = self.account.after(charges)

    def _opens(self, at: int, entry: RunJoined) -> None:
        self.opened.append((at, entry))
        self.turned_away = frozenset()
        for seat in entry.peers:
            self._keys[seat.member] = self._keys.get(seat.member, frozenset()) | {seat.key}

    def _tells(self, entry: SumOpened | Refused | Reported | MessageSent) -> None:
        if isinstance(entry, Refused):
            self.turned_away |= {reason.rule for reason in entry.reasons} & DEAD_KEYS
        if not isinstance(entry, MessageSent):
            self._told.setdefault(entry.run, []).append(entry)
        elif entry.receipt.kind == ASKED_TO_TRAIN:
            asked = AskedToTrain(entry.receipt.round, entry.receipt.to)
            self._told.setdefault(entry.receipt.run, []).append(asked)

    def _notice(self, signed: SignedNotice) -> None:
        notice, self.noticed, self.turned_away = signed.notice, self.noticed | {signed}, frozenset()
        self.standings = self.standings.after(notice)
        if isinstance(notice, Handover):  # a new key is no new ledger
            self._keys[notice.party] = self._keys.get(notice.party, frozenset()) | {notice.successor}
            if notice.head is not None:
                self._sees(notice.head)

    def _sees(self, head: SignedHead) -> None:
        """Keep a head; of many of one party, the largest under each key that it had, and those under no such key.

        Looked through whenever they are twice as many, so that each head costs one signature or two.
        """
        owner = head.head.owner
        found = self._seen.setdefault(owner, [])
        found.append(head)
        if len(found) >= SEEN and len(found).bit_count() == 1:
            left, kept = set(self._keys.get(owner, ())), list[SignedHead]()
            for each in sorted(found, key=lambda one: one.head.size, reverse=True):
                key = next((key for key in self._keys.get(owner, ()) if heads.is_under((key,), each)), None)
                if key is None or key in left:
                    kept.append(each)
                    left -= {key}
            self._seen[owner] = kept

    def mark(self, run: RunId) -> Mark:
        """Return where the ledger last told that this run moved; size 0 if it never did."""
        tree = self._marks.get(run)
        return Mark() if tree is None else Mark(tree.size, tree.root())

    def told(self, run: RunId) -> Sequence[Told]:
        """Return what this run opened, refused, proposed and reported, in order."""
        return tuple(self._told.get(run, ()))

    def reserved(self, run: RunId) -> int | None:
        """When this run's latest round was reserved, by the ledger's own clock; None if none ever was."""
        return self._reserved.get(run)

    def witnessed(self, peers: Iterable[Participant]) -> Seen:
        """The longest heads seen of each of these parties' ledgers, under any key that hand-overs join with its own.

        A key that was handed over, revoked, or is too old signed what it signed: its owner has one ledger, in whatever
        federations, and is held to all that it showed of it. Whoever is no peer any more, or came back under a key that
        no hand-over leads to, is held to nothing it showed before.
        """
        shown, former = dict[str, SignedHead](), dict[str, SignedHead]()
        joined = key_line.of_one_ledger(self.standings.handovers.values())
        for seat in peers:
            line = joined.get(seat.key, {seat.key})
            for head in sorted(self._seen.get(seat.member, ()), key=lambda each: each.head.size, reverse=True):
                if heads.is_under((seat.key,), head):
                    shown[seat.member] = head
                    break
                if seat.member not in former and heads.is_under(line, head):
                    former[seat.member] = head
        return Seen(shown, former)

    def is_another_ledger(self, handover: Handover, seen: Iterable[SignedHead]) -> bool:
        """Whether the head in a hand-over is of another ledger than its party has shown under any key of its line.

        Each hand-over is an entry, so the next one tells of more. A head that is shorter than what was seen else, or
        none, is no sign of anything: of a hand-over one may hear late.

        Args:
            handover: one that may be taken in.
            seen: every head that this ledger has, of whatever party: an old and short one may be the one that differs.
        """
        steps = [*self.standings.handovers.values(), handover]
        line, head = key_line.of_one_ledger(steps)[handover.key], handover.head
        size = _size(head)
        if any(size <= _size(step.head) for step in steps if step.successor == handover.key):
            return True
        return head is not None and any(
            (each.head.owner, each.head.size) == (head.head.owner, size)
            and each.head.root != head.head.root
            and heads.is_under(line, each)
            for each in seen
        )


def _size(head: SignedHead | None) -> int:
    return 0 if head is None else head.head.size


def run_of(entry: Entry) -> RunId | None:
    """The run whose machine moved when this was written; None of what moves no machine, or moves only with another."""
    if isinstance(entry, RunJoined | SumOpened | Released | Closed):
        return entry.run
    if isinstance(entry, MessageReceived | MessageSent):
        return entry.receipt.run
    if isinstance(entry, Reserved):
        return entry.plan.run
    return None
