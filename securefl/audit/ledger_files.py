"""What was copied: ledgers, read, canonical, signed, and covered by their heads. Checks 1 to 3 of ``verify``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from securefl import merkle
from securefl.errors import Forged, OperatorFault, PeerFault, Tampered
from securefl.ledger import export, heads
from securefl.policy import load as policies
from securefl.protocol import standing
from securefl.terms import (
    Handover,
    Hash,
    Leaf,
    MemberId,
    Noticed,
    Participant,
    PublicKey,
    RunId,
    RunJoined,
    SignedNotice,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ledger:
    """One party's ledger, read."""

    owner: MemberId
    key: PublicKey
    leaves: tuple[Leaf, ...]
    hashes: tuple[Hash, ...]
    former: tuple[PublicKey, ...] = ()  # keys that were handed over to ``key``, step by step, as its own entries say
    later: tuple[PublicKey, ...] = ()  # keys that ``key`` was handed over to, step by step, as any ledger here says

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """Every key that its owner has spoken by."""
        return (*self.later, self.key, *self.former)

    @property
    def name(self) -> str:
        """The file it is kept in."""
        return f"{self.owner}{export.SUFFIX}"

    def each(self, kind: type[T]) -> Iterator[tuple[int, T]]:
        """The entries of one kind, with their places."""
        for index, leaf in enumerate(self.leaves):
            if isinstance(leaf.entry, kind):
                yield index, leaf.entry

    def opened(self, run: RunId) -> RunJoined | None:
        """Return how this party joined a run, if it did."""
        return next((entry for _, entry in self.each(RunJoined) if entry.run == run), None)

    def wrong(self, why: str, entry: int | None = None) -> Tampered:
        """The finding that names this ledger."""
        return Tampered(self.name, why, entry)


def policy_in(text: bytes, where: str) -> policies.Policy:
    """The policy in an entry; the same text is read once, however many entries hold it.

    Raises:
        OperatorFault: it is none; ``where`` says whose.
    """
    try:
        return _policy(text)
    except OperatorFault:
        return policies.parse(text, where)


@lru_cache(maxsize=256)
def _policy(text: bytes) -> policies.Policy:
    return policies.parse(text, "policy")


def of_seat(ledgers: Mapping[MemberId, Ledger], seat: Participant) -> Ledger | None:
    """The ledger of this very party: the same name, and the same key."""
    ledger = ledgers.get(seat.member)
    return ledger if ledger is not None and seat.key in ledger.keys else None


def read_all(run: Path) -> Mapping[MemberId, Ledger]:
    """Every ledger of a run, by owner: checks 1 to 3.

    Args:
        run: a run's folder, or the folder with the ledgers itself.

    Raises:
        Tampered: one of the checks fails.
    """
    folder = run / "ledger" if (run / "ledger").is_dir() else run
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if run.is_file():
        raise Tampered(str(run), "no folder with ledgers: give a run, or its ledger folder; they are checked together")
    if folder == run and (run / "run.json").is_file():
        raise Tampered(str(run), "no ledgers here: the run has not ended, or they were not copied with it")
    if not paths:
        raise Tampered(str(folder), "no ledgers here")
    for path in paths:
        if path.suffix != export.SUFFIX or not path.is_file():
            raise Tampered(path.name, "not a ledger, and it stands among them")
    ledgers = {ledger.owner: ledger for ledger in map(read_one, paths)}
    return {owner: replace(ledger, later=later_keys(ledger, ledgers.values())) for owner, ledger in ledgers.items()}


def read_one(path: Path) -> Ledger:
    """One ledger, by itself: checks 2 and 3.

    Raises:
        OperatorFault: it is not called as a ledger is.
        Tampered: one of them fails.
    """
    if path.suffix != export.SUFFIX:
        raise OperatorFault("not a ledger", f"give a run, its ledger folder, or one {export.SUFFIX} file", str(path))
    file = export.read(path)
    head = file.head.head
    if path.name != f"{file.owner}{export.SUFFIX}" or head.owner != file.owner:
        raise Tampered(path.name, f"the ledger of {file.owner}, with a head of {head.owner}")
    try:
        heads.verify(file.key, file.head)
    except Forged as fault:
        raise Tampered(path.name, str(fault)) from fault
    leaves = export.leaves_of(file, path.name)
    hashes = tuple(merkle.leaf_hash(data) for data in file.leaves)
    if (head.size, head.root) != (len(hashes), merkle.root(hashes)):
        raise Tampered(path.name, f"{len(hashes)} entries do not give the root its owner signed over {head.size}")
    return Ledger(file.owner, file.key, leaves, hashes, former_keys(file.owner, file.key, leaves))


def later_keys(ledger: Ledger, ledgers: Iterable[Ledger]) -> tuple[PublicKey, ...]:
    """The keys that this ledger's own was handed over to, by both signatures, as any ledger tells; latest first.

    A copy that ends before its owner's hand-over is so held to what was seen of it under the keys that came after.
    """
    handed: dict[PublicKey, PublicKey] = {}
    for _, each in (found for other in ledgers for found in other.each(Noticed)):
        notice = each.notice.notice
        if isinstance(notice, Handover) and notice.party == ledger.owner and _holds(each.notice):
            handed.setdefault(notice.key, notice.successor)
    return tuple(reversed(_followed(ledger.key, handed)))


def _holds(signed: SignedNotice) -> bool:
    try:
        standing.check_signatures(signed)
    except PeerFault:
        return False
    return True


def former_keys(owner: MemberId, key: PublicKey, leaves: tuple[Leaf, ...]) -> tuple[PublicKey, ...]:
    """The keys that were handed over to this one, by both their signatures, as its owner's ledger tells; newest first.

    Raises:
        Tampered: a notice of its owner's own is not signed.
    """
    handed: dict[PublicKey, PublicKey] = {}
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf.entry, Noticed) or leaf.entry.notice.notice.party != owner:
            continue
        notice = leaf.entry.notice.notice
        try:
            standing.check_signatures(leaf.entry.notice)
        except PeerFault as fault:
            raise Tampered(f"{owner}{export.SUFFIX}", str(fault), index) from fault
        if isinstance(notice, Handover):
            handed.setdefault(notice.successor, notice.key)
    return _followed(key, handed)


def _followed(key: PublicKey, steps: Mapping[PublicKey, PublicKey]) -> tuple[PublicKey, ...]:
    """The keys that are reached from this one, step by step, each once."""
    found = [key]
    while (following := steps.get(found[-1])) is not None and following not in found:
        found.append(following)
    return tuple(found[1:])
