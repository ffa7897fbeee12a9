"""The last word on what a run left, ``Reported``: who may say it, and which ledgers it is held against.

Its coordinator says it, and nobody else: one in any other ledger is refused. The coordinator names the ledgers that the
report was computed from, so it could leave some out, or cut them. Therefore:

- every ledger of the folder is named, and the folder has one of every party that the run heard (check 1 of ``verify``);
- none is cut below what was known of it before the word: what the coordinator had got from its owner, or seen of it,
  and whatever those ledgers had got and seen in their turn;
- nothing was reserved in the run, and nothing said by its coordinator, behind the cut.

A coordinator that has its own ledger alone can name no other. Those that were laid beside it afterwards count as they
are here: each is held against what was known of it, and that nothing was cut off behind that is not verified.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from securefl import merkle
from securefl.audit.ledger_files import Ledger, of_seat, run_of
from securefl.errors import Tampered
from securefl.ledger import heads
from securefl.terms import (
    Entry,
    Head,
    MemberId,
    MessageReceived,
    MessageSent,
    Receipt,
    Reported,
    Reserved,
    RunId,
    RunJoined,
    SignedHead,
)
from securefl.terms.entries import heads_in

COORDINATES = "coordinator"
Ledgers = Mapping[MemberId, Ledger]


def check_speakers(ledgers: Ledgers) -> None:
    """Check that every ``Reported`` stands in the ledger of a party that coordinates, and does nothing else.

    Raises:
        Tampered: a member or a custodian says what a run left; or somebody says it of a run that another coordinates.
    """
    for ledger in ledgers.values():
        for index, entry in ledger.each(Reported):
            roles = {opened.role for _, opened in ledger.each(RunJoined)}
            if roles != {COORDINATES}:
                raise ledger.wrong("a word on what a run left, and its owner coordinates none", index)
            others = [each.opened(entry.run) for each in ledgers.values() if each is not ledger]
            if any(opened is not None and opened.role == COORDINATES for opened in others):
                raise ledger.wrong("a word on what a run left that another party coordinates", index)


def check_heads(ledgers: Ledgers) -> None:
    """Check that each ledger begins as whoever said what a run left had it then, whatever else of that run is here.

    A party of the same name under another key has another ledger: who is meant says the run; of a run with tasks, which
    was joined under no name of its own, the runs of its federation that were joined before.

    Raises:
        Tampered: one was cut, or is another.
    """
    for ledger in ledgers.values():
        joined: list[RunJoined] = []
        for leaf in ledger.leaves:
            if isinstance(leaf.entry, RunJoined):
                joined.append(leaf.entry)
            elif isinstance(leaf.entry, Reported) and joined:
                own = ledger.opened(leaf.entry.run)
                runs = [each for each in joined if each.federation == joined[-1].federation] if own is None else [own]
                seats = {seat.member: seat for run in runs for seat in run.peers}
                for head in leaf.entry.ledgers:
                    shown = of_seat(ledgers, seats[head.owner]) if head.owner in seats else None
                    if shown is not None:
                        _cut(shown, head)


def words(coordinator: Ledger, run: RunId) -> tuple[tuple[int, Reported], ...]:
    """Return what this party says that a run left, with the places."""
    return tuple((index, entry) for index, entry in coordinator.each(Reported) if entry.run == run)


def the_one(coordinator: Ledger, run: RunId) -> tuple[int, Reported]:
    """The one word of a run's coordinator on what the run left.

    Raises:
        Tampered: there is none, or a second one.
    """
    found = words(coordinator, run)
    if not found:
        what = "nothing says what the run left: no report, page or adapter in this folder is evidence"
        raise coordinator.wrong(what, len(coordinator.leaves))
    if len(found) > 1:
        raise coordinator.wrong("a second word on what the run left", found[-1][0])
    return found[0]


def as_of(
    ledgers: Ledgers, coordinator: Ledger, word: tuple[int, Reported], runs: Collection[RunId], *,
    beside: Collection[MemberId] = (),
) -> dict[MemberId, Ledger]:  # fmt: skip
    """The ledgers as they were when the report was computed.

    Args:
        word: what the coordinator said, and where in its ledger.
        runs: what the report is about: the run itself, or those of its tasks.
        beside: whose ledgers were laid here afterwards, and count as they are.

    Raises:
        Tampered: one was left out, or cut below what was known of it; or it is not the one that is here.
    """
    index, entry = word
    named = _named(ledgers, coordinator, index, entry, beside)
    found = {owner: _cut(ledgers[owner], head) for owner, head in named.items()}
    for owner, least in _known(ledgers, coordinator, index).items():
        if named[owner].size < least and owner != coordinator.owner:
            what = f"the report was computed from {named[owner].size} entries of {owner}, and {least} were known before"
            raise coordinator.wrong(what, index)
    _check_behind(ledgers, coordinator, index, named, runs)
    return found


def beside(ledgers: Ledgers, entry: Reported) -> tuple[MemberId, ...]:
    """Whose ledgers are here and were not there when this was said."""
    return tuple(sorted(set(ledgers) - {head.owner for head in entry.ledgers}))


def _named(
    ledgers: Ledgers, coordinator: Ledger, index: int, entry: Reported, laid: Collection[MemberId]
) -> dict[MemberId, Head]:
    """The heads that the report was computed from: one of every ledger that is here, and of no other."""
    named = {head.owner: head for head in entry.ledgers}
    if len(named) < len(entry.ledgers):
        raise coordinator.wrong("the report was computed from two ledgers of one party", index)
    named |= {owner: _whole(ledgers[owner]) for owner in laid if owner != coordinator.owner}
    for owner in named:
        if owner not in ledgers:
            raise Tampered(f"{owner}.ledger", "missing, and the report was computed from it")
    for owner in ledgers:
        if owner not in named:
            raise coordinator.wrong(f"the report was computed without the ledger of {owner}", index)
    return named


def _check_behind(
    ledgers: Ledgers, coordinator: Ledger, index: int, named: Mapping[MemberId, Head], runs: Collection[RunId]
) -> None:
    """Behind what the report was computed from, nothing was reserved in its runs, nor said by their coordinator."""
    for owner, ledger in ledgers.items():
        own = ledger is coordinator
        for place in range(named[owner].size, index if own else len(ledger.leaves)):
            entry = ledger.leaves[place].entry
            if run_of(entry) in runs and not ledger.is_apart(entry) and (own or isinstance(entry, Reserved)):
                raise ledger.wrong("an entry of this run, and the report was computed without it", place)


def _whole(ledger: Ledger) -> Head:
    return Head(ledger.owner, len(ledger.hashes), merkle.root(ledger.hashes))


def _cut(ledger: Ledger, head: Head) -> Ledger:
    if len(ledger.hashes) < head.size or merkle.root(ledger.hashes[: head.size]) != head.root:
        raise ledger.wrong(f"its first {head.size} entries are not those that the report was computed from")
    return replace(ledger, leaves=ledger.leaves[: head.size], hashes=ledger.hashes[: head.size])


def _known(ledgers: Ledgers, coordinator: Ledger, index: int) -> dict[MemberId, int]:
    """How long each ledger was at the least before this entry of the coordinator's: what came before it, step by step.

    A message that was got was sent before; a head that was seen was signed before; and so for the ledgers of those
    who sent and signed.
    """
    sent = {owner: _places(ledger) for owner, ledger in ledgers.items()}
    known, looked, open_ = {coordinator.owner: index}, dict.fromkeys(ledgers, 0), [coordinator.owner]
    while open_:
        owner = open_.pop()
        start, looked[owner] = looked[owner], known[owner]
        for leaf in ledgers[owner].leaves[start : known[owner]]:
            for other, size in _before(leaf.entry, ledgers, sent, known):
                known[other] = size
                open_.append(other)
    return known


def _places(ledger: Ledger) -> dict[Receipt, int]:
    return {entry.receipt: place + 1 for place, entry in ledger.each(MessageSent)}


def _before(
    entry: Entry, ledgers: Ledgers, sent: Mapping[MemberId, Mapping[Receipt, int]], known: Mapping[MemberId, int]
) -> Iterator[tuple[MemberId, int]]:
    """Yield which ledger this entry shows to have been longer than was known, and how long."""
    if isinstance(entry, MessageReceived):
        owner, size = entry.receipt.sender, sent.get(entry.receipt.sender, {}).get(entry.receipt, 0)
        if size > known.get(owner, 0):
            yield owner, size
    for seen in heads_in(entry):
        owner, size = seen.head.owner, seen.head.size
        if size > known.get(owner, 0) and owner in ledgers and _is_of(ledgers[owner], seen):
            yield owner, size  # else: of a party of the same name in another federation


def _is_of(ledger: Ledger, head: SignedHead) -> bool:
    return heads.is_under(ledger.keys, head) and head.head.size <= len(ledger.hashes)
