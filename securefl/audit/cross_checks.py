"""Do the parties tell the same story? Checks 4 to 6 and 9 of ``verify``: one ledger held against the others.

Parties are told apart by name and key together: a ledger's owner may have taken part in other federations, with other
parties, whose ledgers are not here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from securefl import keys, merkle, wire
from securefl.audit.ledger_files import Ledger, joined, of_seat
from securefl.errors import Forged, Tampered
from securefl.ledger import heads
from securefl.protection import masking_terms
from securefl.protocol import messages as m
from securefl.terms import (
    Handover,
    Hash,
    Head,
    MemberId,
    MessageReceived,
    MessageSent,
    Noticed,
    Participant,
    PublicKey,
    Receipt,
    Refused,
    Reserved,
    RunId,
    RunJoined,
    SignedHead,
    SignedReceipt,
    SumOpened,
)
from securefl.terms.entries import heads_in

Runs = Mapping[RunId, tuple[Ledger, RunJoined]]


def covered(ledgers: Mapping[MemberId, Ledger]) -> Runs:
    """The runs this copy is about: those whose coordinator's ledger is here.

    Raises:
        Tampered: there is none, or two ledgers coordinate the same run.
    """
    runs: dict[RunId, tuple[Ledger, RunJoined]] = {}
    for ledger in ledgers.values():
        for index, opened in ledger.each(RunJoined):
            if opened.role == "coordinator":
                if opened.run in runs:
                    raise ledger.wrong("a second coordinator, or a second beginning, of one run", index)
                runs[opened.run] = (ledger, opened)
    if not runs:
        raise Tampered("coordinator.ledger", "missing: no ledger here coordinated a run")
    return runs


def check_complete(ledgers: Mapping[MemberId, Ledger], runs: Runs, wanted: frozenset[RunId] | None) -> tuple[str, ...]:
    """What is left out, if no ledger is missing of the runs that are wanted, and none is here that is a stranger's.

    Whoever stands in a run's roster and has no ledger here is named, whatever its coordinator says: it may have been
    away, or it trained and paid, and both its ledger and every word on it were left out.

    Args:
        wanted: the runs that this copy is to show, whatever its ledgers speak of last; None: every run it has.

    Raises:
        Tampered: there is a stranger's ledger, or none of a party that a coordinator heard in a run that is wanted.
    """
    seats = {(seat.member, seat.key) for _, opened in runs.values() for seat in opened.peers}
    for ledger in ledgers.values():
        if not any((ledger.owner, key) in seats for key in ledger.keys):
            raise ledger.wrong("its owner, under this key, takes part in no run of these ledgers")
    for run in wanted or ():
        if run not in runs:
            raise Tampered("coordinator.ledger", f"missing: no ledger here coordinated run {run.hex()}")
    absent: dict[str, str] = {}
    for run, (coordinator, opened) in runs.items():
        heard = _heard(run, coordinator, ledgers)
        for seat in opened.peers:
            joined = of_seat(ledgers, seat)
            if joined is not None and (seat.member not in heard or joined.opened(run) is not None):
                continue
            if seat.member in heard and (wanted is None or run in wanted):
                why = "missing" if joined is None else "it never joined the run"
                raise Tampered(f"{seat.member}.ledger", f"{why}, and {coordinator.owner} heard from its owner")
            part = "who took part in it" if seat.member in heard else f"whom {coordinator.owner} names and never heard"
            absent[seat.member] = f"run {run.hex()[:12]}: no ledger of {seat.member}, {part}"
    elsewhere = {entry.run for ledger in ledgers.values() for _, entry in ledger.each(RunJoined)} - set(runs)
    told = [f"run {run.hex()[:12]}: its coordinator's ledger is not here" for run in sorted(elsewhere)]
    for ledger in ledgers.values():
        what = "its owner was in another coordinator's run of this name, whose ledger is not here"
        told += [f"run {run.hex()[:12]}: {ledger.name}: {what}" for run in sorted(ledger.apart)]
    return (*(each for _, each in sorted(absent.items())), *told)


def _heard(run: RunId, coordinator: Ledger, ledgers: Mapping[MemberId, Ledger]) -> set[MemberId]:
    """Return who took part in a run: by what its coordinator got and asked for, by sums and cohorts."""
    heard = {got.receipt.sender for _, got in coordinator.each(MessageReceived) if got.receipt.run == run}
    openings = (opening for ledger in ledgers.values() for _, opening in ledger.each(SumOpened) if opening.run == run)
    heard |= {each for opening in openings for each in opening.survivors}
    heard |= {sent.to for sent in _proposed(run, coordinator)}
    plans = (entry.plan for ledger in ledgers.values() for _, entry in ledger.each(Reserved))
    return heard | {seat.member for plan in plans if plan.run == run for seat in plan.cohort} | {coordinator.owner}


def _proposed(run: RunId, coordinator: Ledger) -> Iterator[Receipt]:
    """The receipts of every plan that a coordinator asked somebody to train."""
    for _, sent in coordinator.each(MessageSent):
        if sent.receipt.run == run and sent.receipt.kind == m.Propose.__name__:
            yield sent.receipt


def unanswered(ledgers: Mapping[MemberId, Ledger], runs: Runs) -> tuple[str, ...]:
    """Whom a coordinator asked to train, and whose ledger does not say what came of it.

    It was never reached; or it trained and paid, was not heard again, and its ledger was cut before that: nobody else
    has seen the end, so this cannot be told apart.
    """
    found: dict[tuple[MemberId, RunId], list[int]] = {}
    told = {owner: _told_of(ledger) for owner, ledger in ledgers.items()}
    for run, (coordinator, opened) in runs.items():
        here = {seat.member for seat in opened.peers if of_seat(ledgers, seat) is not None}
        for asked in _proposed(run, coordinator):
            if asked.to in here and (asked.run, asked.round) not in told[asked.to]:
                found.setdefault((asked.to, run), []).append(asked.round)
    return tuple(
        f"{member}.ledger: asked to train round {', '.join(map(str, sorted(set(rounds))))} of run {run.hex()[:12]},"
        " and it does not say what came of that: it was never reached, or its end was cut off"
        for (member, run), rounds in sorted(found.items())
    )


def _told_of(ledger: Ledger) -> frozenset[tuple[RunId, int]]:
    """The rounds of which a member's ledger says what came of the plan: a price set aside, or a refusal."""
    taken = {(each.plan.run, each.plan.round) for _, each in ledger.each(Reserved)}
    refused = {(each.run, each.round) for _, each in ledger.each(Refused) if each.what in ("plan", m.Propose.__name__)}
    return frozenset(taken | refused)


def check_openings(ledger: Ledger, runs: Runs) -> None:
    """Check that this party joined each run once, in its own name, as the coordinator describes the run.

    Raises:
        Tampered: otherwise.
    """
    joined: set[RunId] = set()
    for index, opened in ledger.each(RunJoined):
        if opened.run in joined:
            raise ledger.wrong("the same run begins twice", index)
        joined.add(opened.run)
        if not any(seat.member == ledger.owner and seat.key in ledger.keys for seat in opened.peers):
            raise ledger.wrong("a run without its own seat in it", index)
        if opened.run not in runs or opened.run in ledger.apart:
            continue
        coordinator, told = runs[opened.run]
        if opened.task != told.task:
            raise ledger.wrong(f"another task for this run than {coordinator.owner} has", index)
        if (opened.federation, opened.policy, _seats(opened)) != (told.federation, told.policy, _seats(told)):
            raise ledger.wrong(f"another policy, key or peer for this run than {coordinator.owner} has", index)


def _seats(opened: RunJoined) -> list[tuple[MemberId, PublicKey, str]]:
    return sorted((seat.member, seat.key, seat.region) for seat in opened.peers)


def check_receipts(ledgers: Mapping[MemberId, Ledger]) -> None:
    """Check that every receipt is signed by its sender, and what one party got, the other has sent.

    The other way round need not hold: messages are lost.

    Raises:
        Tampered: otherwise.
    """
    sent = {
        owner: {wire.encode(entry.receipt) for _, entry in other.each(MessageSent)} for owner, other in ledgers.items()
    }
    for ledger in ledgers.values():
        for index, entry, here in _in_runs(ledger):
            receipt = entry.receipt
            mine, other = (
                (receipt.sender, receipt.to) if isinstance(entry, MessageSent) else (receipt.to, receipt.sender)
            )
            if mine != ledger.owner or other not in here or receipt.sender not in here:
                raise ledger.wrong(f"a receipt from {receipt.sender} to {receipt.to}, who are not peers here", index)
            try:
                keys.verify(here[receipt.sender].key, "receipt", wire.encode(receipt), entry.signature)
            except Forged as fault:
                raise ledger.wrong(f"the receipt for a {receipt.kind}: {fault}", index) from fault
            sender = of_seat(ledgers, here[receipt.sender])
            if (
                isinstance(entry, MessageReceived)
                and sender is not None
                and wire.encode(receipt) not in sent[sender.owner]
            ):
                raise ledger.wrong(f"got a {receipt.kind} that {sender.owner}'s ledger never sent", index)


def _in_runs(ledger: Ledger) -> Iterator[tuple[int, MessageSent | MessageReceived, Mapping[MemberId, Participant]]]:
    peers: dict[RunId, dict[MemberId, Participant]] = {}
    for index, leaf in enumerate(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, RunJoined):
            peers[entry.run] = {seat.member: seat for seat in entry.peers}
        elif isinstance(entry, MessageSent | MessageReceived):
            yield index, entry, peers.get(entry.receipt.run, {})


def check_heads(ledgers: Mapping[MemberId, Ledger], runs: Runs = MappingProxyType({})) -> tuple[str, ...]:
    """Return what is not verified, if every head that somebody has seen is a prefix of its owner's ledger.

    Two ledgers of a party that is in none of these runs, and has none here, prove something of that party alone.

    Raises:
        Tampered: a ledger is older, shorter or another than it was when it was seen.
    """
    seen: dict[tuple[MemberId, PublicKey, int], tuple[Hash, MemberId]] = {}
    seats = {(seat.member, seat.key) for _, opened in runs.values() for seat in opened.peers}
    same, notes = joined(ledgers.values()), set[str]()
    for ledger in ledgers.values():
        for signer, head in _seen_by(ledger):
            keys_ = same.get(signer, frozenset({signer}))  # a ledger is one, whatever keys its owner had
            key = min(keys_)
            root, witness = seen.setdefault((head.owner, key, head.size), (head.root, ledger.owner))
            if root != head.root:
                what = f"{witness} and {ledger.owner} saw two of {head.size} entries"
                here = of_seat(ledgers, Participant(head.owner, key, "")) is not None
                if here or any((head.owner, each) in seats for each in keys_):
                    raise Tampered(f"{head.owner}.ledger", what)
                notes.add(f"{head.owner}.ledger: {what}, and its owner is in no run here")
    trees: dict[MemberId, merkle.Frontier] = {}
    for (owner, key, size), (root, witness) in sorted(seen.items()):
        shown = of_seat(ledgers, Participant(owner, key, ""))
        if shown is None:
            continue  # its owner is not part of this copy
        if size > len(shown.hashes):
            raise shown.wrong(f"{len(shown.hashes)} entries, and {witness} has seen {size}", len(shown.hashes))
        tree = trees.get(owner, merkle.Frontier())
        for hashed in shown.hashes[tree.size : size]:  # in the order of sizes: each entry is hashed once
            tree = tree.append(hashed)
        trees[owner] = tree
        if tree.root() != root:
            raise shown.wrong(f"its first {size} entries are not those that {witness} has seen")
    return tuple(sorted(notes))


def _seen_by(ledger: Ledger) -> Iterator[tuple[PublicKey, Head]]:
    """Every head this party has kept or been named in a receipt, and the key it holds under."""
    peers: dict[MemberId, list[PublicKey]] = {}  # latest last: two federations may each call a party by one name
    for index, leaf in enumerate(ledger.leaves):
        if isinstance(leaf.entry, RunJoined):
            for seat in leaf.entry.peers:
                peers[seat.member] = [*(key for key in peers.get(seat.member, ()) if key != seat.key), seat.key]
        for seen in heads_in(leaf.entry):
            head = seen.head
            known = peers.get(head.owner, [])
            if isinstance(leaf.entry, Noticed) and isinstance(leaf.entry.notice.notice, Handover):
                known = [leaf.entry.notice.notice.successor]  # it is signed by the key that is to come
            if not known:
                raise ledger.wrong(f"the head of {head.owner}, who is no peer", index)
            yield _signer(ledger, index, known, seen), head


def _signer(ledger: Ledger, index: int, keys_: list[PublicKey], head: SignedHead) -> PublicKey:
    for key in reversed(keys_):
        try:
            heads.verify(key, head)
        except Forged as fault:
            why = str(fault)
        else:
            return key
    raise ledger.wrong(why, index)


def check_questions(ledgers: Mapping[MemberId, Ledger], runs: Runs) -> None:
    """Check that each member was asked about a plan it was charged for, and all about the sum that was opened of it.

    A question is signed by the coordinator, and its digest stands in the ledger of whoever answered it. Its receipt
    names the plan: no member answers one whose receipt does not, so one that stands in a ledger is no member's.

    Raises:
        Tampered: a coordinator showed two sets, or opened another sum than it asked about; or a member answered what no
            member answers.
    """
    about = {(opening.run, opening.round): digest for digest, opening in _questions(runs)}
    for ledger in ledgers.values():
        plans = {wire.plan_hash(entry.plan): entry.plan for _, entry in ledger.each(Reserved)}
        for index, receipt, answered in _asked_of(ledger):
            plan = None if receipt.plan is None else plans.get(receipt.plan)
            if plan is None or (plan.run, plan.round) != (receipt.run, receipt.round):
                raise ledger.wrong("asked about a round, and its receipt names no plan of it that was paid for", index)
            if not answered:
                raise ledger.wrong(f"an answer about round {receipt.round}, and no question that it answers", index)
            if receipt.kind == m.Ask.__name__ and plan.cover.scheme.has_masks and receipt.run in runs:
                told = about.setdefault((receipt.run, receipt.round), receipt.digest)
                if told != receipt.digest:
                    raise ledger.wrong(f"asked about other survivors of round {receipt.round} than others were", index)


def _asked_of(ledger: Ledger) -> Iterator[tuple[int, Receipt, bool]]:
    """Each question to a member and each answer of its, and whether the question stands before the answer."""
    asked: set[tuple[RunId, int, Hash | None]] = set()
    for index, leaf in enumerate(ledger.leaves):
        if not isinstance(leaf.entry, MessageSent | MessageReceived):
            continue
        receipt = leaf.entry.receipt
        opened = ledger.opened(receipt.run) if receipt.kind in (m.Ask.__name__, m.Answered.__name__) else None
        if opened is not None and opened.role == "member":
            name = (receipt.run, receipt.round, receipt.plan)
            asked |= {name} if isinstance(leaf.entry, MessageReceived) else set()
            yield index, receipt, name in asked


def summed(runs: Runs) -> Mapping[Hash, tuple[MemberId, ...]]:
    """Whose inputs a masked sum was of, by the digest of the question that every member of it was asked."""
    return {digest: opening.survivors for digest, opening in _questions(runs)}


def _questions(runs: Runs) -> Iterator[tuple[Hash, SumOpened]]:
    """Each sum that a coordinator opened, and the digest of what members were asked about it if it was masked."""
    for coordinator, _ in runs.values():
        inputs = {
            (got.receipt.plan, got.receipt.sender): SignedReceipt(got.receipt, got.signature)
            for _, got in coordinator.each(MessageReceived)
            if got.receipt.kind == m.Submitted.__name__
        }
        for _, opening in coordinator.each(SumOpened):
            named = ((opening.plan, member) for member in sorted(opening.survivors))
            sealed = tuple(inputs[each] for each in named if each in inputs)
            ask = m.Ask(opening.round, masking_terms.question_about(opening.survivors), sealed)
            yield Hash(hashlib.sha256(wire.encode(ask)).digest()), opening
