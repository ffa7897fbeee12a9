"""What a run's rounds opened and released: everybody's story of it, held against the coordinator's own, both ways.

An entry that only one ledger has is not passed over. The coordinator has one sum and one release of each round, from
the first on; whoever stands in a sum has sent the result that the coordinator got; the last release is the one that
everybody was told at the end; and what the custodian opened is what the coordinator wrote down.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from securefl.audit.cross_checks import Runs
from securefl.audit.ledger_files import Ledger, of_seat
from securefl.protocol import messages as m
from securefl.terms import (
    Closed,
    Hash,
    MemberId,
    MessageReceived,
    Released,
    Reserved,
    RunId,
    RunJoined,
    SumOpened,
)

RESULT = m.Submitted.__name__
CUSTODIAN = "custodian"


def check(ledgers: Mapping[MemberId, Ledger], runs: Runs) -> tuple[str, ...]:
    """What is not verified, if all ledgers say of each run that is covered which rounds it opened and released.

    Raises:
        Tampered: a sum without a release, or a release without a sum; a sum over somebody whose result never came;
            another last release than somebody was told; or a sum that the custodian did not open, or that it alone did.
    """
    _check_same(ledgers, runs)
    notes: list[str] = []
    for run, (coordinator, opened) in sorted(runs.items()):
        released = _rounds(run, coordinator)
        peers = [each for each in _ledgers_of(opened, ledgers) if each is not coordinator]
        told = [_told(each, run, coordinator, released) for each in peers]
        if released and not any(told) and not _begun_from(released[-1], ledgers):
            what = f"round {released[-1].round} is its coordinator's word: nobody else here was told of it"
            notes.append(f"run {run.hex()[:12]}: what was released of {what}")
        for each in _custodians(run, ledgers, peers):
            notes += _opened_alone(each, run, coordinator)
    return tuple(notes)


def _ledgers_of(opened: RunJoined, ledgers: Mapping[MemberId, Ledger]) -> Iterator[Ledger]:
    """The ledgers that are here of those who stand in a run's roster."""
    for seat in opened.peers:
        ledger = of_seat(ledgers, seat)
        if ledger is not None:
            yield ledger


def _check_same(ledgers: Mapping[MemberId, Ledger], runs: Runs) -> None:
    """All who were told of a round's release were told of the same."""
    seen: dict[tuple[RunId, int], tuple[Hash, MemberId]] = {}
    for ledger in ledgers.values():
        for index, entry in ledger.each(Released):
            if entry.run not in runs:
                continue
            digest, first = seen.setdefault((entry.run, entry.round), (entry.digest, ledger.owner))
            if digest != entry.digest:
                raise ledger.wrong(f"another release of round {entry.round} than {first} has", index)


def _rounds(run: RunId, coordinator: Ledger) -> list[Released]:
    """The releases of a run, in the order of its rounds: each one right behind its sum, and no other."""
    came: set[tuple[MemberId, int, Hash | None]] = set()
    released: list[Released] = []
    summed: int | None = None  # where the sum stands whose release comes next
    ended = False
    for index, leaf in enumerate(coordinator.leaves):
        entry = leaf.entry
        if isinstance(entry, MessageReceived) and (entry.receipt.run, entry.receipt.kind) == (run, RESULT):
            came.add((entry.receipt.sender, entry.receipt.round, entry.receipt.plan))
        elif isinstance(entry, Closed) and entry.run == run:
            ended = True
        elif isinstance(entry, SumOpened | Released) and entry.run == run:
            if ended or entry.round != len(released) + 1 or (summed is None) is isinstance(entry, Released):
                what = "a sum" if isinstance(entry, SumOpened) else "a release"
                why = f"{what} of round {entry.round}, out of turn: {len(released)} rounds were summed and released"
                raise coordinator.wrong(why, index)
            if isinstance(entry, SumOpened):
                summed = index
                _check_came(coordinator, index, entry, came)
            else:
                summed = None
                released.append(entry)
    if summed is not None:
        raise coordinator.wrong(f"a sum of round {len(released) + 1}, and nothing was released of it", summed)
    return released


def _check_came(
    coordinator: Ledger, index: int, opening: SumOpened, came: Collection[tuple[MemberId, int, Hash | None]]
) -> None:
    """Whoever stands in a sum has sent, under its own signature, a result of this very plan before."""
    for member in opening.survivors:
        if (member, opening.round, opening.plan) not in came:
            raise coordinator.wrong(f"a sum over {member}, of whom no result of this plan came", index)


def _told(peer: Ledger, run: RunId, coordinator: Ledger, released: list[Released]) -> bool:
    """Return whether this party was told how the run ended, and so what was released last: only then, and only that."""
    told = [(index, entry) for index, entry in peer.each(Released) if entry.run == run]
    ended = next((index for index, entry in peer.each(Closed) if entry.run == run), None)
    if ended is None and told:
        raise peer.wrong("a release of a run that did not end here", told[0][0])
    due = released[-1:]
    if ended is not None and [entry for _, entry in told] != due:
        has, last = _named(entry for _, entry in told), _named(due)
        why = f"at the end of the run {has} was released last here, and {last} by the ledger of {coordinator.owner}"
        raise peer.wrong(why, told[-1][0] if told else ended)
    return ended is not None


def _named(told: Iterable[Released]) -> str:
    return ", ".join(f"round {entry.round}" for entry in told) or "none"


def _begun_from(release: Released, ledgers: Mapping[MemberId, Ledger]) -> bool:
    """Return whether somebody was shown a plan that starts from this release."""
    plans = (entry.plan for ledger in ledgers.values() for _, entry in ledger.each(Reserved))
    return any((each.run, each.base, each.round) == (release.run, release.digest, release.round + 1) for each in plans)


def _custodians(run: RunId, ledgers: Mapping[MemberId, Ledger], peers: Iterable[Ledger]) -> Iterator[Ledger]:
    """The ledger of whoever opened the sums of this run for its coordinator, where it is here."""
    plans = (entry.plan for ledger in ledgers.values() for _, entry in ledger.each(Reserved))
    if any(plan.run == run and plan.cover.scheme.has_custodian for plan in plans):
        for peer in peers:
            opened = peer.opened(run)
            if opened is not None and opened.role == CUSTODIAN:
                yield peer


def _opened_alone(custodian: Ledger, run: RunId, coordinator: Ledger) -> Iterator[str]:
    """The sum that a custodian opened last and whose coordinator got no use of it: its answer may have been lost."""
    opened = {entry.round: index for index, entry in custodian.each(SumOpened) if entry.run == run}
    used = {entry.round: index for index, entry in coordinator.each(SumOpened) if entry.run == run}
    for round_ in sorted(used.keys() - opened.keys()):
        raise coordinator.wrong(f"a sum of round {round_} that {custodian.owner} did not open", used[round_])
    ended = next((entry.outcome for _, entry in coordinator.each(Closed) if entry.run == run), None)
    for round_ in sorted(opened.keys() - used.keys()):
        if round_ != len(used) + 1 or ended == "finished":
            raise custodian.wrong(f"a sum of round {round_} that {coordinator.owner} says nothing of", opened[round_])
        yield f"{custodian.name}: it opened a sum of round {round_} of run {run.hex()[:12]}, which was not used"
