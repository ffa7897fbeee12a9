"""Is it true? Offline, from a copy of a run's folder alone, trusting nobody.

The folder says which run it is of; no ledger chooses what is checked. Checks, in this order; the first that fails names
the ledger or file and, where it can, the entry:

1. the folder holds ledgers, and nothing else, each named by its owner; nobody's who was heard in the run is missing;
2. every file and every leaf is the canonical encoding of what it should be;
3. the head is signed by the ledger's key and covers exactly the leaves; the key is the pinned one, where keys are;
   every notice in a ledger is signed by the key that it is of, and no key was handed over twice;
4. every receipt is signed by its sender, under the key that all ledgers give it, and no key was older than the policy
   lets one be, by the ledger of whoever heard it (``key_checks``); each notice there is a party's own (``noticed``);
5. what one party got from another, the other has sent; all joined the same run, under the same policy;
6. every head one party has seen of another is a prefix of that other's ledger: an older, cut or forked one is found;
7. the account: no plan twice, no settlement above its reservation, nothing freed that left; every price is what two
   accountants say; and the policy, asked again about each plan, grants it. A round is one plan for all, and its sum was
   opened once, over enough members who each paid for it. Rounds, sums and releases are the same in every ledger: one
   that the coordinator alone has, or has left out, is found (``releases``);
8. a run that is closed is closed everywhere it was joined, and where it finished no reservation is left open;
9. under masks, everybody was asked about the same survivors, and the sum was opened over them;
10. the same of every federation below, where its ledgers are here; and what it passed on is what they say;
11. every file of the folder is the one that the coordinator's ledger names, the adapter is the state that all ledgers
    say was released, and every figure of the report that ledgers can give is what they give; of a run with tasks the
    same for each task, its modules hold what was released, and each run is of the task that it stands for. Only who
    coordinates says so, and the report is held against ledgers of all who were heard, none cut below what was known
    of it before (``last_word``). A coordinator that has its own ledger alone leaves another form (``coordinated``),
    which is held by the same; below it are ledgers that were laid there, and nothing else. Of such a run with tasks
    everybody's ledgers are laid beside all tasks, where they are held against each other once.

Any error while checking means: not verified. What was not looked at is listed, and so are keys that were not pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from securefl.audit import (
    coordinated,
    cross_checks,
    figures,
    folder,
    key_checks,
    pins,
    price_checks,
    releases,
    report_entry,
    roles,
    suites,
    tree,
)
from securefl.audit.ledger_files import Ledger, of_seat, read_all, read_below, read_one
from securefl.errors import Tampered
from securefl.keys import fingerprint
from securefl.privacy.account import Account, Standing
from securefl.shown import plainly
from securefl.terms import (
    Closed,
    MemberId,
    MessageReceived,
    MessageSent,
    Refused,
    Released,
    Reported,
    RunId,
    RunJoined,
    SumOpened,
)

__all__ = ["Ledger", "Verdict", "check", "read_all", "read_one", "verify"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found."""

    ok: bool
    entries: int  # in all ledgers that could be read
    first_bad: dict[str, Any] | None  # {"ledger": file name, "entry": index or None}
    why: str
    unsigned: tuple[str, ...] = ()  # runs under a policy without its signatures
    pinned: bool = False  # whether every key was held against one that the auditor brought
    keys: Mapping[str, str] = field(default_factory=dict)  # each party's fingerprint, to be compared by other means
    unverified: tuple[str, ...] = ()  # what is here, or is spoken of here, and was not checked

    def __post_init__(self) -> None:
        """Whatever a file or its name says is one line of what is shown, and hides nothing."""
        for name in ("first_bad", "why", "unsigned", "keys", "unverified"):
            object.__setattr__(self, name, plainly(getattr(self, name)))
        object.__setattr__(self, "unsigned", tuple(self.unsigned))
        object.__setattr__(self, "unverified", tuple(self.unverified))


_NOTHING = Verdict(True, 0, None, "")
EARLIER = "a beginning of the ledger beside all tasks, which counts in its place"


def verify(run: Path, known: pins.Pins | None = None) -> Verdict:
    """Return whether everything in ``run`` holds together, under the keys that are ``known``; never raises."""
    entries = 0
    try:
        folder.check_kinds(run)
        if suites.is_suite(run):
            return _suite(run, known)
        ledgers = read_all(run)
        entries = sum(len(ledger.leaves) for ledger in ledgers.values())
        return _verify(run, ledgers, known)
    except Tampered as fault:
        return Verdict(False, entries, {"ledger": fault.where, "entry": fault.entry}, str(fault))
    except Exception as fault:  # fail closed: what cannot be checked is not verified
        return Verdict(False, entries, None, f"{type(fault).__name__}: {fault}")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a federation's folder stands in a tree."""

    way: str = ""  # as ``west/``; empty for the root
    runs: frozenset[RunId] | None = None  # that it is to show, where a federation above says so
    root: RunId | None = None  # the run of the federation above all, where its folder names one
    laid: bool = False  # whether ledgers were laid here afterwards, and nobody bound what else is here


def _verify(
    run: Path, ledgers: Mapping[MemberId, Ledger], known: pins.Pins | None, place: _Place = _Place()
) -> Verdict:  # fmt: skip
    """The verdict on one federation's folder and all below it.

    Raises:
        Tampered: something does not hold.
    """
    way = place.way
    keys = {f"{way}{ledger.owner}": ledger.key for ledger in ledgers.values()}
    for ledger in ledgers.values() if known is not None else ():
        pins.check(f"{way}{ledger.owner}", (ledger.key, *ledger.former), known or {})
    own = None if place.way else folder.named(run)
    left_out = check(ledgers, place.runs or folder.wanted(run))
    left_out += _files(run, ledgers, place, own)
    below = [_below(name, inside, ledgers, known, place, own) for name, inside in tree.folders(run, ledgers)]
    beneath = [name.removeprefix(way) for name in known or () if name.startswith(way) and "/" in name.removeprefix(way)]
    left_out += (*tree.absent(run, ledgers, beneath), *tree.idle(run, ledgers), *folder.working(run))
    left_out += pins.unused([name.removeprefix(way) for name in known or () if name.startswith(way)], ledgers)
    opened = [entry for ledger in ledgers.values() for _, entry in ledger.each(RunJoined)]
    unsigned = {each.run.hex() for each in opened if not each.approvals}
    prints = {name: fingerprint(key) for name, key in keys.items()}
    return _together(
        Verdict(
            True, sum(len(each.leaves) for each in ledgers.values()), None, "", tuple(sorted(unsigned)),
            known is not None, prints, left_out,
        ),
        below,
    )  # fmt: skip


def _files(run: Path, ledgers: Mapping[MemberId, Ledger], place: _Place, own: RunId | None) -> tuple[str, ...]:
    """Return what is not verified of the folder's files: of a run, of a federation below one, or of ledgers alone."""
    for name in (folder.SUITE, *((folder.RUN, folder.REPORT, folder.COORDINATED) if place.way else ())):
        if (run / name).exists():
            what = "here one run is inside another: what it is of stands in the folder above"
            raise Tampered(name, what)
    if own is not None and coordinated.is_one(run):
        return coordinated.check(run, ledgers, own)
    if own is not None:
        return folder.check(run, ledgers, own)
    if not (run / "ledger").is_dir():
        return folder.alone(ledgers)
    runs = place.runs or frozenset(cross_checks.covered(ledgers))
    root = place.root or folder.root_of(ledgers, runs)
    if place.laid and root is not None:
        return coordinated.check_below(run, ledgers, root)
    return folder.check_alone(run, ledgers) if root is None else folder.check_below(run, ledgers, root, runs)


def _together(first: Verdict, others: Iterable[Verdict]) -> Verdict:
    """One verdict on what all of these found."""
    for each in others:
        first = replace(
            first, entries=first.entries + each.entries, unsigned=tuple(sorted({*first.unsigned, *each.unsigned})),
            keys={**first.keys, **each.keys}, unverified=tuple(dict.fromkeys((*first.unverified, *each.unverified))),
        )  # fmt: skip
    return first


def _below(
    name: MemberId, inside: Path, above: Mapping[MemberId, Ledger], known: pins.Pins | None, parent: _Place,
    own: RunId | None,
) -> Verdict:  # fmt: skip
    """The verdict on a federation below and all below it; ``own`` is the run that the folder above names.

    Raises:
        Tampered: something there does not hold; the ledger is named with the way to it.
    """
    place = f"{tree.BELOW}/{name}"
    try:
        ledgers = read_below(inside)
        apart = tree.check(name, above.get(name), ledgers)
        laid = parent.laid or (own is not None and coordinated.is_one(inside.parent.parent))
        here = _Place(f"{parent.way}{name}/", tree.runs_of(above.get(name)), own or parent.root, laid)
        found = _verify(inside, ledgers, known, here)
    except Tampered as fault:
        raise Tampered(f"{place}/{fault.where}", fault.why, fault.entry) from fault
    return replace(found, unverified=tuple(f"{place}: {each}" for each in (*found.unverified, *apart)))


def _suite(run: Path, known: pins.Pins | None) -> Verdict:
    """The verdict on a run with tasks: on all its ledgers as they ended, on each task, and on its modules.

    Raises:
        Tampered: something does not hold; a file of a task is named with the way to it.
    """
    found, own, apart = [], read_all(run), suites.is_coordinated(run)
    for name, task in suites.tasks(run).items():
        try:
            ledgers = read_all(task)
            if apart:
                found.append(replace(_NOTHING, unverified=_coordinated_task(name, task, ledgers, own)))
            else:
                found.append(_verify(task, ledgers, pins.of(known, ledgers)))
        except Tampered as fault:
            raise Tampered(f"{folder.TASKS}/{name}/{fault.where}", fault.why, fault.entry) from fault
    left_out = (*suites.check(run, own), *folder.working(run))
    whole = _verify(run / "ledger", own, known, _Place(runs=folder.wanted(run)))
    first = replace(
        whole, unverified=(*(each for each in whole.unverified if not each.endswith(folder.ALONE)), *left_out)
    )
    return replace(_together(first, found), entries=first.entries)


def _coordinated_task(
    name: str, task: Path, then: Mapping[MemberId, Ledger], own: Mapping[MemberId, Ledger]
) -> tuple[str, ...]:
    """Return what is not verified of a task's folder that has its coordinator's ledger alone, as the task ended.

    Everybody's whole ledgers stand beside all tasks, and are held against each other there.

    Raises:
        Tampered: something in the folder does not hold.
    """
    run_id, ledgers = coordinated.of_task(task, then, own)
    notes = _files(task, ledgers, _Place(), run_id)
    coordinator = figures.coordinator_of(then, run_id)
    more = ", ".join(sorted(ledger.name for ledger in then.values() if ledger is not coordinator))
    notes += (f"{more}: {EARLIER}",) if more else ()
    return tuple(f"{folder.TASKS}/{name}: {each}" for each in (*notes, *folder.working(task)))


def check(ledgers: Mapping[MemberId, Ledger], wanted: frozenset[RunId] | None = None) -> tuple[str, ...]:
    """Return what is left out, if what the ledgers say holds together: checks 4 to 9, and that none is missing.

    Args:
        wanted: the runs that the copy is to show; None: every run that a ledger here coordinated.

    Raises:
        Tampered: one of them fails.
    """
    roles.check(ledgers)
    runs = cross_checks.covered(ledgers)
    for ledger in ledgers.values():
        cross_checks.check_openings(ledger, runs)
    left_out = cross_checks.check_complete(ledgers, runs, wanted)
    report_entry.check_speakers(ledgers)
    cross_checks.check_receipts(ledgers)
    summed = cross_checks.summed(runs)
    left_out += tuple(each for ledger in ledgers.values() for each in key_checks.check(ledger, summed))
    left_out += cross_checks.check_heads(ledgers, runs)
    accounts = {ledger.owner: price_checks.check_account(ledger) for ledger in ledgers.values()}
    price_checks.check_rounds(ledgers, runs)
    cross_checks.check_questions(ledgers, runs)
    for ledger in ledgers.values():
        _check_ends(ledger, accounts[ledger.owner])
    for run, (coordinator, opened) in runs.items():
        _check_end(run, coordinator, opened, ledgers)
    left_out += (*cross_checks.unanswered(ledgers, runs), *releases.check(ledgers, runs))
    report_entry.check_heads(ledgers)  # last: a rule that an entry breaks says more than that a ledger is another one
    return left_out


def _check_ends(ledger: Ledger, account: Account) -> None:
    """Each run ends once, after it began, and what finished is settled."""
    begun: set[RunId] = set()
    closed: dict[RunId, int] = {}
    for index, leaf in enumerate(ledger.leaves):
        if isinstance(leaf.entry, RunJoined):
            begun.add(leaf.entry.run)
        elif isinstance(leaf.entry, Closed):
            if leaf.entry.run not in begun or leaf.entry.run in closed:
                raise ledger.wrong("the end of a run that had not begun, or had ended", index)
            closed[leaf.entry.run] = index
            if leaf.entry.outcome == "finished" and _open(account, leaf.entry.run):
                raise ledger.wrong("a finished run left a reservation open", index)


def _open(account: Account, run: RunId) -> bool:
    return any(charge.run == run and charge.standing is Standing.RESERVED for charge in account.charges)


def _check_end(run: RunId, coordinator: Ledger, opened: RunJoined, ledgers: Mapping[MemberId, Ledger]) -> None:
    """Who said goodbye ended the run; all who did, did so alike, outcome and reason; so does the coordinator.

    The coordinator does, if its ledger ends with it.

    Runs may overlap: one that was killed while it said goodbye stands there, unended, before the end of another.
    """
    told = _end(coordinator, run)
    got = [entry.receipt for _, entry in coordinator.each(MessageReceived) if entry.receipt.run == run]
    byes = {receipt.sender for receipt in got if receipt.kind == "Bye"}
    for seat in opened.peers:
        peer = of_seat(ledgers, seat)
        if peer is None or peer is coordinator:
            continue
        ended = _end(peer, run)
        if ended is None and seat.member in byes:
            raise peer.wrong("its owner said goodbye, and it does not end the run")
        if ended is not None and told is None and run == _last(coordinator):
            raise coordinator.wrong(f"the run that {peer.owner} saw end does not end", len(coordinator.leaves))
        if ended is not None and told is not None and ended != told:
            here, there = (each.outcome if ended.outcome != told.outcome else each.why for each in (ended, told))
            raise peer.wrong(f"the run ended {here!r} here, and {there!r} for {coordinator.owner}")


def _last(ledger: Ledger) -> RunId | None:
    """The run this ledger speaks of last."""
    for leaf in reversed(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, MessageReceived | MessageSent):
            return entry.receipt.run
        if isinstance(entry, RunJoined | SumOpened | Released | Refused | Reported | Closed):
            return entry.run
    return None


def _end(ledger: Ledger, run: RunId) -> Closed | None:
    """Return how a run ended and why: everybody who was told, was told both."""
    return next((entry for _, entry in ledger.each(Closed) if entry.run == run), None)
