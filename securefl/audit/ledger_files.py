"""What was copied: ledgers, read, canonical, signed, and covered by their heads. Checks 1 to 3 of ``verify``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from securefl import merkle
from securefl.errors import Forged, OperatorFault, PeerFault, Tampered
from securefl.keys import fingerprint
from securefl.ledger import export, heads
from securefl.policy import load as policies
from securefl.protocol import key_line, key_standing
from securefl.terms import (
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
    Reserved,
    RunId,
    RunJoined,
)

T = TypeVar("T")
LEDGERS = "ledger"  # the folder that holds them, in that of a run, and of each federation below


@dataclass(frozen=True, slots=True)
class Ledger:
    """One party's ledger, read."""

    owner: MemberId
    key: PublicKey
    leaves: tuple[Leaf, ...]
    hashes: tuple[Hash, ...]
    former: tuple[PublicKey, ...] = ()  # keys that were handed over to ``key``, step by step, as its own entries say
    others: frozenset[PublicKey] = frozenset()  # keys that hand-overs join with ``key``, as any ledger here says
    apart: frozenset[RunId] = frozenset()  # runs of another federation, with the name of one that a ledger here began

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """Every key that its owner has spoken by."""
        return (self.key, *self.others)

    @property
    def handed(self) -> tuple[Handover, ...]:
        """The hand-overs that its owner took in, of whatever party: each is signed by both of its keys."""
        return handovers_in(self.leaves)

    @property
    def name(self) -> str:
        """The file it is kept in."""
        return f"{self.owner}{export.SUFFIX}"

    def each(self, kind: type[T]) -> Iterator[tuple[int, T]]:
        """The entries of one kind, with their places; those of a run apart are no evidence on the one of its name."""
        for index, leaf in enumerate(self.leaves):
            if isinstance(leaf.entry, kind) and not (self.apart and self.is_apart(leaf.entry)):
                yield index, leaf.entry

    def is_apart(self, entry: Entry) -> bool:
        """Whether an entry, but for the one that tells of its beginning, is of a run apart."""
        return not isinstance(entry, RunJoined) and run_of(entry) in self.apart

    def opened(self, run: RunId) -> RunJoined | None:
        """Return how this party joined a run, if it did."""
        joins = (entry for _, entry in self.each(RunJoined) if entry.run == run and run not in self.apart)
        return next(joins, None)

    def wrong(self, why: str, entry: int | None = None) -> Tampered:
        """The finding that names this ledger."""
        return Tampered(self.name, why, entry)


def run_of(entry: Entry) -> RunId | None:
    """The run that an entry names."""
    if isinstance(entry, MessageReceived | MessageSent):
        return entry.receipt.run
    if isinstance(entry, Reserved):
        return entry.plan.run
    run: RunId | None = getattr(entry, "run", None)
    return run


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
    folder = run / LEDGERS if (run / LEDGERS).is_dir() else run
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if run.is_file():
        raise Tampered(str(run), "no folder with ledgers: give a run, or its ledger folder; they are checked together")
    if folder == run and (run / "run.json").is_file():
        raise Tampered(str(run), "no ledgers here: the run has not ended, or they were not copied with it")
    if not paths:
        raise Tampered(str(folder), "no ledgers here")
    for path in paths:
        if path.name.endswith(export.UNFINISHED):
            what = "half a ledger, of a command that was killed while it wrote it: run that command again"
            raise Tampered(path.name, what)
        if path.suffix != export.SUFFIX or not path.is_file():
            raise Tampered(path.name, "not a ledger, and it stands among them")
    ledgers = {ledger.owner: ledger for ledger in map(read_one, paths)}
    return _whole(ledgers)


def read_below(inside: Path) -> Mapping[MemberId, Ledger]:
    """The same of a federation below: in its folder, ledgers are in ``ledger``, and what a run left is beside them.

    Raises:
        Tampered: one of the checks fails, or there is no such folder.
    """
    if not (inside / LEDGERS).is_dir():
        raise Tampered(LEDGERS, "missing: the ledgers of a federation below stand in its folder of this name")
    return read_all(inside)


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
    check_notices(path.name, leaves)
    handed = handovers_in(leaves)
    others = key_line.of_one_ledger(handed).get(file.key, frozenset()) - {file.key}
    return Ledger(file.owner, file.key, leaves, hashes, former_keys(file.owner, file.key, handed), others)


def check_notices(name: str, leaves: Iterable[Leaf]) -> None:
    """Check that every notice is signed by the key that it is of, and a hand-over by its successor too.

    Raises:
        Tampered: otherwise, whoever's it is; ``name`` is the ledger's.
    """
    for index, leaf in enumerate(leaves):
        if isinstance(leaf.entry, Noticed):
            try:
                key_standing.check_signatures(leaf.entry.notice)
            except PeerFault as fault:
                raise Tampered(name, str(fault), index) from fault


def handovers_in(leaves: Iterable[Leaf]) -> tuple[Handover, ...]:
    """The hand-overs among these entries."""
    told = (leaf.entry.notice.notice for leaf in leaves if isinstance(leaf.entry, Noticed))
    return tuple(notice for notice in told if isinstance(notice, Handover))


def former_keys(owner: MemberId, key: PublicKey, handed: Iterable[Handover]) -> tuple[PublicKey, ...]:
    """The keys that were handed over to this one, step by step, as its owner's own ledger tells; newest first."""
    own = [step for step in handed if step.party == owner]
    found, open_ = [key], [key]
    while open_:
        latest = open_.pop()
        open_ += (new := {step.key for step in own if step.successor == latest} - set(found))
        found += new
    return tuple(found[1:])


def joined(ledgers: Iterable[Ledger]) -> Mapping[PublicKey, frozenset[PublicKey]]:
    """Each key that a hand-over in one of these ledgers names, and every key of the same holder's: it has one ledger.

    A ledger may end before its owner's hand-over, or never tell of one: each is held to what any of them shows.
    """
    return key_line.of_one_ledger(step for ledger in ledgers for step in ledger.handed)


def _whole(ledgers: Mapping[MemberId, Ledger]) -> Mapping[MemberId, Ledger]:
    """The same, each with all its owner's keys.

    Raises:
        Tampered: a key of one was handed over to two, or two were handed over to one: by its holder, which has one
            ledger and one line of keys, or by whoever stole the key.
    """
    keys_ = joined(ledgers.values())
    whole = {
        owner: replace(ledger, others=keys_.get(ledger.key, frozenset()) - {ledger.key})
        for owner, ledger in ledgers.items()
    }
    owners = {key: ledger for ledger in whole.values() for key in ledger.keys}
    after, before = dict[PublicKey, tuple[PublicKey, str]](), dict[PublicKey, tuple[PublicKey, str]]()
    for teller in whole.values():
        for step in teller.handed:
            if step.key not in owners:
                continue  # of a party whose ledger is not here
            for way, one, other, what in (
                (after, step.key, step.successor, "a key of its owner was handed over to two"),
                (before, step.successor, step.key, "two keys of its owner were handed over to one"),
            ):
                first, told = way.setdefault(one, (other, teller.name))
                if first != other:
                    shown = f"{fingerprint(first)} as {told} tells, and {fingerprint(other)} as {teller.name} does"
                    raise owners[one].wrong(f"{what}, each time by its signature, {fingerprint(one)}: {shown}")
    return _with_runs_apart(whole)


def _with_runs_apart(ledgers: Mapping[MemberId, Ledger]) -> Mapping[MemberId, Ledger]:
    """The same, each with the runs in which it followed another coordinator than the one whose ledger names them here.

    A run is of its federation and coordinator. Its name is the coordinator's to choose: another one may have chosen the
    same, and whoever follows both is to blame for neither.
    """
    begun = {
        entry.run: ledger
        for ledger in ledgers.values()
        for _, entry in ledger.each(RunJoined)
        if entry.role == "coordinator"
    }

    def is_of(entry: RunJoined) -> bool:  # whatever federation that coordinator itself writes down
        seats = {(seat.member, seat.key) for seat in entry.peers}
        return any((begun[entry.run].owner, key) in seats for key in begun[entry.run].keys)

    found = {}
    for owner, ledger in ledgers.items():
        joins = [entry for _, entry in ledger.each(RunJoined) if entry.run in begun]
        same = {entry.run for entry in joins if entry.role == "coordinator" or is_of(entry)}
        found[owner] = replace(ledger, apart=frozenset({entry.run for entry in joins} - same))
    return found
